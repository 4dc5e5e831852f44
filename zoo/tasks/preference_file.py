"""Two answers to a question in files: the shapes that people write them in, and a user's own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import InputError
from zoo.hookspecs import Task
from zoo.tasks.conversation_file import (
    ConversationFile,
    Conversations,
    Own,
    Rows,
    Told,
    answer_of,
    conversations_in,
    each,
    hash_of,
    listed,
    question_in,
    question_of,
    rows_at,
    whole,
)
from zoo.tasks.preferences import Preference, PreferenceTuning

ANSWERS = ("chosen", "rejected")


class Preferences(Told[Preference]):
    """Pairs of answers."""


def preference_of(row: Mapping[str, Any]) -> Preference:
    """The two answers of a row.

    `chosen` and `rejected` are texts that answer `prompt`, or `instruction` with `input`; or both
    are lists of messages that differ in the last one alone, behind those of `prompt` where that is
    a list too. `system` of a row is a message of its own.

    Raises:
        InputError: it has no two answers to one conversation.
    """
    if missing := [name for name in ANSWERS if row.get(name) is None]:
        raise InputError(f"has no {missing[0]} answer")
    before = listed(row, "prompt") if isinstance(row.get("prompt"), list) else []
    if all(isinstance(row[name], list) for name in ANSWERS):
        chosen, rejected = ([*before, *listed(row, name)] for name in ANSWERS)
        if chosen[:-1] != rejected[:-1]:
            raise InputError("has a chosen and a rejected answer to different messages")
        if len(chosen) == 1:  # the answer alone: its prompt is a text
            chosen, rejected = ([question_in(row), *messages] for messages in (chosen, rejected))
    else:
        asked = before or [question_in(row)]
        chosen, rejected = ([*asked, answer_of(row[name], f"{name} answer")] for name in ANSWERS)
    chosen, rejected = whole(chosen, row), whole(rejected, row)
    if {chosen[-1]["role"], rejected[-1]["role"]} != {"assistant"}:
        raise InputError("has a chosen or rejected message that is no answer of the assistant")
    return Preference(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"])


class PreferenceFile(Own[Preference], PreferenceTuning):
    """Pairs of answers of a user: `Own` says how they are split."""

    what = "preferences"

    def question(self, said: Preference) -> str:
        """What stands before the first answer."""
        return question_of(said.asked)

    def preferences(self, split: str) -> Sequence[Preference]:
        """Those of "train" or "test"."""
        return self.parts[split]


def read_told(path: str, *, near: Path | None = None) -> Conversations | Preferences:
    """Read conversations or, where rows have `chosen` or `rejected`, pairs of answers.

    Args:
        path: .json, .jsonl, .csv or .tsv, perhaps with .gz; or `hf://datasets/owner/name`.
        near: a folder where the file is looked for too.

    Raises:
        DataNotFoundError: it is not there.
        InputError: something is wrong in it; says what and in which rows.
    """
    name, sha256, rows = rows_at(path, near)
    if not has_answers(rows):
        return conversations_in(path, name, sha256, rows)
    said = each(name, rows, preference_of)
    plain = [[pair.asked, pair.chosen, pair.rejected] for pair in said]
    return Preferences(path, name, sha256 or hash_of(plain), said)


def has_answers(rows: Rows) -> bool:
    """Whether a row has an answer that is chosen, or one that is rejected."""
    return any(name in row for _, row in rows for name in ANSWERS)


def open_told(
    data: Mapping[str, Any], seed: int, *, near: Path | None = None
) -> ConversationFile | PreferenceFile:
    """The task that a recipe's [data] describes.

    Args:
        data: `path`, and perhaps `test_path`.
        seed: of the recipe.
        near: a folder where the files are looked for too.

    Raises:
        DataNotFoundError: a file is not there.
        InputError: something is wrong in a file, or one holds pairs of answers, the other
            conversations; says where.
    """
    train = read_told(data["path"], near=near)
    test = read_told(data["test_path"], near=near) if data.get("test_path") else None
    if isinstance(train, Conversations) and not isinstance(test, Preferences):
        return ConversationFile(train, test, seed=seed)
    if isinstance(train, Preferences) and not isinstance(test, Conversations):
        return PreferenceFile(train, test, seed=seed)
    paired, other = (train, test) if isinstance(train, Preferences) else (test, train)
    assert paired is not None and other is not None  # they differ
    raise InputError(
        f"{paired.name} has pairs of answers (chosen and rejected), {other.name} conversations: "
        "train and measure on one of the two"
    )


def entry_of(task: PreferenceFile, license: str = "unknown") -> Task:
    """What a plugin would say of the task."""
    said = task.train or task.test
    assert said is not None  # a task has one of them
    return Task(
        said.name,
        pipeline="text-generation",
        target=f"{__name__}:PreferenceFile",
        metrics=("preference_accuracy", "preference_margin"),
        license=license,
    )
