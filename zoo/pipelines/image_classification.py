"""Image classification: a picture, and which label it has.

Letters: B batch, L labels.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.errors import InputError
from zoo.images import pixels_of

if TYPE_CHECKING:
    from zoo.images import Picture
    from zoo.model import Model

BATCH = 64  # pictures read at once


class ImageClassification:
    """`model("cat.jpg")` gives `{"label": "cat", "score": 0.98}`.

    With `top_k=3` the three most likely labels in a list, best first; with `top_k=None` all. A list
    of pictures gives a list of answers.

    The module is called as `module(pixels)`, (B, C, S, S) to logits (B, L); its config has
    `image_size`, `n_channels`, `image_mean`, `image_std` and `labels`.

    Raises:
        InputError: the model does not read pictures.
    """

    def __init__(self, model: "Model") -> None:
        if not hasattr(model.config, "image_size"):
            raise InputError(
                f"image-classification needs a model of pictures, {model.name} is none"
            )
        self.name, self.module, self.config = model.name, model.module, model.config

    def __call__(
        self, pictures: "Picture | Sequence[Picture]", *, top_k: int | None = 1, **options: Any
    ) -> Any:
        """Classify a picture, or several in batches.

        Args:
            pictures: a path, bytes, a Pillow image or an array, as `zoo.images.open_picture` takes
                it; or a list of them.
            top_k: how many labels; all if None.
            **options: there are no others.

        Raises:
            InputError: not a picture, a damaged one, an unknown option or a value out of range.
        """
        if options:
            raise InputError(
                f"image-classification has no option {next(iter(options))!r}; it has: top_k"
            )
        if top_k is not None and (type(top_k) is not int or top_k < 1):
            raise InputError(f"top_k must be a whole number from 1 on, got {top_k!r}")
        many = isinstance(pictures, list | tuple)
        given: Any = pictures if many else [pictures]
        answers = [self._answer(row, top_k) for row in self.logits(given)]
        return answers if many else answers[0]

    @torch.inference_mode()
    def logits(self, pictures: "Sequence[Picture]") -> Tensor:
        """Logits (B, L) of pictures, in batches."""
        device = next(self.module.parameters()).device
        found = [
            self.module(pixels_of(pictures[start : start + BATCH], self.config).to(device))
            for start in range(0, len(pictures), BATCH)
        ]
        return torch.cat(found).float().cpu() if found else torch.empty(0, len(self.config.labels))

    def _answer(self, logits: Tensor, top_k: int | None) -> Any:
        scores, order = logits.softmax(-1).sort(descending=True)  # (L,)
        ranked = [
            {"label": self.config.labels[index], "score": score}
            for index, score in zip(order.tolist(), scores.tolist(), strict=True)
        ]
        return ranked[0] if top_k == 1 else ranked[:top_k]
