"""Models whose numbers another project's engine computes: ONNX Runtime, or llama.cpp.

`zoo.load(NAME, engine=...)` gives a model as any other. Its module takes what modules of its
pipeline take and gives logits, so that greedy decoding, sampling, beams, streaming, stop texts,
batches, drafts and chats, labels and hidden words are what they always are. The engine reads what
`zoo.export` writes: a folder that it wrote, or one that is written the first time and kept in the
cache, under a name that says of which weights it is.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from zoo import __version__
from zoo.errors import FolderError, InputError, MissingExtraError
from zoo.export.base import READING, arguments
from zoo.folder import FileRecord
from zoo.hub import cache_folder
from zoo.loading import Found, load, locate
from zoo.model import Model
from zoo.registry import registry, resolve

if TYPE_CHECKING:
    from zoo.engines.base import Opened

FOLDER = "txzoo-engines"  # in the cache
LAYOUT = 2  # of what is written there; counted up when it changes
READ = (
    ".safetensors",
    ".json",
    ".jinja",
    ".txt",
    ".model",
)  # ends of files that say what is computed


@dataclass(frozen=True)
class Engine:
    """A project that computes.

    Attributes:
        format: what it reads, as `zoo.export` calls it.
        files: what that may be in.
        target: `"module:function"` that opens such a file.
        pipelines: of the models that it computes.
        package: its module in Python.
        extra: of txzoo, that brings it.
    """

    format: str
    files: tuple[str, ...]
    target: str
    pipelines: tuple[str, ...]
    package: str
    extra: str


WRITING = ("text-generation",)
ANSWERING = ("translation", "summarization", "text2text-generation")
ONNX = "zoo.engines.onnx:opened", WRITING + ANSWERING + READING, "onnxruntime", "onnx"
GRAPHS = ("model.onnx", "decoder_model.onnx")
ENGINES = {
    "onnx": Engine("onnx", GRAPHS, *ONNX),
    "onnx-int8": Engine("onnx-int8", GRAPHS, *ONNX),
    "llama.cpp": Engine(
        "gguf", ("model.gguf",), "zoo.engines.llama:opened", WRITING, "llama_cpp", "llama-cpp"
    ),
}


def load_in(
    name: str, ref: str | Path, *, revision: str | None = None, offline: bool | None = None
) -> Model:
    """Load a model to be computed by an engine.

    Args:
        name: of the engine, one of `ENGINES`.
        ref: as `zoo.load` takes it, or a folder that `zoo.export` wrote in the engine's format.
        revision: as `zoo.load` takes it.
        offline: likewise.

    Raises:
        InputError: no such engine, or an architecture that it cannot compute; before any work.
        MissingExtraError: it is not installed.
        FolderError: what it shall read is damaged, or was exported by somebody else.
        ZooError: as `zoo.load`.
    """
    engine = engine_of(name)
    if any(os.path.isfile(Path(ref, file)) for file in engine.files):
        return _opened(Path(ref), name)
    found = locate(ref, revision=revision, offline=offline)
    _require(found, name)
    from filelock import FileLock

    from zoo.export import export

    folder = _place(found, name)
    if not folder.exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f"{folder.name}.lock")):
                if not folder.exists():  # it appears as a whole or not at all
                    export(load(ref, revision=revision, offline=offline), folder, engine.format)
        except OSError as error:
            raise FolderError(
                f"{folder.parent} cannot be written: {error.strerror}. What the engine {name} "
                "reads is kept there; TXZOO_HOME names another place"
            ) from error
    return _opened(folder, name, found)


def engine_of(name: str) -> Engine:
    """The engine of a name.

    Raises:
        InputError: there is none.
        MissingExtraError: it is not installed.
    """
    if name not in ENGINES:
        raise InputError(f"Unknown engine {name!r}. There is: {', '.join(ENGINES)}")
    engine = ENGINES[name]
    if not find_spec(engine.package):
        raise MissingExtraError(f"The engine {name}", engine.extra)
    return engine


def _require(found: Found, name: str) -> None:
    """Say at once what an engine cannot compute."""
    from zoo.export import format_of

    card = found.card
    if card.base is not None:
        raise InputError(
            f"{card.name} is an adapter: zoo.load({card.name!r}).merge().save_pretrained(FOLDER) "
            f"makes a model of it, which engine={name!r} takes"
        )
    architecture = resolve(registry().architectures.get(card.architecture).target)
    pipelines = ENGINES[name].pipelines
    if card.pipeline not in pipelines:
        raise InputError(
            f"{card.name} is for {card.pipeline}, and engine={name!r} computes models for "
            f"{', '.join(pipelines)}: leave engine out"
        )
    if card.pipeline in WRITING and "cache" not in arguments(architecture):
        raise InputError(
            f"{card.name} writes without a cache of keys and values, which engine={name!r} needs: "
            "leave engine out"
        )
    format = format_of(ENGINES[name].format)
    format.require(card.name, architecture)
    format.look(card.name, architecture, found.folder)


def _place(found: Found, name: str) -> Path:
    """Where the export of a model is kept: the name says of which files, written by what."""
    records = {
        path.name: found.card.files.get(path.name) or FileRecord.of(path)
        for path in sorted(found.folder.iterdir())
        if path.suffix in READ and path.is_file()
    }
    hashes = {file: record.sha256 for file, record in records.items()}
    words = json.dumps([LAYOUT, __version__, found.card.name, hashes])
    digest = hashlib.sha256(words.encode()).hexdigest()[:32]
    return cache_folder() / FOLDER / f"{name}-{digest}"


def _opened(folder: Path, name: str, found: Found | None = None) -> Model:
    """The model of an exported folder."""
    opened: Opened = resolve(ENGINES[name].target)(folder)
    facts = opened.facts
    if facts["format"] != ENGINES[name].format:
        other = next(key for key, engine in ENGINES.items() if engine.format == facts["format"])
        raise InputError(f"{folder} holds {facts['format']}: take engine={other!r}")
    return Model(
        name=facts["name"],
        module=opened.module.eval(),
        config=opened.module.config,
        tokenizer=opened.tokenizer,
        pipeline=facts["pipeline"],
        card=None if found is None else found.card,
    )
