"""Decoders of the Hub behind our pipelines, against `transformers` itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import nn
from zoo_hf_decoder import MODEL_TYPES

import zoo
from zoo.conversation import Template
from zoo.errors import ConfigError, ContextLengthError, FolderError, WeightsError
from zoo.nn import Cache, record_attention
from zoo.nn.packing import Packed
from zoo.tokenization import build_tokenizer
from zoo.training import Recipe
from zoo.tuning import adapt, trained

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")

V, LENGTH = 31, 20
CLOSE = {"rtol": 0, "atol": 2e-5}
SIZES = {
    "vocab_size": V,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": LENGTH,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
MORE: dict[str, dict[str, Any]] = {
    "opt": {"ffn_dim": 20, "word_embed_proj_dim": 24},
    "gemma": {"head_dim": 10, "num_key_value_heads": 1},
    "mistral": {"num_key_value_heads": 1, "sliding_window": None},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 10},
    "phi3": {"num_key_value_heads": 1},
    "starcoder2": {"num_key_value_heads": 1},
    "smollm3": {"num_key_value_heads": 1},
}


def theirs_of(kind: str, **changes: Any) -> Any:
    """A random checkpoint, its weights large enough that every part shows."""
    config = transformers.CONFIG_MAPPING[kind](**{**SIZES, **MORE.get(kind, {}), **changes})
    module = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def saved(folder: Path, kind: str, **changes: Any) -> Any:
    theirs = theirs_of(kind, **changes)
    theirs.save_pretrained(folder)
    return theirs


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.reference
@pytest.mark.parametrize("kind", MODEL_TYPES)
@torch.no_grad()
def test_it_is_what_transformers_computes(kind: str, tmp_path: Path) -> None:
    theirs = saved(tmp_path, kind)
    model = zoo.load(tmp_path)
    assert (model.card.architecture, model.pipeline) == ("hf-decoder", "text-generation")
    assert (model.config.vocab_size, model.config.max_seq_len) == (V, LENGTH)
    assert model.config.end_id == 2
    ids = torch.randint(3, V, (3, LENGTH))
    expected = theirs(ids).logits
    assert expected.std() > 0.1, "too tame to tell two apart"
    torch.testing.assert_close(model.module(ids), expected, **CLOSE)
    torch.testing.assert_close(model.module(ids, logits_to_keep=4), expected[:, -4:], **CLOSE)
    # piece by piece, the shorter rows padded on the left
    cache = Cache.of(model.config, 3, LENGTH, like=expected)
    pieces = [model.module(piece, cache) for piece in ids.split([7, 1, LENGTH - 8], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), expected, **CLOSE)
    cache = Cache.of(model.config, 3, LENGTH, padding=torch.tensor([0, 4, 2]), like=expected)
    pieces = [model.module(piece, cache) for piece in ids.split([7, LENGTH - 7], dim=1)]
    alone = theirs(ids[1:2, 4:]).logits
    torch.testing.assert_close(torch.cat(pieces, 1)[1:2, 4:], alone, **CLOSE)
    # several texts in a row
    segments = torch.tensor([[1] * 8 + [2] * 9 + [0] * 3] * 3)
    packed = model.module(ids, Packed(segments))
    torch.testing.assert_close(packed[:, :8], expected[:, :8], **CLOSE)
    torch.testing.assert_close(packed[:, 8:17], theirs(ids[:, 8:17]).logits, **CLOSE)


@pytest.mark.reference
@pytest.mark.parametrize("kind", ["opt", "qwen2"])
@torch.no_grad()
def test_it_writes_what_transformers_writes(kind: str, tmp_path: Path) -> None:
    theirs = saved(tmp_path, kind)
    letters = {letter: place for place, letter in enumerate("abcdefghijklmnopqrstuvwxyz12345")}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="a"))
    from tokenizers import decoders, pre_tokenizers

    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = zoo.load(tmp_path)
    ids = torch.tensor([tokenizer.encode("hello").ids])
    found = theirs.generate(ids, do_sample=False, max_new_tokens=10)[0].tolist()
    answer = found[5:]
    answer = answer[: answer.index(2)] if 2 in answer else answer
    assert model("hello", max_new_tokens=10) == "hello" + tokenizer.decode(answer)
    model.config.__dict__["end_id"] = answer[2]  # it ends where the configuration says
    again = zoo.Model(
        name="again",
        module=model.module,
        config=model.config,
        tokenizer=tokenizer,
        pipeline="text-generation",
        card=None,
    )
    short = answer[: answer.index(answer[2])]
    assert again("hello", max_new_tokens=10) == "hello" + tokenizer.decode(short)


@pytest.mark.reference
@pytest.mark.parametrize("kind", ["opt", "gpt_neox", "qwen2"])
@torch.no_grad()
def test_there_and_back(kind: str, tmp_path: Path) -> None:
    saved(tmp_path / "theirs", kind, tie_word_embeddings=kind == "qwen2")
    model = zoo.load(tmp_path / "theirs")
    again = zoo.load(model.save_pretrained(tmp_path / "ours"))
    assert again.config == model.config
    ids = torch.randint(V, (2, 9))
    assert torch.equal(again.module(ids), model.module(ids))
    from zoo.export import export

    other = transformers.AutoModelForCausalLM.from_pretrained(export(again, tmp_path / "hf"))
    torch.testing.assert_close(other.eval()(ids).logits, model.module(ids), **CLOSE)


def test_attention_is_recorded(tmp_path: Path) -> None:
    saved(tmp_path, "opt")
    with record_attention() as maps:
        zoo.load(tmp_path).module(torch.randint(V, (1, 6)))
    assert [tuple(weights.shape) for weights in maps] == [(1, 3, 6, 6)] * 2
    assert maps[0].triu(1).abs().max() == 0
    torch.testing.assert_close(maps[0].sum(-1), torch.ones(1, 3, 6))


def test_names_of_older_checkpoints(tmp_path: Path) -> None:
    saved(tmp_path, "opt")
    expected = zoo.load(tmp_path).module(torch.arange(9)[None])
    path = tmp_path / "model.safetensors"
    tensors = {k.removeprefix("model."): tensor for k, tensor in load_file(path).items()}
    assert all(name.startswith("decoder.") for name in tensors)
    save_file(tensors, path)
    assert torch.equal(zoo.load(tmp_path).module(torch.arange(9)[None]), expected)


def test_opt_begins_a_text_with_its_end(tmp_path: Path) -> None:
    saved(tmp_path, "opt", vocab_size=300)
    made = build_tokenizer("low lower lowest low", {"kind": "byte-pair", "vocab_size": 262})
    made.add_tokens(["</s>", "<pad>"])
    state = json.loads(made.to_str())["model"]
    vocabulary = made.get_vocab()
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("\n".join(map(" ".join, state["merges"])))
    model = zoo.load(tmp_path)
    assert model.tokenizer is not None
    other = transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    text = "lower and lowest"
    ids = other(text, add_special_tokens=False)["input_ids"]
    assert model.tokenizer.encode(text).ids == [vocabulary["</s>"], *ids]
    assert model.tokenizer.decode(model.tokenizer.encode(text).ids) == text
    (tmp_path / "merges.txt").write_text("l o w\nx")
    with pytest.raises(FolderError, match="makes no tokenizer"):
        zoo.load(tmp_path)


def test_what_is_not_read(tmp_path: Path) -> None:
    saved(tmp_path, "mistral", sliding_window=8)
    assert zoo.load(tmp_path).config.max_seq_len == 8  # farther than that layers look back less
    with pytest.raises(ContextLengthError, match="9 tokens, but this model has 8"):
        zoo.load(tmp_path).module(torch.arange(9)[None])
    change_config(tmp_path, architectures=["MistralForSequenceClassification"])
    with pytest.raises(ConfigError, match="MistralForSequenceClassification is not read"):
        zoo.load(tmp_path)
    change_config(tmp_path, architectures=["MistralForCausalLM"], quantization_config={"b": 4})
    with pytest.raises(ConfigError, match="quantized"):
        zoo.load(tmp_path)
    saved(tmp_path / "opt", "opt")
    path = tmp_path / "opt" / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("model.decoder.final_layer_norm.bias")
    save_file(tensors, path)
    with pytest.raises(WeightsError, match="final_layer_norm.bias"):
        zoo.load(tmp_path / "opt")
    table = {"model_type": "opt", **SIZES}
    table.pop("vocab_size")
    with pytest.raises(ConfigError, match="'eos_token_id' is not read there"):
        zoo.create("hf-decoder", vocab_size=V, max_seq_len=9, transformers=table)
    with pytest.raises(ConfigError, match="model_type must be one of"):
        zoo.create("hf-decoder", vocab_size=V, max_seq_len=9, transformers={"model_type": "bert"})


@pytest.mark.parametrize("method", ["lora", "prefix-tuning", "bitfit"])
def test_tunings_adapt_one(method: str, tmp_path: Path) -> None:
    saved(tmp_path, "opt")
    module = zoo.load(tmp_path).module
    ids = torch.randint(V, (2, 9))
    options = {"num_virtual_tokens": 4} if method == "prefix-tuning" else {}
    adapted = adapt(module, method, **options)
    loss = nn.functional.cross_entropy(adapted(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    learned = trained(adapted)
    assert learned and all(parameter.grad is not None for parameter in learned.values())
    if method == "lora":
        assert any(".q_proj.lora_A" in name for name in learned)


# the recipes, on tiny random checkpoints of the same format

RECIPES = {
    "opt-instruct": ("opt", "hf-decoder", "hf://facebook/opt-125m"),
    "gpt2-instruct": ("gpt2", "gpt2", "hf://openai-community/gpt2"),
}


def base_of(kind: str, folder: Path) -> Path:
    """A tiny checkpoint with a byte-level tokenizer, laid out as the one on the Hub."""
    end = "</s>" if kind == "opt" else "<|endoftext|>"
    text = Template.called("alpaca").render([{"role": "user", "content": "What is hot? Cold."}])
    tokenizer = build_tokenizer(text, {"kind": "byte-pair", "vocab_size": 320})
    tokenizer.add_special_tokens([end])
    sizes: dict[str, Any] = {"vocab_size": tokenizer.get_vocab_size()}
    sizes["eos_token_id"] = sizes["bos_token_id"] = tokenizer.token_to_id(end)
    if kind == "gpt2":
        sizes |= {"n_embd": 24, "n_layer": 1, "n_head": 2, "n_positions": 200}
        module = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
        module.save_pretrained(folder)
    else:
        saved(folder, "opt", max_position_embeddings=200, num_hidden_layers=1, **sizes)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": end, "bos_token": {"content": end}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_trains_an_adapter(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, architecture, address = RECIPES[name]
    rows = [
        {"instruction": f"What is the opposite of {n}?", "output": f"{n}."}
        for n in "abcdefghijklmnop"
    ]
    data = tmp_path / "instruct"
    data.mkdir()
    for file in ("rasbt_instruction-data.json", "gpteacher_roleplay.json"):
        (data / file).write_text(json.dumps(rows))
    for file in ("self_instruct_seed_tasks.jsonl", "self_instruct_user_oriented_252.jsonl"):
        (data / file).write_text("\n".join(map(json.dumps, rows)))
    import zoo_instruct.task

    monkeypatch.setenv("TXZOO_DATA", str(tmp_path))
    zoo_instruct.task.read.cache_clear()
    card = zoo.info(name)
    recipe = Recipe.read(card.folder / "recipe.toml")
    assert (recipe.name, recipe.architecture, card.architecture) == (name, *[architecture] * 2)
    where, _, commit = recipe.base.partition("@")
    assert where == address == f"hf://{card.base_models[0]}"
    assert len(commit) == 40  # pinned
    assert recipe.tuning["method"] == "lora" and recipe.task == card.task
    assert f"txzoo train {name}" in card.text and "not been trained yet" in card.text
    base = base_of(kind, tmp_path / "base")
    model = zoo.train(
        recipe,
        out=tmp_path / "out",
        base=str(base),
        config={"max_seq_len": 150},
        steps=4,
        batch_tokens=400,
        evaluate_every=0,
        keep="last",
    )
    zoo_instruct.task.read.cache_clear()
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    learned = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(".lora_" in name for name in learned)
    assert model.adapter == name and model.template is not None
    end = "</s>" if kind == "opt" else "<|endoftext|>"
    assert model.template.ending() == end
    assert model.template.render([{"role": "user", "content": "x"}]).startswith(end)
    text = model("What is", max_new_tokens=5)
    assert zoo.load(str(tmp_path / "out"))("What is", max_new_tokens=5) == text
