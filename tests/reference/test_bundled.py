"""Every bundled model, exported and run by `transformers`: same logits, same greedy tokens."""

from pathlib import Path

import pytest
import torch

import zoo
from zoo.errors import ConfigError, InputError
from zoo.export import export
from zoo.generation import GenerationOptions, generate
from zoo.pipelines.reading import pad

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")

NEW = 12


@pytest.mark.parametrize("name", zoo.list_models(bundled=True))
def test_bundled_model_runs_elsewhere(name: str, tmp_path) -> None:
    model = zoo.load(name)
    if not hasattr(model.module, "to_transformers"):
        with pytest.raises(InputError, match="no model that computes the same"):
            export(model, tmp_path / "out")
        return  # relative-decoder: held to T5's stack in test_relative.py
    if not getattr(model.config, "embedding_norm", True):  # held to BLOOM in test_alibi.py
        with pytest.raises(ConfigError, match="BLOOM has a norm after the embedding"):
            export(model, tmp_path / "out")
        return
    if model.pipeline == "translation":
        translates_alike(model, export(model, tmp_path / "out"))
        return
    if model.pipeline != "text-generation":  # held in test_encoder.py and test_alibi_encoder.py
        refusal = "BERT has its norm after|no model that computes the same"
        with pytest.raises((ConfigError, InputError), match=refusal):
            export(model, tmp_path / "out")
        return
    theirs = transformers.AutoModelForCausalLM.from_pretrained(export(model, tmp_path / "out"))
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    prompt = model.tokenizer.encode(model.card.example).ids
    assert tokens(model.card.example)["input_ids"] == prompt
    ids = torch.tensor([prompt])
    with torch.no_grad():
        torch.testing.assert_close(model.module(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)
    ours = generate(model.module, [prompt], GenerationOptions(max_new_tokens=NEW)).ids[0]
    real = torch.ones_like(ids)  # else a first token of the vocabulary would count as padding
    written = theirs.generate(
        ids, attention_mask=real, max_new_tokens=NEW, do_sample=False, pad_token_id=0
    )
    assert ours == written[0, len(prompt) :].tolist()


def translates_alike(model: zoo.Model, folder: Path) -> None:
    """Logits, greedy and of four beams, of sentences of unlike length."""
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    texts = [model.card.example, "Yes.", "Two men in red shirts are standing near a river."]
    rows = [model.tokenizer.encode(text).ids for text in texts]
    source, real = pad(rows, model.config.pad_id)
    ids = torch.tensor([[model.config.start_id, 5, 900, 17]] * 3)
    with torch.no_grad():
        found = model.module(source, ids, real)
        wanted = theirs(input_ids=source, attention_mask=real, decoder_input_ids=ids).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    for beams in (1, 4):
        written = theirs.generate(
            source, attention_mask=real, num_beams=beams, do_sample=False, max_new_tokens=NEW
        )
        tokens = [[t for t in row if t < model.config.pad_id] for row in written.tolist()]
        answers = [model.tokenizer.decode(row) for row in tokens]
        assert model(texts, num_beams=beams, max_new_tokens=NEW) == answers
