"""The model folder on disk: always the same files, only data, nothing in it is ever executed.

Reading checks everything before a tensor reaches a module: that each file lies inside the folder,
its hash and size, that the weights are safetensors, complete, and finite. Torch is imported inside
the functions that need it, because listing passes through this module.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

from zoo.errors import FolderError, HashMismatchError, UnsafeFileError, WeightsError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from torch import Tensor, nn

    from zoo.card import Card

CARD = "README.md"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
RECIPE = "recipe.toml"
LOG = "training.jsonl"
FILES = (CARD, CONFIG, WEIGHTS, TOKENIZER, RECIPE, LOG)
ADAPTER_CONFIG = (
    "adapter_config.json"  # in place of CONFIG and WEIGHTS, where the base is elsewhere
)
ADAPTER_WEIGHTS = "adapter_model.safetensors"
QUANTIZATION = "quantization"  # a key of CONFIG: how the weights are stored and multiplied

UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
MOST_TEXT = 4 << 20  # bytes of a card or a configuration; real ones have some thousand
MOST_HEADER = 100_000_000  # bytes of a safetensors header, the library's own limit
MOST_AXES = 64  # of a tensor; torch itself takes no more in most of its functions
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")


@dataclass(frozen=True)
class FileRecord:
    """What a card promises about a file.

    Attributes:
        sha256: of its bytes, 64 hexadecimal digits.
        bytes: its size.
    """

    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> "FileRecord":
        """The record of a file on disk."""
        return cls(sha256(path), path.stat().st_size)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stays_inside(name: str) -> bool:
    """Whether a file name, as it is spelled, names something inside its folder."""
    path = PurePosixPath(name)
    plain = "\\" not in name and ":" not in name and "\0" not in name
    return plain and not path.is_absolute() and ".." not in path.parts and path.name != ""


def member(folder: Path, name: str) -> Path:
    """The path of a file in a model folder.

    Raises:
        FolderError: the name or a link leaves the folder, or there is no such file.
    """
    if not stays_inside(name):
        raise FolderError(f"{folder}: the path {name!r} leaves the model folder")
    path = folder / name
    roots = _roots(folder)
    try:
        place, is_file = path.resolve(), path.is_file()
        inside = any(place.is_relative_to(root) for root in roots)
    except (OSError, RuntimeError) as error:  # a loop of links, a name too long
        raise FolderError(f"{folder}: no such file can be: {error}") from error
    if not inside:
        raise FolderError(f"{path} links to a place outside the model folder; put the file there")
    if not is_file:
        raise FolderError(f"{folder} has no file {name}; a model folder holds {', '.join(FILES)}")
    return path


def _roots(folder: Path) -> tuple[Path, ...]:
    """Where the files of a folder may lie: in it; for the Hub's cache, where its links lead."""
    root = folder.resolve()
    repository = root.parent.parent
    if root.parent.name == "snapshots" and repository.name.startswith("models--"):
        return root, repository / "blobs", repository.parent / "blobs"
    return (root,)


def check_files(card: "Card", folder: Path) -> None:
    """Hold every file that a card lists against its size and hash.

    Raises:
        FolderError: a file is missing or outside the folder.
        HashMismatchError: its bytes are others.
    """
    for name, record in card.files.items():
        path = member(folder, name)
        size = path.stat().st_size
        if size != record.bytes:
            raise HashMismatchError(
                f"{path} has {size} bytes, its card says {record.bytes}: get the file again"
            )
        digest = sha256(path)
        if digest != record.sha256:
            raise HashMismatchError(
                f"{path} has sha256 {digest[:12]}..., its card says {record.sha256[:12]}...: "
                f"get the file again"
            )


def read_config(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """The `config.json` of a folder, or another JSON file of it.

    Raises:
        FolderError: it is missing, or not a JSON object.
    """
    path = member(folder, name)
    if (size := path.stat().st_size) > MOST_TEXT:
        raise FolderError(f"{path} has {size} bytes, a configuration has at most {MOST_TEXT}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise FolderError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise FolderError(f"{path}: must hold a JSON object, not {type(config).__name__}")
    return config


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def find_weights(folder: Path) -> Path:
    """The weights of a folder.

    Raises:
        UnsafeFileError: it holds weights in a format that can run code.
        FolderError: it holds none.
    """
    if not (folder / WEIGHTS).exists():
        for path in sorted(folder.iterdir()):
            if path.suffix in UNSAFE_SUFFIXES:
                raise unsafe(path)
        if (folder / f"{WEIGHTS}.index.json").exists():
            raise FolderError(
                f"{folder} holds weights in several files; save them as one {WEIGHTS}"
            )
    return member(folder, WEIGHTS)


def read_weights(path: Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors file.

    Raises:
        UnsafeFileError: it is a pickle, by its name or by its bytes.
        WeightsError: it is damaged, or holds a number that is not finite.
    """
    if path.suffix in UNSAFE_SUFFIXES:
        raise unsafe(path)
    _check_header(path)
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} is damaged: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            # the extremes are NaN when any number is
            if not torch.stack(torch.aminmax(tensor)).isfinite().all():
                raise WeightsError(f"{path}: tensor {name} holds NaN or infinity")
    return tensors


def load_into(module: "nn.Module", tensors: "Mapping[str, Tensor]", source: str | Path) -> None:
    """Copy tensors into a module, in the module's own precision.

    Args:
        module: takes every tensor of its `state_dict`, no more and no less.
        tensors: by parameter name.
        source: where they come from, for errors.

    Raises:
        WeightsError: a tensor is missing, left over, of another shape or another kind.
    """
    own = module.state_dict()
    kind = type(module).__name__
    missing = sorted(own.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - own.keys())
    if missing or unexpected:
        raise WeightsError(
            f"{source} does not fit {kind}: "
            f"missing {_some(missing)}, unexpected {_some(unexpected)}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise WeightsError(
                f"{source}: {name} has shape {tuple(tensor.shape)}, "
                f"this {kind} needs {tuple(own[name].shape)}"
            )
        if tensor.is_floating_point() != own[name].is_floating_point():
            raise WeightsError(
                f"{source}: {name} is {tensor.dtype}, this {kind} needs {own[name].dtype}"
            )
    from zoo.nn.quantized import place

    # that nothing is missing was checked above; what is quantised takes the place of a weight
    module.load_state_dict(place(module, tensors, source), strict=False)


def save_folder(
    folder: Path,
    *,
    module: "nn.Module",
    architecture: str,
    config: Mapping[str, Any],
    tokenizer: "Tokenizer | None" = None,
    recipe: str | None = None,
    log: Path | None = None,
    dtype: "torch.dtype | None" = None,
) -> dict[str, FileRecord]:
    """Write a model folder without its card.

    Everything is written into a folder beside it first. A new folder appears as a whole; in one
    that exists each file is replaced as a whole, and its other files stay.

    Args:
        folder: where it shall be.
        module: its `state_dict` becomes the weights.
        architecture: name of the architecture.
        config: its plain values.
        tokenizer: None for none.
        recipe: text of the recipe.
        log: the training curve, copied.
        dtype: precision of the stored weights, the module's own unless given.

    Returns:
        The record of each file, for the card.

    Raises:
        FolderError: `folder` is a file.
    """
    from safetensors.torch import save_file

    from zoo.nn.quantized import kind_of, to_stored

    if folder.exists() and not folder.is_dir():
        raise FolderError(f"{folder} is a file; a model folder cannot stand there")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        beside = Path(temporary, folder.name)
        beside.mkdir()
        kind = kind_of(module)
        facts = {"architecture": architecture, **({QUANTIZATION: kind} if kind else {}), **config}
        (beside / CONFIG).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        tensors = {
            name: tensor.to("cpu", dtype if dtype and tensor.is_floating_point() else tensor.dtype)
            for name, tensor in to_stored(module.state_dict()).items()
        }
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, beside / WEIGHTS, metadata={"format": "pt"})
        if tokenizer is not None:
            tokenizer.save(str(beside / TOKENIZER))
        if recipe is not None:
            (beside / RECIPE).write_text(recipe, encoding="utf-8")
        if log is not None:
            shutil.copyfile(log, beside / LOG)
        records = {path.name: FileRecord.of(path) for path in sorted(beside.iterdir())}
        if not folder.exists():
            beside.rename(folder)
        else:
            for name in records:
                os.replace(beside / name, folder / name)
    return records


def unsafe(path: Path) -> UnsafeFileError:
    """The error for weights in a format that can run code."""
    return UnsafeFileError(
        f"{path} can run code when it is read (a pickle), so it is refused; "
        f"only safetensors weights are read: save them as {WEIGHTS}"
    )


def _check_header(path: Path) -> None:
    """Read the JSON header of a safetensors file: 8 bytes of length, then names and offsets.

    The library checks it again when it reads; what it does not say clearly, or leaves to torch, is
    said here.
    """
    header, start = _read_header(path)
    size = path.stat().st_size
    ends = [start]
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        except (TypeError, LookupError, ValueError) as error:
            raise WeightsError(
                f"{path} is damaged, its header does not parse: tensor {name!r} is {entry!r:.60}"
            ) from error
        if dtype not in DTYPES:
            raise WeightsError(f"{path}: tensor {name} is {dtype}; read are {', '.join(DTYPES)}")
        known = isinstance(shape, list) and len(shape) <= MOST_AXES
        if not known or not all(_is_count(n, 1 << 62) for n in (*shape, begin, end)):
            raise WeightsError(
                f"{path} is damaged, its header does not parse: tensor {name!r} is {entry!r:.90}"
            )
        if begin > end or prod(shape) > size:
            raise WeightsError(f"{path} is damaged: tensor {name!r} cannot lie in {size} bytes")
        ends.append(start + end)
    if size != max(ends):
        state = "cut off" if size < max(ends) else "damaged"
        raise WeightsError(f"{path} is {state}: it has {size} bytes, its header says {max(ends)}")


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where its data begin."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
        length = int.from_bytes(start[:8], "little")
        if len(start) < 9 or start[8:] != b"{":
            # zip archives hold what torch.save writes, 0x80 opens a bare pickle
            if start.startswith((b"PK\x03\x04", b"\x80")):
                raise unsafe(path)
            raise WeightsError(f"{path} is not a safetensors file, or is cut off: {size} bytes")
        if 8 + length > size:
            raise WeightsError(f"{path} is cut off: its header ends past its {size} bytes")
        if length > MOST_HEADER:
            raise WeightsError(
                f"{path} has a header of {length} bytes, at most {MOST_HEADER} are read"
            )
        file.seek(8)
        text = file.read(length)

    def once(items: list[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in items:
            if key in values:
                raise ValueError(f"{key!r} stands in it twice")
            values[key] = value
        return values

    try:
        header: dict[str, Any] = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged, its header does not parse: {error}") from error
    return header, 8 + length


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _some(names: list[str]) -> str:
    """The first few of a list of names."""
    if not names:
        return "nothing"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
