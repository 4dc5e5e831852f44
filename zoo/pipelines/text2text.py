"""Text to text: a source, and the text that an encoder-decoder makes of it.

Letters: P sources, R rows, S source length, T target length.
"""

import dataclasses
import math
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.errors import ContextLengthError, InputError
from zoo.generation import GenerationOptions, generate, stream
from zoo.nn import EncoderDecoder, SourceCache
from zoo.nn.cache import sources_of
from zoo.pipelines import prefix_of, tokenizer_of
from zoo.pipelines.languages import Languages
from zoo.pipelines.reading import Reader, Row, by_length, pad
from zoo.pipelines.text_generation import Pieces, find_stop
from zoo.tokenization import UNKNOWN

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.model import Model

# where a sentence ends: a sign, quotes and brackets that close, a blank; or a line
SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]]*\s+|\n+")


@dataclass(frozen=True)
class Between:
    """Languages of a call; those of the model where None."""

    source_language: str | None = None
    target_language: str | None = None


@dataclass(frozen=True)
class Candidate:
    """One answer to a source.

    Attributes:
        text: what was written.
        score: of beam search, its log-probability over its length to the `length_penalty`; None
            for greedy decoding and sampling.
    """

    text: str
    score: float | None = None


class Text2Text:
    """Calls an encoder-decoder with texts.

    Args:
        model: its module is a `zoo.nn.EncoderDecoder`.

    Raises:
        InputError: the model has no tokenizer, or is of another kind.
    """

    def __init__(self, model: "Model") -> None:
        if not isinstance(model.module, EncoderDecoder):
            kind = type(model.module).__name__
            raise InputError(
                f"{model.name} is no encoder-decoder: {kind} does not derive from "
                "zoo.nn.EncoderDecoder"
            )
        self.name, self.config, self.module = model.name, model.config, model.module
        self.tokenizer = tokenizer_of(model)
        self.reader = Reader(self.tokenizer, sys.maxsize, prefix=prefix_of(self.config))

    @cached_property
    def languages(self) -> Languages:
        """Those that the model's tokenizer has tokens for."""
        return Languages(self.tokenizer, self.name)

    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        stream: bool = False,
        return_scores: bool = False,
        source_language: str | None = None,
        target_language: str | None = None,
        **options: Any,
    ) -> Any:
        """Make a text of a source, or of several in batches.

        Args:
            texts: a source, or a list of sources.
            stream: give pieces as they are written; joined they are what is returned without.
            return_scores: give `{"text": ..., "score": ...}` in place of each answer, and always a
                list of answers; the score is that of `Candidate`.
            source_language: that of the texts, such as "en", for a model of many languages; what
                its tokenizer marks unless given.
            target_language: that of the answers, likewise; what its config says unless given.
            **options: the fields of `zoo.generation.GenerationOptions`; greedy unless they say
                otherwise. Without `max_new_tokens` at most twice the source's tokens and ten more.

        Returns:
            A text for a text, a list for a list; with `num_return_sequences` above 1 a list of
            answers in place of each text, best first; with `stream` an iterator of pieces.

        Raises:
            InputError: an empty source, an unknown option or a value out of range, or a language
                that the model has not; the error names those it has.
            ContextLengthError: a source has more tokens than the model has positions.
        """
        between = Between(source_language, target_language)
        settings = GenerationOptions.from_dict(options)
        if stream:
            if isinstance(texts, list | tuple):
                raise InputError("stream=True writes one text: give one source, not a list")
            return self._pieces(texts, settings, between)  # type: ignore[arg-type]
        many = isinstance(texts, list | tuple)
        sources: Any = texts if many else [texts]
        found = self.candidates(sources, settings, between)
        if return_scores:
            scored = [[vars(candidate) for candidate in group] for group in found]
            return scored if many else scored[0]
        answers = [[candidate.text for candidate in group] for group in found]
        if settings.num_return_sequences > 1:
            return answers if many else answers[0]
        return [group[0] for group in answers] if many else answers[0][0]

    def candidates(
        self, texts: Sequence[str], options: GenerationOptions, between: Between = Between()
    ) -> list[list[Candidate]]:
        """The `num_return_sequences` answers to each source, best first, with their scores.

        Raises:
            InputError: an empty source, a language that the model has not.
            ContextLengthError: a source has more tokens than the model has positions.

        Warns:
            UserWarning: a source was taken apart into sentences, or left as it is, or is mostly of
                words or characters that the tokenizer does not know.
        """
        left = self._left(texts)
        parts = self.parts([t for t, same in zip(texts, left, strict=True) if not same], between)
        rows = [row for group in parts for row in group]
        written = self._written(rows, options, between)
        made = []
        for group in parts:
            answers, written = written[: len(group)], written[len(group) :]
            made.append([joined(choice) for choice in zip(*answers, strict=True)])
        rest, copies = iter(made), options.num_return_sequences
        return [
            [Candidate(text)] * copies if same else next(rest)
            for text, same in zip(texts, left, strict=True)
        ]

    def parts(self, texts: Sequence[str], between: Between = Between()) -> list[list[list[int]]]:
        """The token ids of each source, in one part or, where it does not fit, in several."""
        found = []
        rows = self.reader(texts)
        self._warn_of_unknown(rows)
        for row in rows:
            if self.fits(row.ids):
                found.append([row.ids])
                continue
            found.append([part.ids for part in self.reader(self.take_apart(row.text))])
            for ids in found[-1]:
                if not self.fits(ids):
                    raise ContextLengthError(
                        f"The text has {len(ids)} tokens in one piece, {self.name} reads "
                        f"{self.module.max_len}: shorten it, or end its sentences with a full stop"
                    )
        taken_apart = [len(group) for group in found if len(group) > 1]
        if taken_apart:
            what = "The text" if len(texts) == 1 else f"{len(taken_apart)} of {len(texts)} texts"
            warnings.warn(
                f"{what} did not fit into the {self.module.max_len} tokens that {self.name} reads: "
                f"read as {sum(taken_apart):,} sentences, each on its own",
                stacklevel=4,  # where the model is called
            )
        if (language := between.source_language) is not None:
            found = [[self.languages.mark(ids, language) for ids in group] for group in found]
        return found

    def fits(self, ids: Sequence[int]) -> bool:
        """Whether the model has positions for a source."""
        most = self.module.max_len
        return most is None or len(ids) <= most

    def take_apart(self, text: str) -> list[str]:
        """What a source that does not fit is read as; itself where parts mean little alone."""
        return [text]

    def leaves(self, text: str) -> bool:
        """Whether the answer to a source is the source itself."""
        return False

    def _left(self, texts: Sequence[str]) -> list[bool]:
        """Which sources are left as they are; says so."""
        left = [isinstance(text, str) and self.leaves(text) for text in texts]
        if any(left):
            what = "The text has" if len(texts) == 1 else f"{sum(left)} of {len(texts)} texts have"
            back = "comes back as it is" if len(texts) == 1 else "come back as they are"
            warnings.warn(f"{what} no letter: nothing to translate, {back}", stacklevel=5)
        return left

    def _warn_of_unknown(self, rows: Sequence[Row]) -> None:
        """Say which sources are mostly of what the tokenizer has no token for."""
        token = self.tokenizer.token_to_id(UNKNOWN)
        strange = [row for row in rows if 2 * unknown(row, token) > len("".join(row.text.split()))]
        if strange:
            what = "The text is" if len(rows) == 1 else f"{len(strange)} of {len(rows)} texts are"
            warnings.warn(
                f"{what} mostly of words or characters that {self.name} does not know: what it "
                "makes of them means little",
                stacklevel=6,
            )

    def _written(
        self, rows: Sequence[list[int]], options: GenerationOptions, between: Between
    ) -> list[list[Candidate]]:
        """The answers to sources of token ids, in batches of like length."""
        copies = options.num_return_sequences
        found: dict[int, list[Candidate]] = {}
        for places in by_length([len(row) for row in rows]):
            given = self._given([rows[place] for place in places], between)
            generation = generate(
                given,
                given.prompts,
                self._bounded(given, options),
                end_id=self.config.end_id,
                tokenizer=self.tokenizer,
            )
            scores: Sequence[float | None] = generation.scores or [None] * len(generation.ids)
            for index, place in enumerate(places):
                mine = slice(index * copies, (index + 1) * copies)
                found[place] = [
                    Candidate(self._text(ids, options.stop), score)
                    for ids, score in zip(generation.ids[mine], scores[mine], strict=True)
                ]
        return [found[place] for place in range(len(rows))]

    def _given(self, sources: Sequence[Sequence[int]], between: Between) -> "Given":
        """The sources as a decoder looks at them, to write in the language that is asked for."""
        if (language := between.target_language) is None:
            return Given(self.module, sources)
        return Given(self.module, sources, *self.languages.begin(language, self.config.start_id))

    def _bounded(self, given: "Given", options: GenerationOptions) -> GenerationOptions:
        """The options with a length where they have none."""
        if options.max_new_tokens is not None:
            return options
        length = 2 * given.real.shape[1] + 10
        return dataclasses.replace(options, max_new_tokens=min(length, given.max_len or length))

    def _text(self, ids: Sequence[int], stops: Sequence[str]) -> str:
        text: str = self.tokenizer.decode(list(ids))
        return text[: find_stop(text, stops)]

    def streams(
        self, text: str, options: GenerationOptions, between: Between = Between()
    ) -> list[tuple[Iterator[int], Pieces]]:
        """For each part of a source the tokens as they are written, and what makes text of them.

        Raises:
            InputError: an empty source, options with more than one answer, or with stop texts, a
                language that the model has not.
            ContextLengthError: a source has more tokens than the model has positions.
        """
        if options.stop:
            raise InputError("stop and stream do not go together here: leave one out")
        if self._left([text])[0]:
            return [(iter(()), Copied(self.tokenizer, text))]
        found: list[tuple[Iterator[int], Pieces]] = []
        (parts,) = self.parts([text], between)
        for ids in parts:
            given = self._given([ids], between)
            bounded = self._bounded(given, options)
            tokens = stream(given, given.prompts[0], bounded, end_id=self.config.end_id)
            found.append((tokens, Pieces(self.tokenizer, [])))
        return found

    def _pieces(self, text: str, options: GenerationOptions, between: Between) -> Iterator[str]:
        """Check everything now, write when asked."""
        streams = self.streams(text, options, between)

        def write() -> Iterator[str]:
            for number, (tokens, pieces) in enumerate(streams):
                if number:
                    yield " "
                for token in tokens:
                    if piece := pieces.push(token):
                        yield piece
                if piece := pieces.rest():
                    yield piece

        return write()


class Translation(Text2Text):
    """Translates; a text that does not fit is translated sentence by sentence."""

    def take_apart(self, text: str) -> list[str]:
        """Its sentences."""
        return sentences(text)

    def leaves(self, text: str) -> bool:
        """What has no letter means the same in all languages: signs, numbers, emoji."""
        return bool(text.strip()) and not any(map(str.isalpha, text))


class Copied(Pieces):
    """A text that no token is written for.

    Args:
        tokenizer: as of `Pieces`.
        text: the whole of it.
    """

    def __init__(self, tokenizer: "Tokenizer", text: str) -> None:
        super().__init__(tokenizer, [])
        self.text = text

    def rest(self, ids: Sequence[int] = ()) -> str:
        """The text."""
        return self.text


class Given(nn.Module):
    """A decoder and the sources that it looks at: what `zoo.generation` lets write.

    Args:
        module: an encoder-decoder.
        sources: token ids of each source.
        start_id: what each target begins with; the config's unless given.
        first_id: the token that each writes first; the config's, if it has one, without `start_id`.

    Attributes:
        prompts: what each target begins with.
        real: which columns of the padded sources are tokens (P, S).
    """

    cache_class = SourceCache

    def __init__(
        self,
        module: EncoderDecoder,
        sources: Sequence[Sequence[int]],
        start_id: int | None = None,
        first_id: int | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.config: Any = module.config
        self.sources = [tuple(source) for source in sources]
        self.max_len = module.max_len
        if start_id is None:
            start_id, first_id = self.config.start_id, getattr(self.config, "first_id", None)
        self.first_id = first_id
        self.prompts = [[start_id] for _ in sources]
        device = next(module.parameters()).device
        ids, real = pad(sources, self.config.pad_id)
        self.real = real.to(device)
        with torch.inference_mode():
            self.memory = module.encode(ids.to(device), self.real)

    def forward(self, ids: Tensor, cache: SourceCache | None = None) -> Tensor:
        """Logits (R, T, V) after ids (R, T); the rows of a source stand side by side."""
        begins = cache is None or cache.length == 0
        logits = self.module.decode(ids, self.memory, self.real, cache)
        if begins and self.first_id is not None:
            logits[:, 0] = -math.inf
            logits[:, 0, self.first_id] = 0
        return logits

    def keep(self, rows: Tensor, before: int) -> None:
        """Go on with these of the rows before, all of each source that is kept, side by side."""
        kept = sources_of(rows, before, len(self.memory))
        self.memory, self.real = self.memory[kept], self.real[kept]

    def texts(self, rows: int) -> list[tuple[int, ...]]:
        """The source of each of so many rows."""
        return [self.sources[row * len(self.sources) // rows] for row in range(rows)]


def joined(parts: Sequence[Candidate]) -> Candidate:
    """The candidates of a text's parts as one; its score is the mean of theirs."""
    if len(parts) == 1:
        return parts[0]
    scores = [part.score for part in parts if part.score is not None]
    text = " ".join(part.text for part in parts)
    return Candidate(text, sum(scores) / len(scores) if scores else None)


def unknown(row: Row, token: int | None) -> int:
    """How many characters of a text have no token: they are `token`, or taken apart into bytes."""
    found: set[int] = set()
    shared = Counter(row.offsets)  # bytes of a character all stand where it does
    for id, place, special in zip(row.ids, row.offsets, row.special, strict=True):
        apart = shared[place] > 1 and not row.text[slice(*place)].isascii()
        if not special and (id == token or apart):
            found.update(range(*place))
    return sum(not row.text[place].isspace() for place in found)


def sentences(text: str) -> list[str]:
    """A text cut after each sentence and line, without the blanks between."""
    cuts = [0, *(end.end() for end in SENTENCE_END.finditer(text)), len(text)]
    pieces = [text[a:b].strip() for a, b in zip(cuts, cuts[1:], strict=False)]
    return [piece for piece in pieces if piece]
