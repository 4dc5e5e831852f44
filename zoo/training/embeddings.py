"""Embeddings of a model somebody else trained, as the beginning of a new one.

Of the source only the tensors that are asked for are read: from a file through safetensors' lazy
reading, on the Hub by range requests, first the header, then the bytes of the tensors. The tokens
that rows belong to are the business of `zoo.training.vocabulary`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as decode
from torch import Tensor, nn

from zoo.errors import FolderError, HubError, RecipeError, WeightsError
from zoo.folder import (
    MOST_HEADER,
    UNSAFE_SUFFIXES,
    WEIGHTS,
    find_weights,
    unsafe,
)
from zoo.hub import cache_folder, check_snapshot, parse_address, talking
from zoo.training.recipe import EmbeddingSettings

PREFIXES = ("", "transformer.", "bert.", "model.")  # whole models have one before those names
TOKEN_NAMES = ("wte.weight", "embeddings.word_embeddings.weight")  # GPT-2's, BERT's
TOKENS = "token_embedding.weight"  # ours
POSITIONS = ("positions.weight", "position_embedding.weight")  # of decoders, of encoders
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes of the numbers that rows may have
FIRST_READ = 64 << 10  # bytes that hold most headers
CHUNK = 16 << 20  # bytes of one request


@dataclass(frozen=True)
class Taken:
    """What was taken from a source.

    Attributes:
        names: of our parameters that begin with its rows.
        facts: for the card.
    """

    names: tuple[str, ...]
    facts: Mapping[str, Any]


def take(module: nn.Module, settings: EmbeddingSettings, rows: list[int] | None) -> Taken:
    """Let a module's embeddings begin as those of the source.

    Args:
        module: new, changed in place.
        settings: the [embeddings] table.
        rows: the source's row of each of our tokens, -1 for none; None for the same ones.

    Raises:
        RecipeError: width, vocabulary or positions do not fit, or there is nothing to put them.
        WeightsError: the source lacks a tensor, or it is none of embeddings.
        HubError: the source is not to be had.
    """
    config: Any = module.config
    parameters = dict(module.named_parameters())
    if TOKENS not in parameters:
        raise RecipeError(f"[embeddings] needs a {TOKENS}, which {type(module).__name__} lacks")
    places = [name for name in POSITIONS if name in parameters]
    if settings.position and not places:
        raise RecipeError(
            f"[embeddings] position={settings.position!r}, but {type(module).__name__} has no "
            "table of positions to put it: leave it out"
        )
    source = open_source(settings.source)
    token = source.find(settings.token, TOKEN_NAMES)
    position = source.find(settings.position, ()) if settings.position else ""
    where = f"{settings.source}: {token}"
    table = {name: source.shape(name) for name in (token, position) if name}
    for name, (_, width) in table.items():
        if width != config.d_model:
            raise RecipeError(
                f"{settings.source}: {name} is {width} wide, [config] d_model is "
                f"{config.d_model}: d_model = {width} fits"
            )
    count, own = table[token][0], config.vocab_size
    if rows is None and count != own:
        raise RecipeError(
            f"{where} has {count} rows, the vocabulary {own} tokens: [tokenizer] with "
            "kind = 'source' takes the source's tokens, or as many of them as vocab_size says"
        )
    if rows is not None and max(rows) >= count:
        raise RecipeError(
            f"{where} has {count} rows, its tokenizer has tokens up to {max(rows)}: the two do "
            "not belong together"
        )
    if position and table[position][0] < config.max_seq_len:
        most = table[position][0]
        raise RecipeError(
            f"{settings.source}: {position} has {most} positions, [config] max_seq_len is "
            f"{config.max_seq_len}: up to {most} fits, or leave position out"
        )
    order = torch.arange(own) if rows is None else torch.tensor(rows)  # (V,)
    known = order >= 0
    numbers = source.read(token)
    _put(parameters[TOKENS], known, numbers[order[known]])
    facts: dict[str, Any] = {
        "source": _public(source.label),
        "token": token,
        "rows": int(known.sum()),
        "of": count,
        "sha256": {token: _digest(numbers)},
    }
    names = [TOKENS]
    if position:
        numbers = source.read(position)
        first = torch.arange(config.max_seq_len)
        _put(parameters[places[0]], first >= 0, numbers[first])
        facts |= {"position": position, "positions": len(first)}
        facts["sha256"] |= {position: _digest(numbers)}
        names.append(places[0])
    return Taken(tuple(names), facts)


@torch.no_grad()
def _put(parameter: nn.Parameter, known: Tensor, rows: Tensor) -> None:
    parameter[known] = rows.to(parameter)


def _digest(tensor: Tensor) -> str:
    """The SHA-256 of a tensor's bytes, as they stand in the source."""
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def _public(source: str) -> str:
    """A source as a card names it: no path of a machine."""
    return source if source.startswith("hf://") else Path(source).name


# Sources


class Source:
    """A safetensors file of which single tensors are read.

    Args:
        label: how errors and cards call it; on the Hub with its commit.
        shapes: type and shape of each tensor, by name.
        read: gives one.
    """

    def __init__(
        self,
        label: str,
        shapes: Mapping[str, tuple[str, list[int]]],
        read: Callable[[str], Tensor],
    ) -> None:
        self.label, self.shapes, self._read = label, shapes, read

    def find(self, wanted: str, usual: tuple[str, ...]) -> str:
        """The name of a tensor: as wanted, or one of the usual ones, perhaps with a prefix.

        Raises:
            WeightsError: there is none; says what comes near.
        """
        for name in [wanted] if wanted else usual:
            for prefix in PREFIXES:
                if prefix + name in self.shapes:
                    return prefix + name
        missing = repr(wanted) if wanted else f"none of {', '.join(usual)}"
        tables = [name for name, (_, shape) in self.shapes.items() if len(shape) == 2]
        near = get_close_matches(wanted or usual[0], list(self.shapes), n=3, cutoff=0.4)
        near = near or [name for name in tables if "emb" in name or "wte" in name][:3]
        hint = f" Near are {', '.join(near)}." if near else f" It has {', '.join(tables[:3])}."
        has = "has no tensor" if wanted else "has"
        raise WeightsError(f"{self.label} {has} {missing}.{hint} Name it under [embeddings]")

    def shape(self, name: str) -> tuple[int, int]:
        """Rows and width of a table.

        Raises:
            WeightsError: it is none.
        """
        dtype, shape = self.shapes[name]
        if dtype not in SIZES or len(shape) != 2:
            raise WeightsError(
                f"{self.label}: {name} is {dtype} of {tuple(shape)}, no table of embeddings"
            )
        return shape[0], shape[1]

    def read(self, name: str) -> Tensor:
        """A table.

        Raises:
            WeightsError: a number in it is not finite.
        """
        tensor = self._read(name)
        if not tensor.isfinite().all():
            raise WeightsError(f"{self.label}: tensor {name} holds NaN or infinity")
        return tensor


def open_source(ref: str) -> Source:
    """A source: an address on the Hub, a folder, or a safetensors file.

    Raises:
        FolderError: there is no such file.
        UnsafeFileError: its weights are a pickle.
        WeightsError: it is damaged.
        HubError: it is not to be had.
    """
    if ref.startswith("hf://"):
        repo, revision = parse_address(ref)
        if (held := _cached(repo, revision)) is not None:
            return _on_disk(held, f"hf://{repo}@{held.parent.name}")  # a snapshot of that commit
        return _on_the_hub(ref, repo, revision)
    return _on_disk(_local(ref), ref)


def _local(ref: str) -> Path:
    """The weights that a path leads to."""
    path = Path(ref)
    if path.suffix in UNSAFE_SUFFIXES:
        raise unsafe(path)
    if path.is_dir():
        return find_weights(path)
    if not path.is_file():
        raise nowhere(ref)
    return path


def nowhere(ref: str) -> FolderError:
    """The error for a source that is not there."""
    return FolderError(
        f"[embeddings] source: there is no {ref!r}; a source is 'hf://owner/name@revision', a "
        f"folder that holds {WEIGHTS}, or a .safetensors file"
    )


def _on_disk(path: Path, label: str) -> Source:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: (s.get_dtype(), s.get_shape()) for name, s in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged, or no safetensors file: {error}") from error

    def read(name: str) -> Tensor:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    return Source(label, shapes, read)


def _cached(repo: str, revision: str | None) -> Path | None:
    """The weights in the cache, held against the hash that the Hub named, if they are there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, WEIGHTS, cache_dir=cache_folder(), revision=revision)
    if not isinstance(found, str):
        return None
    check_snapshot(Path(found).parent, (WEIGHTS,))
    return Path(found)


def _on_the_hub(ref: str, repo: str, revision: str | None) -> Source:
    """Weights of which parts are asked for; all of them of the commit that was found first."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        raise HubError(
            f"Cannot read the embeddings of {ref}: they are not in the cache ({cache_folder()}) "
            f"and this is offline; with a network, 'txzoo pull {ref}' gets the whole model"
        )
    with talking(f"read the embeddings of {ref}", repo, revision):
        facts = get_hf_file_metadata(hf_hub_url(repo, WEIGHTS, revision=revision))
    size, commit = facts.size or 0, facts.commit_hash or revision
    url = hf_hub_url(repo, WEIGHTS, revision=commit)

    def part(begin: int, end: int) -> bytes:
        with talking(f"read the embeddings of {ref}", repo, revision):
            pieces = [
                _request(url, start, min(start + CHUNK, end), size)
                for start in range(begin, end, CHUNK)
            ]
        return b"".join(pieces)

    start = part(0, min(FIRST_READ, size))
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or start[8:9] != b"{" or not 0 < length <= min(MOST_HEADER, size - 8):
        raise WeightsError(f"{ref}: {WEIGHTS} is no safetensors file, or is damaged")
    text = start[8 : 8 + length]
    text += part(8 + len(text), 8 + length) if len(text) < length else b""
    shapes, places = _header(ref, text, size - 8 - length)

    def read(name: str) -> Tensor:
        begin, end = places[name]
        data = part(8 + length + begin, 8 + length + end)
        dtype, shape = shapes[name]
        entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}
        one = json.dumps({"rows": entry}).encode()
        one += b" " * (-len(one) % 8)
        return decode(len(one).to_bytes(8, "little") + one + data)["rows"]

    return Source(f"hf://{repo}@{commit}", shapes, read)


def _request(url: str, begin: int, end: int, size: int) -> bytes:
    """The bytes of a file from `begin` to before `end`, and the answer says that they are these."""
    from huggingface_hub import constants, utils

    hub: Any = utils  # what it offers is not in its list of exports
    headers = {**hub.build_hf_headers(), "Range": f"bytes={begin}-{end - 1}"}
    headers["Accept-Encoding"] = "identity"  # so that bytes are those of the file
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with hub.http_stream_backoff(
        "GET", url, headers=headers, timeout=timeout, follow_redirects=True
    ) as answer:
        if answer.status_code != 206:  # the whole file is not read
            hub.hf_raise_for_status(answer)
            raise HubError(f"{url} gives no parts of a file: 'txzoo pull' gets the whole model")
        data = answer.read()
    if answer.headers.get("Content-Range") != f"bytes {begin}-{end - 1}/{size}":
        raise HubError(
            f"{url} answers bytes {answer.headers.get('Content-Range')}, asked for were "
            f"{begin}-{end - 1}/{size}: try again"
        )
    if len(data) != end - begin:
        raise HubError(f"{url} gave {len(data)} of {end - begin} bytes: try again")
    return bytes(data)


def _header(
    ref: str, text: bytes, size: int
) -> tuple[dict[str, tuple[str, list[int]]], dict[str, tuple[int, int]]]:
    """Type and shape of each tensor, and where its bytes are, each held against the others."""
    shapes, places = {}, {}
    try:
        for name, entry in json.loads(text).items():
            if name == "__metadata__":
                continue
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            numbers = [*shape, begin, end]
            if not all(type(n) is int and n >= 0 for n in numbers) or not begin <= end <= size:
                raise ValueError(f"tensor {name!r} cannot lie in {size} bytes")
            if dtype in SIZES and end - begin != math.prod(shape) * SIZES[dtype]:
                raise ValueError(f"tensor {name!r} has {end - begin} bytes for {shape}")
            shapes[name], places[name] = (str(dtype), shape), (begin, end)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{ref}: the header of {WEIGHTS} does not parse: {error}") from error
    return shapes, places
