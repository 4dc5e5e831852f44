"""What is promised of every bundled model: its folder, its size, its parameter names."""

import json
import os
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import zoo
from zoo.data import PICTURED
from zoo.folder import FILES, WEIGHTS
from zoo.training import Recipe

NAMES = zoo.list_models(bundled=True)
# Parameter names and shapes are a published format: a change here breaks weights that people hold.
FORMAT = json.loads(Path(__file__).with_name("parameters.json").read_text(encoding="utf-8"))


def test_the_ten_are_there() -> None:
    promised = {
        "synthetic-decoder", "speech-decoder", "speech-alibi", "speech-encoder", "shakespeare-char",
        "learned-lm", "sinusoidal-lm", "alibi-lm", "rope-lm", "relative-lm",
    }  # fmt: skip
    assert promised <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_folder_is_complete_and_small(name: str) -> None:
    card = zoo.info(name)
    read = set(FILES) - ({"tokenizer.json"} if card.pipeline == "image-classification" else set())
    if card.task in ("instruct", "preferences"):
        read |= {"tokenizer_config.json"}  # the template of its conversations
    assert read <= {path.name for path in card.folder.iterdir()}
    assert set(card.files) == read - {"README.md"}
    assert card.files[WEIGHTS].bytes < 14e6  # and no file of the project is larger
    assert card.parameters is not None and card.parameters < 7e6
    assert card.example or card.pipeline in PICTURED
    assert card.summary and card.license and (card.datasets or card.license == "cc0-1.0")
    assert card.scores and all(score.standard_error for score in card.scores)
    for section in ("Intended use", "Limits, risks and bias", "Data", "How it was trained"):
        assert f"## {section}\n" in card.text
    rows = (card.folder / "training.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [row["loss"] for row in map(json.loads, rows) if "gradient_norm" in row]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_the_model(name: str) -> None:
    card = zoo.info(name)
    recipe = Recipe.read(card.folder / "recipe.toml")
    assert (recipe.name, recipe.architecture, recipe.task) == (name, card.architecture, card.task)
    config = json.loads((card.folder / "config.json").read_text(encoding="utf-8"))
    assert config.items() >= dict(recipe.config).items()
    text = (card.folder / "recipe.toml").read_text(encoding="utf-8")
    assert text.startswith("# expect: ") and tomllib.loads(text)["training"]["steps"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_parameter_names_and_shapes_are_frozen(name: str) -> None:
    with safe_open(zoo.info(name).folder / WEIGHTS, framework="pt") as file:
        found = {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    assert found == FORMAT[name]


@pytest.mark.parametrize("name", zoo.list_models(bundled=True, pipeline="text-generation"))
def test_it_writes_and_shows_its_attention(name: str) -> None:
    torch.set_num_threads(1)
    model = zoo.load(name)
    text = model(model.card.example, max_new_tokens=8)
    assert text.startswith(model.card.example.rstrip()) and len(text) > len(model.card.example)
    for weights in model.attention(model.card.example):
        assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)
        assert not weights.triu(1).any()


@pytest.mark.parametrize("name", zoo.list_models(bundled=True, pipeline="text-classification"))
def test_it_classifies_and_shows_its_attention(name: str) -> None:
    torch.set_num_threads(1)
    model = zoo.load(name)
    answers = model([model.card.example, "and", model.card.example], top_k=None)
    assert answers[0] == answers[2] != answers[1]
    assert {entry["label"] for entry in answers[0]} == set(model.config.labels)
    assert sum(entry["score"] for entry in answers[0]) == pytest.approx(1)
    layers = model.attention(model.card.example)
    for weights in layers:
        assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)
    assert any(weights.triu(1).any() for weights in layers)


SPEECH = {"d_model": 64, "n_heads": 2, "n_layers": 4, "d_ff": 100, "max_seq_len": 32}


@pytest.mark.parametrize("name", ["speech-decoder", "speech-alibi"])
def test_speech_models_have_the_published_size_and_budget(name: str) -> None:
    recipe = Recipe.read(zoo.info(name).folder / "recipe.toml")
    assert dict(recipe.config).items() >= SPEECH.items()
    assert recipe.tokenizer["kind"] == "word"
    assert (recipe.training.steps, recipe.training.batch_tokens) == (500, 16 * 32)


def test_the_speech_encoder_has_the_published_size_and_budget() -> None:
    recipe = Recipe.read(zoo.info("speech-encoder").folder / "recipe.toml")
    assert dict(recipe.config).items() >= SPEECH.items()
    assert recipe.training.batch_tokens == 16 * 32
    assert recipe.training.steps == 15 * (2092 // 16)


def test_the_five_language_models_share_task_data_order_and_budget() -> None:
    names = ("learned-lm", "sinusoidal-lm", "alibi-lm", "rope-lm", "relative-lm")
    recipes = [Recipe.read(zoo.info(name).folder / "recipe.toml") for name in names]
    shared = {
        (r.task, r.seed, str(r.tokenizer), r.training.steps, r.training.batch_tokens)
        + tuple(r.config[key] for key in ("d_model", "n_layers", "n_heads", "max_seq_len"))
        for r in recipes
    }
    assert len(shared) == 1


def test_best_possible_is_nearly_reached_on_synthetic() -> None:
    scores = {score.key: score.value for score in zoo.info("synthetic-decoder").scores}
    assert scores["accuracy_of_reachable"] >= 0.99


@pytest.mark.skipif(not os.environ.get("TXZOO_DATA"), reason="TXZOO_DATA is not set: needs data")
@pytest.mark.parametrize(
    "name", ["speech-decoder", "speech-alibi", "speech-encoder", "synthetic-decoder"]
)
def test_cards_tell_the_truth(name: str) -> None:
    """`zoo.verify` of the cheap ones; `txzoo verify --all` does all."""
    report = zoo.verify(name)
    assert [check for check in report.checks if check.ok is not True] == []
