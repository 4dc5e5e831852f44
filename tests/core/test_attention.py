"""Attention weights and their picture."""

import builtins
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from tokenizers import Tokenizer
from torch import nn
from zoo_alibi.model import AlibiConfig, AlibiDecoder
from zoo_decoder.model import Decoder, DecoderConfig
from zoo_relative.model import RelativeConfig, RelativeDecoder
from zoo_rope.model import RopeConfig, RopeDecoder

from zoo import Model
from zoo.attention import draw, token_labels
from zoo.errors import ContextLengthError, InputError, MissingExtraError
from zoo.tokenization import build_tokenizer

torch.set_num_threads(1)

TEXT = "The president of the United States said it's $5 or $6 , she didn't\n go."
SIZES: dict[str, Any] = {
    "max_seq_len": 32,
    "d_model": 24,
    "n_layers": 3,
    "n_heads": 6,
    "d_ff": 40,
}


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return build_tokenizer(TEXT, {"kind": "word"})


def model_of(kind: str, tokenizer: Tokenizer | None) -> Model:
    sizes = {"vocab_size": 40, **SIZES}
    modules: dict[str, nn.Module] = {
        "learned": Decoder(DecoderConfig(**sizes)),
        "alibi": AlibiDecoder(AlibiConfig(**sizes)),
        "rope": RopeDecoder(RopeConfig(n_kv_heads=2, **sizes)),
        "relative": RelativeDecoder(RelativeConfig(**sizes)),
    }
    module = modules[kind]
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.4, generator=generator)
    return Model(
        name=kind,
        module=module.eval().requires_grad_(False),
        config=module.config,
        tokenizer=tokenizer,
        pipeline="text-generation",
        card=None,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["learned", "alibi", "rope", "relative"])
def test_rows_sum_to_one_and_see_nothing_after_them(
    words: Tokenizer, kind: str, dtype: torch.dtype
) -> None:
    model = model_of(kind, words).to(dtype)
    T = len(words.encode(TEXT).ids)
    maps = model.attention(TEXT)
    assert [weights.shape for weights in maps] == [(6, T, T)] * 3
    for weights in maps:
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights.sum(-1), torch.ones(6, T), rtol=0, atol=1e-5)
        assert (weights >= 0).all()
        assert weights.triu(1).eq(0).all()
        assert (weights.tril() > 0).float().mean() > 0.2  # not one key a row
    assert not torch.equal(maps[0][0], maps[0][1])
    assert not torch.equal(maps[0], maps[1])


def test_weights_are_those_of_the_equation(words: Tokenizer) -> None:
    model = model_of("learned", words)
    ids = torch.tensor(words.encode(TEXT).ids)
    state = model.module.state_dict()
    x = state["token_embedding.weight"][ids] + state["positions.weight"][: len(ids)]
    x = nn.functional.layer_norm(x, (24,))
    q, k, _ = (x @ state["blocks.0.attention.qkv.weight"].T).split(24, dim=1)
    head = slice(4, 8)  # the second of six, four wide
    scores = q[:, head] @ k[:, head].T / 2  # the root of four
    expected = scores.masked_fill(torch.ones(len(ids), len(ids)).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(model.attention(TEXT)[0][1], expected.softmax(-1))


def test_texts_that_have_no_attention(words: Tokenizer) -> None:
    with pytest.raises(InputError, match="is empty"):
        model_of("alibi", words).attention("")
    with pytest.raises(InputError, match="alibi has no tokenizer"):
        model_of("alibi", None).attention(TEXT)
    with pytest.raises(ContextLengthError, match="40 tokens"):
        model_of("learned", words).attention("she " * 40)
    assert model_of("alibi", words).attention("she " * 40)[0].shape == (6, 40, 40)
    with pytest.raises(ContextLengthError, match="40,000 tokens, and alibi's attention .* 2,048"):
        model_of("alibi", words).attention("she " * 40_000)


def test_labels_are_read_by_a_person(words: Tokenizer) -> None:
    assert token_labels(words, "she  didn't\n unheard-ofness") == [
        "she",
        "did",
        "n't",
        "↵",
        "unheard",
        "-",
        "ofness",
    ]
    pairs = build_tokenizer(TEXT, {"kind": "byte-pair", "vocab_size": 300})
    labels = token_labels(pairs, " said  it\n")
    assert "".join(labels).replace("␣", "") == "saidit↵"
    assert token_labels(words, "aaaaaaaaaabbbbb") == ["aaaaaaaaaab…"]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_picture_has_a_panel_for_each_layer_and_head(
    words: Tokenizer, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"map{suffix}"
    labels = token_labels(words, TEXT)
    draw(model_of("rope", words).attention(TEXT), labels, out, title="rope: $5 or $6")
    if suffix == ".png":
        header = out.read_bytes()[:24]
        width, height = struct.unpack(">II", header[16:24])
        assert header.startswith(b"\x89PNG")
        assert width > 6 * len(labels) * 15  # room for each token in each of six panels
        assert height > 3 * len(labels) * 15
    else:
        drawing = out.read_text(encoding="utf-8")
        ElementTree.fromstring(drawing)
        written = [line.strip()[5:-4] for line in drawing.splitlines() if "<!-- " in line]
        panels = [f"layer {row} · head {head}" for row in (1, 2, 3) for head in range(1, 7)]
        assert set(panels) <= set(written)
        assert "rope: $5 or $6" in written
        assert written.count("president") == 3 + 6  # down the left side, along the bottom


def test_a_long_text_is_labelled_here_and_there(tmp_path: Path) -> None:
    out = tmp_path / "long.svg"
    draw([torch.rand(1, 100, 100)], [f"token{n}" for n in range(100)], out)
    drawing = out.read_text(encoding="utf-8")
    assert drawing.count("<!-- token0 -->") == 2
    assert drawing.count("<!-- token3 -->") == 2
    assert "<!-- token1 -->" not in drawing


def test_pictures_that_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, labels = [torch.eye(2)[None]], ["a", "b"]
    with pytest.raises(InputError, match=r"must end in \.png or \.svg"):
        draw(maps, labels, tmp_path / "map.gif")
    with pytest.raises(InputError, match="there is no folder"):
        draw(maps, labels, tmp_path / "nowhere" / "map.png")
    real = builtins.__import__

    def without_matplotlib(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(MissingExtraError, match=r"pip install 'txzoo\[plot\]'"):
        draw(maps, labels, tmp_path / "map.png")
