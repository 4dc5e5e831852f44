"""The folder on disk: what is refused before a tensor reaches a module."""

import hashlib
import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from zoo.card import Card
from zoo.errors import FolderError, HashMismatchError, UnsafeFileError, WeightsError
from zoo.folder import (
    FileRecord,
    check_files,
    find_weights,
    load_into,
    member,
    read_config,
    read_weights,
    save_folder,
    sha256,
)


def safetensors(header: object, data: bytes) -> bytes:
    """The bytes of a safetensors file by its specification: length, JSON header, data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
TWO_FLOATS = struct.pack("<2f", 1.5, -2.0)


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(path) == digest
    assert FileRecord.of(path) == FileRecord(digest, 3)


def test_tensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors({"__metadata__": {"format": "pt"}, "w": ONE}, TWO_FLOATS))
    tensors = read_weights(path)
    assert list(tensors) == ["w"]
    torch.testing.assert_close(tensors["w"], torch.tensor([1.5, -2.0]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a safetensors file, or is cut off: 0 bytes"),
        (b"hello, world", "is not a safetensors file"),
        (safetensors({"w": ONE}, TWO_FLOATS)[:-1], "is cut off: it has"),
        (safetensors({"w": ONE}, TWO_FLOATS)[:30], "is cut off: its header ends past its 30 bytes"),
        (safetensors({"w": ONE}, TWO_FLOATS + b"x"), "is damaged: it has"),
        (safetensors(b'{"w": {"dtype"', b""), "its header does not parse"),
        (safetensors({"w": 3}, b""), "its header does not parse"),
        (safetensors({"w": {**ONE, "data_offsets": [0]}}, TWO_FLOATS), "its header does not parse"),
        (safetensors({"w": {**ONE, "data_offsets": [0, "8"]}}, b""), "its header does not parse"),
        (safetensors({"w": {**ONE, "shape": [3]}}, TWO_FLOATS), "is damaged"),
        (safetensors({"w": {**ONE, "data_offsets": [4, 8]}}, TWO_FLOATS), "is damaged"),
        (safetensors({"w": ONE, "v": ONE}, TWO_FLOATS), "is damaged"),
        (
            safetensors(b'{"w": %b, "w": %b}' % ((json.dumps(ONE).encode(),) * 2), TWO_FLOATS),
            "'w' stands in it twice",
        ),
        (safetensors({"w": {**ONE, "dtype": "F8_E4M3", "shape": [8]}}, bytes(8)), "w is F8_E4M3"),
        (safetensors({"w": ONE}, struct.pack("<2f", 1.0, float("nan"))), "w holds NaN or infinity"),
        (safetensors({"w": ONE}, struct.pack("<2f", float("-inf"), 1)), "w holds NaN or infinity"),
    ],
)
def test_damaged_weights_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_not_finite_is_seen_in_every_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "model.safetensors"
    tensor = torch.zeros(3, 5, dtype=dtype)
    save_file({"empty": tensor[:0], "w": tensor}, path)
    assert read_weights(path).keys() == {"empty", "w"}
    tensor[2, 3] = float("inf")
    save_file({"empty": tensor[:0], "w": tensor}, path)
    with pytest.raises(WeightsError, match="tensor w holds NaN or infinity"):
        read_weights(path)


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "x.pth", "a.ckpt", "b.pkl"])
def test_pickles_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "trace")))
    with pytest.raises(UnsafeFileError, match=f"{name} can run code .* only safetensors"):
        read_weights(tmp_path / name)
    with pytest.raises(UnsafeFileError, match=f"{name} can run code"):
        find_weights(tmp_path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_renamed_pickles_are_refused_by_content(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Trap(tmp_path / "trace"), protocol))
    with pytest.raises(UnsafeFileError, match="can run code"):
        read_weights(path)
    assert not (tmp_path / "trace").exists()


def test_a_renamed_torch_save_is_refused_by_content(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save({"w": torch.zeros(2)}, path)
    with pytest.raises(UnsafeFileError, match="can run code"):
        read_weights(path)


def test_a_header_length_that_looks_like_a_pickle_is_none(tmp_path: Path) -> None:
    # 0x0280 = 640 bytes of header: in little endian the file opens with 80 02, as pickles do
    text = json.dumps({"w": ONE}).encode().ljust(640)
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(text, TWO_FLOATS))
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert read_weights(path).keys() == {"w"}


def test_weights_in_several_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(FolderError, match="in several files"):
        find_weights(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(FolderError, match=r"has no file model\.safetensors"):
        find_weights(tmp_path)


class TestLoadInto:
    """Names and shapes must fit exactly."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a `Linear(2, 3)` holds."""
        return {"weight": torch.arange(6.0).view(3, 2), "bias": torch.ones(3)}

    def test_everything_arrives_in_the_modules_precision(self) -> None:
        module = nn.Linear(2, 3)
        tensors = {name: tensor.half() for name, tensor in self.tensors().items()}
        load_into(module, dict(reversed(tensors.items())), "here")
        assert module.weight.dtype == torch.float32
        torch.testing.assert_close(module.weight.data, torch.arange(6.0).view(3, 2))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"bias": None}, "here does not fit Linear: missing bias, unexpected nothing"),
            (
                {"bias": None, "offset": torch.ones(3)},
                "here does not fit Linear: missing bias, unexpected offset",
            ),
            (
                {f"x{i}": torch.ones(1) for i in range(5)},
                "missing nothing, unexpected x0, x1, x2 and 2 more",
            ),
            (
                {"weight": torch.zeros(2, 3)},
                "here: weight has shape (2, 3), this Linear needs (3, 2)",
            ),
            ({"bias": torch.ones(3, 1)}, "here: bias has shape (3, 1), this Linear needs (3,)"),
            ({"bias": torch.ones(3).long()}, "bias is torch.int64, this Linear needs torch.float"),
        ],
    )
    def test_what_does_not_fit_is_named_and_nothing_is_changed(
        self, change: dict[str, torch.Tensor | None], message: str
    ) -> None:
        module = nn.Linear(2, 3)
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        tensors = {k: v for k, v in {**self.tensors(), **change}.items() if v is not None}
        with pytest.raises(WeightsError) as caught:
            load_into(module, tensors, "here")
        assert message in str(caught.value)
        for name, tensor in module.state_dict().items():
            torch.testing.assert_close(tensor, before[name])


class TestFiles:
    """No file outside the folder, and each as its card says."""

    def card(self, folder: Path, **records: FileRecord) -> Card:
        """A card that vouches for `config.json`, unless given others."""
        names = records or {"config.json": FileRecord.of(folder / "config.json")}
        files = {name: {"sha256": r.sha256, "bytes": r.bytes} for name, r in names.items()}
        return Card(data={"txzoo": {"files": files}}, text="", path=folder / "README.md")

    def test_intact_files_pass(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        check_files(self.card(tmp_path), tmp_path)

    def test_other_bytes_of_the_same_size(self, tmp_path: Path) -> None:
        path = tmp_path / "config.json"
        path.write_text("{}")
        card = self.card(tmp_path)
        path.write_text("[]")
        digest = hashlib.sha256(b"[]").hexdigest()[:12]
        with pytest.raises(HashMismatchError, match=rf"config\.json has sha256 {digest}"):
            check_files(card, tmp_path)

    def test_another_size(self, tmp_path: Path) -> None:
        path = tmp_path / "config.json"
        path.write_text("{}")
        card = self.card(tmp_path)
        path.write_text("{ }")
        with pytest.raises(HashMismatchError, match="has 3 bytes, its card says 2"):
            check_files(card, tmp_path)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        card = self.card(tmp_path, **{"model.safetensors": FileRecord("0" * 64, 1)})
        with pytest.raises(FolderError, match=r"has no file model\.safetensors; a model folder h"):
            check_files(card, tmp_path)

    @pytest.mark.parametrize(
        "name", ["../secret", "a/../../secret", "/etc/hostname", "..", ".", "", "C:\\x", "a\0b"]
    )
    def test_a_name_that_leaves(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "secret").write_text("x")
        folder = tmp_path / "model"
        folder.mkdir()
        with pytest.raises(FolderError, match="leaves the model folder"):
            member(folder, name)

    def test_a_link_that_leaves(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("{}")
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "config.json").symlink_to(tmp_path / "secret")
        with pytest.raises(FolderError, match="links to a place outside the model folder"):
            read_config(folder)

    def test_a_loop_of_links_and_a_pipe(self, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        with pytest.raises(FolderError, match="loop"):
            member(tmp_path, "loop")
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(FolderError, match="has no file pipe"):
            member(tmp_path, "pipe")
        with pytest.raises(FolderError, match="File name too long"):
            member(tmp_path, "x" * 300)

    def test_a_folder_may_itself_be_reached_by_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "real/config.json").write_text('{"a": 1}')
        (tmp_path / "link").symlink_to(tmp_path / "real")
        assert read_config(tmp_path / "link") == {"a": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1,\n}', r"config.json:2: not valid JSON"),
        (b"[1]", r"config.json: must hold a JSON object, not list"),
        (b"\xff\xfe", r"config.json: not valid JSON"),
        (b"[" * 100_000, r"config.json: not valid JSON"),
        (b"", r"config.json:1: not valid JSON"),
    ],
)
def test_a_config_that_does_not_parse(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(FolderError, match=message):
        read_config(tmp_path)


class TestSaveFolder:
    """Written beside and renamed."""

    def save(self, folder: Path, **options: object) -> dict[str, FileRecord]:
        """Save a fixed module."""
        module = nn.Linear(2, 3)
        module.register_buffer("count", torch.tensor(3))
        return save_folder(
            folder,
            module=module,
            architecture="linear",
            config={"d_model": 2},
            **options,  # type: ignore[arg-type]
        )

    def test_the_records_are_those_of_the_files(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        log.write_text("{}\n")
        folder = tmp_path / "deep/er/model"
        records = self.save(folder, recipe="seed = 1\n", log=log)
        names = ["config.json", "model.safetensors", "recipe.toml", "training.jsonl"]
        assert sorted(records) == names == sorted(path.name for path in folder.iterdir())
        for name, record in records.items():
            data = (folder / name).read_bytes()
            assert record == FileRecord(hashlib.sha256(data).hexdigest(), len(data))
        assert read_config(folder) == {"architecture": "linear", "d_model": 2}
        assert (folder / "recipe.toml").read_text() == "seed = 1\n"
        assert [path.name for path in folder.parent.iterdir()] == ["model"]

    def test_half_precision_is_for_floating_tensors(self, tmp_path: Path) -> None:
        self.save(tmp_path / "model", dtype=torch.float16)
        tensors = load_file(tmp_path / "model/model.safetensors")
        assert {name: tensor.dtype for name, tensor in tensors.items()} == {
            "weight": torch.float16,
            "bias": torch.float16,
            "count": torch.int64,
        }

    def test_the_same_weights_give_the_same_bytes(self, tmp_path: Path) -> None:
        torch.manual_seed(1)
        first = self.save(tmp_path / "a")
        torch.manual_seed(1)
        assert self.save(tmp_path / "b") == first

    def test_other_files_of_an_existing_folder_stay(self, tmp_path: Path) -> None:
        self.save(tmp_path, recipe="old")
        (tmp_path / "README.md").write_text("by hand")
        records = self.save(tmp_path, recipe="new")
        assert (tmp_path / "README.md").read_text() == "by hand"
        assert (tmp_path / "recipe.toml").read_text() == "new"
        assert records["model.safetensors"] == FileRecord.of(tmp_path / "model.safetensors")

    def test_a_failure_leaves_the_old_folder_and_no_litter(self, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        before = self.save(folder)
        with pytest.raises(FileNotFoundError):
            self.save(folder, log=tmp_path / "nowhere")
        assert {name: FileRecord.of(folder / name) for name in before} == before
        assert [path.name for path in tmp_path.iterdir()] == ["model"]

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "model").write_text("x")
        with pytest.raises(FolderError, match="is a file"):
            self.save(tmp_path / "model")
