"""A loaded model: module, tokenizer and card, callable in the way of its pipeline."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from zoo.card import Card
from zoo.errors import InputError, ZooError
from zoo.folder import CARD, LOG, RECIPE, member, save_folder
from zoo.registry import registry, resolve

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from torch import Tensor, nn


class Model:
    """What `zoo.load` gives.

    Attributes:
        name: what it is called.
        module: `module(ids, cache=None)` gives logits (B, T, V).
        config: the architecture's configuration.
        tokenizer: text to ids and back; None for models that read no text.
        pipeline: name of the pipeline it is called through.
        card: what is known about it; None while it is being trained.
    """

    def __init__(
        self,
        *,
        name: str,
        module: "nn.Module",
        config: Any,
        tokenizer: "Tokenizer | None",
        pipeline: str,
        card: Card | None,
    ) -> None:
        self.name = name
        self.module = module
        self.config = config
        self.tokenizer = tokenizer
        self.pipeline = pipeline
        self.card = card

    def __repr__(self) -> str:
        return f"<zoo.Model {self.name!r}: {type(self.module).__name__} on {self.device}>"

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call its pipeline."""
        return self._call(*args, **options)

    @cached_property
    def _call(self) -> Any:
        return resolve(registry().pipelines.get(self.pipeline).target)(self)

    @property
    def device(self) -> "torch.device":
        """Where its parameters live."""
        return next(self.module.parameters()).device

    def to(self, place: "str | torch.device | torch.dtype") -> Self:
        """Move to a device, or change the precision; a name such as `"cuda"` or `"bfloat16"` does.

        Raises:
            InputError: no such device here, or no such precision.
        """
        import torch

        named = getattr(torch, place, None) if isinstance(place, str) else place
        try:
            if isinstance(named, torch.dtype):
                if not named.is_floating_point:
                    raise InputError(f"Weights cannot be {place}; use float32, bfloat16 or float16")
                self.module.to(named)
            else:
                self.module.to(torch.device(place))  # type: ignore[arg-type]
        except (RuntimeError, AssertionError) as error:  # torch built without that device
            reason = str(error).splitlines()[0]
            raise InputError(f"Cannot move {self.name} to {place}: {reason}") from error
        return self

    def attention(self, text: str) -> "list[Tensor]":
        """The attention weights on a text: for each layer (H, T, T), rows summing to 1."""
        from zoo.attention import attention_maps

        return attention_maps(self, text)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a complete model folder, which `zoo.load` reads back; returns its path.

        Raises:
            ZooError: the model has no card.
        """
        if self.card is None:
            raise ZooError(f"{self.name} has no card yet; a model folder needs one")
        folder = Path(folder)
        recipe, log = (
            member(self.card.folder, name) if (self.card.folder / name).exists() else None
            for name in (RECIPE, LOG)
        )
        records = save_folder(
            folder,
            module=self.module,
            architecture=self.card.architecture,
            config=self.config.to_dict(),
            tokenizer=self.tokenizer,
            recipe=recipe.read_text(encoding="utf-8") if recipe else None,
            log=log,
        )
        ours = {key: value for key, value in self.card.data["txzoo"].items() if key != "hub"}
        ours["name"] = self.name
        ours["files"] = {name: dataclasses.asdict(record) for name, record in records.items()}
        data = {**self.card.data, "txzoo": ours}
        Card(data=data, text=self.card.text, path=folder / CARD).write(folder)
        return folder

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        revision: str | None = None,
        tag: str | None = None,
        verify: bool = True,
    ) -> str:
        """Publish to `"owner/name"` on the Hub, as `zoo.publish` does; returns the commit's URL.

        Raises:
            ZooError: as in `zoo.publish`.
        """
        from zoo.publishing import publish

        return publish(self, repo_id, private=private, revision=revision, tag=tag, verify=verify)
