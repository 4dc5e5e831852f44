"""A loaded model: module, tokenizer and card, callable in the way of its pipeline."""

import dataclasses
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from zoo.card import Card, has_card
from zoo.errors import (
    ConfigError,
    HashMismatchError,
    InputError,
    UnknownNameError,
    WeightsError,
    ZooError,
)
from zoo.folder import (
    CARD,
    LOG,
    RECIPE,
    WEIGHTS,
    FileRecord,
    check_files,
    member,
    save_folder,
    sha256,
)
from zoo.registry import registry, resolve

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from torch import Tensor, nn

    from zoo.conversation import Template
    from zoo.images import Picture
    from zoo.tuning.files import Adapter


class Model:
    """What `zoo.load` gives.

    Attributes:
        name: what it is called.
        module: `module(ids, cache=None)` gives logits (B, T, V).
        config: the architecture's configuration.
        tokenizer: text to ids and back; None for models that read no text.
        pipeline: name of the pipeline it is called through.
        card: what is known about it; None while it is being trained.
        adapter: name of the adapter that it computes with, None for the base alone.
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
        self.adapter: str | None = None
        self._base = (name, module, card, pipeline)
        self._adapters: dict[str, Adapter] = {}

    def __repr__(self) -> str:
        return f"<zoo.Model {self.name!r}: {type(self.module).__name__} on {self.device}>"

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call its pipeline."""
        from zoo.nn import reordered

        with reordered(self.module):
            return self.called(*args, **options)

    @cached_property
    def called(self) -> Any:
        """Its pipeline, an object: what a call of the model calls."""
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
                self._base[1].to(named)
            else:
                self._base[1].to(torch.device(place))  # type: ignore[arg-type]
            self.set_adapter(self.adapter)
        except (RuntimeError, AssertionError) as error:  # torch built without that device
            reason = str(error).splitlines()[0]
            raise InputError(f"Cannot move {self.name} to {place}: {reason}") from error
        return self

    def attention(self, text: "str | Picture") -> "list[Tensor]":
        """The attention weights on a text or a picture: for each layer (H, T, T), rows sum to 1."""
        from zoo.attention import attention_maps

        return attention_maps(self, text)

    @property
    def cards(self) -> list[Card]:
        """Its card and, where it computes with an adapter, its base's after it."""
        both = [self.card] if self.adapter is None else [self.card, self._base[2]]
        return [card for card in both if card is not None]

    @property
    def template(self) -> "Template | None":
        """How it writes conversations, where its folder or its base's says so.

        Raises:
            FolderError: a file does not parse.
        """
        from zoo.conversation import template_of

        return template_of(self)

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that were put on it, in their order."""
        return list(self._adapters)

    def load_adapter(self, folder: str | Path, name: str | None = None) -> Self:
        """Put an adapter on the base, beside those there are, and compute with it.

        Args:
            folder: a folder that `zoo.train(..., tuning=...)` or PEFT wrote.
            name: to switch to it by; its own unless given.

        Raises:
            WeightsError: it belongs to another base, or does not fit; names hash and shapes.
            ZooError: it cannot be read.
        """
        from zoo.tuning.files import apply, fit, read

        folder = Path(folder)
        card = Card.read(folder) if has_card(folder) else None
        if card is not None:
            check_files(card, folder)
        adapter = read(folder, card)
        self._check_base(adapter)
        adapter = fit(self._base[1], adapter)
        apply(self._base[1], adapter)  # fits, or says why not, before anything changes
        name = name or (card.name if card is not None else folder.absolute().name)
        self._adapters[name] = adapter
        return self.set_adapter(name)

    def set_adapter(self, name: str | None) -> Self:
        """Compute with another adapter, or with None; the base's weights stay where they are.

        Raises:
            UnknownNameError: no adapter of that name was put on it.
        """
        if name is not None and name not in self._adapters:
            raise UnknownNameError("adapter", name, self._adapters)
        own, module, card, pipeline = self._base
        if name is not None:
            from zoo.tuning.files import apply

            adapter = self._adapters[name]
            own, module, card = name, apply(module, adapter), adapter.card or card
            pipeline = adapter.pipeline or pipeline
            pipeline = pipeline if adapter.card is None else adapter.card.pipeline
        self.name, self.module, self.card, self.pipeline = own, module, card, pipeline
        self.adapter, self.config = name, getattr(module, "config", self.config)
        self.__dict__.pop("called", None)  # the pipeline holds the module
        return self

    def merge(self) -> "Model":
        """A model that stands alone: what the adapter learned, put into the weights.

        Raises:
            ConfigError: the adapter's method adds what no weight can hold.
            InputError: there is no adapter.
        """
        from zoo.tuning import merge, share
        from zoo.tuning.heads import refit

        if self.adapter is None:
            raise InputError(f"{self.name} has no adapter to merge: load_adapter puts one on it")
        module = merge(share(self.module)).eval().requires_grad_(False)
        plain, _ = refit(share(self._base[1]), self._adapters[self.adapter].config)
        added = module.state_dict().keys() - plain.state_dict().keys() - {"head.weight"}
        if added:
            raise ConfigError(
                f"{self.name}: {type(module).__name__} has no place for {', '.join(sorted(added))}"
            )
        card, name = self.card, f"{self.name}-merged"
        if card is not None:
            ours = {key: value for key, value in card.data["txzoo"].items() if key != "base"}
            ours |= {"name": name, "parameters": sum(p.numel() for p in module.parameters())}
            data = {key: value for key, value in card.data.items() if key != "library_name"}
            data |= {"library_name": "txzoo", "txzoo": ours}
            card = Card(data=data, text=card.text, path=card.path)
        return Model(
            name=name,
            module=module,
            config=module.config,
            tokenizer=self.tokenizer,
            pipeline=self.pipeline,
            card=card,
        )

    def unmerge(self, folder: str | Path) -> "Model":
        """The base of a merged model: what an adapter learned, taken out of the weights again.

        The weights are the base's but for rounding: where it is at hand, load it.

        Args:
            folder: of the adapter that was merged.

        Raises:
            ConfigError: the adapter's method adds what no weight can hold, or it replaced weights,
                such as a head, which are gone.
            WeightsError: the adapter does not fit.
        """
        from zoo.tuning import share, unmerge
        from zoo.tuning.files import apply, fit, read

        folder = Path(folder)
        adapter = read(folder, Card.read(folder) if has_card(folder) else None)
        adapter = fit(self.module, adapter)
        module = apply(share(self.module), adapter)
        beside = [name for name, part in module.named_modules() if hasattr(part, "unmerge")]
        inside = tuple(f"{name}." for name in beside)
        if lost := [name for name in adapter.tensors if not name.startswith(inside)]:
            raise ConfigError(
                f"{folder} holds {lost[0]}, which stands beside the weights or in their place: "
                "merging left nothing of the base's to get back"
            )
        module = unmerge(module).eval().requires_grad_(False)
        return Model(
            name=f"{self.name}-unmerged",
            module=module,
            config=getattr(module, "config", self.config),
            tokenizer=self.tokenizer,
            pipeline=self.pipeline,
            card=None,
        )

    def _check_base(self, adapter: "Adapter") -> None:
        """Raise for an adapter whose card says that it belongs to other weights."""
        name, module, card, _ = self._base
        wanted = adapter.card.base if adapter.card is not None else None
        if wanted is None or card is None or wanted.sha256 == (digest := weights_hash(card)):
            return
        from zoo.tuning.files import apply

        shapes = "all shapes fit, the weights are others"
        try:
            apply(module, adapter)
        except WeightsError as error:
            shapes = str(error)
        raise HashMismatchError(
            f"{adapter.source} is an adapter for {wanted.ref}, whose weights have sha256 "
            f"{wanted.sha256[:12]}...; those of {name} have {digest[:12]}...; {shapes}"
        )

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a complete model folder, which `zoo.load` reads back; returns its path.

        Of a model with an adapter that is the adapter's folder; the base stays where it is.

        Raises:
            ZooError: the model has no card.
        """
        if self.card is None:
            raise ZooError(f"{self.name} has no card yet; a model folder needs one")
        folder = Path(folder)
        if self.adapter is not None:
            return self._save_adapter(self._adapters[self.adapter], folder)
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
        if (template := self.template) is not None:
            from zoo import conversation

            path = conversation.write(folder, template)
            records[path.name] = FileRecord.of(path)
        ours = {key: value for key, value in self.card.data["txzoo"].items() if key != "hub"}
        ours["name"] = self.name
        ours["files"] = {name: dataclasses.asdict(record) for name, record in records.items()}
        data = {**self.card.data, "txzoo": ours}
        Card(data=data, text=self.card.text, path=folder / CARD).write(folder)
        return folder

    def _save_adapter(self, adapter: "Adapter", folder: Path) -> Path:
        """The adapter's folder; one in our own names gets those of `transformers`, if it can."""
        from zoo.tuning.counterpart import METHODS
        from zoo.tuning.files import read, rewrite

        shutil.copytree(adapter.source, folder, dirs_exist_ok=True)
        ours = read(adapter.source).tensors.keys() == adapter.tensors.keys()
        if adapter.card is None or adapter.method not in METHODS or not ours:
            return folder
        records = rewrite(folder, self.module, adapter)
        card = Card.read(folder)
        files = {name: dataclasses.asdict(record) for name, record in records.items()}
        entry = {**card.data["txzoo"], "files": {**card.data["txzoo"]["files"], **files}}
        Card(data={**card.data, "txzoo": entry}, text=card.text, path=card.path).write(folder)
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


def weights_hash(card: Card) -> str:
    """The SHA-256 of a model's weights: what its card says, or else what the file has."""
    record = card.files.get(WEIGHTS)
    return record.sha256 if record is not None else sha256(member(card.folder, WEIGHTS))
