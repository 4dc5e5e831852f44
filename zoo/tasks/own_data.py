"""A user's own data in the place of a task: labelled texts, or sentence pairs."""

from collections.abc import Mapping
from typing import Any

from zoo.data import PAIRED
from zoo.errors import InputError, RecipeError
from zoo.hookspecs import Architecture, Task
from zoo.registry import resolve
from zoo.tasks import labelled_file, pair_file
from zoo.tasks.labelled_file import LabelledFile
from zoo.tasks.pair_file import PairFile

OwnData = LabelledFile | PairFile

LABELLED = "text-classification"
# what only one of the kinds has, and how a user calls it
OF_LABELS = {"text_column": "text_column", "label_column": "label_column"}
OF_PAIRS = {
    "target_path": "a second file",
    "test_target_path": "a second file to test on",
    "source_column": "source_column",
    "target_column": "target_column",
}


def for_recipe(
    data: Mapping[str, Any], seed: int, architecture: Architecture
) -> tuple[Task, OwnData]:
    """The entry and the task of a recipe with [data].

    They are pairs where `pipeline` in [data] is one of `PAIRED`, or that of the architecture where
    there is none.

    Raises:
        RecipeError: the architecture does not learn from such data.
        ZooError: as of `labelled_file.open_data` and `pair_file.open_pairs`.
    """
    license, name = data.get("license", "unknown"), architecture.name
    module = resolve(architecture.target)
    pipeline = data.get("pipeline") or architecture.pipeline
    if pipeline in PAIRED:
        if not callable(getattr(module, "encode", None)):
            raise RecipeError(
                f"{data['path']}: {name} does not make a text of another; take the recipe of an "
                "encoder-decoder, such as seq2seq-en-de"
            )
        check_kind(data, pipeline)
        pairs = pair_file.open_pairs(data, seed)
        return pair_file.entry_of(pairs, license, pipeline=pipeline), pairs
    if not {"head", "labels"} <= set(getattr(module.config_class, "__dataclass_fields__", {})):
        raise RecipeError(
            f"{data['path']}: {name} has no head that tells labels apart; take the "
            "recipe of an encoder, such as imdb-encoder"
        )
    check_kind(data, LABELLED)
    texts = labelled_file.open_data(data, seed)
    return labelled_file.entry_of(texts, license), texts


def check_kind(given: Mapping[str, Any], pipeline: str) -> None:
    """Raise `InputError` for what belongs to labelled texts where pairs are read, and vice versa.

    Args:
        given: names of columns and files.
        pipeline: of the model.
    """
    paired = pipeline in PAIRED
    whose, takes = "sentence pairs", "labelled texts, one file"
    if paired:
        whose, takes = "labelled texts", "sentence pairs"
    for key, words in (OF_LABELS if paired else OF_PAIRS).items():
        if given.get(key):
            raise InputError(f"{words} belongs to {whose}; a {pipeline} model takes {takes}")
