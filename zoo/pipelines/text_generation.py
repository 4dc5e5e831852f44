"""Text generation: a text and what goes on from it, or a conversation and its answer."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from zoo import conversation
from zoo.conversation import Messages, Template
from zoo.errors import InputError
from zoo.generation import GenerationOptions, generate, stream
from zoo.pipelines import encode, tokenizer_of
from zoo.tokenization import END_OF_TEXT

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.model import Model
    from zoo.speculation import Draft

PARTIAL = "\ufffd"  # what a decoder writes for a character whose bytes are not all there

Prompt = str | Messages


@dataclass(frozen=True)
class Reading:
    """A prompt as a model reads it.

    Attributes:
        ids: its tokens.
        text: what the text goes on from; nothing where a conversation is answered.
        end_id: the token that ends what is written.
        stop: texts that end it, and are no part of it.
    """

    ids: list[int]
    text: str
    end_id: int | None
    stop: tuple[str, ...]


class TextGeneration:
    """Calls a decoder with text, or with a conversation.

    Args:
        model: a model whose module gives next-token logits, with its tokenizer.

    Raises:
        InputError: the model has no tokenizer.
    """

    def __init__(self, model: "Model") -> None:
        self.model, self.module = model, model.module
        self.tokenizer = tokenizer_of(model)
        self.end_id = end_id_of(model)
        self._drafts: dict[str, Draft] = {}  # those that were given by name

    def __call__(
        self,
        prompt: Prompt | Sequence[Prompt],
        *,
        stream: bool = False,
        return_full_text: bool = True,
        draft: "Draft | Model | str | None" = None,
        **options: Any,
    ) -> str | list[str] | list[list[str]] | Iterator[str]:
        """Continue a text, or answer a conversation; or several in one batch.

        Args:
            prompt: the text; or messages such as `[{"role": "user", "content": "Hello"}]`, written
                with the model's own chat template; or a list of either.
            stream: give pieces as they are written; joined they are what is returned without.
            return_full_text: put the text before what was written; an answer stands alone.
            draft: a smaller model with the same tokenizer, which drafts what this one then reads
                several tokens at a time: for one prompt and one answer. Greedily the text is the
                same, drawn it is one of the same chances. See `zoo.speculation`.
            **options: the fields of `zoo.generation.GenerationOptions`.

        Returns:
            A text for a text, a list for a list; with `num_return_sequences` above 1 a list of
            answers in place of each text, best first; with `stream` an iterator of pieces.

        Raises:
            InputError: an empty prompt, an unknown option or a value out of range; a draft with
                another tokenizer, or for several texts; no conversation, or a model without a
                template for one.
            ContextLengthError: more tokens than the model has positions.
        """
        settings = GenerationOptions.from_dict(options)
        helper = None if draft is None else self._draft(draft)
        if helper is not None and (settings.num_beams > 1 or settings.num_return_sequences > 1):
            raise InputError(
                "A draft helps to write one text from left to right: leave out num_beams and "
                "num_return_sequences, or draft"
            )
        if several := isinstance(prompt, list | tuple) and not is_conversation(prompt):
            if helper is not None:
                raise InputError("A draft helps with one text: give one prompt, not a list")
            if stream:
                raise InputError("stream=True writes one text: give one prompt, not a list")
        prompts: Sequence[Any] = prompt if several else [prompt]
        read = [self.read(one, settings.stop) for one in prompts]
        if not return_full_text:
            read = [dataclasses.replace(one, text="") for one in read]
        if stream or helper is not None:
            pieces = self._pieces(read[0], settings, helper)
            return pieces if stream else "".join(pieces)
        answers = self._texts(read, settings)
        return answers if several else answers[0]

    def read(self, prompt: Prompt, stop: Sequence[str] = ()) -> Reading:
        """What the model reads of a text or of a conversation.

        Args:
            prompt: as of a call.
            stop: texts that end what is written.

        Raises:
            InputError: as of a call.
        """
        if not is_conversation(prompt):
            return Reading(encode(self.tokenizer, prompt), str(prompt), self.end_id, tuple(stop))  # type: ignore[arg-type]
        if self.template is None:
            raise InputError(
                f"{self.model.name} has no chat template of its own to read messages with: give it "
                "a text, or zoo.Chat a template"
            )
        ids = conversation.prompt(self.template, self.tokenizer, prompt)  # type: ignore[arg-type]
        end_id, ending = conversation.answer_end(self.template, self.tokenizer)
        stops = (*stop, ending) if ending else tuple(stop)
        return Reading(ids, "", self.end_id if end_id is None else end_id, stops)

    @cached_property
    def template(self) -> Template | None:
        """The model's own chat template."""
        return self.model.template

    def _texts(
        self, read: Sequence[Reading], options: GenerationOptions
    ) -> list[str] | list[list[str]]:
        if len({(one.end_id, one.stop) for one in read}) > 1:
            raise InputError("Texts and conversations end differently: give a list of one kind")
        if read:
            options = dataclasses.replace(options, stop=read[0].stop)
        written = generate(
            self.module,
            [one.ids for one in read],
            options,
            end_id=read[0].end_id if read else self.end_id,
            tokenizer=self.tokenizer,
        ).ids
        copies = options.num_return_sequences
        answers = []
        for index, one in enumerate(read):
            texts = [
                one.text + self._continuation(one.ids, new_ids, one.stop)
                for new_ids in written[index * copies : (index + 1) * copies]
            ]
            answers.append(texts)
        return [texts[0] for texts in answers] if copies == 1 else answers

    def _continuation(self, prompt: list[int], new: list[int], stops: Sequence[str]) -> str:
        """The text of new ids up to the first stop text."""
        text = Pieces(self.tokenizer, prompt).rest(new)
        end = find_stop(text, stops)
        return text if end is None else text[:end]

    def _draft(self, given: "Draft | Model | str") -> "Draft":
        """What drafts, with the tokens of this model; one that is given by name is loaded once."""
        from zoo.loading import load
        from zoo.model import Model
        from zoo.speculation import Draft

        if isinstance(given, str) and given in self._drafts:
            return self._drafts[given]
        draft = given
        if not isinstance(draft, Draft):
            draft = Draft(draft if isinstance(draft, Model) else load(draft))
        draft.check(self.model)
        if isinstance(given, str):
            self._drafts[given] = draft
        return draft

    def _pieces(
        self, read: Reading, options: GenerationOptions, draft: "Draft | None" = None
    ) -> Iterator[str]:
        """Check everything now, write when asked."""
        without_stop = dataclasses.replace(options, stop=())  # seen here, in the text itself
        tokens = stream(self.module, read.ids, without_stop, end_id=read.end_id, draft=draft)
        options = dataclasses.replace(options, stop=read.stop)
        return self.written(read.text, Pieces(self.tokenizer, read.ids), tokens, options)

    def written(
        self, start: str, pieces: "Pieces", tokens: Iterator[int], options: GenerationOptions
    ) -> Iterator[str]:
        """The text of tokens, piece by piece, up to the first stop text.

        Args:
            start: what is given before them.
            pieces: knows what they are written behind.
            tokens: one by one.
            options: how they are chosen.
        """
        if start:
            yield start
        writing = Writing(pieces, options.stop)
        for token in tokens:
            if piece := writing.push(token):
                yield piece
            if writing.stopped:
                return
        if piece := writing.rest():
            yield piece


def is_conversation(prompt: Any) -> bool:
    """Whether a prompt is a list of messages, not a text or a list of prompts."""
    return isinstance(prompt, list | tuple) and any(isinstance(one, Mapping) for one in prompt)


def end_id_of(model: "Model") -> int | None:
    """The token that ends a text: what the configuration says, else `<|endoftext|>`, or none."""
    said: int | None = getattr(model.config, "end_id", None)
    return tokenizer_of(model).token_to_id(END_OF_TEXT) if said is None else said


class Pieces:
    """Turns tokens into text one at a time, never splitting a character.

    A token is decoded together with the one before it, because decoders join neighbours (a space
    between two words, none before a comma).

    Args:
        tokenizer: decodes.
        prompt: the ids before the first token; not part of the text.
    """

    def __init__(self, tokenizer: "Tokenizer", prompt: Sequence[int]) -> None:
        self.decode = tokenizer.decode
        self.before = list(prompt[-1:])  # the last tokens that gave text
        self.fresh: list[int] = []  # those after them, which gave none yet

    def push(self, token: int) -> str:
        """The text this token completes, or nothing."""
        self.fresh.append(token)
        piece = self.rest()
        if not piece or piece.endswith(PARTIAL):
            return ""
        self.before, self.fresh = self.fresh, []
        return piece

    def rest(self, ids: Sequence[int] = ()) -> str:
        """The text of these tokens and of what is held, a character that is not all there too."""
        return self.decode(self.before + self.fresh + list(ids))[len(self.decode(self.before)) :]


class Writing:
    """The text of tokens that come one at a time, up to the first stop text.

    Args:
        pieces: knows what they are written behind.
        stops: texts that end it, and are no part of it.

    Attributes:
        stopped: whether one of them stood in the text.
    """

    def __init__(self, pieces: Pieces, stops: Sequence[str] = ()) -> None:
        self.pieces, self.stops = pieces, stops
        self.held = ""  # may become a stop text
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that is certain now, or nothing."""
        return self._certain(self.pieces.push(token), possible=True)

    def rest(self) -> str:
        """What is left when no token comes any more."""
        return self._certain(self.pieces.rest(), possible=False)

    def _certain(self, text: str, *, possible: bool) -> str:
        self.held += text
        end = find_stop(self.held, self.stops)
        self.stopped = self.stopped or end is not None
        if end is None:
            end = len(self.held) - (possible_stop(self.held, self.stops) if possible else 0)
        certain, self.held = self.held[:end], self.held[end:]
        return certain


def find_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop text begins."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return min(places, default=None)


def possible_stop(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of a text that a stop text begins with."""
    lengths = [
        length
        for stop in stops
        for length in range(1, min(len(stop), len(text) + 1))
        if text.endswith(stop[:length])
    ]
    return max(lengths, default=0)
