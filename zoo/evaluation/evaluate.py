"""`zoo.evaluate`: a model's metrics on a split of a task, or on the user's own data."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from zoo.card import Card
from zoo.data import COUNTED, PAIRED
from zoo.errors import CardError, DataNotFoundError, InputError, UnknownNameError
from zoo.hookspecs import Task
from zoo.loading import load
from zoo.model import Model
from zoo.registry import registry, resolve
from zoo.tasks import (
    BaseTask,
    conversation_file,
    labelled_file,
    pair_file,
    picture_folder,
    preference_file,
    text_stream,
)
from zoo.tasks.conversation_file import ConversationFile, Conversations, NoShape
from zoo.tasks.files import warn_of_shared
from zoo.tasks.labelled_file import LabelledFile, Table, read_table
from zoo.tasks.own_data import LABELLED, SHOWN, TOLD, ZERO_SHOT, OwnData, check_kind
from zoo.tasks.pair_file import PairFile, Pairs, read_pairs
from zoo.tasks.picture_folder import PictureFolder, ZeroShotFolder, read_pictures, to_measure
from zoo.tasks.preference_file import PreferenceFile, Preferences, read_told
from zoo.tasks.text_stream import Source, TextStream, is_stream

OPENED = {
    "pairs": pair_file.open_pairs,
    "conversations": preference_file.open_told,
    "preferences": preference_file.open_told,
    "pictures": picture_folder.open_pictures,
    "texts": labelled_file.open_data,
    "characters": text_stream.open_stream,
}
COLUMNS = {
    False: ("text_column", "label_column"),
    True: ("source_column", "target_column"),  # of pairs
}


def evaluate(
    model: Model | str | Path,
    task: str | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    context: int | None = None,
    data: str | Path | Sequence[str | Path] | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    source_column: str | None = None,
    target_column: str | None = None,
) -> dict[str, float]:
    """Measure a model.

    Args:
        model: a model, or what `zoo.load` takes.
        task: a registered task; what the model's card says it was trained on if None.
        split: a split of the task.
        limit: only the first so many tokens or examples.
        context: tokens read at once, for language models; what it was trained on if None.
        data: the user's own data instead of a task. For text classification labelled texts: a CSV,
            TSV or JSONL file, or `"hf://datasets/owner/name"`. For translation and the like pairs:
            such a file, or two text files, sources and targets. For text generation conversations,
            such a file or a JSON one, or pairs of answers (chosen and rejected). For image
            classification, zero-shot too, a folder of pictures, FOLDER/label/ or
            FOLDER/test/label/. All of them
            are the split "test"; of the data that the model was trained on, what was held out.
        text_column: of labelled texts; may be left out where only one column can be meant.
        label_column: likewise.
        source_column: of pairs in one file; likewise.
        target_column: likewise.

    Returns:
        Each metric, and under `metric_stderr` its standard error; of BLEU and chrF also the ends of
        the 95% interval, `metric_low` and `metric_high`.

    Raises:
        UnknownNameError: no such task or split.
        DataNotFoundError: the data are not at hand.
        InputError: no task is known, the task is for another pipeline, `limit` or `context` is
            below 1, or `data` has other labels than the model or are not as they should be.
    """
    if not isinstance(model, Model):
        model = load(str(model))
    measured = choose(
        model,
        task,
        split,
        data=data,
        text_column=text_column,
        label_column=label_column,
        source_column=source_column,
        target_column=target_column,
    )[1]
    check_sizes(limit=limit, context=context)
    from zoo.nn import reordered

    with reordered(model.module):
        return measured.evaluate(model, split, limit=limit, context=context)


def choose(
    model: Model,
    task: str | None,
    split: str,
    *,
    data: str | Path | Sequence[str | Path] | None = None,
    **named: str | None,
) -> tuple[Task, BaseTask]:
    """What a model is measured on: the entry and the task, which has the split.

    Args:
        model: what is measured.
        task: as of `evaluate`.
        split: likewise.
        data: likewise.
        named: columns, likewise.

    Raises:
        ZooError: as of `evaluate`.
    """
    columns = {key: value for key, value in named.items() if value is not None}
    files = [data] if isinstance(data, (str, Path)) else [] if data is None else list(data)
    if data is not None and task is not None:
        where = " and ".join(map(str, files))
        raise InputError(f"measure on the task {task} or on {where}, not on both")
    if data is None and columns:
        raise InputError(f"{next(iter(columns))} belongs to a file: give it, --data or data=")
    implementation: BaseTask
    if data is not None:
        entry, implementation = _of_files(model, [str(file) for file in files], columns)
    elif task is None and model.card is not None and _facts(model.card):
        entry, implementation = trained_on(model.card)
    else:
        name = task or (model.card.task if model.card is not None else None)
        if name is None:
            raise InputError(
                f"{model.name} has no card that names a task: pass one, txzoo list --tasks"
            )
        entry = registry().tasks.get(name)
        if entry.pipeline != model.pipeline:
            raise InputError(
                f"{name} is a {entry.pipeline} task, {model.name} is a {model.pipeline} model"
            )
        implementation = resolve(entry.target)()
    if split not in implementation.splits:
        raise UnknownNameError(f"split of {entry.name}", split, implementation.splits)
    return entry, implementation


def check_sizes(**sizes: int | None) -> None:
    """Raise `InputError` for a number below 1."""
    for option, value in sizes.items():
        if value is not None and value < 1:
            raise InputError(f"{option} must be at least 1, got {value}")


def trained_on(card: Card) -> tuple[Task, OwnData]:
    """The user's own data that a model was trained on, read again.

    Raises:
        DataNotFoundError: they are not at hand, or others than they were.
    """
    facts = _facts(card)
    what = _kind(facts)
    wanted = f"{facts['name']} ({facts[what]} {what}, sha256 {facts['sha256'][:12]}...)"
    opened: Any = OPENED[what]
    try:
        task: OwnData = opened(facts, facts.get("seed", 1), near=card.folder)
    except DataNotFoundError as error:
        raise DataNotFoundError(
            f"{card.name} was trained on {wanted}: {error}. Go to where it lies, or measure on "
            f"other {what} with --data"
        ) from error
    for table, key in ((task.train, "sha256"), (task.test, "test_sha256")):
        if table is not None and table.sha256 != facts.get(key):
            raise DataNotFoundError(
                f"{table.path} is not the {table.name} of {card.name}, which was trained on "
                f"{wanted}; this one has sha256 {table.sha256[:12]}...: measure on it with --data"
            )
    return _entry_of(task, card.pipeline), task


def _facts(card: Card) -> dict[str, Any]:
    """What a card says of the user's own data that the model was trained on; empty for a task.

    Raises:
        CardError: not as `facts` of the kind of data gives it.
    """
    facts = card.data["txzoo"].get("data")
    if not facts:
        return {}
    known = facts if isinstance(facts, Mapping) else {}
    words = ["name", "path", "sha256"]
    words += ["text_column", "label_column"] if _kind(known) == "texts" else []
    may_be = ("source_column", "target_column", "target_path", "test_target_path")
    more = [key for key in ("test_path", "test_sha256", *may_be) if key in known]
    if not all(isinstance(known.get(key), str) for key in (*words, *more)):
        raise CardError(f"{card.path}: txzoo.data must be a mapping with {', '.join(words)}")
    return {"texts": "?", **facts}


def _kind(facts: Mapping[str, Any]) -> str:
    """What the user's own data are: one of `COUNTED`, or labelled texts."""
    return next((kind for kind in COUNTED if kind in facts), "texts")


def _entry_of(task: OwnData, pipeline: str) -> Task:
    if isinstance(task, PairFile):
        return pair_file.entry_of(task, pipeline=pipeline)
    if isinstance(task, ConversationFile):
        return conversation_file.entry_of(task)
    if isinstance(task, PreferenceFile):
        return preference_file.entry_of(task)
    if isinstance(task, PictureFolder):
        return picture_folder.entry_of(task, pipeline=pipeline)
    if isinstance(task, TextStream):
        return text_stream.entry_of(task)
    return labelled_file.entry_of(task)


def _of_files(
    model: Model, files: Sequence[str], columns: Mapping[str, str]
) -> tuple[Task, OwnData]:
    """Files that the user names: all of them, or what was held out when they are the model's."""
    where, count = " and ".join(files), len(files)
    if model.pipeline not in (*PAIRED, LABELLED, TOLD, SHOWN, ZERO_SHOT):
        raise InputError(
            f"{where}: labelled texts measure text-classification models, {model.name} is a "
            f"{model.pipeline} model"
        )
    if not 1 <= count <= 2:
        raise InputError(f"data is one file, or two, sources and targets; got {count}")
    own = _facts(model.card) if model.card is not None else {}
    if model.pipeline == TOLD and is_stream({"path": files[0], **columns}):
        check_kind({**columns, "text_column": "", "target_path": "".join(files[1:])}, TOLD)
        running = _of_running_text(model, files[0], columns.get("text_column", ""), own)
        return _entry_of(running, model.pipeline), running
    check_kind({**columns, "target_path": "".join(files[1:])}, model.pipeline)
    if model.pipeline == ZERO_SHOT:
        folder = ZeroShotFolder(to_measure(read_pictures(files[0]), files[0]))
        return _entry_of(folder, model.pipeline), folder
    if model.pipeline == SHOWN:
        pictures = _of_folder(model, files[0], own)
        return _entry_of(pictures, model.pipeline), pictures
    try:
        found = _read(model.pipeline, files, columns, own)
    except NoShape as error:
        raise InputError(
            f"{model.name} is a {model.pipeline} model, which conversations measure: {error}"
        ) from error
    task: OwnData
    if own.get("sha256") == found.sha256:
        task = _own_files(model, found, own)
    elif isinstance(found, Conversations):
        task = ConversationFile(None, found)
    elif isinstance(found, Preferences):
        task = PreferenceFile(None, found)
    elif isinstance(found, Pairs):
        task = PairFile(None, found)
    else:
        task = LabelledFile(None, found, labels=model.config.labels)
    if own and task.train is None and model.card is not None:
        with suppress(DataNotFoundError):  # where they are not at hand nobody can tell
            learned = _texts(trained_on(model.card)[1], "train")
            texts = _texts(task, "test")
            warn_of_shared(learned, texts, name=found.name, source=own["name"])
    return _entry_of(task, model.pipeline), task


def _of_folder(model: Model, path: str, own: Mapping[str, Any]) -> PictureFolder:
    """A folder of pictures that the user names: all of it, or what was held out when it is own."""
    found = read_pictures(path)
    train = found.get("train", found.get(picture_folder.WHOLE))
    validation = found.get("validation")
    if train is not None and own.get("sha256") == train.sha256:
        if "test" not in found and "held_out" not in own:
            raise InputError(
                f"{model.name} was trained on {train.name}: scores on what it has learned say "
                "nothing. Measure without --data, or on other pictures"
            )
        return PictureFolder(train, found.get("test"), validation, seed=own.get("seed", 1))
    test = to_measure(found, path) if validation is None else found.get("test")
    task = PictureFolder(None, test, validation, labels=model.config.labels)
    if own and model.card is not None:
        with suppress(DataNotFoundError):  # where they are not at hand nobody can tell
            learned = trained_on(model.card)[1]
            assert isinstance(learned, PictureFolder)  # a card with pictures is of one
            known = learned.parts["train"].digests
            for part in task.parts.values():
                name = Path(path).name
                warn_of_shared(known, part.digests, name=name, source=own["name"], what="pictures")
    return task


def _of_running_text(model: Model, path: str, column: str, own: Mapping[str, Any]) -> TextStream:
    """Running text that the user names: all of it, or what was held out when it is the model's."""
    found = Source(path, column)
    if own.get("sha256") != found.sha256:
        return TextStream(None, found)
    if "test_path" in own:
        raise InputError(
            f"{model.name} was trained on {found.name}: scores on what it has learned say nothing. "
            "Measure without --data, or on other texts"
        )
    return TextStream(found)


def _texts(task: OwnData, split: str) -> list[str]:
    """What decides whether a row is known: the texts, the sources, or the questions."""
    if isinstance(task, (ConversationFile, PreferenceFile)):
        return task.questions(split)
    assert not isinstance(task, (PictureFolder, TextStream))  # which have no rows of texts
    return task.parts[split][0]


def _read(
    pipeline: str, files: Sequence[str], columns: Mapping[str, str], own: Mapping[str, Any]
) -> Table | Pairs | Conversations | Preferences:
    """Read files; a column left out is the one that was learned from, where there is such."""
    if pipeline == TOLD:
        return read_told(files[0])
    kinds = COLUMNS[pipeline in PAIRED]
    one, other = (columns.get(kind, "") for kind in kinds)
    usual = [own.get(kind, "") for kind in kinds]
    if pipeline in PAIRED:
        return read_pairs(*files, source_column=one, target_column=other, usual=usual)
    return read_table(files[0], one, other, split="test", usual=usual)


def _own_files(
    model: Model, found: Table | Pairs | Conversations | Preferences, own: Mapping[str, Any]
) -> OwnData:
    """What was held out of the data that a model was trained on."""
    no_columns = isinstance(found, (Conversations, Preferences))
    kinds = () if no_columns else COLUMNS[isinstance(found, Pairs)]
    learned = [own.get(kind, "") for kind in kinds]
    if "test_path" in own or learned != [getattr(found, kind) for kind in kinds]:
        of = f", columns {' and '.join(learned)}" if learned and all(learned) else ""
        raise InputError(
            f"{model.name} was trained on {found.name}{of}: scores on what it has learned say "
            "nothing. Measure without --data, or on other texts"
        )
    seed = own.get("seed", 1)
    if isinstance(found, Conversations):
        return ConversationFile(found, seed=seed)
    if isinstance(found, Preferences):
        return PreferenceFile(found, seed=seed)
    return (
        PairFile(found, seed=seed) if isinstance(found, Pairs) else LabelledFile(found, seed=seed)
    )
