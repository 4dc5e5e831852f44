"""A conversation with a decoder: what `txzoo chat` and the gallery's page hold."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.conversation import (
    Template,
    answer_end,
    as_json,
    check,
    messages_of,
    prompt,
    read_conversation,
    template_of,
    tokens_of,
)
from zoo.errors import ContextLengthError, InputError
from zoo.generation import DEFAULT_NEW_TOKENS, GenerationOptions, Kept, stream
from zoo.pipelines.text_generation import Pieces, TextGeneration

if TYPE_CHECKING:
    from zoo.model import Model

ONE_ANSWER = ("num_beams", "num_return_sequences", "length_penalty", "stop")  # not of a chat


class Chat:
    """A conversation that goes on.

    What the model has read stays in its key/value cache: of the next message only what is new is
    read. A conversation that has become longer than the window loses its oldest turns, as a whole;
    the system message stays.

    Args:
        model: a decoder with a tokenizer.
        system: what the system message says; none if empty.
        template: "alpaca" or "chatml"; the model's own unless given, else Alpaca.
        window: tokens read at once, with the answer; those the model was trained on unless given.
        **options: how answers are written: `max_new_tokens`, `temperature`, `top_k`, `top_p`,
            `repetition_penalty`, `do_sample`, `seed`.

    Attributes:
        messages: the conversation, all of it; the assistant's answers too.
        left_out: how many messages did not fit the last time.

    Raises:
        InputError: a template that it cannot write, or an unknown option.
        ContextLengthError: the system message leaves no room in the window for a message and an
            answer.
        UnknownNameError: no such template.
    """

    def __init__(
        self,
        model: "Model",
        *,
        system: str = "",
        template: str = "",
        window: int | None = None,
        **options: Any,
    ) -> None:
        if model.pipeline != "text-generation":
            raise InputError(f"{model.name} is a {model.pipeline} model: only decoders answer")
        self.model = model
        self.pipeline = TextGeneration(model)
        self.tokenizer = self.pipeline.tokenizer
        own = None if template else template_of(model)
        self.template = own or Template.called(template or "alpaca", tokens_of(model))
        end_id, self.stop = answer_end(self.template, self.tokenizer)
        self.end_id = self.pipeline.end_id if end_id is None else end_id
        limit = getattr(model.module, "max_len", None)
        self.window: int = window or model.config.max_seq_len
        if self.window < 2 or (limit is not None and self.window > limit):
            raise InputError(f"window must be from 2 to {limit or 'any number'}, got {window}")
        self.options: dict[str, Any] = {}
        self.set(**options)
        self.messages: list[dict[str, str]] = []
        self.left_out = 0
        self.kept = Kept()
        self.retries = 0
        if system:
            self._check_system(system)
            self.messages.append({"role": "system", "content": system})

    @property
    def read(self) -> int:
        """How many tokens the model has read so far."""
        return self.kept.read

    def set(self, **options: Any) -> None:
        """Write answers otherwise from now on; None takes an option back.

        Raises:
            InputError: an unknown option, or a value that it cannot have.
        """
        self.options = checked({**self.options, **options})

    def say(self, text: str) -> str:
        """Say something, and wait for the answer.

        Raises:
            InputError: the message is empty.
            ContextLengthError: the message alone is longer than the window.
        """
        return "".join(self.stream(text)).strip()

    def stream(self, text: str) -> Iterator[str]:
        """Say something; the answer comes in pieces.

        An answer that is not read to its end ends where it is: what is written so far stays in the
        conversation, and where there is nothing the message goes too.

        Raises:
            InputError: the message is empty; at once.
            ContextLengthError: the message alone is longer than the window; at once.
        """
        if not text.strip():
            raise InputError("The message is empty: say something")
        self.retries = 0
        return self._answer([*self.messages, *messages_of(text)])

    def retry(self) -> Iterator[str]:
        """Answer the last message again, in pieces; other than before where chance decides.

        Raises:
            InputError: nothing was said yet.
        """
        self._require_turn()
        self.retries += 1
        return self._answer(self.messages[:-1])

    def undo(self) -> str:
        """Take the last message back, with its answer; returns the message.

        Raises:
            InputError: nothing was said yet.
        """
        self._require_turn()
        text = self.messages[-2]["content"]
        del self.messages[-2:]
        return text

    def clear(self) -> None:
        """Forget everything but the system message."""
        self.messages = self.messages[: self._system]
        self.left_out = 0

    def save(self, path: str | Path) -> Path:
        """Write the conversation as JSON, with the model's name and the settings.

        Raises:
            InputError: the conversation is empty.
        """
        path = Path(path)
        text = as_json(self.messages, model=self.model.name, options=self.options)
        beside = path.with_name(f"{path.name}.partial")
        beside.write_text(text, "utf-8")
        os.replace(beside, path)
        return path

    def load(self, path: str | Path) -> None:
        """Go on with a conversation that was saved, with the settings that stand beside it.

        Raises:
            FolderError: there is no such file, or it does not parse.
            InputError: it holds no conversation, or one that does not end with an answer, or a
                setting that cannot be.
            ContextLengthError: as of the class.
        """
        messages, options = read_conversation(Path(path))
        if messages[0]["role"] == "system":
            self._check_system(messages[0]["content"])
        self.options = self.options if options is None else checked(options)
        self.messages, self.left_out = messages, 0

    @property
    def _system(self) -> int:
        """How many messages are the system's, 0 or 1."""
        return int(bool(self.messages) and self.messages[0]["role"] == "system")

    def _require_turn(self) -> None:
        if len(self.messages) - self._system < 2:
            raise InputError("Nothing was said yet")

    def _check_system(self, text: str) -> None:
        system = {"role": "system", "content": text}
        least = len(prompt(self.template, self.tokenizer, [system, *messages_of("?")]))
        if least >= self.window:
            raise ContextLengthError(
                f"The system message has {self._count(text)} tokens, {least} with the shortest "
                f"message and what stands around them, the window {self.window}, where an answer "
                "must have room too: shorten it"
            )

    def _count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _answer(self, messages: list[dict[str, str]]) -> Iterator[str]:
        """Check everything now, write when asked."""
        check(messages)
        ids, new = self._fit(messages)
        options = GenerationOptions.from_dict(
            {**self.options, "max_new_tokens": new, "stop": self.stop or ()}
        )
        if options.seed is not None:
            options = dataclasses.replace(options, seed=options.seed + self.retries)
        return self._written(messages, ids, options)

    def _written(
        self, messages: list[dict[str, str]], ids: list[int], options: GenerationOptions
    ) -> Iterator[str]:
        plain = dataclasses.replace(options, stop=())  # seen in the text itself
        tokens = stream(self.model.module, ids, plain, end_id=self.end_id, kept=self.kept)
        answer = ""
        try:
            for piece in self.pipeline.written("", Pieces(self.tokenizer, ids), tokens, options):
                answer += piece
                yield piece
        except KeyboardInterrupt:
            if not answer.strip():
                raise
        finally:  # also where the reader stops
            if answer.strip():
                said = {"role": "assistant", "content": answer.strip()}
                self.messages = [*messages, said]

    def _fit(self, messages: list[dict[str, str]]) -> tuple[list[int], int]:
        """The prompt, without the oldest turns that do not fit, and how much may be answered."""
        system = self._system
        turns = [n for n, one in enumerate(messages) if one["role"] == "user"]
        wanted = self.options.get("max_new_tokens", DEFAULT_NEW_TOKENS)
        room = min(wanted, self.window // 2)
        for first in turns:
            ids = prompt(self.template, self.tokenizer, [*messages[:system], *messages[first:]])
            left = self.window - len(ids)
            if left >= room or (first == turns[-1] and left >= 1):
                self.left_out = first - system
                return ids, min(wanted, left)
        around = "what stands around it"
        if system:
            around += f" and the system message ({self._count(messages[0]['content'])} tokens)"
        raise ContextLengthError(
            f"This message takes {len(ids)} tokens with {around}, the window is {self.window}: "
            "shorten it"
        )


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """How answers are written, without what is None.

    Raises:
        InputError: an unknown option, or a value that it cannot have.
    """
    if other := [name for name in options if name in ONE_ANSWER]:
        raise InputError(f"{other[0]} is not of a chat, which writes one answer to its end")
    given = {name: value for name, value in options.items() if value is not None}
    GenerationOptions.from_dict(given)
    return given
