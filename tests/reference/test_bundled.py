"""Every bundled model, exported and run by `transformers`: same logits, same greedy tokens."""

import pytest
import torch

import zoo
from zoo.errors import ConfigError, InputError
from zoo.export import export
from zoo.generation import GenerationOptions, generate

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
    if model.pipeline != "text-generation":  # held to BERT in test_encoder.py
        with pytest.raises(ConfigError, match="BERT has its norm after each sublayer"):
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
