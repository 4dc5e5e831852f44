"""Names to what plugins provide. Listing reads tables of strings and cards, never a target."""

import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Generic, TypeVar

from zoo import __version__
from zoo.card import Card
from zoo.errors import (
    CardError,
    FolderError,
    NameClashError,
    PluginError,
    UnknownNameError,
    ZooError,
)
from zoo.folder import CARD
from zoo.hookspecs import Architecture, Pipeline, Task, Tuning, View
from zoo.plugins import NAME, Plugin, canonical, discover, is_strict, lock, one_line

T = TypeVar("T")

CORE = Plugin(
    "txzoo:core",
    "txzoo",
    __version__,
    "zoo",
    entries={
        "pipelines": (
            Pipeline(
                "text-generation",
                target="zoo.pipelines.text_generation:TextGeneration",
                summary="Continues a text",
            ),
            Pipeline(
                "text-classification",
                target="zoo.pipelines.text_classification:TextClassification",
                summary="Gives a text a label",
            ),
            Pipeline(
                "token-classification",
                target="zoo.pipelines.token_classification:TokenClassification",
                summary="Gives each token of a text a label",
            ),
            Pipeline(
                "fill-mask",
                target="zoo.pipelines.fill_mask:FillMask",
                summary="Says which token a mask hides",
            ),
            Pipeline(
                "feature-extraction",
                target="zoo.pipelines.feature_extraction:FeatureExtraction",
                summary="Makes a text a vector",
            ),
            Pipeline(
                "text2text-generation",
                target="zoo.pipelines.text2text:Text2Text",
                summary="Makes a text another text",
            ),
            Pipeline(
                "translation",
                target="zoo.pipelines.text2text:Translation",
                summary="Translates a text",
            ),
            Pipeline(
                "summarization",
                target="zoo.pipelines.text2text:Text2Text",
                summary="Makes a long text a short one",
            ),
            Pipeline(
                "image-classification",
                target="zoo.pipelines.image_classification:ImageClassification",
                summary="Gives a picture a label",
            ),
            Pipeline(
                "zero-shot-image-classification",
                target="zoo.pipelines.zero_shot:ZeroShotImageClassification",
                summary="Says which of some labels in words fits a picture",
            ),
            Pipeline(
                "image-to-text",
                target="zoo.pipelines.image_to_text:ImageToText",
                summary="Says what a picture shows",
            ),
        ),
        "tunings": tuple(
            Tuning(name, target=f"zoo.tuning.{target}", summary=summary)
            for name, target, summary in (
                ("full", "full:adapt", "Everything learns"),
                ("linear-probe", "linear_probe:adapt", "The last layer learns"),
                ("gradual-unfreezing", "gradual:adapt", "One layer after another learns"),
                ("houlsby", "bottleneck:houlsby", "Small networks after each part of a block"),
                ("pfeiffer", "bottleneck:pfeiffer", "A small network at the end of each block"),
                ("lora", "lora:adapt", "A low-rank change of matrices"),
                ("ia3", "ia3:adapt", "Factors on keys, values and hidden units"),
                ("prefix-tuning", "prefix:adapt", "Keys and values before the text"),
                ("prompt-tuning", "prompt:adapt", "Embeddings before the text"),
                ("bitfit", "bitfit:adapt", "The biases learn"),
            )
        ),
    },
)


class Catalogue(Generic[T]):
    """The entries of one kind, by name.

    A name that two plugins claim is reached as `distribution:name` only.

    Args:
        kind: what an entry is called in errors.
        plugins: all plugins, for the hint about broken ones.
    """

    def __init__(self, kind: str, plugins: Sequence[Plugin]) -> None:
        self.kind = kind
        self.errors: dict[str, ZooError] = {}  # names that are there but cannot be used
        self._plugins = plugins
        self._entries: dict[str, list[tuple[Plugin, T]]] = {}

    def add(self, name: str, entry: T, plugin: Plugin) -> None:
        """Put an entry under a name, for a plugin."""
        self._entries.setdefault(name, []).append((plugin, entry))

    def get(self, name: str) -> T:
        """The entry of a name or a `distribution:name`.

        Raises:
            UnknownNameError: no plugin provides it.
            NameClashError: two plugins do.
        """
        return self._find(name)[1]

    def owner(self, name: str) -> Plugin:
        """The plugin that provides a name; raises as `get` does."""
        return self._find(name)[0]

    def names(self) -> list[str]:
        """Every name that `get` answers to, sorted; a clashing one in its qualified spellings."""
        names = []
        for name, found in self._entries.items():
            names += [name] if len(found) == 1 else _qualified(name, found)
        return sorted(names)

    def owners(self) -> dict[str, list[Plugin]]:
        """Each bare name, and the plugins that claim it."""
        return {name: [plugin for plugin, _ in found] for name, found in self._entries.items()}

    def items(self) -> list[tuple[str, T]]:
        """Names and entries, in the order of `names`."""
        return [(name, self.get(name)) for name in self.names()]

    def _find(self, name: str) -> tuple[Plugin, T]:
        qualifier, _, bare = name.rpartition(":")
        found = [
            (plugin, entry)
            for plugin, entry in self._entries.get(bare, [])
            if qualifier in ("", plugin.name) or canonical(qualifier) == plugin.distribution
        ]
        if len(found) == 1:
            return found[0]
        if found:
            owners = " and ".join(plugin.name for plugin, _ in found)
            ways = " or ".join(map(repr, _qualified(bare, found)))
            raise NameClashError(f"{owners} both provide the {self.kind} {bare!r}; use {ways}")
        if name in self.errors:
            raise self.errors[name]
        known = self.names()
        if qualifier:
            known = [
                way for bare, found in self._entries.items() for way in _qualified(bare, found)
            ]
        raise UnknownNameError(self.kind, name, known, self._hint())

    def _hint(self) -> str:
        count = len(self.names())
        if self.kind == "model":
            hint = f"txzoo list shows all {count}."
        else:
            hint = f"{count} {'exists' if count == 1 else 'exist'}."
        aside = [
            f"{plugin.name} ({plugin.error or f'disabled by {plugin.disabled_by}'})"
            for plugin in self._plugins
            if plugin.error or plugin.disabled
        ]
        return f"{hint} Set aside (see txzoo plugins): {'; '.join(aside)}" if aside else hint


def _qualified(name: str, found: Sequence[tuple[Plugin, Any]]) -> list[str]:
    """The spellings that tell several owners of a name apart."""
    distributions = [plugin.distribution for plugin, _ in found]
    return [
        f"{plugin.distribution if distributions.count(plugin.distribution) == 1 else plugin.name}"
        f":{name}"
        for plugin, _ in found
    ]


class Registry:
    """Everything that the given plugins provide, by kind and name.

    Args:
        plugins: as `discover` gives them; broken and disabled ones provide nothing.
    """

    def __init__(self, plugins: Sequence[Plugin]) -> None:
        self.plugins = plugins
        self.architectures: Catalogue[Architecture] = self._catalogue("architecture")
        self.tasks: Catalogue[Task] = self._catalogue("task")
        self.pipelines: Catalogue[Pipeline] = self._catalogue("pipeline")
        self.tunings: Catalogue[Tuning] = self._catalogue("tuning")
        self.views: Catalogue[View] = self._catalogue("view", "gallery_views")
        self._models: Catalogue[Card] | None = None

    def _catalogue(self, kind: str, hook: str | None = None) -> Catalogue[Any]:
        catalogue: Catalogue[Any] = Catalogue(kind, self.plugins)
        for plugin in (CORE, *self.plugins):
            for entry in plugin.entries.get(hook or f"{kind}s", ()):
                catalogue.add(entry.name, entry, plugin)
        return catalogue

    @property
    def models(self) -> Catalogue[Card]:
        """The cards of all model folders, read once.

        A card that does not parse makes that one model broken: see `Plugin.broken_models`.

        Raises:
            PluginError: there is such a card and `TXZOO_STRICT_PLUGINS` is 1.
        """
        if self._models is None:
            with lock():
                if self._models is None:
                    self._models = self._read_models()
        return self._models

    def _read_models(self) -> Catalogue[Card]:
        catalogue: Catalogue[Card] = Catalogue("model", self.plugins)
        for plugin in self.plugins:
            for folder in plugin.entries.get("models", ()):
                if folder.name.startswith("."):  # half-written, see `save_folder`
                    continue
                try:
                    card = Card.read(folder)
                    if not NAME.fullmatch(card.name):
                        raise CardError(
                            f"{folder / CARD}: the name {card.name!r} is not lower case letters, "
                            f"digits, hyphens and dots"
                        )
                except ZooError as error:
                    plugin.broken_models[folder] = str(error)
                    catalogue.errors[folder.name] = error
                    if is_strict():
                        raise PluginError(f"Plugin {plugin.name}: {error}") from error
                    continue
                catalogue.add(card.name, card, plugin)
        for plugin in self.plugins:
            for architecture in plugin.entries.get("architectures", ()):
                for name, command in architecture.brought.items():
                    catalogue.errors[name] = FolderError(
                        f"{name} is not on this machine yet: `{command}` brings it from the "
                        "network, once"
                    )
        return catalogue


_registry: Registry | None = None
_discovering: int | None = None  # the thread that makes the registry


def registry() -> Registry:
    """The registry of everything installed, made once a process, whichever thread asks first.

    Raises:
        PluginError: a plugin asks for it while it is being discovered itself.
    """
    global _registry, _discovering
    if _registry is not None:
        return _registry
    with lock():
        if _registry is None:
            if _discovering == threading.get_ident():
                raise PluginError(
                    "asks for the registry while plugins are being discovered: import zoo for its "
                    "names only, and ask inside the function that needs it"
                )
            _discovering = threading.get_ident()
            try:
                _registry = Registry(discover())
            finally:
                _discovering = None
        return _registry


def use(other: Registry | None) -> None:
    """Put another registry in the place of this process's; None discovers anew when asked."""
    global _registry
    with lock():
        _registry = other


def reset() -> None:
    """Forget the registry, so that the next call discovers again."""
    use(None)


def resolve(target: str) -> Any:
    """Import what a target such as `"zoo_alibi.model:AlibiDecoder"` names.

    Raises:
        PluginError: the module does not import or lacks the name.
    """
    module, _, name = target.partition(":")
    try:
        return getattr(import_module(module), name)
    except ZooError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{target} does not import: {one_line(error)}") from error
