"""Conversations in files: the shapes that people write them in, and a user's own as a task."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.conversation import Messages, check
from zoo.data import from_hub
from zoo.errors import InputError
from zoo.hookspecs import Task
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
    "prompt with completion"
)
ANSWERS = ("output", "response", "completion")  # the first one that a row has
SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
SHAREGPT |= {"chatgpt": "assistant", "model": "assistant", "bing": "assistant", "system": "system"}
END = "<|endoftext|>"  # some sets write it behind an answer
PART, MOST = 10, 1000  # one question of so many is held out, and at most so many


class NoShape(InputError):
    """A row is in none of the shapes of conversations."""


Rows = list[tuple[int, Mapping[str, Any]]]


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
        messages = _listed(row["messages"], "messages")
        check(messages)
        messages = [{"role": one["role"], "content": one["content"]} for one in messages]
    elif "conversations" in row:
        said = _listed(row["conversations"], "conversations")
        messages = [_from_value(one) for one in said]
    elif "instruction" in row or "prompt" in row:
        question = row.get("instruction", row.get("prompt"))
        answer = next((row[key] for key in ANSWERS if key in row), None)
        more = row.get("input") or ""
        for key, text in (("instruction", question), ("answer", answer), ("input", more)):
            if not isinstance(text, str):
                raise InputError(f"has no text as its {key}")
        if not isinstance(question, str) or not isinstance(answer, str):
            raise AssertionError  # said above
        question = f"{question.strip()}\n\n{more.strip()}" if more.strip() else question.strip()
        messages = [{"role": "user", "content": question}]
        messages += [{"role": "assistant", "content": answer.removesuffix(END).strip()}]
    else:
        raise NoShape(f"is none of {SHAPES}; it has {', '.join(map(str, row)) or 'nothing'}")
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


def _listed(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"has no list under {name!r}")
    return value


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
    found = []
    wrong: dict[str, list[int]] = {}
    kind = InputError
    for number, row in rows:
        try:
            found.append(conversation_of(row))
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
class Conversations:
    """Conversations, as read from one place.

    Attributes:
        path: of the file, as it was given.
        name: of the file.
        sha256: of the file.
        said: the conversations.
    """

    path: str
    name: str
    sha256: str
    said: list[Messages]


class ConversationFile(InstructionTuning):
    """Conversations of a user.

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
    """

    def __init__(
        self, train: Conversations | None, test: Conversations | None = None, *, seed: int = 1
    ) -> None:
        self.train, self.test, self.seed = train, test, seed
        self.parts: dict[str, list[Messages]] = {}
        if train is not None:
            self.parts["train"] = train.said
        if test is not None:
            self.parts["test"] = test.said
        if train is not None and test is not None:
            if len(test.said) < 2:
                raise InputError(
                    f"{test.name} has one conversation, which gives no standard error: give two"
                )
            warn_of_shared(
                map(question_of, train.said),
                [question_of(messages) for messages in test.said],
                name=test.name,
                source=train.name,
            )
        elif train is not None:
            out = _held_out(train, seed)
            self.parts["test"] = [said for said in train.said if question_of(said) in out]
            self.parts["train"] = [said for said in train.said if question_of(said) not in out]
        self.splits = tuple(self.parts)

    def conversations(self, split: str) -> Sequence[Messages]:
        """Those of "train" or "test"."""
        return self.parts[split]

    def facts(self) -> dict[str, Any]:
        """What a card says of the data, enough to read them again."""
        assert self.train is not None  # cards are of what was trained
        train, test = self.train, self.test
        found: dict[str, Any] = {
            "name": train.name,
            "path": train.path,
            "sha256": train.sha256,
            "conversations": len(train.said),
        }
        if test is None:
            return {**found, "held_out": len(self.parts["test"]), "seed": self.seed}
        return found | {
            "test_name": test.name,
            "test_path": test.path,
            "test_sha256": test.sha256,
            "test_conversations": len(test.said),
        }


def open_conversations(
    data: Mapping[str, Any], seed: int, *, near: Path | None = None
) -> ConversationFile:
    """The task that a recipe's [data] describes.

    Args:
        data: `path`, and perhaps `test_path`.
        seed: of the recipe.
        near: a folder where the files are looked for too.

    Raises:
        DataNotFoundError: a file is not there.
        InputError: something is wrong in a file; says where.
    """
    train = read_conversations(data["path"], near=near)
    test = read_conversations(data["test_path"], near=near) if data.get("test_path") else None
    return ConversationFile(train, test, seed=seed)


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
    if path.startswith(HUB):
        return _from_hub(path)
    file = find_file(path, near)
    raw = file.read_bytes()
    said = conversations_of(file.name, rows_of(file, raw))
    return Conversations(path, file.name, hashlib.sha256(raw).hexdigest(), said)


def _from_hub(path: str) -> Conversations:
    """The training split of `hf://datasets/owner/name[/configuration][@revision]`."""
    place, _, revision = path.removeprefix(HUB).partition("@")
    owner, _, rest = place.partition("/")
    name, _, configuration = rest.partition("/")
    if not owner or not name:
        raise InputError(f"A data set of the Hub reads {HUB}owner/name, got {path!r}")
    rows = from_hub(
        f"{owner}/{name}", split="train", name=configuration or None, revision=revision or "main"
    )
    said = conversations_of(f"{owner}/{name}", list(enumerate(rows, start=1)))
    digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    return Conversations(path, f"{owner}/{name}", digest, said)


def _held_out(train: Conversations, seed: int) -> set[str]:
    """A tenth of the different questions, two at least: of one there is no standard error."""
    questions = {question_of(messages) for messages in train.said}
    if len(questions) < 3:
        raise InputError(
            f"{train.name} has too few different questions ({len(questions)}) to hold some out: "
            "give conversations to test on, --test-data or test_data="
        )
    count = min(MOST, max(2, round(len(questions) / PART)))
    return set(drawn(questions, seed, count))
