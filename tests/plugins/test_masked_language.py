"""Masked-language modelling: what is hidden, the batches, the scores, a training run."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from toy_tasks import ColoursHidden

import zoo
from zoo.errors import InputError, TrainingError
from zoo.nn.loss import IGNORED
from zoo.pipelines.reading import Reader, pad
from zoo.registry import registry, resolve
from zoo.tasks.masked_language import Hiding, MaskedBatches, ratio
from zoo.tokenization import build_tokenizer, mark_texts


@pytest.fixture
def tokenizer() -> Tokenizer:
    return ColoursHidden().build_tokenizer({"kind": "word"})


def test_fifteen_in_a_hundred_are_hidden_in_three_ways() -> None:
    words = " ".join(f"w{number}" for number in range(1000))
    tokenizer = build_tokenizer(words, {"kind": "word"})
    mark_texts(tokenizer)
    rows = Reader(tokenizer, 128).pieces([words] * 100)
    ids, real = pad(rows, tokenizer.token_to_id("<pad>"))
    shown, targets = Hiding(tokenizer)(ids, real, [1])
    hidden = targets != IGNORED
    special = torch.tensor([tokenizer.token_to_id(mark) for mark in ("<pad>", "<cls>", "<mask>")])
    words_of_text = ~torch.isin(ids, special)
    assert not hidden[~words_of_text].any()
    assert torch.equal(targets[hidden], ids[hidden])
    assert torch.equal(shown[~hidden], ids[~hidden])
    count = int(words_of_text.sum())  # 100,000

    def is_near(found: torch.Tensor, of: int, share: float) -> bool:
        return abs(int(found.sum()) / of - share) < 4 * math.sqrt(share * (1 - share) / of)

    assert is_near(hidden, count, 0.15)
    total = int(hidden.sum())
    masked = hidden & (shown == special[2])
    assert is_near(masked, total, 0.8)
    same = hidden & (shown == ids)
    swapped = hidden & ~masked & ~same
    assert is_near(same, total, 0.1 + 0.1 / 1001)  # a swapped one may be itself
    assert is_near(swapped, total, 0.1 - 0.1 / 1001)
    assert not torch.isin(shown[swapped], special).any()
    assert len(shown[swapped].unique()) > 700  # any word


def test_one_at_least_is_hidden_and_the_seed_decides(tokenizer: Tokenizer) -> None:
    ids, real = pad(Reader(tokenizer, 16).pieces(["the sea"]), tokenizer.token_to_id("<pad>"))
    hide = Hiding(tokenizer)
    counts = [int((hide(ids, real, [seed])[1] != IGNORED).sum()) for seed in range(50)]
    assert min(counts) == 1
    assert torch.equal(hide(ids, real, [7])[1], hide(ids, real, [7])[1])


def test_pieces_hold_every_token_once(tokenizer: Tokenizer) -> None:
    text = "the sea is red " * 9
    pieces = Reader(tokenizer, 8).pieces([text, "", "one"])
    first = tokenizer.token_to_id("<cls>")
    assert all(piece[0] == first and 2 <= len(piece) <= 8 for piece in pieces)
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    assert np.concatenate([piece[1:] for piece in pieces[:-1]]).tolist() == whole
    assert tokenizer.decode(pieces[-1].tolist()) == "one"


def test_batches_hide_anew_in_each_epoch(tokenizer: Tokenizer) -> None:
    pieces = Reader(tokenizer, 16).pieces(ColoursHidden().texts("train"))
    made = MaskedBatches(pieces, tokenizer, rows=8, seed=1)
    again = MaskedBatches(pieces, tokenizer, rows=8, seed=1)
    assert made.per_epoch == 5
    for step in (7, 0):
        assert all(torch.equal(made(step)[key], again(step)[key]) for key in ("ids", "targets"))

    def texts(epoch: int) -> list[list[int]]:
        found = []
        for step in range(epoch * 5, epoch * 5 + 5):
            batch = made(step)
            original = batch["ids"].where(batch["targets"] == IGNORED, batch["targets"])
            found += [row[real].tolist() for row, real in zip(original, batch["real"], strict=True)]
        return found

    assert sorted(texts(0)) == sorted(texts(1)) == sorted(piece.tolist() for piece in pieces)
    with pytest.raises(TrainingError, match="40 training texts are too few for a batch of 41"):
        MaskedBatches(pieces, tokenizer, rows=41, seed=1)


def test_the_error_of_a_ratio() -> None:
    generator = np.random.default_rng(1)
    counts = generator.integers(5, 60, size=(2000, 150)).astype(float)
    values = counts * (0.3 + 0.1 * generator.standard_normal(counts.shape))
    found = [ratio(v, c) for v, c in zip(values, counts, strict=True)]
    spread = np.std([mean for mean, _ in found])
    assert np.mean([error for _, error in found]) == pytest.approx(spread, rel=0.05)
    assert math.isnan(ratio(values[0, :1], counts[0, :1])[1])


def test_only_what_is_asked_is_computed(any_encoder: torch.nn.Module) -> None:
    ids = torch.randint(1, 40, (3, 9))
    real = torch.ones_like(ids, dtype=torch.bool)
    where = torch.rand(3, 9) < 0.3
    torch.testing.assert_close(any_encoder(ids, real, where=where), any_encoder(ids, real)[where])


@pytest.fixture
def any_encoder() -> torch.nn.Module:
    torch.manual_seed(1)
    sizes = {"vocab_size": 40, "max_seq_len": 12, "d_model": 16, "n_layers": 2, "n_heads": 2}
    return zoo.create("encoder", **sizes, d_ff=24, head="masked-language").eval()


def test_an_encoder_learns_to_fill_in(encoder_recipe: Callable[..., Path], tmp_path: Path) -> None:
    model = zoo.train(encoder_recipe("colours-mlm", steps=300), out=tmp_path / "tiny")
    assert model.card is not None
    scores = {score.key: score for score in model.card.scores}
    assert scores["masked_perplexity"].value < 4  # of 15 words; colours cannot be known: 3
    assert 0.3 < scores["masked_accuracy"].value < 0.95
    assert 0 < scores["masked_accuracy"].standard_error < 0.2
    best = model("a leaf or <mask> is red", top_k=1)[0]
    assert best["token_str"] == "two" and best["score"] > 0.8
    assert zoo.evaluate(model) == zoo.evaluate(model)
    with pytest.raises(InputError, match="colours is a text-classification task"):
        zoo.evaluate(model, "colours")


def test_the_reviews_without_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    import zoo_imdb.task as imdb

    sizes = {"train": 4, "test": 3, "unsupervised": 1010}
    monkeypatch.setattr(
        imdb, "read", lambda split: [(f"{split} {number}", 0) for number in range(sizes[split])]
    )
    task = resolve(registry().tasks.get("imdb-mlm").target)()
    texts = {split: set(task.texts(split)) for split in task.splits}
    assert {split: len(found) for split, found in texts.items()} == {
        "train": 14,
        "validation": 1000,
        "test": 3,
    }
    assert not texts["train"] & texts["validation"]
    assert not any(text.startswith("test") for text in texts["train"] | texts["validation"])


def test_the_bundled_model_knows_which_word_is_missing() -> None:
    """The first guess, in places where the words on both sides leave little choice."""
    model = zoo.load("mlm-encoder")
    for text, words in (
        ("This is the worst <mask> I have ever seen.", {"movie", "film"}),
        ("I would not <mask> it to anyone.", {"recommend"}),
        ("The acting was <mask> and the plot made no sense.", {"terrible", "bad", "awful"}),
        ("He fell in <mask> with her at first sight.", {"love"}),
    ):
        assert model(text)[0]["token_str"] in words
