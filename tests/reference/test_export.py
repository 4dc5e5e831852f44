"""The exported folder as `transformers` sees it: tokenizer, precision; and what is refused.

Other engines have a file of their own, `test_engines.py`.
"""

import json
import os

import pytest
import torch
from safetensors import safe_open

import zoo
from zoo.errors import ConfigError, FolderError, InputError
from zoo.export import export
from zoo.model import Model
from zoo.tokenization import END_OF_TEXT, build_tokenizer

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")

TEXT = "The cat sat on the mat .\n" + 'They don\'t, "do they"? café 12 345\n' * 3
READ = [TEXT, "x <unk> y  z\n\n\t q", "漢字 🎉 e\u0301 don't", ""]
KINDS = [{"kind": "character"}, {"kind": "word"}, {"kind": "byte-pair", "vocab_size": 290}]


def model_of(settings: dict, architecture: str = "decoder", end: bool = False) -> Model:
    """An untrained model with a tokenizer."""
    tokenizer = build_tokenizer(TEXT, settings)
    if end:
        tokenizer.add_special_tokens([END_OF_TEXT])
    sizes = {"max_seq_len": 64, "d_model": 12, "n_layers": 1, "n_heads": 3, "d_ff": 20}
    if architecture == "rope-decoder":
        sizes["n_kv_heads"] = 1
    module = zoo.create(architecture, vocab_size=tokenizer.get_vocab_size(), **sizes)
    return Model(
        name="ours",
        module=module.eval(),
        config=module.config,
        tokenizer=tokenizer,
        pipeline="text-generation",
        card=None,
    )


@pytest.mark.parametrize("architecture", ["decoder", "alibi-decoder", "rope-decoder"])
@pytest.mark.parametrize("settings", KINDS, ids=lambda settings: settings["kind"])
def test_auto_tokenizer_gives_the_same_ids(tmp_path, settings, architecture) -> None:
    model = model_of(settings, architecture, end=True)
    folder = export(model, tmp_path / "new" / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 10**6  # no warning: the text is not for the model
    assert tokenizer.is_fast
    for text in [*READ, f"a{END_OF_TEXT}b"]:
        ids = model.tokenizer.encode(text).ids
        assert tokenizer(text)["input_ids"] == ids
        assert tokenizer.decode(ids) == model.tokenizer.decode(ids, skip_special_tokens=False)
    end_id = model.tokenizer.token_to_id(END_OF_TEXT)
    assert tokenizer.eos_token_id == end_id
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert theirs.generation_config.eos_token_id == end_id
    assert theirs.generation_config.bos_token_id is None


def test_a_tokenizer_without_end_token_has_none_there(tmp_path) -> None:
    folder = export(model_of(KINDS[0], "rope-decoder"), tmp_path / "out")
    assert transformers.AutoTokenizer.from_pretrained(folder).eos_token is None
    assert transformers.AutoConfig.from_pretrained(folder).eos_token_id is None


def test_table_of_positions_limits_the_tokenizer(tmp_path) -> None:
    folder = export(model_of(KINDS[0]), tmp_path / "gpt2")
    assert transformers.AutoTokenizer.from_pretrained(folder).model_max_length == 64
    folder = export(model_of(KINDS[0], "alibi-decoder"), tmp_path / "bloom")
    assert transformers.AutoTokenizer.from_pretrained(folder).model_max_length > 10**9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision_is_kept(tmp_path, dtype) -> None:
    model = model_of(KINDS[0]).to(dtype)
    folder = export(model, tmp_path / "out")
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert {file.get_tensor(name).dtype for name in file.keys()} == {dtype}  # noqa: SIM118
    assert transformers.AutoModelForCausalLM.from_pretrained(folder).dtype == dtype


def test_a_loaded_export_exports_again(tmp_path) -> None:
    """Two heads of width 2: the shapes where a view of a weight is all a conversion needs."""
    module = zoo.create(
        "rope-decoder",
        vocab_size=9,
        max_seq_len=8,
        d_model=4,
        n_layers=1,
        n_heads=2,
        n_kv_heads=1,
        d_ff=3,
    )
    model = Model(
        name="ours",
        module=module,
        config=module.config,
        tokenizer=None,
        pipeline="text-generation",
        card=None,
    )
    first = export(model, tmp_path / "first")
    second = export(str(first), tmp_path / "second")  # a reference this time
    for name in ("config.json", "model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_refusals_leave_nothing_behind(tmp_path, monkeypatch) -> None:
    model = model_of(KINDS[0])
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    with pytest.raises(FolderError, match="taken exists: choose another folder"):
        export(model, taken)
    with pytest.raises(FolderError, match=r"out cannot be written: .*mine\.txt is no folder"):
        export(model, taken / "mine.txt" / "new" / "out")
    os.symlink("nowhere", tmp_path / "link")
    with pytest.raises(FolderError, match="link exists"):
        export(model, tmp_path / "link")
    with pytest.raises(InputError, match="Unknown export format 'h5'. There is: transformers"):
        export(model, tmp_path / "out", "h5")
    alibi = zoo.create(
        "alibi-decoder", vocab_size=9, max_seq_len=8, d_model=4, n_layers=1, n_heads=2, d_ff=17
    )
    model.module = alibi
    with pytest.raises(ConfigError, match="this one is 17"):
        export(model, tmp_path / "out")

    model = model_of(KINDS[0])
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)  # a fault while writing
    with pytest.raises(ZeroDivisionError):
        export(model, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "taken"]
