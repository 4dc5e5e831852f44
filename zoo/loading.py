"""From a name, an address or a folder to a model; and the listings, which read cards only."""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo import __version__
from zoo.card import Card, has_card, parse_front_matter, read_text, split_front_matter
from zoo.data import PAIRED
from zoo.errors import (
    CardError,
    ConfigError,
    FolderError,
    InputError,
    NameClashError,
    PluginError,
    UnknownNameError,
    ZooError,
)
from zoo.folder import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CARD,
    CONFIG,
    FILES,
    QUANTIZATION,
    RECIPE,
    TOKENIZER,
    UNSAFE_SUFFIXES,
    WEIGHTS,
    check_files,
    find_weights,
    load_into,
    member,
    read_config,
    read_weights,
)
from zoo.hub import ADDRESS, fetch, parse_address
from zoo.plugins import Plugin, one_line
from zoo.registry import registry, resolve

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from torch import Tensor, nn

    from zoo.model import Model

    Tensors = Mapping[str, Tensor]

MOST_REASON = 200  # characters of somebody else's error
USUAL_SIZE = 1 << 16  # no size up to this can fill a memory that holds the weights
HEADS = {  # ends of the names of classes of `transformers`; of others their architecture says
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForMaskedLM": "fill-mask",
    "ForImageClassification": "image-classification",
}
# what older checkpoints have in place of tokenizer.json
VOCABULARY = (
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
# what a checkpoint says beside its config.json, and the key under which an architecture that names
# the file in `beside` finds it
PREPROCESSOR, GENERATION = "preprocessor_config.json", "generation_config.json"
SPARE_NUMBERS = 1 << 26  # what a module may have beyond four times its weights


def list_models(
    query: str | None = None,
    *,
    task: str | None = None,
    architecture: str | None = None,
    pipeline: str | None = None,
    plugin: str | None = None,
    bundled: bool | None = None,
    license: str | None = None,
    max_params: int | None = None,
) -> list[str]:
    """Names of the models that pass every filter given, sorted.

    Args:
        query: part of the name or the summary, or a pattern for the name (`"*-lm"`).
        task: the task it was trained on.
        architecture: name of the architecture.
        pipeline: how it is called.
        plugin: `"distribution:entry_point"`, or either half.
        bundled: True for those whose weights are installed, those of a base too; False for the
            others.
        license: licence of the weights.
        max_params: at most that many parameters, and a card that says so.

    Raises:
        UnknownNameError: a task, architecture, pipeline or plugin that nobody has.
    """
    known = registry()
    models = known.models
    cards = dict(models.items())

    def check(kind: str, value: str | None, names: Iterable[str]) -> None:
        if value is not None and value not in (everything := set(names)):
            raise UnknownNameError(kind, value, everything)

    tasks = {card.task for card in cards.values() if card.task}
    check("task", task, {*known.tasks.names(), *tasks})
    check(
        "architecture",
        architecture,
        {*known.architectures.names(), *(card.architecture for card in cards.values())},
    )
    check(
        "pipeline",
        pipeline,
        {*known.pipelines.names(), *(card.pipeline for card in cards.values())},
    )
    if plugin is not None and not any(other.is_called(plugin) for other in known.plugins):
        raise UnknownNameError("plugin", plugin, [other.name for other in known.plugins])
    return [
        name
        for name, card in cards.items()
        if (query is None or _matches(query, name, card))
        and task in (None, card.task)
        and architecture in (None, card.architecture)
        and pipeline in (None, card.pipeline)
        and (plugin is None or models.owner(name).is_called(plugin))
        and bundled in (None, card.installed)
        and (license is None or license.lower() == card.license.lower())
        and (max_params is None or (card.parameters is not None and card.parameters <= max_params))
    ]


def list_architectures() -> list[str]:
    """Names of all architectures, sorted."""
    return registry().architectures.names()


def list_tasks() -> list[str]:
    """Names of all tasks, sorted."""
    return registry().tasks.names()


def list_pipelines() -> list[str]:
    """Names of all pipelines, sorted."""
    return registry().pipelines.names()


def list_plugins() -> list[Plugin]:
    """All plugins, sorted by name; a broken one carries its `error`."""
    return list(registry().plugins)


def create(architecture: str, **config: Any) -> "nn.Module":
    """An untrained module.

    Args:
        architecture: its name.
        config: values of its configuration.

    Raises:
        UnknownNameError: no such architecture.
        ConfigError: an unknown key, a missing one, or a value that does not work.
    """
    return build(resolve(registry().architectures.get(architecture).target), config)


def info(ref: str | Path) -> Card:
    """The card of a model: no torch, and of the Hub only the card is fetched.

    Args:
        ref: as in `load`.

    Raises:
        ZooError: as in `load`.
    """
    return _find(ref, None, None, names=(CARD, CONFIG)).card


def locate(ref: str | Path, *, revision: str | None = None, offline: bool | None = None) -> "Found":
    """Where a model lies, fetched from the Hub when it lies there; nothing of it is loaded.

    Args:
        ref: as in `load`.
        revision: as in `load`.
        offline: as in `load`.

    Raises:
        ZooError: as in `load`.
    """
    more = (*VOCABULARY, PREPROCESSOR, GENERATION, ADAPTER_CONFIG, ADAPTER_WEIGHTS)
    return _find(ref, revision, offline, names=(*FILES, *more))


def load(
    ref: str | Path,
    *,
    revision: str | None = None,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    offline: bool | None = None,
    engine: str | None = None,
) -> "Model":
    """Load a model, ready to be called.

    Args:
        ref: a name (`"alibi-lm"`, `"distribution:alibi-lm"`), an address on the Hub
            (`"hf://owner/name@revision"`), or a path to a model folder.
        revision: branch, tag or commit on the Hub.
        device: where it runs, the CPU unless given.
        dtype: precision of its weights, float32 unless given.
        offline: use only what is here; unless given, `HF_HUB_OFFLINE` decides.
        engine: what computes it in place of PyTorch: `"onnx"`, `"onnx-int8"` or `"llama.cpp"`, see
            `zoo.engines`. `ref` may then be a folder that `zoo.export` wrote for it.

    Raises:
        UnknownNameError: no such model.
        InputError: an unknown engine, or one that does not compute this model.
        MissingExtraError: the engine is not installed.
        FolderError: the folder is incomplete.
        CardError: its card does not parse.
        WeightsError: its weights are damaged, or others than the card says.
        ConfigError: its configuration does not fit the architecture.
        UnsafeFileError: its weights are a pickle.
        HubError: the Hub refuses, lacks it or is not reached, and neither is it in the cache.
    """
    if engine is not None:
        if device is not None or dtype is not None:
            raise InputError("An engine computes on the processor: leave out device and dtype")
        from zoo.engines import load_in

        return load_in(engine, ref, revision=revision, offline=offline)
    found = locate(ref, revision=revision, offline=offline)
    if found.card.base is not None:
        return _load_adapted(found, device, dtype, offline)
    build = _load_foreign if found.foreign else _load_ours
    module, tokenizer = build(found)
    from zoo.model import Model

    model = Model(
        name=found.card.name,
        module=module.eval().requires_grad_(False),
        config=module.config,
        tokenizer=tokenizer,
        pipeline=found.card.pipeline,
        card=found.card,
    )
    for place in (dtype, device):
        if place is not None:
            model.to(place)
    return model


def _load_adapted(
    found: "Found",
    device: "str | torch.device | None",
    dtype: "str | torch.dtype | None",
    offline: bool | None,
) -> "Model":
    """The base of an adapter, with the adapter on it."""
    base = found.card.base
    assert base is not None
    try:
        if info(base.ref).base is not None:  # or, without end, its own
            raise FolderError("it is an adapter itself; merge it into a model first.")
        model = load(base.ref, device=device, dtype=dtype, offline=offline)
    except (UnknownNameError, FolderError) as error:
        raise FolderError(
            f"{found.card.name} is an adapter for {base.ref}, which cannot be had: {error} Where "
            f"the base lies elsewhere: zoo.load(BASE).load_adapter({str(found.folder)!r}), "
            f"or txzoo run BASE --adapter {found.folder}"
        ) from error
    _check_requirements(found.card)
    return model.load_adapter(found.folder)


class Found(NamedTuple):
    """Where a model lies.

    Attributes:
        card: its card.
        folder: its files.
        foreign: the folder has the layout of `transformers`.
    """

    card: Card
    folder: Path
    foreign: bool = False


def _find(
    ref: str | Path, revision: str | None, offline: bool | None, *, names: Sequence[str]
) -> Found:
    """Where a reference leads; of what lies on the Hub, the files `names` are fetched."""
    if isinstance(ref, str) and ref.startswith("hf://"):
        return _from_hub(ref, revision, offline, names)
    if revision is not None:
        raise InputError(
            f"revision={revision!r} is for models on the Hub, {str(ref)!r} is not there"
        )
    if isinstance(ref, Path) or _is_path(ref):
        return _from_folder(Path(ref), offline, names)
    try:
        card = registry().models.get(ref)
    except UnknownNameError:
        if os.path.exists(ref):
            return _from_folder(Path(ref), offline, names)
        raise
    return _follow(card, offline, names)


def _follow(card: Card, offline: bool | None, names: Sequence[str]) -> Found:
    """Where the files of a card of ours are: beside it, or where it points."""
    if card.hub is None or WEIGHTS not in names:
        return Found(card, card.folder)
    folder = fetch(card.hub.repo, card.hub.revision, offline=offline, names=names)
    return Found(card, folder, foreign="architecture" not in read_config(folder))


def _from_hub(ref: str, revision: str | None, offline: bool | None, names: Sequence[str]) -> Found:
    repo, revision = parse_address(ref, revision)
    folder = fetch(repo, revision, offline=offline, names=names)
    return _from_folder(folder, offline, names, name=repo.partition("/")[2])


def _is_path(ref: str) -> bool:
    return "/" in ref or os.sep in ref or ref in (".", "..")


def _from_folder(
    folder: Path, offline: bool | None, names: Sequence[str], *, name: str | None = None
) -> Found:
    """A folder on disk, in our layout or in that of `transformers`."""
    if folder.suffix in UNSAFE_SUFFIXES:
        read_weights(folder)  # refuses it, with the reason
    if os.path.isfile(folder) and folder.suffix == ".toml":
        raise FolderError(
            f"{folder} is no model: of a recipe one is made by txzoo train {folder} --out FOLDER, "
            f"the plan of a study is run by txzoo compare --study {folder} --out FOLDER"
        )
    if os.path.isfile(folder):
        raise FolderError(f"{folder} is a file; give the model folder: {str(folder.parent)!r}")
    if not os.path.isdir(folder):
        plain = folder.as_posix()
        path = plain if plain.startswith((".", "/")) or folder.is_absolute() else f"./{plain}"
        repo = plain if ADDRESS.fullmatch(f"hf://{plain}") and path != plain else "owner/name"
        raise FolderError(
            f"There is no folder {plain!r}. A folder is written {path!r}, "
            f"a model on the Hub 'hf://{repo}'; txzoo list shows the names"
        )
    bare = not (folder / CONFIG).exists() and (folder / CARD).exists()
    adapter = (folder / ADAPTER_CONFIG).exists()
    if bare and (not adapter or has_card(folder)):
        return _follow(Card.read(folder), offline, names)
    if adapter and not (folder / CONFIG).exists():
        raise FolderError(
            f"{folder} is an adapter without a card of ours: load its base, then put it on that: "
            f"zoo.load(BASE).load_adapter({str(folder)!r}), or txzoo run BASE --adapter {folder}"
        )
    config = read_config(folder)
    if "architecture" in config:
        return Found(Card.read(folder), folder)
    if "model_type" not in config:
        raise FolderError(f"{folder / CONFIG} names no architecture")
    name = name or folder.absolute().name
    return Found(_foreign_card(folder, name, config), folder, foreign=True)


def _foreign_card(folder: Path, name: str, config: Mapping[str, Any]) -> Card:
    """A card for a `transformers` checkpoint, with the licence and prose of its own card."""
    path = folder / CARD
    theirs: dict[str, Any] = {}
    prose = ""
    if path.is_file() and (text := read_text(path)).startswith("---"):
        source, prose = split_front_matter(text, path)
        theirs = parse_front_matter(source, path)
    reader = _reader_of(config["model_type"])
    license = str(theirs.get("license", "unknown"))
    data = {
        "license": license,
        "pipeline_tag": _pipeline_of(config, reader, theirs.get("pipeline_tag")),
        "txzoo": {"name": name, "architecture": reader},
    }
    return Card(data=data, text=prose, path=path)


def _pipeline_of(config: Mapping[str, Any], reader: str, tag: Any) -> str:
    """How a `transformers` checkpoint is called: by the head that its class's name ends in.

    Those that make a text of another all have one head: what they do says the `tag` of their card.
    """
    kinds = config.get("architectures")
    kind = str(kinds[0]) if isinstance(kinds, list) and kinds else ""
    found = [pipeline for head, pipeline in HEADS.items() if kind.endswith(head)]
    usual = found[0] if found else registry().architectures.get(reader).pipeline
    return str(tag) if usual in PAIRED and tag in PAIRED else usual


def _reader_of(model_type: str) -> str:
    """Name of the architecture that reads a `model_type` of `transformers`."""
    entries = registry().architectures.items()
    readers = [name for name, entry in entries if model_type in entry.model_types]
    if len(readers) > 1:
        raise NameClashError(
            f"{' and '.join(readers)} all read the transformers model_type {model_type!r}; "
            f"TXZOO_DISABLE_PLUGINS leaves a plugin out"
        )
    if not readers:
        known = {kind for _, entry in entries for kind in entry.model_types}
        raise UnknownNameError(
            "transformers model_type",
            str(model_type),
            known,
            f"Read are {', '.join(sorted(known))}.",
        )
    return readers[0]


def _load_ours(found: Found) -> "tuple[nn.Module, Tokenizer | None]":
    """The module and the tokenizer of a folder in our layout, everything checked first."""
    card, folder = found.card, found.folder
    if not card.trained and (folder / RECIPE).exists() and not (folder / WEIGHTS).exists():
        raise FolderError(f"{card.name} has no weights yet: txzoo train {card.name} makes them")
    weights = find_weights(folder)
    if not card.trained:
        raise FolderError(f"{folder / CARD} gives no sha256 of {WEIGHTS} under txzoo.files")
    check_files(card, folder)
    config = read_config(folder)
    name = config.pop("architecture", None)
    if name != card.architecture:
        raise FolderError(
            f"{folder / CONFIG} says architecture {name!r}, its card says {card.architecture!r}"
        )
    _check_requirements(card)
    architecture = resolve(registry().architectures.get(card.architecture).target)
    tensors = read_weights(weights)
    with _blaming(folder / CONFIG), _no_random_init():
        if QUANTIZATION in config:
            from zoo.nn.quantized import from_stored

            tensors = from_stored(tensors, config.pop(QUANTIZATION), weights)
        if any(type(value) is int and value > USUAL_SIZE for value in config.values()):
            _try_sizes(architecture, config, tensors)
        with _bounded(tensors):
            module = build(architecture, config)
    load_into(module, tensors, weights)
    tokenizer = _read_tokenizer(folder)
    _check_tokenizer(tokenizer, module, folder)
    return module, tokenizer


def _load_foreign(found: Found) -> "tuple[nn.Module, Tokenizer | None]":
    """The module and, when there is one, the tokenizer of a `transformers` checkpoint."""
    check_files(found.card, found.folder)
    _check_requirements(found.card)
    architecture = resolve(registry().architectures.get(found.card.architecture).target)
    config = read_config(found.folder)
    for key, name in getattr(architecture, "beside", {}).items():
        if (found.folder / name).exists():
            config[key] = read_config(found.folder, name)
    tensors = read_weights(find_weights(found.folder))
    with _blaming(found.folder / CONFIG), _bounded(tensors):
        module: nn.Module = architecture.from_transformers(config, tensors)
    tokenizer = _read_tokenizer(found.folder)
    if tokenizer is None and hasattr(architecture, "read_tokenizer"):
        tokenizer = architecture.read_tokenizer(found.folder, config)
    _check_tokenizer(tokenizer, module, found.folder)
    return module, tokenizer


@contextmanager
def _blaming(config: Path) -> Iterator[None]:
    """Name a configuration as the culprit when its values bring the code that reads them down."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{config}: {error}") from error
    except ZooError:
        raise
    except KeyError as error:
        raise ConfigError(f"{config} has no {error}") from error
    except Exception as error:  # anything can follow from a value nobody thought of
        reason = one_line(error)  # torch adds where in its own code it happened
        raise ConfigError(f"{config}: {reason[:MOST_REASON]}") from error


def _try_sizes(architecture: Any, config: Mapping[str, Any], tensors: "Tensors") -> None:
    """Build the module without memory, so that a size beyond all reason costs none.

    Raises:
        ConfigError: the module would be far larger than its weights.
    """
    import torch

    with _bounded(tensors), torch.device("meta"):
        try:
            module = build(architecture, config)
        except (NotImplementedError, RuntimeError):  # it looks at numbers, which are not there yet
            return
    most = SPARE_NUMBERS + 4 * sum(tensor.numel() for tensor in tensors.values())
    if (size := sum(buffer.numel() for buffer in module.buffers())) > most:
        raise ConfigError(f"it asks for tables of {size:,} numbers, far more than the weights have")


@contextmanager
def _bounded(tensors: "Tensors") -> Iterator[None]:
    """Stop the making of a module that gets far more parameters than there are weights."""
    from torch.nn.modules.module import register_module_parameter_registration_hook as register

    count = 64 + 4 * len(tensors)
    numbers = SPARE_NUMBERS + 4 * sum(tensor.numel() for tensor in tensors.values())
    maker = threading.get_ident()  # the hook is everybody's

    def check(module: "nn.Module", name: str, parameter: Any) -> None:
        nonlocal count, numbers
        if threading.get_ident() != maker:
            return
        count -= 1
        numbers -= 0 if parameter is None else parameter.numel()
        if count < 0 or numbers < 0:
            raise ConfigError("it asks for far more parameters than the weights have")

    handle = register(check)
    try:
        yield
    finally:
        handle.remove()


def build(architecture: Any, config: Mapping[str, Any]) -> "nn.Module":
    """A module with random weights: of an architecture's class, by plain values."""
    module: nn.Module = architecture(architecture.config_class.from_dict(config))
    return module


def _no_random_init() -> "AbstractContextManager[Any]":
    """Leave parameters as they are allocated: `load_into` fills every one of them.

    Random numbers for 3 million parameters would take longer than all the rest of loading; and so
    the random state stays as it is.
    """
    from torch import Tensor, nn
    from torch.overrides import TorchFunctionMode

    class Skip(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            kwargs = kwargs or {}
            module = getattr(func, "__module__", None)  # methods of C have none
            if module == "torch.nn.init" or func in (Tensor.normal_, Tensor.uniform_):
                target = args[0] if args else kwargs.get("tensor")
                if isinstance(target, nn.Parameter) or (target is not None and target.is_meta):
                    return target
            return func(*args, **kwargs)

    return Skip()


def _read_tokenizer(folder: Path) -> "Tokenizer | None":
    """The tokenizer of a folder, None when it has none."""
    if not (folder / TOKENIZER).exists():
        return None
    from tokenizers import Tokenizer

    path = member(folder, TOKENIZER)
    try:
        return Tokenizer.from_file(str(path))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # nothing more precise; a panic of its Rust code is no Exception
        raise FolderError(f"{path} is not a tokenizers file: {one_line(error)}") from error


def _check_tokenizer(tokenizer: "Tokenizer | None", module: "nn.Module", folder: Path) -> None:
    """Raise `FolderError` for a tokenizer of another model, as far as its tokens tell."""
    if tokenizer is None:
        return
    from zoo.nn import EncoderDecoder

    path, count = folder / TOKENIZER, tokenizer.get_vocab_size()
    size = getattr(module.config, "vocab_size", None)
    if size is not None and count > size:
        raise FolderError(f"{path} has {count} tokens, {CONFIG} says vocab_size {size}")
    if not isinstance(module, EncoderDecoder):
        return
    end, marks = module.config.end_id, tokenizer.encode("").ids
    if end not in marks:
        raise FolderError(
            f"{path} is not the tokenizer of these weights: they know the end of a text by token "
            f"{end}, it marks an empty text with {marks or 'no token'}"
        )


def _check_requirements(card: Card) -> None:
    """Raise `PluginError` when what a card asks for is missing or another version."""
    if not card.requires:
        return
    import shlex
    from importlib.metadata import PackageNotFoundError, version

    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    for distribution, asked in card.requires.items():
        try:
            installed = __version__ if distribution == "txzoo" else version(distribution)
            if SpecifierSet(asked).contains(installed, prereleases=True):
                continue
            state = f"this is {installed}"
        except PackageNotFoundError:
            state = "which is not installed"
        except InvalidSpecifier as error:
            raise CardError(f"{card.path}: txzoo.requires.{distribution}: {error}") from error
        line = shlex.quote(f"{distribution}{asked}")  # it may be somebody's from the Hub
        raise PluginError(f"{card.name} needs {distribution}{asked}, {state}: pip install {line}")


def _matches(query: str, name: str, card: Card) -> bool:
    query = query.lower()
    if any(sign in query for sign in "*?["):
        return fnmatchcase(name, query)
    return query in name or query in card.summary.lower()
