"""Adapters end to end: trained, saved, loaded, switched, merged, refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import zoo
from zoo.card import Card
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
from zoo.export import FORMATS, export
from zoo.folder import FileRecord
from zoo.registry import registry
from zoo.training import TrainingSettings, report
from zoo.training.loop import build_optimizers, plan
from zoo.tuning import adapt, trained

OPTIONS = {"storage": "float32", "learning_rate": 0.02, "steps": 4}
SMALL = {"prefix-tuning": {"num_virtual_tokens": 3}, "prompt-tuning": {"num_virtual_tokens": 3}}
QKV = ("query", "key", "value")
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


RECIPE = """
architecture = "alibi-decoder"
task = "synthetic"
seed = 1
base = "{base}"
[tuning]
method = "{method}"
[training]
steps = 2
batch_tokens = 256
learning_rate = 0.01
storage = "float32"
"""
CARD = """---
license: other
license_name: research-only
license_link: https://example.com/terms
library_name: txzoo
pipeline_tag: text-generation
base_model: tiny
txzoo: {name: low, summary: What people wrote, architecture: alibi-decoder, task: synthetic}
---
# low

Prose of people.
"""


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_card_beside_the_recipe_of_an_adapted_model_is_kept(
    method: str, tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "low"
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE.format(base=tiny_model, method=method))
    (folder / "README.md").write_text(CARD)
    card = zoo.train(folder / "recipe.toml", out=tmp_path / "out").card
    assert card is not None
    assert (card.license, card.data["license_name"]) == ("other", "research-only")
    assert (card.summary, card.base_models) == ("What people wrote", ["tiny"])
    assert "Prose of people." in card.text
    assert card.training["tuning"] == method and card.trained


def test_a_card_that_speaks_of_another_task_is_not(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE.format(base=tiny_model, method="full"))
    (tmp_path / "README.md").write_text(CARD.replace("task: synthetic", "task: emotion"))
    card = zoo.train(tmp_path / "recipe.toml", out=tmp_path / "out").card
    assert card is not None and card.task == "synthetic"
    assert "Prose of people." not in card.text and card.license != "other"


@pytest.mark.parametrize(
    ("of_data", "of_base", "expected"),
    [
        ("other", "apache-2.0", "other"),  # the base's would promise too much
        ("mit", "other", "other"),
        ("cc0-1.0", "apache-2.0", "apache-2.0"),
        ("unknown", "mit", "unknown"),
        ("cc-by-sa-4.0", "other", "cc-by-sa-4.0"),
    ],
)
def test_the_licence_of_what_was_adapted_is_not_the_freer_one(
    of_data: str, of_base: str, expected: str, tiny_model: Path
) -> None:
    base = zoo.load(str(tiny_model))
    assert base.card is not None
    whole = Card(data={**base.card.data, "license": of_base}, text="", path=base.card.path)
    base.card = whole
    card = Card(data={**whole.data, "license": of_data}, text="", path=whole.path)
    recipe = plan(str(tiny_model), tuning="lora")
    assert report.adapted(card, recipe, base, learned=1, alone=False).license == expected


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


def test_the_commands_put_an_adapter_on_a_base(
    lora: Path, tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "as-peft-writes-it"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(lora / name, folder)
    words = [str(tiny_model), "--adapter", str(folder)]
    model = zoo.load(str(lora))
    assert logits(model).ne(logits(zoo.load(str(tiny_model)))).any()
    done = CliRunner().invoke(cli, ["run", *words, "0 1 2", "--max-new-tokens", "8"])
    assert done.output.strip() == model("0 1 2", max_new_tokens=8, temperature=0).strip()
    done = CliRunner().invoke(cli, ["eval", *words, "--limit", "600", "--json"])
    expected = zoo.evaluate(model, limit=600)
    assert json.loads(done.stdout)["metrics"] == pytest.approx(expected)
    done = CliRunner().invoke(cli, ["merge", *words, "--out", str(tmp_path / "whole")])
    merged = logits(zoo.load(str(tmp_path / "whole")))
    torch.testing.assert_close(merged, logits(model), rtol=1e-5, atol=1e-5)
    done = CliRunner().invoke(cli, ["eval", *words, "--engine", "onnx"])
    assert done.exit_code == 2 and "txzoo merge" in done.output


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


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_what_was_merged_is_taken_out_again(method: str, tiny_model: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "learning_rate": 0.5}  # far from the base in four steps
    model = zoo.train(str(tiny_model), out=tmp_path / "low", tuning=method, **options)
    model.merge().save_pretrained(tmp_path / "whole")
    merged = zoo.load(str(tmp_path / "whole"))
    base = zoo.load(str(tiny_model))
    assert not torch.allclose(logits(merged), logits(base), atol=1e-3)
    found = merged.unmerge(tmp_path / "low")
    torch.testing.assert_close(logits(found), logits(base), rtol=1e-3, atol=1e-3)
    assert found.module.state_dict().keys() == base.module.state_dict().keys()
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-4)  # as it was


def test_weights_that_were_replaced_are_gone(tiny_model: Path, tmp_path: Path) -> None:
    model = zoo.train(str(tiny_model), out=tmp_path / "low", tuning="bitfit", **OPTIONS)
    with pytest.raises(ConfigError, match="stands beside the weights or in their place"):
        model.merge().unmerge(tmp_path / "low")


def test_an_adapter_in_our_own_names_is_saved_in_those_of_transformers(
    encoder_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = encoder_recipe("colours", steps=2)
    recipe.write_text(recipe.read_text().replace('"mean"', '"first"'))  # as BERT pools
    zoo.train(recipe, out=tmp_path / "base")
    folder = tmp_path / "low"
    zoo.train(str(tmp_path / "base"), out=folder, tuning="lora", rank=2, **OPTIONS)
    theirs = load_file(folder / "adapter_model.safetensors")
    first = "base_model.model.bert.encoder.layer.0.attention.self"
    assert theirs[f"{first}.query.lora_B.weight"].shape == (16, 2)
    names = ("attention.qkv", "attention.out", "up", "down")
    low = (f"{first}.query", f"{first[:-5]}.output.dense", f"{first[:-15]}.intermediate.dense")
    own = {}
    for ours, name in zip(names, (*low, f"{first[:-15]}.output.dense"), strict=True):
        own[f"base_model.model.blocks.0.{ours}.lora_A.weight"] = theirs[f"{name}.lora_A.weight"]
        parts = [name] if ours != "attention.qkv" else [f"{first}.{n}" for n in QKV]
        high = torch.cat([theirs[f"{part}.lora_B.weight"] for part in parts])
        own[f"base_model.model.blocks.0.{ours}.lora_B.weight"] = high
    expected = zoo.load(str(folder)).module(torch.arange(1, 9)[None])
    save_file(own, folder / "adapter_model.safetensors")
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = [f"blocks.0.{name}" for name in names]
    path.write_text(json.dumps(config))
    card = Card.read(folder)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        card.data["txzoo"]["files"][name] = asdict(FileRecord.of(folder / name))
    card.write(folder)
    model = zoo.load(str(folder))
    assert torch.equal(model.module(torch.arange(1, 9)[None]), expected)
    model.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    assert saved.keys() == theirs.keys()
    assert all(torch.equal(saved[name], theirs[name]) for name in theirs)
    again = zoo.load(str(tmp_path / "saved"))  # its card says the new hashes
    assert torch.equal(again.module(torch.arange(1, 9)[None]), expected)


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_does_not_leave_an_adapter_away(
    format: str, tiny_model: Path, lora: Path, tmp_path: Path
) -> None:
    for model in (str(lora), zoo.load(str(tiny_model)).load_adapter(lora)):
        with pytest.raises(InputError, match=r"an adapter.*merge\(\)"):
            export(model, tmp_path / "out", format)
    assert not (tmp_path / "out").exists()
