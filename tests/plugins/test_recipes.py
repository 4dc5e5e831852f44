"""The recipes that adapt encoders of the Hub, on tiny random checkpoints of the same format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_tasks import Colours

import zoo
from zoo.training import Recipe

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")

SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 36,
}
KINDS = {  # recipe, and what its base is
    "imdb-minilm": "Bert",
    "imdb-minilm-lora": "Bert",
    "emotion-minilm": "Bert",
    "imdb-bert": "Bert",
    "imdb-roberta": "Roberta",
    "imdb-deberta": "DebertaV2",
}
STEPS = {"steps": 80, "batch_tokens": 256, "learning_rate": 0.01, "warmup_steps": 5}


def checkpoint(kind: str, head: str, folder: Path) -> Path:
    """A random checkpoint with the tokenizer of the toy task."""
    tokenizer = Colours().build_tokenizer({"kind": "word"})
    free = 2 if kind == "Roberta" else 0
    config = getattr(transformers, f"{kind}Config")(
        **SIZES,
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=32 + free,
        pad_token_id=tokenizer.token_to_id("<pad>"),
    )
    torch.manual_seed(1)
    getattr(transformers, kind + head)(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_recipe_adapts_a_base(
    name: str, encoder_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    encoder_recipe("colours", 1)  # registers the toy task
    head = "Model" if "minilm" in name else "ForMaskedLM"  # as the real ones are published
    base = checkpoint(KINDS[name], head, tmp_path / "base")
    recipe = Recipe.read(zoo.info(name).folder / "recipe.toml")
    config = {**recipe.config, "max_seq_len": 16}
    model = zoo.train(
        recipe,
        out=tmp_path / "out",
        base=str(base),
        task="colours",
        config=config,
        **STEPS,
    )
    assert model.card is not None
    assert model.config.max_seq_len == 16 and model.config.labels == Colours.labels
    scores = {score.key: score.value for score in model.card.scores}
    assert scores["accuracy"] > 0.5  # a third by chance
    assert (model.card.base is not None) == (recipe.tuning["method"] == "lora")
    again = zoo.load(str(tmp_path / "out"))
    ids = torch.arange(1, 9)[None]
    assert torch.equal(again.module(ids), model.module(ids))
    assert again("the sea is blue")["label"] in Colours.labels


@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_card_says_that_it_is_not_trained(name: str) -> None:
    card = zoo.info(name)
    assert not card.trained and not card.scores
    assert "Its weights have not been trained yet." in card.text
    recipe = Recipe.read(card.folder / "recipe.toml")
    assert f"[{card.base_models[0]}]" in card.text
    address, _, commit = recipe.base.partition("@")
    assert address == f"hf://{card.base_models[0]}"
    assert len(commit) == 40  # pinned
    with pytest.raises(zoo.ZooError, match=f"txzoo train {name}"):
        zoo.load(name)
