"""BLIP behind image-to-text: a checkpoint in its own format, against transformers itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_decoders import widen, word_tokenizer
from PIL import Image
from safetensors.torch import load_file, save_file
from zoo_hf_captioner.model import HfCaptioner

import zoo
from zoo.attention import gaze
from zoo.errors import ConfigError, InputError, WeightsError, ZooError
from zoo.export import export
from zoo.images import pixels_of

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")
CLOSE = {"rtol": 1e-5, "atol": 2e-5}
WORDS = ["[PAD]", "[SEP]", "[DEC]", *(f"w{number}" for number in range(17))]
TINY = {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2}
TEXT = {
    **TINY,
    "num_attention_heads": 3,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 9,
    "pad_token_id": 0,
    "sep_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
SHOWN = {**TINY, "num_attention_heads": 4, "image_size": 12, "patch_size": 4}
COLOURS = {
    "image_processor_type": "BlipImageProcessor",
    "size": {"height": 12, "width": 12},
    "resample": 3,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.1, 0.2, 0.3],
}


@pytest.fixture(scope="module")
def theirs() -> Any:
    torch.manual_seed(2)
    config = transformers.BlipConfig(text_config=TEXT, vision_config=SHOWN)
    return widen(transformers.BlipForConditionalGeneration(config))


@pytest.fixture(scope="module")
def checkpoint(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As in a repository: weights, config, preprocessor, tokenizer."""
    folder = tmp_path_factory.mktemp("blip")
    theirs.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(COLOURS))
    word_tokenizer(WORDS, 2, "[PAD]", "[SEP]").save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    return zoo.load(str(checkpoint))


def picture(number: int) -> Image.Image:
    generator = np.random.default_rng(number)
    colour = generator.integers(0, 216, 3)
    return Image.fromarray((colour + generator.integers(0, 40, (20, 30, 3))).astype(np.uint8))


@torch.no_grad()
def test_a_checkpoint_computes_the_same(theirs: Any, model: Any) -> None:
    assert model.pipeline == "image-to-text" and model.config.image_std == (0.1, 0.2, 0.3)
    pixels = torch.randn(3, 3, 12, 12)
    ids = torch.tensor([[2, 4, 5, 6], [2, 9, 3, 3], [2, 7, 7, 1]])
    # called as a whole it reads labels alone
    memory = theirs.vision_model(pixels)[0]
    expected = theirs.text_decoder(ids, encoder_hidden_states=memory).logits
    torch.testing.assert_close(model.module(pixels, ids), expected, **CLOSE)


def test_pixels_are_those_of_its_processor(model: Any) -> None:
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    processor = BlipImageProcessorPil(**{k: v for k, v in COLOURS.items() if "type" not in k})
    expected = processor(picture(1), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels_of([picture(1)], model.config), expected, **CLOSE)


def test_it_writes_what_transformers_writes(theirs: Any, model: Any) -> None:
    pictures = [picture(number) for number in range(4)]
    pixels = pixels_of(pictures, model.config)

    def written(**options: Any) -> Any:
        done = theirs.generate(pixels, max_new_tokens=6, **options)
        rows = [[int(token) for token in row] for row in getattr(done, "sequences", done)]
        return [" ".join(WORDS[token] for token in row[1:] if token > 1) for row in rows]

    greedy = written(do_sample=False)
    assert len(set(greedy)) > 1
    assert model(pictures, max_new_tokens=6) == greedy
    assert [model(one, max_new_tokens=6) for one in pictures] == greedy
    assert ["".join(model(one, stream=True, max_new_tokens=6)) for one in pictures] == greedy
    beams = {"num_beams": 4, "num_return_sequences": 2}
    texts = written(do_sample=False, early_stopping=False, length_penalty=1.0, **beams)
    found = model(pictures, max_new_tokens=6, **beams)
    assert [text for group in found for text in group] == texts


@torch.no_grad()
def test_there_and_back(model: Any, checkpoint: Path, tmp_path: Path) -> None:
    export(str(checkpoint), tmp_path / "out", "transformers")
    again = transformers.BlipForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    pixels, ids = torch.randn(2, 3, 12, 12), torch.tensor([[2, 4, 5], [2, 8, 8]])
    expected = again.text_decoder(ids, encoder_hidden_states=again.vision_model(pixels)[0]).logits
    torch.testing.assert_close(model.module(pixels, ids), expected, **CLOSE)
    model.save_pretrained(tmp_path / "ours")
    assert zoo.load(str(tmp_path / "ours"))(picture(2)) == model(picture(2))
    colours = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert colours["image_mean"] == COLOURS["image_mean"] and colours["resample"] == 3


def test_what_is_not_read_is_said(checkpoint: Path, model: Any, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    tensors = load_file(checkpoint / "model.safetensors")

    def refused(error: type[Exception], match: str, **changes: Any) -> None:
        with pytest.raises(error, match=match):
            HfCaptioner.from_transformers({**config, **changes}, tensors)

    refused(
        ConfigError,
        "BlipForQuestionAnswering is not read",
        architectures=["BlipForQuestionAnswering"],
    )
    refused(ConfigError, "quantized", quantization_config={"bits": 4})
    refused(ConfigError, "resample must be", preprocessor={"resample": 0})
    name = "text_decoder.bert.encoder.layer.1.crossattention.self.key.weight"
    lost = tensors.pop(name)
    refused(WeightsError, name)
    tensors[name] = lost
    tensors["vision_model.more"] = lost
    refused(WeightsError, "vision_model.more")
    with pytest.raises(InputError, match="keeps no attention weights"):
        gaze(model, picture(0))
    save_file(load_file(checkpoint / "model.safetensors"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "blip-3"}))
    with pytest.raises(ZooError, match="blip-3"):
        zoo.load(str(tmp_path))
