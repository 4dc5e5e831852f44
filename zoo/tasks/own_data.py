"""A user's own data in the place of a task.

Labelled texts, sentence pairs, pictures, conversations, pairs of answers, or running text.
"""

from collections.abc import Mapping
from typing import Any

from zoo.data import PAIRED
from zoo.errors import InputError, RecipeError
from zoo.hookspecs import Architecture, Task
from zoo.registry import resolve
from zoo.tasks import (
    conversation_file,
    labelled_file,
    pair_file,
    picture_folder,
    preference_file,
    text_stream,
)
from zoo.tasks.conversation_file import ConversationFile
from zoo.tasks.labelled_file import LabelledFile
from zoo.tasks.pair_file import PairFile
from zoo.tasks.picture_folder import PictureFolder
from zoo.tasks.preference_file import PreferenceFile
from zoo.tasks.text_stream import TextStream

OwnData = LabelledFile | PairFile | ConversationFile | PreferenceFile | PictureFolder | TextStream

LABELLED, TOLD, SHOWN = "text-classification", "text-generation", "image-classification"
ZERO_SHOT = "zero-shot-image-classification"  # pictures too, measured alone
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
    there is none; for a decoder conversations, pairs of answers, or running text, see
    `preference_file` and `text_stream`; pictures for what classifies them.

    Raises:
        RecipeError: the architecture does not learn from such data.
        ZooError: as of `labelled_file.open_data`, `pair_file.open_pairs`,
            `preference_file.open_told`, `picture_folder.open_pictures` and
            `text_stream.open_stream`.
    """
    license, name = data.get("license", "unknown"), architecture.name
    module = resolve(architecture.target)
    pipeline = data.get("pipeline") or architecture.pipeline
    if pipeline in PAIRED:
        if not callable(getattr(module, "encode", None)):
            raise RecipeError(
                f"{data['path']}: {name} does not make a text of another; take the recipe of an "
                "encoder-decoder, such as seq2seq-en-de-base"
            )
        check_kind(data, pipeline)
        pairs = pair_file.open_pairs(data, seed)
        return pair_file.entry_of(pairs, license, pipeline=pipeline), pairs
    if pipeline == SHOWN:
        check_kind(data, pipeline)
        pictures = picture_folder.open_pictures(data, seed)
        return picture_folder.entry_of(pictures, license), pictures
    if pipeline == TOLD and text_stream.is_stream(data):
        check_kind({**data, "text_column": ""}, pipeline)
        stream = text_stream.open_stream(data, seed)
        return text_stream.entry_of(stream, license), stream
    if pipeline == TOLD and not {"text_column", "label_column"} & data.keys():
        check_kind(data, pipeline)
        try:
            told = preference_file.open_told(data, seed)
        except conversation_file.NoShape as error:
            raise RecipeError(
                f"{name} has no head that tells labels apart: for labelled texts take the recipe "
                "of an encoder, such as imdb-encoder. To learn running text, name its column with "
                f"text_column. To learn conversations: {error}"
            ) from error
        if isinstance(told, PreferenceFile):
            return preference_file.entry_of(told, license), told
        return conversation_file.entry_of(told, license), told
    if not {"head", "labels"} <= set(getattr(module.config_class, "__dataclass_fields__", {})):
        raise RecipeError(
            f"{data['path']}: {name} has no head that tells labels apart; take the "
            "recipe of an encoder, such as imdb-encoder"
        )
    check_kind(data, LABELLED)
    texts = labelled_file.open_data(data, seed)
    return labelled_file.entry_of(texts, license), texts


def check_kind(given: Mapping[str, Any], pipeline: str) -> None:
    """Raise `InputError` for what belongs to one kind of data where another is read.

    Args:
        given: names of columns and files.
        pipeline: of the model.
    """
    takes = "labelled texts, one file"
    foreign = {"sentence pairs": OF_PAIRS}
    if pipeline in PAIRED:
        takes, foreign = "sentence pairs", {"labelled texts": OF_LABELS}
    elif pipeline in (TOLD, SHOWN, ZERO_SHOT):
        takes = "conversations, one file" if pipeline == TOLD else "pictures, one folder"
        foreign = {"sentence pairs": OF_PAIRS, "labelled texts": OF_LABELS}
    for whose, keys in foreign.items():
        for key, words in keys.items():
            if given.get(key):
                raise InputError(
                    f"{words} belongs to {whose}; a model for {pipeline} takes {takes}"
                )
