"""Image to text: a picture, and what an encoder-decoder that reads pictures writes of it.

Letters: P pictures, R rows, C channels, S pixels a side, N patches, T caption length.
"""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.errors import InputError
from zoo.generation import GenerationOptions, generate, stream
from zoo.images import pixels_of
from zoo.nn import VisionEncoderDecoder
from zoo.pipelines import tokenizer_of
from zoo.pipelines.text2text import Candidate, Given
from zoo.pipelines.text_generation import Pieces, find_stop

if TYPE_CHECKING:
    from zoo.images import Picture
    from zoo.model import Model

BATCH = 64  # pictures read at once


class ImageToText:
    """`model("cat.jpg")` gives `"a cat on a chair"`.

    The module is a `zoo.nn.VisionEncoderDecoder`.

    Raises:
        InputError: the model has no tokenizer, or does not write what it sees.
    """

    def __init__(self, model: "Model") -> None:
        if not isinstance(model.module, VisionEncoderDecoder):
            raise InputError(
                f"image-to-text needs a zoo.nn.VisionEncoderDecoder, {model.name} is none"
            )
        self.name, self.config, self.module = model.name, model.config, model.module
        self.tokenizer = tokenizer_of(model)

    def __call__(
        self,
        pictures: "Picture | Sequence[Picture]",
        *,
        stream: bool = False,
        return_scores: bool = False,
        **options: Any,
    ) -> Any:
        """Say what a picture shows, or several in batches.

        Args:
            pictures: a path, bytes, a Pillow image or an array, as `zoo.images.open_picture` takes
                it; or a list of them.
            stream: give pieces as they are written; joined they are what is returned without.
            return_scores: give `{"text": ..., "score": ...}` in place of each answer, and always a
                list of answers; the score is that of `zoo.pipelines.text2text.Candidate`.
            **options: the fields of `zoo.generation.GenerationOptions`; greedy unless they say
                otherwise.

        Returns:
            A text for a picture, a list for a list; with `num_return_sequences` above 1 a list of
            answers in place of each text, best first; with `stream` an iterator of pieces.

        Raises:
            InputError: no picture, a damaged one, an unknown option or a value out of range.
            ContextLengthError: more new tokens than the model has positions.
        """
        settings = GenerationOptions.from_dict(options)
        many = isinstance(pictures, list | tuple)
        if stream:
            if many:
                raise InputError("stream=True writes one text: give one picture, not a list")
            return self._pieces(pictures, settings)  # type: ignore[arg-type]
        given: Any = pictures if many else [pictures]
        found = self.candidates(given, settings)
        if return_scores:
            scored = [[vars(candidate) for candidate in group] for group in found]
            return scored if many else scored[0]
        answers = [[candidate.text for candidate in group] for group in found]
        if settings.num_return_sequences > 1:
            return answers if many else answers[0]
        return [group[0] for group in answers] if many else answers[0][0]

    def candidates(
        self, pictures: "Sequence[Picture]", options: GenerationOptions
    ) -> list[list[Candidate]]:
        """The `num_return_sequences` answers to each picture, best first, with their scores."""
        found: list[list[Candidate]] = []
        for start in range(0, len(pictures), BATCH):
            found += self.of_pixels(
                pixels_of(pictures[start : start + BATCH], self.config), options
            )
        return found

    def of_pixels(self, pixels: Tensor, options: GenerationOptions) -> list[list[Candidate]]:
        """The same of normalised pixels (P, C, S, S)."""
        given = Seen(self.module, pixels)
        done = generate(
            given, given.prompts, options, end_id=self.config.end_id, tokenizer=self.tokenizer
        )
        scores: Sequence[float | None] = done.scores or [None] * len(done.ids)
        answers = [
            Candidate(self._text(ids, options.stop), score)
            for ids, score in zip(done.ids, scores, strict=True)
        ]
        copies = options.num_return_sequences
        return [answers[at : at + copies] for at in range(0, len(answers), copies)]

    def _text(self, ids: Sequence[int], stops: Sequence[str]) -> str:
        text: str = self.tokenizer.decode(list(ids))
        return text[: find_stop(text, stops)]

    def _pieces(self, picture: "Picture", options: GenerationOptions) -> Iterator[str]:
        """Check everything now, write when asked."""
        if options.stop:
            raise InputError("stop and stream do not go together here: leave one out")
        given = Seen(self.module, pixels_of([picture], self.config))
        tokens = stream(given, given.prompts[0], options, end_id=self.config.end_id)
        pieces = Pieces(self.tokenizer, [])

        def write() -> Iterator[str]:
            for token in tokens:
                if piece := pieces.push(token):
                    yield piece
            if piece := pieces.rest():
                yield piece

        return write()


class Seen(Given):
    """A decoder and the pictures that it looks at: what `zoo.generation` lets write.

    Args:
        module: an encoder-decoder of pictures.
        pixels: normalised (P, C, S, S).
    """

    def __init__(self, module: VisionEncoderDecoder, pixels: Tensor) -> None:
        nn.Module.__init__(self)
        self.module, self.config, self.max_len = module, module.config, module.max_len
        self.first_id = None
        self.prompts = [[self.config.start_id] for _ in pixels]
        # what tells one picture from another, so that each draws as it would alone
        self.sources = [tuple(sha256(one.numpy().tobytes()).digest()) for one in pixels.cpu()]
        with torch.inference_mode():
            self.memory = module.encode(pixels.to(next(module.parameters()).device))  # (P, N, D)
        self.real = torch.ones(self.memory.shape[:2], dtype=torch.bool, device=self.memory.device)
