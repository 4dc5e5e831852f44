"""An encoder-decoder writes what transformers' Marian writes: greedily, by beams, in batches."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from encoder_decoders import word_tokenizer
from tokenizers import Tokenizer
from transformers import GenerationConfig, MarianConfig, MarianMTModel
from zoo_seq2seq.model import Seq2Seq

from zoo.attention import alignment
from zoo.errors import ContextLengthError, InputError
from zoo.pipelines.text2text import Text2Text, Translation, sentences

WORDS = ["<pad>", "<end>", *(f"w{number}" for number in range(30))]
SOURCES = ["w1 w2 w3 w4 w5 w6 w7", "w8", "w9 w10 w11", "w1 w1 w1 w1 w29 w0 w2 w17 w4 w5 w6 w7"]


@pytest.fixture(scope="module")
def theirs() -> MarianMTModel:
    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=len(WORDS),
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=20,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        forced_eos_token_id=None,
        scale_embedding=True,
        activation_function="relu",
    )
    model = MarianMTModel(config).eval()
    with torch.no_grad():  # livelier than 0.02, so that answers differ and some end early
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                cross = "encoder_attn" in name
                parameter.mul_(12 if "shared" in name else 50 if cross else 25)
    return model


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return word_tokenizer(WORDS, 2, "<pad>", "<end>")


@pytest.fixture(scope="module")
def ours(theirs: MarianMTModel, tokenizer: Tokenizer) -> Any:
    module = Seq2Seq.from_transformers(theirs.config.to_dict(), theirs.state_dict()).eval()
    return SimpleNamespace(
        name="tiny", module=module, config=module.config, tokenizer=tokenizer, device="cpu"
    )


def written(model: MarianMTModel, tokenizer: Tokenizer, texts: list[str], **options: Any) -> Any:
    """What transformers writes: texts, and the scores of beams."""
    encoded = [tokenizer.encode(text).ids for text in texts]
    longest = max(map(len, encoded))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in encoded])
    settings = GenerationConfig(
        max_new_tokens=12,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    done = model.generate(ids, attention_mask=(ids != 0).long(), generation_config=settings)
    texts = [tokenizer.decode(row.tolist()) for row in done.sequences]
    return texts, getattr(done, "sequences_scores", None)


def test_greedy_alone_in_a_batch_and_streamed(
    theirs: MarianMTModel, ours: Any, tokenizer: Tokenizer
) -> None:
    pipeline = Text2Text(ours)
    expected, _ = written(theirs, tokenizer, SOURCES, do_sample=False)
    assert len(set(expected)) == len(SOURCES)
    assert len({len(text.split()) for text in expected}) > 1  # some end before the others
    assert pipeline(SOURCES, max_new_tokens=12) == expected
    for source, text in zip(SOURCES, expected, strict=True):
        assert pipeline(source, max_new_tokens=12) == text
        assert "".join(pipeline(source, stream=True, max_new_tokens=12)) == text


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("beams", [2, 5])
def test_beams_and_their_scores(
    theirs: MarianMTModel, ours: Any, tokenizer: Tokenizer, beams: int, penalty: float
) -> None:
    options = {"num_beams": beams, "num_return_sequences": beams, "length_penalty": penalty}
    texts, scores = written(theirs, tokenizer, SOURCES, early_stopping=False, **options)
    found = Text2Text(ours)(SOURCES, max_new_tokens=12, return_scores=True, **options)
    flat = [answer for group in found for answer in group]
    assert [answer["text"] for answer in flat] == texts
    torch.testing.assert_close(
        torch.tensor([answer["score"] for answer in flat]), scores, atol=2e-5, rtol=1e-5
    )
    best = Text2Text(ours)(SOURCES[0], max_new_tokens=12, num_beams=beams, length_penalty=penalty)
    assert best == texts[0]


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"top_k": 1, "num_return_sequences": 2}])
def test_what_has_ended_is_computed_no_more(
    ours: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [Text2Text(ours)(source, max_new_tokens=12, **options) for source in SOURCES]
    rows, decode = [], ours.module.decode
    monkeypatch.setattr(
        ours.module, "decode", lambda ids, *rest: rows.append(len(ids)) or decode(ids, *rest)
    )
    assert Text2Text(ours)(SOURCES, max_new_tokens=12, **options) == alone
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] <= 0.75 * rows[0]


def test_a_source_draws_the_same_alone_and_in_a_batch(ours: Any) -> None:
    pipeline = Text2Text(ours)
    options = {"temperature": 1.0, "seed": 5, "max_new_tokens": 12}
    together = pipeline(SOURCES, num_return_sequences=3, **options)
    assert [pipeline(s, num_return_sequences=3, **options) for s in SOURCES] == together
    assert len(set(together[0])) > 1  # copies draw differently
    assert pipeline(SOURCES, **options) == [group[0] for group in together]


def test_without_a_length_it_ends_in_proportion_to_the_source(ours: Any) -> None:
    never = SimpleNamespace(**vars(ours))
    never.config = ours.config.from_dict({**ours.config.to_dict(), "end_id": 31})
    assert len(Text2Text(never)("w8").split()) <= 2 * 2 + 10


def test_what_does_not_fit_is_translated_by_sentence(ours: Any) -> None:
    pipeline = Translation(ours)
    first, second = "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10.", "w11 w12 w13 w14 w15 w16 w17 w18 w19 w20!"
    text = f"{first} {second}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apart = pipeline([first, second], max_new_tokens=8)
    with pytest.warns(UserWarning, match="did not fit into the 20 tokens.* read as 3 sentences"):
        assert pipeline(f"{text} w2 w2", max_new_tokens=8).startswith(" ".join(apart))
    with pytest.warns(UserWarning, match="2 sentences"):
        assert pipeline(f"{first}\n{second} ", max_new_tokens=8) == " ".join(apart)
    with pytest.warns(UserWarning, match="2 sentences"):
        pieces = pipeline(f"{first}\n{second}", max_new_tokens=8, stream=True)
    assert "".join(pieces) == " ".join(apart)
    with pytest.raises(ContextLengthError, match="41 tokens in one piece, tiny reads 20"):
        pipeline("w1 " * 40)
    with pytest.raises(ContextLengthError, match="tiny reads 20"):
        Text2Text(ours)(text + " w1 w2 w3")  # only a translation is taken apart


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('He said: "No." Then he left...  Why', ['He said: "No."', "Then he left...", "Why"]),
        ("a\n\nb\n", ["a", "b"]),
        ("3.5 km.", ["3.5 km."]),
    ],
)
def test_where_sentences_end(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("", {}, "empty"),
        (["w1", " "], {}, "empty"),
        ("w1", {"num_beams": 0}, "num_beams must be a whole number from 1 on, got 0"),
        ("w1", {"num_beam": 2}, "Did you mean 'num_beams'"),
        (["w1"], {"stream": True}, "give one source, not a list"),
        ("w1", {"stream": True, "num_beams": 2}, "Streaming writes one text"),
        ("w1", {"stream": True, "stop": "w"}, "leave one out"),
        (5, {}, "must be a text"),
    ],
)
def test_what_cannot_be(ours: Any, texts: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Text2Text(ours)(texts, **options)


def test_a_decoder_is_no_encoder_decoder(ours: Any) -> None:
    other = SimpleNamespace(**vars(ours))
    other.module = torch.nn.Linear(1, 1)
    with pytest.raises(InputError, match="is no encoder-decoder"):
        Text2Text(other)
    with pytest.raises(InputError, match="it aligns nothing"):
        alignment(other, "w1")


def test_alignment_is_the_cross_attention_of_each_word(theirs: MarianMTModel, ours: Any) -> None:
    source, target = "w1 w2 w3", "w4 w5"
    model = SimpleNamespace(**vars(ours))
    found = alignment(model, source, target)  # type: ignore[arg-type]
    assert (found.source, found.target) == (["w1", "w2", "w3", "end"], ["w4", "w5", "end"])
    ids = torch.tensor([ours.tokenizer.encode(source).ids])
    decoder = torch.tensor([[0, *ours.tokenizer.encode(target).ids[:-1]]])
    theirs.set_attn_implementation("eager")
    with torch.no_grad():
        expected = theirs(ids, decoder_input_ids=decoder, output_attentions=True).cross_attentions
    for layer, weights in zip(found.layers, expected, strict=True):
        torch.testing.assert_close(layer, weights[0], atol=1e-5, rtol=1e-5)
