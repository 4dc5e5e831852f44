"""How pipelines and tasks of encoders read texts: tokens, cut to what fits, padded in batches.

Letters: B batch, T length.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zoo.errors import InputError
from zoo.pipelines import require_text, tokenizer_of

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

    from zoo.model import Model

Ids = npt.NDArray[np.int32]
CHUNK = 4096  # texts tokenized at once
BATCH_TOKENS = 8192  # of a batch with its padding; on a processor larger ones are no faster


@dataclass(frozen=True)
class Row:
    """A text as a model reads it.

    Attributes:
        text: the text.
        ids: its tokens, those that mark its ends too.
        offsets: where each token stands in the text, (start, end) in characters.
        special: 1 for each token that stands for none of the text.
        left_out: how many tokens were cut.
    """

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]
    special: list[int]
    left_out: int


class Reader:
    """Turns texts into tokens, at most `length` each.

    Args:
        tokenizer: of the model; its own cutting and padding is left aside.
        length: T at most.
        last: how many of a longer text's last tokens are kept; its first ones fill the rest.
        prefix: what is read before each text.
    """

    def __init__(
        self, tokenizer: "Tokenizer", length: int, last: int = 0, prefix: str = ""
    ) -> None:
        self.tokenizer = uncut(tokenizer)
        self.length, self.last, self.prefix = length, last, prefix

    def __call__(self, texts: Sequence[str]) -> list[Row]:
        """Read texts.

        Raises:
            InputError: not a text, not valid Unicode, or nothing in it that is a token.
        """
        for text in texts:
            require_text(text)
        encodings = self.encode(texts)
        return [self._row(text, found) for text, found in zip(texts, encodings, strict=True)]

    def encode(self, texts: Sequence[str]) -> list["Encoding"]:
        """Texts behind their prefix, whose characters are counted too."""
        return self.tokenizer.encode_batch([self.prefix + text for text in texts])

    def pieces(self, texts: Sequence[str]) -> list["Ids"]:
        """All tokens of each text, in pieces of at most `length`, each marked as a text is."""
        pieces = []
        for start in range(0, len(texts), CHUNK):
            for encoding in self.tokenizer.encode_batch_fast(list(texts[start : start + CHUNK])):
                ids = np.array(encoding.ids, dtype=np.int32)
                body = np.array(encoding.special_tokens_mask) == 0
                if not body.any():
                    continue
                first, last = int(body.argmax()), len(ids) - int(body[::-1].argmax())
                opening, closing = ids[:first], ids[last:]
                room = self.length - len(opening) - len(closing)
                pieces += [
                    np.concatenate([opening, ids[place : min(place + room, last)], closing])
                    for place in range(first, last, room)
                ]
        return pieces

    def _row(self, text: str, encoding: "Encoding") -> Row:
        N, before = len(encoding.ids), len(self.prefix)
        offsets = [(max(a - before, 0), max(b - before, 0)) for a, b in encoding.offsets]
        special = [
            int(mark or (before > 0 and stop == 0))
            for mark, (_, stop) in zip(encoding.special_tokens_mask, offsets, strict=True)
        ]
        if all(special) or not text.strip():
            raise InputError(f"The text {text!r} is empty: give at least one word")
        kept = list(range(N))
        if N > self.length:
            closing = next(i for i, mark in enumerate(reversed(special)) if not mark)
            last = min(max(self.last, closing), self.length)
            kept = [*range(self.length - last), *range(N - last, N)]
        ids = encoding.ids  # each access copies
        return Row(
            text,
            [ids[i] for i in kept],
            [offsets[i] for i in kept],
            [special[i] for i in kept],
            N - len(kept),
        )


def uncut(tokenizer: "Tokenizer") -> "Tokenizer":
    """A tokenizer that neither cuts nor pads: this one, or a copy, which takes milliseconds."""
    if tokenizer.truncation is None and tokenizer.padding is None:
        return tokenizer
    copy = type(tokenizer).from_str(tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


def last_tokens(length: int) -> int:
    """How many last tokens of a longer text are kept to classify it: three quarters of `length`.

    Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?", arXiv:1905.05583, section
    5.3.1: the first 128 and the last 382 of a review are better than the first or the last 510.
    """
    return length * 3 // 4


def pad(rows: Sequence[Sequence[int] | Ids], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) padded on the right, and where they are real (B, T)."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), pad_id)
    real = torch.arange(ids.shape[1]) < lengths[:, None]
    ids[real] = torch.from_numpy(np.concatenate(rows)).long()  # in reading order
    return ids, real


def by_length(lengths: Sequence[int], tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Batches of places in `lengths`, longest first, of at most `tokens` with their padding."""
    places = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    while places:
        rows = max(1, tokens // lengths[places[0]])
        yield places[:rows]
        places = places[rows:]


class EncoderPipeline:
    """Calls an encoder with texts; a subclass says what its output means.

    The module is called as `module(ids, real)`, both (B, T), real True where a token is none of
    padding; its config has `max_seq_len`, `pad_id`, `head` and `labels`.

    Args:
        model: with a tokenizer, and a module with the right head.

    Attributes:
        task: the pipeline's name.
        heads: those that it can be called with.
        options: the names of what it takes besides texts.

    Raises:
        InputError: the model has no tokenizer or another head.
    """

    task = ""
    heads: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def __init__(self, model: "Model") -> None:
        head = getattr(model.config, "head", None)
        if head not in self.heads:
            raise InputError(
                f"{self.task} needs a model with the head {' or '.join(self.heads)}, "
                f"{model.name} has {head or 'none of an encoder'}"
            )
        self.name, self.module, self.config = model.name, model.module, model.config
        self.tokenizer = uncut(tokenizer_of(model))
        self.last = 0

    def __call__(self, texts: str | Sequence[str], **options: Any) -> Any:
        """Read a text, or several in batches.

        Args:
            texts: a text or a list of texts.
            **options: those of this pipeline.

        Returns:
            An answer for a text, a list for a list.

        Raises:
            InputError: an empty text, an unknown option or a value out of range.

        Warns:
            UserWarning: a text is longer than what the model reads, and how much was left out.
        """
        for option in options:
            if option not in self.options:
                takes = ", ".join(self.options) or "none"
                raise InputError(f"{self.task} has no option {option!r}; it has: {takes}")
        self.check(**options)
        many = isinstance(texts, list | tuple)
        given: Sequence[str] = texts if many else [texts]  # type: ignore[list-item]
        rows = self.reader()(given)
        self.warn(rows)
        outputs = self.outputs(rows)
        answers = [self.answer(r, o, **options) for r, o in zip(rows, outputs, strict=True)]
        return answers if many else answers[0]

    def reader(self, length: int | None = None) -> Reader:
        """Reads texts up to what the model has positions for, or up to `length` tokens."""
        return Reader(self.tokenizer, length or self.config.max_seq_len, self.last)

    def warn(self, rows: Sequence[Row]) -> None:
        """Say how much did not fit."""
        cut = [row for row in rows if row.left_out]
        if cut:
            lost, all_of_them = (
                sum(row.left_out for row in cut),
                sum(row.left_out + len(row.ids) for row in cut),
            )
            what = "The text" if len(rows) == 1 else f"{len(cut)} of {len(rows)} texts"
            warnings.warn(
                f"{what} did not fit: {self.name} reads {self.config.max_seq_len} tokens, "
                f"{lost:,} of {all_of_them:,} were left out ({lost / all_of_them:.0%})",
                stacklevel=4,  # where the model is called
            )

    @torch.inference_mode()
    def outputs(
        self, rows: Sequence[Row], compute: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> list[Tensor]:
        """What the module gives for each row, without padding where it gives something a token."""
        compute = compute or self.compute
        device = next(self.module.parameters()).device
        found: dict[int, Tensor] = {}
        for places in by_length([len(row.ids) for row in rows]):
            ids, real = pad([rows[place].ids for place in places], self.config.pad_id)
            batch = compute(ids.to(device), real.to(device)).float().cpu()
            for place, output in zip(places, batch, strict=True):
                found[place] = output
        return [found[place] for place in range(len(rows))]

    def compute(self, ids: Tensor, real: Tensor) -> Tensor:
        """The module's output for a batch."""
        result: Tensor = self.module(ids, real)
        return result

    def check(self, **options: Any) -> None:
        """Raise `InputError` for an option's value out of range."""
        top_k = options.get("top_k")
        if top_k is not None and (type(top_k) is not int or top_k < 1):
            raise InputError(f"top_k must be a whole number from 1 on, got {top_k!r}")

    def answer(self, row: Row, output: Tensor, **options: Any) -> Any:
        """What a person gets for a row's output."""
        raise NotImplementedError
