"""Exported models in the engines they are for: ONNX Runtime, llama.cpp, `transformers`."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zoo.cli import main
from zoo.errors import InputError, MissingExtraError
from zoo.export import check, export
from zoo.export import gguf as gguf_format
from zoo.export import onnx as onnx_format
from zoo.export.base import Format
from zoo.model import Model
from zoo.tokenization import build_tokenizer, mark_texts

TEXT = "The cat sat on the mat .\n" + 'They don\'t, "do they"? café <unk> <unk> 12 345\n' * 3
PROMPTS = ["The cat sat", "They don't, \"do", "12 345\n\n  mat <unk> .<unk>"]
SIZES = {"max_seq_len": 48, "d_model": 16, "n_layers": 1, "n_heads": 4, "d_ff": 24}
DECODERS = {
    "decoder": {},
    "alibi-decoder": {},
    "rope-decoder": {"n_kv_heads": 2, "tie_embeddings": False},
    "relative-decoder": {"n_buckets": 8, "max_distance": 20, "tie_embeddings": False},
    "gpt2": {"scale_by_layer": True},
}
Make = Callable[..., Model]


@pytest.fixture
def make(wide: Callable[..., nn.Module]) -> Make:
    """A model with wide random weights and a tokenizer."""

    def build(architecture: str, kind: str = "byte-pair", **more: Any) -> Model:
        settings = {"kind": kind} | ({"vocab_size": 290} if kind == "byte-pair" else {})
        tokenizer = build_tokenizer(TEXT, settings)
        pipeline = "text-generation"
        if architecture == "encoder":
            mark_texts(tokenizer)
            pipeline = "text-classification"
        more = {**SIZES, **DECODERS.get(architecture, {}), **more}
        module = wide(architecture, vocab_size=tokenizer.get_vocab_size(), **more)
        return Model(
            name="ours",
            module=module,
            config=module.config,
            tokenizer=tokenizer,
            pipeline=pipeline,
            card=None,
        )

    return build


# transformers


def test_check_finds_what_is_wrong(make: Make, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs txzoo[hf]")
    model = make("decoder")
    folder = export(model, tmp_path / "out")
    found = check(model, folder, prompts=PROMPTS)
    lengths = [len(model.tokenizer.encode(text).ids) for text in PROMPTS]
    assert found.ok
    assert found.tokens == sum(min(64, 48 - min(length, 24)) for length in lengths)
    assert found.same == found.tokens
    assert found.engine.startswith("transformers ")

    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.h.0.mlp.c_fc.bias"] += 0.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found = check(model, folder, prompts=PROMPTS)
    assert not found.ok
    assert found.difference > 0.01
    assert found.same < found.tokens


def test_generation_config_says_where_a_text_ends(make: Make, tmp_path: Path) -> None:
    model = make("rope-decoder")
    model.tokenizer.add_special_tokens(["<|endoftext|>"])
    folder = export(model, tmp_path / "out")
    said = json.loads((folder / "generation_config.json").read_text())
    assert said == {"bos_token_id": None, "eos_token_id": 290, "pad_token_id": None}


# ONNX


def session_of(folder: Path, file: str = "model.onnx") -> Any:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs txzoo[onnx]")
    return onnxruntime.InferenceSession(folder / file)


@pytest.mark.parametrize("architecture", DECODERS)
def test_onnx_reads_any_batch_in_any_pieces(make: Make, tmp_path: Path, architecture: str) -> None:
    model = make(architecture)
    folder = export(model, tmp_path / "out", "onnx")
    found = check(model, folder, "onnx", prompts=PROMPTS)
    assert found.ok and found.spread > 0.5
    assert found.same == found.tokens > 0

    session = session_of(folder)
    names = [given.name for given in session.get_inputs()]
    shapes = [given.shape for given in session.get_inputs()]
    ids = torch.randint(model.config.vocab_size, (3, 11))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0  # padding on the left, unlike any shape the graph was traced with
    past = [np.zeros((3, shape[1], 0, shape[3]), np.float32) for shape in shapes[2:]]
    rows: list[Tensor] = []
    for start, stop in ((0, 6), (6, 7), (7, 11)):
        given = [ids[:, start:stop].numpy(), mask[:, :stop].numpy(), *past]
        logits, *past = session.run(None, dict(zip(names, given, strict=True)))
        rows.append(torch.from_numpy(logits))
    together = torch.cat(rows, dim=1)
    with torch.no_grad():
        torch.testing.assert_close(together[1:], model.module(ids[1:]), rtol=1e-4, atol=1e-4)
        alone = model.module(ids[:1, 4:])
    torch.testing.assert_close(together[:1, 4:], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["seq2seq", "t5"])
def test_onnx_of_an_encoder_decoder(wide: Any, tmp_path: Path, architecture: str) -> None:
    pytest.importorskip("onnxruntime", reason="needs txzoo[onnx]")
    sizes = {**SIZES, "n_layers": 2, "n_encoder_layers": 1, "vocab_size": 60}
    sizes |= {"d_head": 5} if architecture == "t5" else {}
    module = wide(architecture, **sizes)
    model = Model(
        name="ours",
        module=module,
        config=module.config,
        tokenizer=None,
        pipeline="text2text-generation",
        card=None,
    )
    folder = export(model, tmp_path / "out", "onnx")
    found = check(model, folder, "onnx")
    assert found.ok and found.spread > 0.5
    assert found.same == found.tokens > 0

    # by the graphs alone, as another program would: sources of two lengths, targets in pieces
    reads, writes = (session_of(folder, f"{part}_model.onnx") for part in ("encoder", "decoder"))
    source, ids = torch.randint(3, 60, (3, 9)), torch.randint(3, 60, (3, 6))
    mask = torch.ones_like(source)
    mask[1, 6:] = 0
    seen = reads.run(None, {"input_ids": source.numpy(), "attention_mask": mask.numpy()})
    names = [given.name for given in writes.get_inputs()]
    past = [part[:, :, :0] for part in seen]
    rows = []
    for start, stop in ((0, 3), (3, 4), (4, 6)):
        given = [ids[:, start:stop].numpy(), mask.numpy(), *past, *seen]
        logits, *past = writes.run(None, dict(zip(names, given, strict=True)))
        rows.append(torch.from_numpy(logits))
    with torch.no_grad():
        expected = module(source, ids, mask.bool())
    torch.testing.assert_close(torch.cat(rows, dim=1), expected, rtol=1e-4, atol=1e-4)


def test_onnx_of_an_encoder_leaves_padding_out(make: Make, tmp_path: Path) -> None:
    model = make("encoder", pooling="mean", head="classification", labels=("a", "b", "c"))
    folder = export(model, tmp_path / "out", "onnx")
    found = check(model, folder, "onnx", prompts=PROMPTS)
    assert found.ok and found.tokens == 0
    assert found.agreed == found.labels == len(PROMPTS)
    ids = torch.randint(5, 290, (4, 9))
    mask = torch.ones_like(ids)
    mask[2, 5:] = 0
    (logits,) = session_of(folder).run(
        None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    )
    with torch.no_grad():
        expected = model.module(ids[2:3, :5])
    torch.testing.assert_close(torch.from_numpy(logits[2:3]), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():  # what was the most likely is the least
        model.module.head.weight.neg_()
        model.module.head.bias.neg_()
    found = check(model, folder, "onnx", prompts=PROMPTS)
    assert not found.ok and (found.agreed, found.labels) == (0, len(PROMPTS))


def test_onnx_of_a_classifier_of_pictures(wide: Any, tmp_path: Path) -> None:
    sizes = {key: SIZES[key] for key in ("d_model", "n_layers", "n_heads", "d_ff")}
    module = wide("vit", image_size=8, patch_size=4, labels=("a", "b", "c"), **sizes)
    model = Model(
        name="ours",
        module=module,
        config=module.config,
        tokenizer=None,
        pipeline="image-classification",
        card=None,
    )
    folder = export(model, tmp_path / "out", "onnx")
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]
    assert check(model, folder, "onnx").ok
    pixels = torch.randn(5, 3, 8, 8)  # a batch unlike the one it was traced with
    (logits,) = session_of(folder).run(None, {"pixel_values": pixels.numpy()})
    with torch.no_grad():
        expected = module(pixels)
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)


def test_onnx_int8_is_smaller_and_coarser(make: Make, tmp_path: Path) -> None:
    model = make("decoder", d_model=64, d_ff=256)
    folder = export(model, tmp_path / "int8", "onnx-int8")
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    whole = 4 * sum(parameter.numel() for parameter in model.module.parameters())
    assert (folder / "model.onnx").stat().st_size < 0.7 * whole  # the graph itself takes its part
    found = check(model, folder, "onnx-int8", prompts=PROMPTS)
    assert 0 < found.difference < found.spread


# GGUF


@pytest.mark.parametrize(
    ("architecture", "ours"),
    [
        ("decoder", {"qkv": "blk.0.attn_qkv.weight", "feed_forward.up": "blk.0.ffn_up.weight"}),
        ("alibi-decoder", {"qkv": "blk.0.attn_qkv.weight", "out": "blk.0.attn_output.weight"}),
        ("rope-decoder", {"feed_forward.gate": "blk.0.ffn_gate.weight"}),
    ],
)
def test_gguf_holds_our_matrices(
    make: Make, tmp_path: Path, architecture: str, ours: dict[str, str]
) -> None:
    """llama.cpp turns neighbours, and takes q, k and v one after another: as we do."""
    gguf = pytest.importorskip("gguf", reason="needs txzoo[gguf]")
    model = make(architecture)
    file = gguf.GGUFReader(export(model, tmp_path / "out", "gguf") / "model.gguf")
    found = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in file.tensors}
    block = model.module.blocks[0]
    for own, theirs in ours.items():
        part = block.attention if own in ("qkv", "out") else block
        weight = part.get_parameter(f"{own}.weight")
        if own == "feed_forward.up":  # BLOOM's is filled up, the others are not
            assert weight.shape == (24, 16)
        assert torch.equal(found[theirs], weight)
    if architecture == "rope-decoder":
        q, k, v = (found[f"blk.0.attn_{part}.weight"] for part in "qkv")
        assert torch.equal(torch.cat([q, k, v]), model.module.blocks[0].attention.qkv.weight)
    tokens = file.get_field("tokenizer.ggml.tokens").contents()
    assert tokens[model.tokenizer.token_to_id("Ġ")] == "Ġ"
    assert tokens[model.tokenizer.encode(" <unk>").ids[0]] == " <unk>"
    end = file.get_field("tokenizer.ggml.eos_token_id").contents()
    assert tokens[end] == "ÿ"


@pytest.mark.filterwarnings("default")  # of the engine's own destructors
@pytest.mark.parametrize("architecture", ["decoder", "alibi-decoder", "rope-decoder"])
def test_llama_cpp_writes_the_same(make: Make, tmp_path: Path, architecture: str) -> None:
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    model = make(architecture)
    folder = export(model, tmp_path / "out", "gguf")
    found = check(model, folder, "gguf", prompts=PROMPTS)
    assert found.ok and found.spread > 0.5
    assert found.misread == 0
    if architecture == "rope-decoder":  # no GELU, no table: nothing but rounding
        assert found.difference < 1e-3
        assert found.same == found.tokens > 0


# Refusals


@pytest.mark.parametrize(
    ("format", "architecture", "kind", "words"),
    [
        ("gguf", "relative-decoder", "byte-pair", "llama.cpp does not compute"),
        ("gguf", "encoder", "word", "llama.cpp does not compute"),
        ("gguf", "decoder", "word", "its tokenizer is of the kind WordLevel"),
        ("transformers", "relative-decoder", "byte-pair", "no model that computes the same"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_by_name(
    make: Make, tmp_path: Path, format: str, architecture: str, kind: str, words: str
) -> None:
    model = make(
        architecture, kind, **({"labels": ("a", "b")} if architecture == "encoder" else {})
    )
    with pytest.raises(InputError, match=words) as caught:
        export(model, tmp_path / "out", format)
    assert "ours" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format", "module", "words"),
    [("onnx", onnx_format, r"txzoo\[onnx\]"), ("gguf", gguf_format, r"txzoo\[gguf\]")],
)
def test_what_is_not_installed_is_an_error_with_the_pip_line(
    make: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    format: str,
    module: Any,
    words: str,
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=f"pip install '{words}'"):
        export(make("decoder"), tmp_path / "out", format)


def test_an_engine_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Format, "missing", lambda self: f"pip install {self.pip}")
    assert main(["export", "synthetic-decoder", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "GPT2LMHeadModel.from_pretrained" in printed.out
    assert "Not compared: transformers is not installed" in printed.err
    assert "pip install 'txzoo[hf]'" in printed.err


FULL = """
import resource, sys, torch, zoo
from zoo.errors import FolderError
from zoo.export import export
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))  # as a disk that ends there
try:
    export(*sys.argv[1:])
except FolderError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("ref", "format"), [("synthetic-decoder", "transformers"), ("learned-lm", "gguf")]
)
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, ref: str, format: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FULL, ref, str(tmp_path / "new" / "out"), format],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"{tmp_path / 'new' / 'out'} cannot be written" in ran.stdout, ran.stderr
    assert "Nothing of it is left" in ran.stdout
    assert list(tmp_path.iterdir()) == []
