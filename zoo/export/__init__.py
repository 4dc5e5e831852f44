"""A model in other projects' layouts, each held against the model in the engine that reads it."""

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import FolderError, InputError
from zoo.loading import info, load, locate
from zoo.model import Model
from zoo.registry import registry, resolve

if TYPE_CHECKING:
    from zoo.export.base import Check, Format

FORMATS = {
    "transformers": "zoo.export.transformers:Transformers",
    "onnx": "zoo.export.onnx:Onnx",
    "onnx-int8": "zoo.export.onnx:OnnxInt8",
    "gguf": "zoo.export.gguf:Gguf",
    "safetensors-int8": "zoo.export.quantized:Int8",
    "safetensors-int4": "zoo.export.quantized:Int4",
    "safetensors-dynamic-int8": "zoo.export.quantized:DynamicInt8",
}


def export(model: Model | str | Path, folder: str | Path, format: str = "transformers") -> Path:
    """Write a model as a folder that another project opens without any code of ours.

    For `transformers` that is `from_pretrained(folder)` of the class that its `config.json` names
    (for a decoder `AutoModelForCausalLM` finds it) and, for a model with a tokenizer,
    `AutoTokenizer.from_pretrained(folder)`. The folder appears as a whole or not at all. `check`
    holds it against the model.

    The `safetensors-` formats are folders of ours with quantised weights, which `zoo.load` opens.

    Args:
        model: a model, or what `zoo.load` takes.
        folder: where it shall be; nothing may be there yet.
        format: one of `FORMATS`.

    Returns:
        The folder.

    Raises:
        InputError: an unknown format, an architecture that has no counterpart there, a model that
            is quantised, or one that computes with an adapter.
        ConfigError: sizes that the counterpart cannot have.
        MissingExtraError: what writes the format is not installed.
        FolderError: something is at `folder` already, or it cannot be written: a full disk, say.
    """
    writer = format_of(format)
    folder = Path(folder)
    if os.path.lexists(folder):
        raise FolderError(f"{folder} exists: choose another folder, or remove it first")
    above = next(path for path in folder.absolute().parents if os.path.lexists(path))
    if not above.is_dir():
        raise FolderError(f"{folder} cannot be written: {above} is no folder. Choose another place")
    if not isinstance(model, Model):
        card = info(model)
        architecture = resolve(registry().architectures.get(card.architecture).target)
        writer.require(card.name, architecture)
        writer.look(card.name, architecture, locate(model).folder)
        model = load(model)
    from zoo.quantization import require_float

    require_float(model, f"exported as {format}")
    if model.adapter is not None:
        raise InputError(
            f"{model.name} computes with an adapter, which {format} does not hold: export what "
            "merge() makes of the two, or the base alone, set_adapter(None)"
        )
    writer.require(model.name, type(model.module))
    _write_whole(folder, lambda beside: writer.write(model, beside))
    return folder


def check(
    model: Model | str | Path,
    folder: str | Path,
    format: str = "transformers",
    *,
    prompts: Sequence[str] | None = None,
) -> "Check":
    """Open an exported folder in the other engine, and hold it against the model.

    Both compute the logits of each prompt, and go on from it greedily by 64 tokens, or as many as
    the model has positions for.

    Args:
        model: what was exported.
        folder: what `export` wrote.
        format: of the folder.
        prompts: texts of the user's own.

    Returns:
        What was found; its `ok` says whether the two are alike as far as the format promises.

    Raises:
        InputError: the engine is not installed, or the model is of a kind that is not compared.
    """
    from zoo.export.base import PROMPTS, compare

    opened = format_of(format)
    if not isinstance(model, Model):
        model = load(model)
    return compare(model, Path(folder), opened, PROMPTS if prompts is None else prompts)


def format_of(name: str) -> "Format":
    """The format of a name.

    Raises:
        InputError: there is none.
    """
    if name not in FORMATS:
        raise InputError(f"Unknown export format {name!r}. There is: {', '.join(FORMATS)}")
    made: Format = resolve(FORMATS[name])()
    return made


def _write_whole(folder: Path, write: Callable[[Path], object]) -> None:
    """Let a folder be written beside its place, and put it there when all of it is written.

    Raises:
        FolderError: the disk is full, or does not let it be written.
    """
    from safetensors import SafetensorError

    parents = folder.absolute().parents  # nearest first
    new = [above for above in parents if not os.path.lexists(above)]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            beside = Path(temporary, folder.name)
            beside.mkdir()
            write(beside)
            beside.rename(folder)
    except (OSError, SafetensorError) as error:
        for above in new:
            with suppress(OSError):
                above.rmdir()
        reason = getattr(error, "strerror", None) or f"not all of it found room ({error})"
        raise FolderError(
            f"{folder} cannot be written: {reason}. Nothing of it is left; choose another place, "
            "or make room"
        ) from error
