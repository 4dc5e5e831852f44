"""Mutated model folders: each ends in the model that was there, or in a `ZooError`.

Never in another exception, never in code that runs, never outside the folder, never in a hang.
`TXZOO_FUZZ=20` tries twenty times as many; the counts are printed at the end of the run.
"""

import json
import math
import os
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zoo
from zoo.card import Card
from zoo.errors import ZooError
from zoo.folder import CARD, FILES, FileRecord, read_weights
from zoo.loading import _read_tokenizer
from zoo.registry import registry, resolve
from zoo.training import Recipe

SECONDS = 10
Counts = Counter[tuple[str, str]]


def bounded(examples: int) -> settings:
    """So many examples, none of which may hang; the same ones in every run."""
    return settings(
        max_examples=examples * int(os.environ.get("TXZOO_FUZZ", "1")),
        deadline=SECONDS * 1000,
        derandomize="TXZOO_FUZZ" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def original(tiny_model: Path) -> zoo.Model:
    torch.set_num_threads(1)
    return zoo.load(tiny_model)


@pytest.fixture(scope="module", autouse=True)
def everything_is_imported(original: zoo.Model) -> None:
    """What a plugin imports when it is first used is not what a model folder does."""
    for _, architecture in registry().architectures.items():
        resolve(architecture.target)
    with pytest.raises(ZooError):
        zoo.load("hf://a/b", offline=True)


@contextmanager
def copy(source: Path) -> Iterator[Path]:
    """A copy of a model folder that may be spoiled."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "tiny")
        shutil.copytree(source, folder)
        yield folder


def outcome(load: Any, watch: Any, folder: Path) -> tuple[str, Any]:
    """The name of the error's class, or "loaded" and what was."""
    with watch.over(folder):
        try:
            return "loaded", load()
        except ZooError as error:
            assert "\n" not in str(error)
            return type(error).__name__, None


def assert_equal(found: zoo.Model, original: zoo.Model) -> None:
    assert found.config == original.config
    assert found.tokenizer.to_str() == original.tokenizer.to_str()
    state, expected = found.module.state_dict(), original.module.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, expected[name])


def vouch(folder: Path, name: str) -> bool:
    """Let the card vouch for what a file holds now; False when the card is what is spoiled."""
    if name == CARD:
        return False
    card, record = Card.read(folder), FileRecord.of(folder / name)
    card.data["txzoo"]["files"][name] = {"sha256": record.sha256, "bytes": record.bytes}
    card.write(folder)
    return True


cuts = st.floats(0, 1)
EDITS = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "repeat", "drop", "zero"]), cuts, cuts,
              st.binary(min_size=1, max_size=40)),
    min_size=1,
    max_size=4,
)  # fmt: skip


def edited(data: bytes, edits: list[tuple[str, float, float, bytes]]) -> bytes:
    """Bytes with things done to them."""
    for kind, where, until, new in edits:
        start = int(where * len(data))
        stop = start + int(until * min(200, len(data) - start))
        if kind == "flip" and data:
            start = min(start, len(data) - 1)
            data = data[:start] + bytes([data[start] ^ (new[0] or 1)]) + data[start + 1 :]
        elif kind == "cut":
            data = data[:start]
        elif kind == "insert":
            data = data[:start] + new + data[start:]
        elif kind == "repeat":
            data = data[:stop] + data[start:]
        elif kind == "drop":
            data = data[:start] + data[stop:]
        elif kind == "zero":
            data = data[:start] + bytes(stop - start) + data[stop:]
    return data


HOSTILE = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 1, 2**31, 2**63, 10**30, -(2**63), 0.5, -0.0, 1e308, "", "x" * 3000]
        + ["../x", "/etc/passwd", "\0", "\ud7ff", "[UNK]", "ByteLevel", [], {}, [[]], {"type": "x"}]
    ),
    st.integers(),
    st.text(max_size=20),
    st.recursive(st.none(), lambda deeper: st.lists(deeper, max_size=3), max_leaves=20),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    found = [path] if path else []
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, below in list(inside)[:60]:
        found += places(below, (*path, key))
    return found


def replaced(value: Any, path: tuple[Any, ...], new: Any, how: str) -> Any:
    """A JSON value with another one, or none, or a further key, at a place."""
    value = json.loads(json.dumps(value))
    below = value
    for key in path[:-1]:
        below = below[key]
    if how == "remove":
        del below[path[-1]]
    elif how == "add" and isinstance(below, dict):
        below[str(new)[:20]] = new
    else:
        below[path[-1]] = new
    return value


CHANGES = st.lists(
    st.tuples(cuts, HOSTILE, st.sampled_from(["set", "set", "set", "remove", "add"])),
    min_size=1,
    max_size=3,
)


def changed(value: Any, changes: list[tuple[float, Any, str]]) -> Any:
    """A JSON value with changes at random places."""
    for where, new, how in changes:
        found = places(value)
        if found:
            value = replaced(value, found[int(where * (len(found) - 1))], new, how)
    return value


@given(name=st.sampled_from(FILES), edits=EDITS, vouched=st.booleans())
@bounded(400)
def test_bytes_of_a_folder(
    tiny_model: Path,
    original: zoo.Model,
    watch: Any,
    counts: Counts,
    name: str,
    edits: Any,
    vouched: bool,
) -> None:
    with copy(tiny_model) as folder:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(edited(data, edits))
        honest = not (vouched and vouch(folder, name))
        result, model = outcome(lambda: zoo.load(folder), watch, folder)
        counts["bytes of a folder's files", result] += 1
        if model is not None and (
            honest or name not in ("model.safetensors", "tokenizer.json", "config.json")
        ):
            assert_equal(model, original)


SYSTEM = st.sampled_from(
    ["remove", "empty", "folder", "pipe", "link out", "link to a device", "link to itself"]
    + ["link to another", "swap", "huge", "unreadable name"]
)


@given(name=st.sampled_from(FILES), other=st.sampled_from(FILES), what=SYSTEM)
@bounded(250)
def test_shape_of_a_folder(
    tiny_model: Path,
    original: zoo.Model,
    watch: Any,
    counts: Counts,
    name: str,
    other: str,
    what: str,
) -> None:
    with copy(tiny_model) as folder:
        path = folder / name
        data = path.read_bytes()
        (folder.parent / "outside").write_bytes(data)
        if what == "swap":
            path.write_bytes((folder / other).read_bytes())
            (folder / other).write_bytes(data)
        elif what == "unreadable name":
            os.rename(path, folder / os.fsdecode(b"\xff" + name.encode()))
        else:
            path.unlink()
        targets = {"link out": "../outside", "link to a device": "/dev/zero"}
        targets |= {"link to itself": name, "link to another": other}
        if what in targets:
            path.symlink_to(targets[what])
        elif what == "empty":
            path.touch()
        elif what == "folder":
            path.mkdir()
        elif what == "pipe":
            os.mkfifo(path)
        elif what == "huge":
            with path.open("wb") as file:
                file.truncate(1 << 40)
        result, model = outcome(lambda: zoo.load(folder), watch, folder)
        counts["shape of a folder", result] += 1
        if model is not None:
            assert_equal(model, original)


@given(changes=CHANGES)
@bounded(400)
def test_values_of_a_configuration(
    tiny_model: Path, watch: Any, counts: Counts, changes: Any
) -> None:
    with copy(tiny_model) as folder:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(changed(config, changes)))
        vouch(folder, "config.json")
        result, _ = outcome(lambda: zoo.load(folder), watch, folder)
        counts["values of a configuration, vouched for", result] += 1


@given(kind=st.sampled_from(["gpt2", "bloom", "llama", "x"]), changes=CHANGES)
@bounded(300)
def test_values_of_a_foreign_configuration(
    tiny_model: Path, watch: Any, counts: Counts, kind: str, changes: Any
) -> None:
    base = {
        "vocab_size": 50,
        "n_positions": 16,
        "n_embd": 8,
        "n_layer": 1,
        "n_head": 2,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
        "layer_norm_epsilon": 1e-5,
        "rope_parameters": {"rope_type": "default"},
    }
    with copy(tiny_model) as folder:
        config = {**changed(base, changes), "model_type": kind}
        (folder / "config.json").write_text(json.dumps(config))
        result, _ = outcome(lambda: zoo.load(folder), watch, folder)
        counts["values of a foreign configuration", result] += 1


@given(changes=CHANGES)
@bounded(400)
def test_values_of_a_card(tiny_model: Path, watch: Any, counts: Counts, changes: Any) -> None:
    with copy(tiny_model) as folder:
        card = Card.read(folder)
        data = changed(card.data, changes)
        try:
            text = Card(data, card.text, card.path).dump()
        except Exception:
            text = json.dumps(data)
        (folder / CARD).write_text(text, encoding="utf-8", errors="replace")
        result, _ = outcome(lambda: zoo.load(folder), watch, folder)
        counts["values of a card", result] += 1


@given(changes=CHANGES)
@bounded(400)
def test_values_of_a_tokenizer(tiny_model: Path, watch: Any, counts: Counts, changes: Any) -> None:
    with copy(tiny_model) as folder:
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(changed(json.loads(path.read_text()), changes)))
        result, _ = outcome(lambda: _read_tokenizer(folder), watch, folder)
        counts["values of a tokenizer", result] += 1


DTYPES = ["F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "x", 1]
SIZES = st.integers(-2, 2**64) | st.sampled_from([0, 1, 2, 4, 8, 16, 2**31, 2**63, 2**64])
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(DTYPES),
        "shape": st.lists(SIZES, max_size=4),
        "data_offsets": st.lists(SIZES, min_size=0, max_size=3),
    }
)
PLAIN = st.sampled_from([("F32", 4), ("F16", 2), ("BF16", 2), ("I64", 8), ("U8", 1), ("BOOL", 1)])


@st.composite
def fitting(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """A header and data that fit each other."""
    header: dict[str, Any] = {}
    data = b""
    for name in draw(st.lists(st.text(max_size=8), unique=True, max_size=4)):
        (dtype, width), shape = draw(PLAIN), draw(st.lists(st.integers(0, 3), max_size=4))
        size = width * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape}
        header[name]["data_offsets"] = [len(data), len(data) + size]
        data += draw(st.binary(min_size=size, max_size=size))
    return header, data


HEADER = st.dictionaries(st.text(max_size=8) | st.just("__metadata__"), ENTRY | HOSTILE, max_size=4)


@given(header=HEADER, data=st.binary(max_size=64), length=st.none() | st.integers(0, 2**64 - 1))
@bounded(1000)
def test_headers_of_safetensors(
    watch: Any, counts: Counts, header: Any, data: bytes, length: int | None
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "model.safetensors")
        text = json.dumps(header).encode()
        size = len(text) if length is None else length
        path.write_bytes(struct.pack("<Q", size) + text + data)
        result, tensors = outcome(lambda: read_weights(path), watch, path.parent)
        counts["headers of safetensors", result] += 1
        if tensors is not None:
            assert sum(t.numel() * t.element_size() for t in tensors.values()) == len(data)


@given(pair=fitting(), edits=st.just([]) | EDITS)
@bounded(800)
def test_files_of_safetensors(watch: Any, counts: Counts, pair: Any, edits: Any) -> None:
    header, data = pair
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "model.safetensors")
        text = json.dumps(header).encode()
        path.write_bytes(edited(struct.pack("<Q", len(text)) + text + data, edits))
        result, tensors = outcome(lambda: read_weights(path), watch, path.parent)
        counts["files of safetensors", result] += 1
        if tensors is not None and not edits:
            assert {name: list(t.shape) for name, t in tensors.items()} == {
                name: entry["shape"] for name, entry in header.items()
            }


@given(changes=CHANGES)
@bounded(400)
def test_entries_of_real_weights(
    tiny_model: Path, watch: Any, counts: Counts, changes: Any
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "model.safetensors")
        whole = (tiny_model / "model.safetensors").read_bytes()
        size = struct.unpack("<Q", whole[:8])[0]
        header = changed(json.loads(whole[8 : 8 + size]), changes)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + size :])
        result, _ = outcome(lambda: read_weights(path), watch, path.parent)
        counts["entries of real weights", result] += 1


YAML = st.text(alphabet="ab:-?[]{}&*!|>%@`'\"#\n \t,~<1.e", max_size=200)
TAGS = st.sampled_from(["!!int", "!!float", "!!bool", "!!binary", "!!timestamp", "!!set", "!!omap"])
TAGGED = st.builds("a: {} {}\n".format, TAGS, YAML)


@given(text=YAML | TAGGED | st.text(max_size=100))
@bounded(1000)
def test_text_of_front_matter(watch: Any, counts: Counts, text: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, CARD)
        path.write_text(f"---\n{text}\n---\n", encoding="utf-8", errors="replace")
        result, _ = outcome(lambda: Card.read(path), watch, path.parent)
        counts["text of front matter", result] += 1
        assert result == "CardError"


@given(edits=EDITS)
@bounded(400)
def test_bytes_of_a_recipe(tiny_model: Path, watch: Any, counts: Counts, edits: Any) -> None:
    with copy(tiny_model) as folder:
        path = folder / "recipe.toml"
        path.write_bytes(edited(path.read_bytes(), edits))
        result, _ = outcome(lambda: Recipe.read(path), watch, folder)
        counts["bytes of a recipe", result] += 1


@given(ref=st.text(max_size=60) | st.builds("hf://{}".format, st.text(max_size=40)))
@bounded(800)
def test_references(
    tiny_model: Path, watch: Any, counts: Counts, tmp_path_factory: Any, ref: str
) -> None:
    with copy(tiny_model) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TXZOO_HOME", str(folder / "cache"))
        patch.setenv("HF_TOKEN", "hf_none")  # or the client looks for the file that holds one
        patch.chdir(folder)
        result, _ = outcome(lambda: zoo.load(ref, offline=True), watch, folder)
        counts["references", result] += 1
