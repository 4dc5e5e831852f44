"""Continuous batching: texts of many requests are written side by side on one loop.

Source: Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative
Models", section 3.1: requests join and leave between two tokens, none waits for another's end.

The idea: keys and values of all rows end at the same column, shorter texts are padded on the left.
New texts are read on their own, some tokens between one step of the others and the next (Agrawal et
al. 2023, "SARATHI: Efficient LLM Inference by Piggybacking Decodes with Chunked Prefills",
arXiv:2308.16369). Then their keys and values are laid into the last columns of free rows; positions
count from a text's own beginning, so nothing else changes. A text that is longer than all others
moves them to the right.

Letters: R rows, S columns, V vocabulary, E width of a head.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.errors import InputError, ZooError
from zoo.generation import Draw, GenerationOptions, Repetition, count_new, last_logits
from zoo.nn import Cache, reordered
from zoo.nn.replay import Steps
from zoo.pipelines.text_generation import Pieces, TextGeneration, Writing

if TYPE_CHECKING:
    from zoo.model import Model

COLUMNS = 64  # at first; as many again whenever they do not suffice
KEPT = 64 << 20  # bytes of columns that stay when no text is left
QUIET = 8  # steps without coming and going after which the next ones are recorded
PIECE = 512  # tokens of prompts that are read between two steps


class Slots(Cache):
    """A cache whose rows come and go.

    Args:
        module: the decoder.
        rows: R at most.

    Attributes:
        recorded: steps for a number of rows, with padding or without. They go on when as many are
            there again, since models then look at the same tensors as before.
    """

    def __init__(self, module: nn.Module, rows: int) -> None:
        config: Any = module.config
        like = next(module.parameters())
        self.store = Cache.of(config, rows, COLUMNS, like=like).memory  # (L, 2, R, H, S, E)
        self.before: list[int] = []  # columns of padding of each row
        self.length, self.max_len = 0, COLUMNS
        self._forget()
        self._settle()

    def join(self, others: Cache, before: Sequence[int]) -> None:
        """Take rows up behind those that are here.

        Args:
            others: their keys and values, which end where it ends.
            before: columns of padding of each.
        """
        length = max(self.length, others.length)
        self._shift(length - self.length)
        rows = slice(len(self.before), len(self.before) + len(before))
        start = length - others.length
        self.store[:, :, rows, :, start:length] = others.memory[..., : others.length, :]
        self.before += [start + columns for columns in before]
        self._settle()

    def leave(self, row: int) -> None:
        """Let a row go; the last one takes its place."""
        last = len(self.before) - 1
        if row != last:
            self.store[:, :, row] = self.store[:, :, last]
            self.before[row] = self.before[last]
        self.before.pop()
        unused = min(self.before, default=self.length)
        if unused >= max(self.length // 4, 1):  # columns that cost and say nothing
            self._shift(-unused)
        self._settle()

    def make_room(self) -> None:
        """Make sure that one more column can be written."""
        if self.length == self.max_len:
            self._shift(-min(self.before))
            self._require(self.length + 1)
            self._settle()

    def _shift(self, columns: int) -> None:
        """Move all rows to the right, or to the left over columns that are padding everywhere."""
        if columns:
            self._require(self.length + columns)
            start = max(-columns, 0)
            moved = self.store[..., start : self.length, :].clone()
            self.length += columns
            self.before = [unused + columns for unused in self.before]
            self.store[..., start + columns : self.length, :] = moved

    def _require(self, columns: int) -> None:
        if columns > self.max_len:
            while self.max_len < columns:
                self.max_len *= 2
            shape = [*self.store.shape[:-2], self.max_len, self.store.shape[-1]]
            store = self.store.new_zeros(shape)
            store[..., : self.length, :] = self.store[..., : self.length, :]
            self.store = store
            self._forget()

    def _forget(self) -> None:
        """Look at the columns anew, for they are others."""
        self.recorded: dict[tuple[int, bool], Steps] = {}
        self._memories: dict[int, Tensor] = {}  # of so many rows
        self._paddings: dict[int, Tensor] = {}

    def _settle(self) -> None:
        """What models look at: the rows that are used."""
        self.quiet = 0  # steps since then
        rows, padding = len(self.before), torch.tensor(self.before, device=self.store.device)
        self.memory = self._memories.setdefault(rows, self.store[:, :, :rows])
        self.padding = self._paddings.setdefault(rows, padding) if any(self.before) else None
        if self.padding is not None:
            self.padding.copy_(padding)


@dataclass(eq=False)
class Request:
    """A text that somebody waits for.

    Attributes:
        ids: the prompt.
        writing: turns tokens into text, up to a stop text.
        limit: tokens at most.
        deadline: when it ends at the latest, by `time.monotonic`.
        put: takes each piece of text, and at the end why it ended: "stop", "length", or an error.
        end_id: the token that ends it.
        written: how many tokens there are.
        cancelled: nobody waits any more.
        choose: draws its tokens; the most likely ones if None.
        repetition: its penalty, if there is one.
    """

    ids: list[int]
    writing: Writing
    limit: int
    put: Callable[[str, "str | Exception | None"], None]
    end_id: int | None
    deadline: float = math.inf
    written: int = 0
    cancelled: bool = False
    choose: Draw | None = None
    repetition: Repetition | None = None


class Reading:
    """Prompts that are read, padded on the left to one length.

    Args:
        requests: R, whose prompts they are.
        module: reads them.
    """

    def __init__(self, requests: list[Request], module: nn.Module) -> None:
        like = next(module.parameters())
        longest = max(len(request.ids) for request in requests)
        self.requests, self.module = requests, module
        self.before = [longest - len(request.ids) for request in requests]
        rows = zip(self.before, requests, strict=True)
        self.ids = torch.tensor(
            [[0] * pad + request.ids for pad, request in rows], device=like.device
        )
        padding = torch.tensor(self.before, device=like.device)
        config: Any = module.config
        self.cache = Cache.of(config, len(requests), longest, padding=padding, like=like)

    def read(self) -> Tensor | None:
        """Read the next piece; after the last one the scores (R, V) of what follows."""
        start = self.cache.length
        piece = self.ids[:, start : start + max(PIECE // len(self.requests), 1)]
        scores = last_logits(self.module, piece, self.cache)[:, 0]
        return scores if self.cache.length == self.ids.shape[1] else None


class Busy(ZooError):
    """All rows are taken, and as many wait as may."""


class TooLate(ZooError):
    """It took longer than an answer may."""


class Engine:
    """One loop, in a thread of its own, that writes the texts of a model.

    Args:
        model: a decoder with a tokenizer.
        rows: texts side by side.
        waiting: texts that may wait for a row.

    Attributes:
        name: the model's.
        steps: how often the module was called for the next token of all rows.
        tokens: how many tokens were written.

    Raises:
        InputError: the model writes no text.
    """

    def __init__(self, model: "Model", *, rows: int = 32, waiting: int = 256) -> None:
        if model.pipeline != "text-generation":
            raise InputError(f"{model.name} is a {model.pipeline} model: it continues no text")
        self.name, self.module = model.name, model.module
        self.pipeline = TextGeneration(model)
        self.rows, self.most = rows, waiting
        self.slots = Slots(model.module, rows)
        self.running: list[Request] = []
        self.reading: Reading | None = None
        self.waiting: deque[Request] = deque()
        self.steps = self.tokens = 0
        self._news = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"{self.name} writes", daemon=True)
        self._thread.start()

    def submit(
        self,
        ids: Sequence[int],
        options: GenerationOptions,
        put: Callable[[str, "str | Exception | None"], None],
        *,
        end_id: int | None = None,
        seconds: float = math.inf,
        copy: int = 0,
    ) -> Request:
        """Let a text be continued.

        Args:
            ids: the prompt.
            options: of one answer, without beams.
            put: called from the loop's thread with each piece of text and, at the end, "stop",
                "length" or an error.
            end_id: the token that ends it, the model's own unless given.
            seconds: it may take.
            copy: which answer to the prompt it is, where several are asked for: each draws others.

        Raises:
            InputError: an empty prompt, or options of more than one answer.
            ContextLengthError: more positions than the model has.
            Busy: too many wait.
        """
        if options.num_beams > 1 or options.num_return_sequences > 1:
            raise InputError("One text is written for each prompt: no beams, no further answers")
        request = Request(
            list(ids),
            Writing(Pieces(self.pipeline.tokenizer, ids), tuple(options.stop)),
            limit=count_new(self.module, [ids], options),
            put=put,
            end_id=self.pipeline.end_id if end_id is None else end_id,
            deadline=time.monotonic() + seconds,
            choose=Draw(options, [ids], copy) if options.samples else None,
        )
        if options.repetition_penalty != 1:
            one: Any = SimpleNamespace(module=self.module, texts=[request.ids])
            request.repetition = Repetition(options.repetition_penalty, one)
        with self._news:
            if self._closed or len(self.waiting) >= self.most:
                raise Busy(f"{self.name} is busy: {len(self.waiting)} texts wait; ask again later")
            self.waiting.append(request)
            self._news.notify()
        return request

    def cancel(self, request: Request) -> None:
        """Nobody waits for it any more: its row is free before the next token."""
        with self._news:
            request.cancelled = True
            self._news.notify()

    def close(self) -> None:
        """End; texts that are not written are ended with an error."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join()

    def _run(self) -> None:
        with torch.inference_mode(), reordered(self.module):
            self._serve()

    def _serve(self) -> None:
        scores: Tensor | None = None  # (R, V) of the running requests, in their order
        while True:
            with self._news:
                while not (self.waiting or self.reading or self.running or self._closed):
                    self._news.wait()
                new: list[Request] = []
                if self.reading is None:
                    free = self.rows - len(self.running)
                    new = [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]
                if self._closed:
                    new += self.waiting
                    self.waiting.clear()
            if self._closed:
                return self._end(new, Busy(f"{self.name} is being stopped"))
            try:
                scores = self._joined(scores, new)
                scores = self._step(scores)
            except Exception as error:  # out of memory, say: those who wait must hear of it
                self._end(new, error)
                scores = None

    def _end(self, new: list[Request], error: Exception) -> None:
        """Tell all who wait for a text, the new ones too, why there is none."""
        read = [] if self.reading is None else self.reading.requests
        for request in dict.fromkeys([*new, *read, *self.running]):
            request.put("", error)
        self.running, self.reading, self.slots = [], None, Slots(self.module, self.rows)

    def _joined(self, scores: Tensor | None, new: list[Request]) -> Tensor | None:
        """Read a piece of new prompts; scores of all rows, theirs too when they are read."""
        if new := [request for request in new if not self._is_over(request)]:
            self.reading = Reading(new, self.module)
        reading = self.reading
        if reading is None:
            return scores
        if all([self._is_over(request) for request in reading.requests]):
            self.reading = None
            return scores
        first = reading.read()
        if first is None:
            return scores
        self.slots.join(reading.cache, reading.before)
        self.running += reading.requests
        self.reading = None
        return first if scores is None else torch.cat([scores, first])

    def _step(self, scores: Tensor | None) -> Tensor | None:
        """Choose a token for each row, let go who is done, and compute the next scores."""
        if scores is None:
            return None
        chosen = self._chosen(scores)
        ids, tokens = chosen.tolist(), []
        for row in range(len(self.running) - 1, -1, -1):  # who leaves is replaced by the last one
            request = self.running[row]
            if self._is_over(request) or self._written(request, ids[row]):
                self.slots.leave(row)
                last = self.running.pop()
                if row < len(self.running):
                    self.running[row], ids[row] = last, ids[len(self.running)]
        tokens = ids[: len(self.running)]
        if not tokens:
            if self.slots.store.nbytes > KEPT:  # what long texts took
                self.slots = Slots(self.module, self.rows)
            return None
        self.slots.make_room()
        self.steps += 1
        read = torch.tensor(tokens, device=chosen.device)[:, None]
        return self._computed(read)[:, 0]

    def _computed(self, read: Tensor) -> Tensor:
        """Logits (R, 1, V) of what follows the next token of each row, (R, 1)."""
        slots = self.slots
        slots.quiet += 1
        kind = len(slots.before), slots.padding is None
        if kind not in slots.recorded:
            if slots.quiet < QUIET:
                return last_logits(self.module, read, slots)
            slots.recorded[kind] = Steps(
                lambda ids: last_logits(self.module, ids, slots), self.module, slots
            )
        return slots.recorded[kind](read)

    def _chosen(self, scores: Tensor) -> Tensor:
        """A token for each row (R,)."""
        for row, request in enumerate(self.running):
            if request.repetition is not None:
                scores[row : row + 1] = request.repetition(scores[row : row + 1])
        chosen = scores.argmax(dim=-1)
        for row, request in enumerate(self.running):
            if request.choose is not None:
                chosen[row] = request.choose(scores[row : row + 1])[0]
            if request.repetition is not None:
                request.repetition.add(chosen[row : row + 1])
        return chosen

    def _written(self, request: Request, token: int) -> bool:
        """Hand on what a token says; whether it was the last one."""
        ended: str | None = None
        piece = ""
        if token == request.end_id:
            ended = "stop"
        else:
            request.written += 1
            self.tokens += 1
            piece = request.writing.push(token)
            if request.writing.stopped:
                ended = "stop"
            elif request.written >= request.limit:
                ended = "length"
        if ended and not request.writing.stopped:
            piece += request.writing.rest()
            if request.writing.stopped:
                ended = "stop"
        if piece or ended:
            request.put(piece, ended)
        return ended is not None

    def _is_over(self, request: Request) -> bool:
        """Whether nobody waits for it, or not any longer."""
        if not request.cancelled and time.monotonic() > request.deadline:
            request.put("", TooLate("The answer took too long; ask for fewer tokens"))
            request.cancelled = True
        return request.cancelled
