"""The recipes that adapt encoders of the Hub, on tiny random checkpoints of the same format."""

import shutil
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
    "imdb-minilm-2000": "Bert",
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


WHERE = {  # the weights are, by the cards
    "imdb-minilm": "The weights, 45 MB, are not in the\npackage",
    "emotion-minilm": "The weights, 45 MB, are not in the package",
    "imdb-minilm-2000": "The weights, 45 MB, are not in the package",
    "imdb-minilm-lora": "The adapter is in the package",
}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_card_says_where_the_weights_are(name: str) -> None:
    card = zoo.info(name)
    assert card.trained == bool(card.scores) == (name == "imdb-minilm-lora")
    assert not card.installed
    assert WHERE.get(name, "Its weights have not been trained yet.") in card.text
    recipe = Recipe.read(card.folder / "recipe.toml")
    assert f"[{card.base_models[0]}]" in card.text
    address, _, commit = recipe.base.partition("@")
    assert address == f"hf://{card.base_models[0]}"
    assert len(commit) == 40  # pinned
    if not card.trained:
        with pytest.raises(zoo.ZooError, match=f"txzoo train {name}"):
            zoo.load(name)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*txzoo.*:UserWarning")
def test_the_bundled_adapter_opens_in_peft(tmp_path: Path) -> None:
    """On a random model of MiniLM's sizes, since its own weights are on the Hub."""
    peft = pytest.importorskip("peft", reason="needs peft")
    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    torch.manual_seed(1)
    transformers.BertModel(config).save_pretrained(tmp_path / "base")
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(zoo.info("imdb-minilm-lora").folder / name, folder)
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(plain, str(folder)).eval()
    ours = zoo.load(str(tmp_path / "base")).load_adapter(folder)
    ids = torch.randint(1000, (2, 24))
    with torch.inference_mode():
        torch.testing.assert_close(ours.module(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)
    card = zoo.info("imdb-minilm-lora")
    learned = card.training["trained_parameters"]
    assert learned / card.parameters < 0.02
    with pytest.raises(zoo.ZooError, match="sentence-transformers/all-MiniLM-L6-v2"):
        zoo.load("imdb-minilm-lora", offline=True)
