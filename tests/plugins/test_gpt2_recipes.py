"""The recipes that begin with embeddings of others, on tiny random checkpoints."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import zoo_synthetic.task
from embedding_sources import bert_folder, gpt2_folder
from safetensors.torch import load_file

import zoo
from zoo.training import Recipe

D, POSITIONS = 16, 40
FOLDERS = {"gpt2-init-lm": gpt2_folder, "minilm-init-lm": bert_folder}
HUB = {
    "gpt2-init-lm": "hf://openai-community/gpt2",
    "minilm-init-lm": "hf://sentence-transformers/all-MiniLM-L6-v2",
}
SIZES = {"d_model": D, "n_layers": 1, "n_heads": 2, "d_ff": 16, "max_seq_len": 32, "dropout": 0.0}
TRAINING = {
    "steps": 30,
    "batch_tokens": 512,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "evaluate_every": 10,
    "storage": "float32",
}


@pytest.fixture(autouse=True)
def _few_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.set_num_threads(1)
    monkeypatch.setattr(zoo_synthetic.task, "LINES", {"train": 60, "validation": 4, "test": 6})
    zoo_synthetic.task.generate.cache_clear()
    yield
    zoo_synthetic.task.generate.cache_clear()


def recipe_of(name: str) -> Recipe:
    return Recipe.read(zoo.info(name).folder / "recipe.toml")


@pytest.mark.parametrize("name", FOLDERS)
def test_the_recipe_trains_from_a_source(name: str, tmp_path: Path) -> None:
    task = zoo_synthetic.task.Synthetic()
    source = FOLDERS[name](tmp_path / "source", task.start + task.text("train"), D, POSITIONS)
    recipe = recipe_of(name)
    changes = {"config": SIZES, "embeddings": {"source": str(source)}, "task": "synthetic"}
    model = zoo.train(recipe, out=tmp_path / "out", **changes, **TRAINING)
    lines = (tmp_path / "out" / "training.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    (apart,) = [group for group in rows[0]["parameter_groups"] if group["frozen_epochs"]]
    assert apart["frozen_epochs"] == 1.0
    assert apart["learning_rate"] == recipe.embeddings["learning_rate"]
    assert [row["step"] for row in rows if "no_longer_frozen" in row]
    losses = [row["loss"] for row in rows if "gradient_norm" in row]
    assert losses[-1] < losses[0]
    theirs = load_file(source / "model.safetensors")[recipe.embeddings["token"]].float()
    ours = model.module.get_parameter("token_embedding.weight")
    near = torch.cdist(ours[:40].detach(), theirs).min(dim=1).values  # its row, not far from it
    assert 0 < near.median() < 0.5
    assert model.card is not None and model.card.training["kept"]["step"] in (10, 20, 30)
    again = zoo.load(str(tmp_path / "out"))
    text = again("count 1 2", max_new_tokens=8)
    assert text == model("count 1 2", max_new_tokens=8)
    assert text.startswith("count 1 2") and len(text) > len("count 1 2")


@pytest.mark.parametrize("name", FOLDERS)
def test_the_same_model_from_random_embeddings(name: str, tmp_path: Path) -> None:
    """An empty source leaves the source's tokens, and nothing else of it."""
    task = zoo_synthetic.task.Synthetic()
    source = FOLDERS[name](tmp_path / "source", task.start + task.text("train"), D, POSITIONS)
    changes = {"config": SIZES, "task": "synthetic", **TRAINING, "steps": 2, "evaluate_every": 1}
    from_source = recipe_of(name).with_changes(embeddings={"source": str(source)}, **changes)
    random = from_source.with_changes(embeddings={"source": ""})
    assert not random.embeddings
    model = zoo.train(random, out=tmp_path / "out")
    other = zoo.train(from_source, out=tmp_path / "other")
    assert model.tokenizer.to_str() == other.tokenizer.to_str()
    assert model.card is not None and "embeddings" not in model.card.training
    theirs = load_file(source / "model.safetensors")[recipe_of(name).embeddings["token"]].float()
    ours = model.module.get_parameter("token_embedding.weight")
    assert torch.cdist(ours[:40].detach(), theirs).min() > 0.1  # none of its rows
    at_hub = recipe_of(name).with_changes(embeddings={"source": ""})
    assert at_hub.tokenizer["source"].startswith(HUB[name])


@pytest.mark.parametrize("name", FOLDERS)
def test_the_card_says_that_it_is_not_trained(name: str) -> None:
    card = zoo.info(name)
    recipe = recipe_of(name)
    assert (recipe.name, recipe.architecture, recipe.task) == (name, "decoder", "wikitext-2")
    assert (card.architecture, card.task) == (recipe.architecture, recipe.task)
    address, _, commit = recipe.embeddings["source"].partition("@")
    assert address == HUB[name] == f"hf://{card.base_models[0]}"
    assert len(commit) == 40  # pinned
    if not card.trained:
        assert "Its weights have not been trained yet." in card.text
        assert f"`txzoo train {name} --out runs/{name}`" in card.text
        with pytest.raises(zoo.ZooError, match=f"txzoo train {name}"):
            zoo.load(name)


def test_minilm_fits_into_the_wheel() -> None:
    """At most 14 MB in float16: 8,192 tokens and one for line ends."""
    recipe = recipe_of("minilm-init-lm")
    with torch.device("meta"):
        count = recipe.tokenizer["vocab_size"] + 1
        module = zoo.create(recipe.architecture, vocab_size=count, **recipe.config)
    assert 2 * sum(parameter.numel() for parameter in module.parameters()) < 14e6


def test_gpt2_takes_width_tokens_and_positions_of_gpt2() -> None:
    recipe = recipe_of("gpt2-init-lm")
    assert recipe.config["d_model"] == 768 and recipe.config["max_seq_len"] <= 1024
    assert dict(recipe.tokenizer) == {"kind": "source"}
    assert (recipe.embeddings["token"], recipe.embeddings["position"]) == (
        "wte.weight",
        "wpe.weight",
    )
