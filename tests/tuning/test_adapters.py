"""Adapters end to end: trained, saved, loaded, switched, merged, refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import zoo
from zoo.cli import cli
from zoo.cli.train import merge as merge_command
from zoo.errors import (
    ConfigError,
    FolderError,
    HashMismatchError,
    InputError,
    RecipeError,
    UnknownNameError,
    WeightsError,
)
from zoo.registry import registry
from zoo.training import TrainingSettings
from zoo.training.loop import build_optimizers
from zoo.tuning import adapt, trained

OPTIONS = {"storage": "float32", "learning_rate": 0.02, "steps": 4}
SMALL = {"prefix-tuning": {"num_virtual_tokens": 3}, "prompt-tuning": {"num_virtual_tokens": 3}}
ALONE = ("full", "gradual-unfreezing")


@pytest.fixture(scope="module")
def lora(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of the tiny model."""
    out = tmp_path_factory.mktemp("adapters") / "low"
    zoo.train(str(tiny_model), out=out, tuning="lora", rank=2, **OPTIONS)
    return out


def logits(model: zoo.Model) -> torch.Tensor:
    ids = torch.arange(12)[None] % model.config.vocab_size
    return model.module(ids)


@pytest.mark.parametrize("method", registry().tunings.names())
def test_every_method_trains_saves_and_loads(method: str, tiny_model: Path, tmp_path: Path) -> None:
    model = zoo.train(
        str(tiny_model), out=tmp_path / "out", tuning=method, **SMALL.get(method, {}), **OPTIONS
    )
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert ("model.safetensors" in files) == (method in ALONE)
    assert ("adapter_model.safetensors" in files) == (method not in ALONE)
    base = zoo.load(str(tiny_model))
    assert not torch.equal(logits(model), logits(base))
    card = model.card
    assert card is not None
    assert card.base_models == ["tiny"]
    assert card.license == base.card.license
    assert (card.base is None) == (method in ALONE)
    assert card.training["tuning"] == method
    assert card.parameters == sum(p.numel() for p in model.module.parameters())
    if method in ("ia3", "full"):
        assert zoo.verify(str(tmp_path / "out")).ok
    assert model("1 2 3", max_new_tokens=2, temperature=0)


def test_the_card_and_the_files_of_lora(lora: Path, tiny_model: Path) -> None:
    assert sorted(path.name for path in lora.iterdir()) == [
        *("README.md", "adapter_config.json", "adapter_model.safetensors"),
        *("recipe.toml", "training.jsonl"),
    ]
    tensors = load_file(lora / "adapter_model.safetensors")
    assert "base_model.model.blocks.0.attention.qkv.lora_A.weight" in tensors
    count = sum(tensor.numel() for tensor in tensors.values())
    card = zoo.info(str(lora))
    assert card.name == "tiny-lora"
    assert card.training["trained_parameters"] == count
    base = zoo.info(str(tiny_model))
    assert card.base is not None
    assert card.base.sha256 == base.files["model.safetensors"].sha256
    config = json.loads((lora / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 16)
    assert (lora / "adapter_model.safetensors").stat().st_size < 20_000


def test_a_recipe_with_a_tuning_table(tiny_model: Path, tmp_path: Path, lora: Path) -> None:
    """The recipe that a run leaves makes the same adapter, bit by bit."""
    (tmp_path / "again.toml").write_text((lora / "recipe.toml").read_text())
    zoo.train(tmp_path / "again.toml", out=tmp_path / "again")
    first, second = (load_file(f / "adapter_model.safetensors") for f in (lora, tmp_path / "again"))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_an_adapter_resumes_as_if_it_had_never_stopped(
    tiny_model: Path, tmp_path: Path, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.training import loop

    whole = loop.Run.one_step

    def stops(run: loop.Run) -> object:
        if run.step == 2:
            raise KeyboardInterrupt
        return whole(run)

    options = {**OPTIONS, "tuning": "lora", "rank": 2, "checkpoint_every": 1}
    monkeypatch.setattr(loop.Run, "one_step", stops)
    with pytest.raises(KeyboardInterrupt):
        zoo.train(str(tiny_model), out=tmp_path / "out", **options)
    monkeypatch.setattr(loop.Run, "one_step", whole)
    model = zoo.train(str(tiny_model), out=tmp_path / "out", resume=True, **options)
    torch.testing.assert_close(logits(model), logits(zoo.load(str(lora))), rtol=0, atol=0)


def test_adapters_switch_on_one_base(tiny_model: Path, lora: Path, tmp_path: Path) -> None:
    zoo.train(str(tiny_model), out=tmp_path / "scaled", tuning="ia3", **OPTIONS)
    model = zoo.load(str(tiny_model))
    memory = model.module.token_embedding.weight.data_ptr()
    plain = logits(model)
    model.load_adapter(lora).load_adapter(tmp_path / "scaled", "other")
    assert (model.adapters, model.adapter) == (["tiny-lora", "other"], "other")
    seen = {
        name: logits(model.set_adapter(name)) for name in ("tiny-lora", "other", "tiny-lora", None)
    }
    torch.testing.assert_close(seen["tiny-lora"], logits(zoo.load(str(lora))), rtol=0, atol=0)
    torch.testing.assert_close(
        seen["other"], logits(zoo.load(str(tmp_path / "scaled"))), rtol=0, atol=0
    )
    torch.testing.assert_close(seen[None], plain, rtol=0, atol=0)
    assert not torch.equal(seen["tiny-lora"], seen["other"])
    model.set_adapter("tiny-lora")
    assert model.module.token_embedding.weight.data_ptr() == memory
    assert model.name == "tiny-lora"
    text = model("1 2 3", max_new_tokens=8, temperature=0)
    assert model.set_adapter(None)("1 2 3", max_new_tokens=8, temperature=0) is not None
    assert model.set_adapter("tiny-lora")("1 2 3", max_new_tokens=8, temperature=0) == text
    with pytest.raises(UnknownNameError, match="Unknown adapter 'lora'. Did you mean 'tiny-lora'"):
        model.set_adapter("lora")


def test_precision_changes_under_an_adapter(lora: Path) -> None:
    model = zoo.load(str(lora), dtype="bfloat16")
    assert {p.dtype for p in model.module.parameters()} == {torch.bfloat16}
    assert model.to("float64").module.token_embedding.weight.dtype == torch.float64
    assert model.adapter == "tiny-lora"


def test_merged_it_stands_alone(lora: Path, tmp_path: Path) -> None:
    model = zoo.load(str(lora))
    merged = model.merge()
    merged.save_pretrained(tmp_path / "merged")
    again = zoo.load(str(tmp_path / "merged"))
    assert again.card.base is None
    assert again.card.base_models == ["tiny"]
    assert again.adapter is None
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="tiny-lora-merged has no adapter to merge"):
        again.merge()


@pytest.mark.parametrize("method", ["bitfit", "prompt-tuning", "lora"])
def test_muon_takes_matrices_where_there_are_any(method: str, tiny_model: Path) -> None:
    settings = TrainingSettings(steps=1, batch_tokens=8, learning_rate=0.1, optimizer="muon")
    module = adapt(zoo.load(str(tiny_model)).module, method, **SMALL.get(method, {}))
    groups = [g for o in build_optimizers(module, settings) for g in o.param_groups]
    taken = {id(p) for group in groups for p in group["params"]}
    assert taken == {id(p) for p in trained(module).values()}


def test_the_command_that_merges(lora: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(merge_command, [str(lora), "--out", str(tmp_path / "whole")])
    assert done.exit_code == 0, done.output
    assert "tiny-lora-merged" in done.output
    expected = logits(zoo.load(str(lora)))
    torch.testing.assert_close(
        logits(zoo.load(str(tmp_path / "whole"))), expected, rtol=1e-5, atol=1e-5
    )
    done = CliRunner().invoke(merge_command, [str(lora), "--out", str(tmp_path / "whole")])
    assert "exists: choose another folder" in str(done.exception)


def test_an_adapter_of_itself_is_refused(lora: Path, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(lora, tmp_path / "low")
    card = tmp_path / "low" / "README.md"
    card.write_text(card.read_text().replace(str(tiny_model), str(tmp_path / "low")))
    with pytest.raises(FolderError, match="is an adapter itself; merge it"):
        zoo.load(str(tmp_path / "low"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "TXZOO", "tuning": "houlsby", "options": {"size": 10**12}}, "size=10000000"),
        ({"peft_type": "TXZOO", "options": {}}, "lacks the name or the options"),
        ([], "must hold a JSON object, not list"),
    ],
)
def test_hostile_settings_are_refused(
    config: object, words: str, lora: Path, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copy(lora / "adapter_model.safetensors", tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises((ConfigError, FolderError), match=words):
        zoo.load(str(tiny_model)).load_adapter(tmp_path)


def test_a_saved_adapter_loads_again(lora: Path, tmp_path: Path) -> None:
    model = zoo.load(str(lora))
    model.save_pretrained(tmp_path / "copy")
    torch.testing.assert_close(logits(zoo.load(str(tmp_path / "copy"))), logits(model))


def test_an_adapter_for_another_base_is_refused(
    lora: Path, tiny_model: Path, tmp_path: Path
) -> None:
    zoo.train(tiny_model.parent / "tiny.toml", out=tmp_path / "twin", seed=2)
    twin = zoo.load(str(tmp_path / "twin"))
    with pytest.raises(HashMismatchError, match="all shapes fit, the weights are others") as caught:
        twin.load_adapter(lora)
    for card in (zoo.info(str(tiny_model)), twin.card):
        assert card.files["model.safetensors"].sha256[:12] in str(caught.value)
    assert (twin.adapters, twin.adapter) == ([], None)
    zoo.train(tiny_model.parent / "tiny.toml", out=tmp_path / "wide", d_model=24)
    wide = zoo.load(str(tmp_path / "wide"))
    with pytest.raises(HashMismatchError, match=r"has shape \(2, 16\), here it is \(2, 24\)"):
        wide.load_adapter(lora)


def test_a_base_that_changed_is_refused(lora: Path, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(lora, tmp_path / "low")
    card = tmp_path / "low" / "README.md"
    digest = zoo.info(str(tiny_model)).files["model.safetensors"].sha256
    card.write_text(card.read_text().replace(digest, "f" * 64))
    with pytest.raises(HashMismatchError, match="whose weights have sha256 ffffffffffff"):
        zoo.load(str(tmp_path / "low"))


def test_a_base_that_is_gone_says_the_way_out(lora: Path, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(lora, tmp_path / "low")
    card = tmp_path / "low" / "README.md"
    card.write_text(card.read_text().replace(str(tiny_model), "./gone"))
    with pytest.raises(FolderError, match=r"zoo.load\(BASE\).load_adapter"):
        zoo.load(str(tmp_path / "low"))
    assert zoo.load(str(tiny_model)).load_adapter(tmp_path / "low", "mine").adapter == "mine"


def test_damage_is_found(lora: Path, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(lora, tmp_path / "low")
    path = tmp_path / "low" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x3f")
    with pytest.raises(HashMismatchError, match="adapter_model.safetensors has sha256"):
        zoo.load(str(tmp_path / "low"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "LOHA"}, "peft_type 'LOHA' is not read; read are LORA, IA3"),
        ({"use_dora": True}, "use_dora=True is not read, only False"),
        ({"bias": "all"}, "bias='all' is not read, only 'none'"),
        ({"r": 10**12}, r"says r=1000000000000, the tensors have \{2\}"),
    ],
)
def test_what_peft_can_and_we_cannot_is_refused(
    change: dict, words: str, lora: Path, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(lora, tmp_path / "theirs")
    (tmp_path / "theirs" / "README.md").unlink()
    path = tmp_path / "theirs" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises((ConfigError, WeightsError), match=words):
        zoo.load(str(tiny_model)).load_adapter(tmp_path / "theirs")


def test_a_folder_of_peft_alone_says_how_to_load_it(lora: Path, tmp_path: Path) -> None:
    shutil.copytree(lora, tmp_path / "theirs")
    (tmp_path / "theirs" / "README.md").write_text("---\nlibrary_name: peft\n---\n")
    with pytest.raises(FolderError, match=r"load its base, then put it on that"):
        zoo.load(str(tmp_path / "theirs"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('base = "alibi-lm"', r"has base and lacks a \[tuning\] table"),
        ('[tuning]\nmethod = "lora"', r"lacks architecture|lacks a base"),
        ('base = "alibi-lm"\n[tuning]\nrank = 2', r"\[tuning\] lacks method"),
        (
            'base = "alibi-lm"\n[tokenizer]\nkind = "word"\n[tuning]\nmethod = "lora"',
            "leave it out",
        ),
        ('base = "alibi-lmm"\n[tuning]\nmethod = "lora"', "Unknown model 'alibi-lmm'"),
    ],
)
def test_recipes_that_make_no_sense(text: str, words: str, tmp_path: Path) -> None:
    top, _, tables = text.partition("[")
    tables = f"[{tables}" if tables else ""
    training = "[training]\nsteps = 1\nbatch_tokens = 64\nlearning_rate = 0.1\n"
    (tmp_path / "r.toml").write_text(f'task = "synthetic"\n{top}\n{tables}\n{training}')
    with pytest.raises((RecipeError, UnknownNameError), match=words):
        zoo.train(tmp_path / "r.toml", out=tmp_path / "out")


def test_the_command(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "cli"
    words = ["train", str(tiny_model), "--out", str(out), "--tuning", "lora", "--rank", "3"]
    done = CliRunner().invoke(cli, [*words, "--set", "steps=1", "--set", "alpha=6"])
    assert done.exit_code == 0, done.output
    assert "of them trained by lora" in done.output
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 6)
    done = CliRunner().invoke(cli, [*words[:3], str(tmp_path / "x"), *words[4:6], "--rank", "0"])
    assert str(done.exception) == "LoRA rank must be a whole number of at least 1, got 0"
