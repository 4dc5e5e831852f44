"""Conversations in files: the shapes that people write them in, and a user's own as a task."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from zoo.conversation import Messages, check
from zoo.data import from_hub
from zoo.errors import InputError
from zoo.hookspecs import Task
from zoo.tasks.base import BaseTask
from zoo.tasks.files import (
    decoded,
    drawn,
    find_file,
    read_rows,
    rows_have,
    unpacked,
    warn_of_shared,
)
from zoo.tasks.instruction import InstructionTuning

HUB = "hf://datasets/"
EXAMPLE = {"instruction": "Name a colour.", "output": "Blue."}
SHAPES = (
    "messages (role and content), conversations (from and value), instruction with output, "
    "prompt with completion; of two answers prompt with chosen and rejected"
)
ANSWERS = ("output", "response", "completion")  # the first one that a row has
SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
SHAREGPT |= {"chatgpt": "assistant", "model": "assistant", "bing": "assistant", "system": "system"}
END = "<|endoftext|>"  # some sets write it behind an answer
PART, MOST = 10, 1000  # one question of so many is held out, and at most so many


class NoShape(InputError):
    """A row is in none of the shapes of conversations."""


Rows = list[tuple[int, Mapping[str, Any]]]
One = TypeVar("One")


def conversation_of(row: Mapping[str, Any]) -> Messages:
    """The conversation of a row, in any of `SHAPES`.

    An input stands below its instruction, an empty line between them. `system` of a row is a
    message of its own.

    Raises:
        NoShape: none of these shapes.
        InputError: no conversation.
    """
    messages: list[dict[str, str]]
    if "messages" in row:
        messages = listed(row, "messages")
    elif "conversations" in row:
        messages = [_from_value(one) for one in _list_of(row, "conversations")]
    elif "instruction" in row or "prompt" in row:
        answer = next((row[key] for key in ANSWERS if key in row), None)
        messages = [question_in(row), answer_of(answer, "answer")]
    else:
        raise NoShape(f"is none of {SHAPES}; it has {', '.join(map(str, row)) or 'nothing'}")
    return whole(messages, row)


def whole(messages: list[dict[str, str]], row: Mapping[str, Any]) -> list[dict[str, str]]:
    """A conversation with the `system` of its row before it.

    Raises:
        InputError: it is none that an answer can be learned from.
    """
    if isinstance(row.get("system"), str) and row["system"].strip():
        messages = [{"role": "system", "content": row["system"].strip()}, *messages]
    check(messages)
    if next((one["role"] for one in messages if one["role"] != "system"), "") == "assistant":
        raise InputError("has an answer before any question")
    if not any(one["role"] == "assistant" for one in messages):
        raise InputError("has no answer of the assistant")
    if not all(one["content"].strip() for one in messages if one["role"] != "system"):
        raise InputError("has an empty message")
    return messages


def question_in(row: Mapping[str, Any]) -> dict[str, str]:
    """The message that the instruction or the prompt of a row is, with its input below.

    Raises:
        InputError: they are no texts.
    """
    question, more = row.get("instruction", row.get("prompt")), row.get("input") or ""
    if not isinstance(question, str):
        raise InputError("has no text as its instruction or prompt")
    if not isinstance(more, str):
        raise InputError("has no text as its input")
    text = f"{question.strip()}\n\n{more.strip()}" if more.strip() else question.strip()
    return {"role": "user", "content": text}


def answer_of(text: Any, name: str) -> dict[str, str]:
    """The message that an answer is.

    Raises:
        InputError: it is no text; says what it is the `name` of.
    """
    if not isinstance(text, str):
        raise InputError(f"has no text as its {name}")
    return {"role": "assistant", "content": text.removesuffix(END).strip()}


def listed(row: Mapping[str, Any], name: str) -> list[dict[str, str]]:
    """The messages, role and content each, that stand in a row under a name.

    Raises:
        InputError: they are none.
    """
    messages = _list_of(row, name)
    check(messages)
    return [{"role": one["role"], "content": one["content"]} for one in messages]


def _list_of(row: Mapping[str, Any], name: str) -> list[Any]:
    if not isinstance(row[name], list):
        raise InputError(f"has no list under {name!r}")
    return list(row[name])


def _from_value(one: Any) -> dict[str, str]:
    if not isinstance(one, Mapping) or not isinstance(one.get("value"), str):
        raise InputError(f"has a message without from and value: {one!r:.60}")
    if one.get("from") not in SHAREGPT:
        known = ", ".join(SHAREGPT)
        raise InputError(f"has a message from {one.get('from')!r}; known are {known}")
    return {"role": SHAREGPT[one["from"]], "content": one["value"]}


def rows_of(file: Path, raw: bytes) -> Rows:
    """The rows of a file of conversations, with their numbers.

    Args:
        file: .json, a list of objects; or .jsonl, .csv, .tsv. Each perhaps with .gz.
        raw: its bytes.

    Raises:
        InputError: it is none of these, or not as it should be; says where.
    """
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if ".json" not in suffixes[-2:]:
        rows = read_rows(file, raw, what="conversations", example=EXAMPLE)[1]
    else:
        try:
            values = json.loads(decoded(file, unpacked(file, raw)))
        except (ValueError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{file.name} is not JSON: {error}") from error
        if not isinstance(values, list) or not all(isinstance(one, dict) for one in values):
            raise InputError(
                f"{file.name} must hold a list of objects, such as [{json.dumps(EXAMPLE)}]"
            )
        rows = list(enumerate(values, start=1))
    if not rows:
        raise InputError(f"{file.name} has no conversations")
    return rows


def conversations_of(name: str, rows: Rows) -> list[Messages]:
    """The conversations of rows.

    Raises:
        InputError: a row has none; names it, and says why.
    """
    return each(name, rows, conversation_of)


def each(name: str, rows: Rows, of: Callable[[Mapping[str, Any]], One]) -> list[One]:
    """What each row of a file has, as `of` says.

    Raises:
        InputError: a row has none; names it, and says why.
    """
    found: list[One] = []
    wrong: dict[str, list[int]] = {}
    kind = InputError
    for number, row in rows:
        try:
            found.append(of(row))
        except InputError as error:
            wrong.setdefault(str(error), []).append(number)
            kind = type(error) if len(wrong) == 1 else kind  # of the first one, which is said
    for why, numbers in wrong.items():
        what = why.removeprefix("has ")
        said = (
            f"{rows_have(numbers)} {what}" if why.startswith("has ") else f"row {numbers[0]} {why}"
        )
        raise kind(f"{name}: {said}")
    return found


def question_of(messages: Messages) -> str:
    """What stands before the first answer: by this conversations are told apart."""
    before = []
    for message in messages:
        if message["role"] == "assistant":
            break
        before.append(message["content"])
    return "\n\n".join(before)


@dataclass(frozen=True)
class Told(Generic[One]):
    """What was read from one place.

    Attributes:
        path: of the file, as it was given.
        name: of the file.
        sha256: of the file.
        said: what stands in it.
    """

    path: str
    name: str
    sha256: str
    said: list[One]


class Conversations(Told[Messages]):
    """Conversations."""


class Own(BaseTask, Generic[One]):
    """What tasks of a user's own conversations, or of two answers to them, share.

    Of `train` alone a tenth of the different questions, at most 1,000, is held out as "test". Which
    ones depends on the seed and the questions, not on their order; one that stands there twice is
    on one side.

    Args:
        train: what is learned from; None to measure only.
        test: what is measured on; None for the tenth.
        seed: of the drawing.

    Raises:
        InputError: too few different questions to hold two out, or fewer in `test`.

    Warns:
        UserWarning: questions of `test` stand in `train` too.

    Attributes:
        what: such a file holds.
    """

    what: ClassVar[str]

    def __init__(
        self, train: Told[One] | None, test: Told[One] | None = None, *, seed: int = 1
    ) -> None:
        self.train, self.test, self.seed = train, test, seed
        self.parts: dict[str, list[One]] = {}
        if train is not None:
            self.parts["train"] = train.said
        if test is not None:
            self.parts["test"] = test.said
        if train is not None and test is not None:
            if len(test.said) < 2:
                raise InputError(
                    f"{test.name} has too few {self.what} (1) for a standard error: give two"
                )
            warn_of_shared(
                self.questions("train"),
                self.questions("test"),
                name=test.name,
                source=train.name,
            )
        elif train is not None:
            out = _held_out(train.name, set(self.questions("train")), self.what, seed)
            self.parts["test"] = [said for said in train.said if self.question(said) in out]
            self.parts["train"] = [said for said in train.said if self.question(said) not in out]
        self.splits = tuple(self.parts)

    @abstractmethod
    def question(self, said: One) -> str:
        """What stands before the first answer."""

    def questions(self, split: str) -> list[str]:
        """Those of a split, one after another."""
        return [self.question(said) for said in self.parts[split]]

    def facts(self) -> dict[str, Any]:
        """What a card says of the data, enough to read them again."""
        assert self.train is not None  # cards are of what was trained
        train, test = self.train, self.test
        found: dict[str, Any] = {
            "name": train.name,
            "path": train.path,
            "sha256": train.sha256,
            self.what: len(train.said),
        }
        if test is None:
            return {**found, "held_out": len(self.parts["test"]), "seed": self.seed}
        return found | {
            "test_name": test.name,
            "test_path": test.path,
            "test_sha256": test.sha256,
            f"test_{self.what}": len(test.said),
        }


class ConversationFile(Own[Messages], InstructionTuning):
    """Conversations of a user: `Own` says how they are split."""

    what = "conversations"

    def question(self, said: Messages) -> str:
        """What stands before the first answer."""
        return question_of(said)

    def conversations(self, split: str) -> Sequence[Messages]:
        """Those of "train" or "test"."""
        return self.parts[split]


def entry_of(task: ConversationFile, license: str = "unknown") -> Task:
    """What a plugin would say of the task."""
    said = task.train or task.test
    assert said is not None  # a task has one of them
    return Task(
        said.name,
        pipeline="text-generation",
        target=f"{__name__}:ConversationFile",
        metrics=("perplexity_of_responses",),
        license=license,
    )


def read_conversations(path: str, *, near: Path | None = None) -> Conversations:
    """Read conversations from a file, in any of `SHAPES`.

    Args:
        path: .json, .jsonl, .csv or .tsv, perhaps with .gz; or `hf://datasets/owner/name`.
        near: a folder where the file is looked for too.

    Raises:
        DataNotFoundError: it is not there.
        InputError: something is wrong in it; says what and in which rows.
    """
    return conversations_in(path, *rows_at(path, near))


def conversations_in(path: str, name: str, sha256: str, rows: Rows) -> Conversations:
    """The conversations of rows; of a data set of the Hub they give the hash.

    Args:
        path: where they stand.
        name: of the file.
        sha256: of the file; empty for a data set of the Hub.
        rows: of the file.

    Raises:
        InputError: a row has none; names it, and says why.
    """
    said = conversations_of(name, rows)
    return Conversations(path, name, sha256 or hash_of(said), said)


def hash_of(values: Any) -> str:
    """SHA-256 of values as JSON."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def rows_at(path: str, near: Path | None) -> tuple[str, str, Rows]:
    """Name, SHA-256 and rows of a file; there is no hash of a data set of the Hub.

    Of that it is the training split: `hf://datasets/owner/name[/configuration][@revision]`.

    Raises:
        DataNotFoundError: it is not there.
        InputError: it holds no rows.
    """
    if not path.startswith(HUB):
        file = find_file(path, near)
        raw = file.read_bytes()
        return file.name, hashlib.sha256(raw).hexdigest(), rows_of(file, raw)
    place, _, revision = path.removeprefix(HUB).partition("@")
    owner, _, rest = place.partition("/")
    name, _, configuration = rest.partition("/")
    if not owner or not name:
        raise InputError(f"A data set of the Hub reads {HUB}owner/name, got {path!r}")
    rows = from_hub(
        f"{owner}/{name}", split="train", name=configuration or None, revision=revision or "main"
    )
    return f"{owner}/{name}", "", list(enumerate(rows, start=1))


def _held_out(name: str, questions: set[str], what: str, seed: int) -> set[str]:
    """A tenth of the different questions, two at least: of one there is no standard error."""
    if len(questions) < 3:
        raise InputError(
            f"{name} has too few different questions ({len(questions)}) to hold some out: "
            f"give {what} to test on, --test-data or test_data="
        )
    count = min(MOST, max(2, round(len(questions) / PART)))
    return set(drawn(questions, seed, count))
