"""The captioner against PyTorch's own transformer layers, and its search against trying all."""

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from encoder_decoders import word_tokenizer
from torch import Tensor, nn
from zoo_captioner.model import Captioner, CaptionerConfig

from zoo.errors import ConfigError, ContextLengthError, InputError
from zoo.images import pixels_of
from zoo.nn import SourceCache
from zoo.pipelines.image_to_text import ImageToText

CLOSE = {"rtol": 1e-5, "atol": 2e-5}
WORDS = ["<pad>", "<end>", "red", "blue", "dots"]
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "max_seq_len": 6,
    "image_size": 12,
    "d_model": 16,
    "n_layers": 2,
    "n_encoder_layers": 3,
    "n_heads": 4,
    "d_ff": 20,
    "stem_width": 5,
    "norm_eps": 3e-4,
    "image_std": (0.02, 0.03, 0.02),  # so strong a contrast that captions differ
}


def captioner(**changes: Any) -> Captioner:
    """Random weights large enough that every part shows."""
    torch.manual_seed(6)
    module = Captioner(CaptionerConfig(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
            # what is seen decides, so that captions differ
            if name in ("output_bias", "patch_positions"):
                parameter.mul_(0.1)
            elif name.startswith("stem") or ("picture_attention" in name and "weight" in name):
                parameter.mul_(3)
    return module


@pytest.fixture(scope="module")
def ours() -> Captioner:
    return captioner()


class Theirs(nn.Module):
    """The same of the layers that PyTorch has, with the captioner's numbers."""

    def __init__(self, ours: Captioner) -> None:
        super().__init__()
        c = ours.config
        options: Any = {"batch_first": True, "norm_first": True, "activation": "gelu"}
        sizes = (c.d_model, c.n_heads, c.d_ff, 0.0)
        norms = [nn.LayerNorm(c.d_model, c.norm_eps) for _ in range(2)]
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(*sizes, layer_norm_eps=c.norm_eps, **options),
            c.n_encoder_layers,
            norms[0],
            enable_nested_tensor=False,
        )
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(*sizes, layer_norm_eps=c.norm_eps, **options),
            c.n_layers,
            norms[1],
        )
        stem: list[nn.Module] = []
        for layer in ours.stem.convolutions:
            weight = layer.get_parameter("weight")
            stem.append(nn.Conv2d(*weight.shape[1::-1], 3, padding=1, bias=False))
            stem[-1].load_state_dict({"weight": weight})
            stem += [nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        self.stem = nn.Sequential(*stem)
        state = ours.state_dict()
        self.numbers = {name: tensor for name, tensor in state.items() if "." not in name}
        given: dict[str, Tensor] = {}
        same = {"norm_1": "norm1", "norm_2": "norm2", "norm_3": "norm3"}
        same |= {
            "attention.out": "self_attn.out_proj",
            "picture_attention.out": "multihead_attn.out_proj",
        }
        same |= {"feed_forward.up": "linear1", "feed_forward.down": "linear2"}
        for stack, count in (("encoder", c.n_encoder_layers), ("decoder", c.n_layers)):
            for kind in ("weight", "bias"):
                given[f"{stack}.norm.{kind}"] = state[f"{stack}_norm.{kind}"]
                for layer in range(count):
                    own, other = f"{stack}.{layer}.", f"{stack}.layers.{layer}."
                    for mine, theirs in same.items():
                        if f"{own}{mine}.{kind}" in state:
                            given[f"{other}{theirs}.{kind}"] = state[f"{own}{mine}.{kind}"]
                    qkv = state[f"{own}attention.qkv.{kind}"]
                    given[f"{other}self_attn.in_proj_{kind}"] = qkv
                    if stack == "decoder":
                        parts = [
                            state[f"{own}picture_attention.{n}.{kind}"]
                            for n in ("query", "key_value")
                        ]
                        given[f"{other}multihead_attn.in_proj_{kind}"] = torch.cat(parts)
        missing, extra = self.load_state_dict(given, strict=False)
        assert not extra and all(name.startswith("stem.") for name in missing)
        self.eval()

    def forward(self, pixels: Tensor, ids: Tensor) -> Tensor:
        n, T = self.numbers, ids.shape[1]
        patches = self.stem(pixels).flatten(2).transpose(1, 2) + n["patch_positions"]
        x = n["embedding"][ids] + n["positions"][:T]
        mask = torch.full((T, T), float("-inf")).triu(1)
        x = self.decoder(x, self.encoder(patches), tgt_mask=mask)
        found: Tensor = x @ n["embedding"].T + n["output_bias"]
        return found


def pixels(count: int, size: int = 12) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("changes", [{}, {"n_convolutions": 1, "n_heads": 2}, {"image_size": 11}])
@torch.no_grad()
def test_it_computes_what_pytorch_s_layers_compute(changes: dict[str, Any]) -> None:
    ours = captioner(**changes)
    given = pixels(3, ours.config.image_size)
    ids = torch.tensor([[0, 2, 3, 4], [0, 4, 4, 1], [0, 3, 2, 2]])
    torch.testing.assert_close(ours(given, ids), Theirs(ours)(given, ids), **CLOSE)


@torch.no_grad()
def test_a_cache_and_captions_side_by_side_change_nothing(ours: Captioner) -> None:
    given, ids = pixels(2), torch.tensor([[0, 2, 3], [0, 4, 4], [0, 3, 1], [0, 2, 2]])
    expected = Theirs(ours)(given.repeat_interleave(2, 0), ids)
    memory = ours.encode(given)
    torch.testing.assert_close(ours.decode(ids, memory, None), expected, **CLOSE)
    cache = SourceCache.of(ours.config, 4, 3)
    pieces = [
        ours.decode(ids[:, :2], memory, None, cache),
        ours.decode(ids[:, 2:], memory, None, cache),
    ]
    torch.testing.assert_close(torch.cat(pieces, 1), expected, **CLOSE)


def model_of(module: Captioner) -> Any:
    tokenizer = word_tokenizer(WORDS, 2, "<pad>", "<end>")
    return SimpleNamespace(
        name="tiny", module=module, config=module.config, tokenizer=tokenizer, device="cpu"
    )


def picture(number: int) -> np.ndarray:
    generator = np.random.default_rng(number)
    noise = generator.integers(0, 40, (12, 12, 3))
    return (generator.integers(0, 216, 3) + noise).astype(np.uint8)


@torch.no_grad()
def log_probability(theirs: Theirs, given: Tensor, words: tuple[int, ...]) -> float:
    logits = theirs(given, torch.tensor([[0, *words[:-1]]]))[0].log_softmax(-1)
    return float(logits[range(len(words)), list(words)].sum())


def test_the_widest_search_finds_what_trying_everything_finds(ours: Captioner) -> None:
    theirs, pipeline = Theirs(ours), ImageToText(model_of(ours))
    for number in range(3):
        given = pixels_of([picture(number)], ours.config)
        rated = {}
        for length in (1, 2, 3):
            for words in itertools.product(range(len(WORDS)), repeat=length):
                ends = words[-1] == 1 or length == 3  # cut off after three
                if ends and 1 not in words[:-1]:
                    rated[words] = log_probability(theirs, given, words) / length
        best = sorted(rated, key=lambda words: -rated[words])[:4]
        found = pipeline(
            picture(number),
            num_beams=64,
            num_return_sequences=4,
            max_new_tokens=3,
            return_scores=True,
        )
        texts = [" ".join(WORDS[word] for word in words if word > 1) for words in best]
        assert [answer["text"] for answer in found] == texts
        assert [answer["score"] for answer in found] == pytest.approx(
            [rated[words] for words in best], abs=1e-4
        )


@torch.no_grad()
def test_greedy_sampling_streams_and_batches(ours: Captioner) -> None:
    theirs, pipeline = Theirs(ours), ImageToText(model_of(ours))
    pictures = [picture(number) for number in range(5)]
    expected = []
    for one in pictures:
        ids = [0]
        while len(ids) < 6 and ids[-1] != 1:
            logits = theirs(pixels_of([one], ours.config), torch.tensor([ids]))
            ids.append(int(logits[0, -1].argmax()))
        expected.append(" ".join(WORDS[word] for word in ids if word > 1))
    assert len(set(expected)) > 1
    assert [pipeline(one, max_new_tokens=5) for one in pictures] == expected
    assert pipeline(pictures, max_new_tokens=5) == expected
    assert ["".join(pipeline(one, stream=True, max_new_tokens=5)) for one in pictures] == expected
    drawn = {"temperature": 1.0, "seed": 3, "max_new_tokens": 5}
    alone = [pipeline(one, **drawn) for one in pictures]
    assert pipeline(pictures, **drawn) == alone != expected
    two = pipeline(pictures[0], num_return_sequences=2, **drawn)
    assert two[0] == alone[0]
    beams = {"num_beams": 3, "max_new_tokens": 5}
    assert pipeline(pictures, **beams) == [pipeline(one, **beams) for one in pictures]


def test_what_does_not_fit_is_said(ours: Captioner) -> None:
    pipeline = ImageToText(model_of(ours))
    with pytest.raises(ContextLengthError, match="6 positions"):
        pipeline(picture(0), max_new_tokens=7)
    with pytest.raises(InputError, match="give one picture"):
        pipeline([picture(0)], stream=True)
    with pytest.raises(InputError, match="stop and stream"):
        pipeline(picture(0), stream=True, stop=["red"])
    with pytest.raises(InputError, match="no picture"):
        pipeline("nowhere.png")
    with pytest.raises(InputError, match=r"Pixels must be \(B, 3, 12, 12\), got \(1, 3, 8, 8\)"):
        ours.encode(pixels(1, 8))
    for changes, said in (
        ({"image_std": (0.5, 0.5)}, "image_std has 2 numbers"),
        ({"image_std": (0.5, 0.5, 0.0)}, "above 0"),
        ({"end_id": 0}, "an end is no padding"),
        ({"start_id": 5}, "start_id must be a token"),
        ({"n_heads": 3}, "d_model"),
    ):
        with pytest.raises(ConfigError, match=said):
            CaptionerConfig(**{**SIZES, **changes})
