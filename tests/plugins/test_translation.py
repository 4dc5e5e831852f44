"""Translation: batches, the smoothed loss, the scores against sacrebleu, and the two data sets."""

import gzip
import hashlib
import json
import math
import os
import random
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
import zoo_translation
from tokenizers import Tokenizer
from torch import Tensor, nn
from zoo_translation import task as data

import zoo
from zoo.errors import DataNotFoundError, InputError, MissingExtraError, TrainingError
from zoo.model import Model
from zoo.registry import resolve
from zoo.tasks import Translation
from zoo.tasks.translation import (
    PairBatches,
    end_id_of,
    signatures,
    target_nats,
    tokens,
    translation_scores,
)
from zoo.tokenization import build_tokenizer, end_texts

needs_data = pytest.mark.skipif(
    "TXZOO_DATA" not in os.environ, reason="needs TXZOO_DATA, a folder of data sets"
)
NUMBERS = {
    "one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf", "six": "sechs",
    "seven": "sieben", "eight": "acht", "nine": "neun", "ten": "zehn",
}  # fmt: skip


class Numbers(Translation):
    """Numbers in words, from English into German."""

    splits = ("train", "test")

    def __init__(self, count: int = 60) -> None:
        self.count = count

    def pairs(self, split: str) -> tuple[list[str], list[str]]:
        generator = random.Random(split)
        count = self.count if split == "train" else 40
        rows = [generator.choices(list(NUMBERS), k=generator.randint(4, 13)) for _ in range(count)]
        return (
            [" ".join(row) for row in rows],
            [f"{' '.join(NUMBERS[word] for word in row)}." for row in rows],
        )


class Tiny(nn.Module):
    """Reads the mean of the source and the last token: enough to tell all three inputs apart."""

    max_len: int | None = None

    def __init__(self, vocab_size: int, pad_id: int, end_id: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.config = SimpleNamespace(pad_id=pad_id, start_id=pad_id, end_id=end_id)
        self.source = nn.Embedding(vocab_size, 8)
        self.target = nn.Embedding(vocab_size, 8)
        self.head = nn.Linear(8, vocab_size)

    def forward(self, source: Tensor, ids: Tensor, real: Tensor) -> Tensor:
        weights = real.float() / real.sum(1, keepdim=True)  # (B, S)
        memory = (weights[..., None] * self.source(source)).sum(1, keepdim=True)  # (B, 1, D)
        logits: Tensor = self.head(torch.tanh(self.target(ids) + memory))
        return logits


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Numbers().build_tokenizer({"kind": "byte-pair", "vocab_size": 300})


@pytest.fixture
def model(tokenizer: Tokenizer) -> Model:
    size = tokenizer.get_vocab_size()
    module = Tiny(size, tokenizer.token_to_id("<pad>"), tokenizer.token_to_id("<|endoftext|>"))
    return Model(
        name="tiny",
        module=module.eval(),
        config=module.config,
        tokenizer=tokenizer,
        pipeline="translation",
        card=None,
    )


def translate_as(monkeypatch: pytest.MonkeyPatch, answers: Mapping[str, str]) -> list[int]:
    """Let the pipeline give these translations; the beams it is asked for come back."""
    beams = []

    class Pipeline:
        def __init__(self, model: Model) -> None:
            assert isinstance(model, Model)

        def __call__(self, texts: Sequence[str], *, num_beams: int) -> list[str]:
            beams.append(num_beams)
            return [answers[text] for text in texts]

    stand_in = SimpleNamespace(Translation=Pipeline)
    monkeypatch.setitem(sys.modules, "zoo.pipelines.text2text", stand_in)  # type: ignore[misc]
    return beams


# tokens and batches


def test_a_text_ends_with_a_token_of_its_own(tokenizer: Tokenizer) -> None:
    end = tokenizer.token_to_id("<|endoftext|>")
    assert tokenizer.get_vocab_size() == 302
    for text in ("", "one two", "Übel"):
        ids = tokenizer.encode(text).ids
        assert ids[-1] == end and end not in ids[:-1]
        assert tokenizer.decode(ids) == text
    pad = tokenizer.token_to_id("<pad>")
    assert Numbers().config(tokenizer) == {"pad_id": pad, "start_id": pad, "end_id": end}
    both = tokenizer.encode("one two zwei").ids  # pairs of both languages were learned
    assert tokenizer.decode(both[1:3]) == " two zwei" and len(both) == 4
    bare = build_tokenizer("one two", {"kind": "word"})
    with pytest.raises(InputError, match=r"no token that ends a text: <\|endoftext\|> or </s>"):
        end_id_of(bare)
    bare.add_special_tokens(["</s>"])
    assert end_id_of(bare) == bare.token_to_id("</s>")


def test_more_texts_than_are_read_at_once_keep_their_order(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.tasks.translation.CHUNK", 7)
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding()
    texts = Numbers().pairs("train")[0]
    assert [tokenizer.decode(ids.tolist()) for ids in tokens(tokenizer, texts)] == texts


def rows_of(batch: Mapping[str, Tensor], tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    """The texts of a batch, read from the source and the targets, after a look at its layout."""
    pad, end = (tokenizer.token_to_id(token) for token in ("<pad>", "<|endoftext|>"))
    for source, real, ids, targets in zip(
        *(batch[key].tolist() for key in ("source", "real", "ids", "targets")), strict=True
    ):
        S, T = sum(real), sum(target != -100 for target in targets)
        assert real == [True] * S + [False] * (len(real) - S)
        assert source[S:] == [pad] * (len(source) - S) and source[S - 1] == end
        assert targets[T:] == [-100] * (len(targets) - T) and targets[T - 1] == end
        assert ids == [pad, *targets[: T - 1]] + [pad] * (len(ids) - T)
        yield tokenizer.decode(source[:S]), tokenizer.decode(targets[:T])


def test_an_epoch_has_each_pair_once_and_pads_with_nothing_else(tokenizer: Tokenizer) -> None:
    task = Numbers(60)
    made, again = (task.batches(tokenizer, length=99, batch_tokens=200, seed=1) for _ in range(2))
    mean = np.mean([len(tokenizer.encode(text).ids) for text in task.pairs("train")[1]])
    assert made.rows == round(200 / mean)
    made.rows = 6  # of 60 pairs none is left over
    made.per_epoch = 10
    again.rows, again.per_epoch = made.rows, made.per_epoch
    wanted = Counter(zip(*task.pairs("train"), strict=True))
    orders = []
    for epoch in (0, 1):
        steps = range(10 * epoch, 10 * epoch + 10)
        found = [row for step in steps for row in rows_of(made(step), tokenizer)]
        assert Counter(found) == wanted
        orders.append(found)
    assert orders[0] != orders[1]
    for step in (13, 2):
        one, other = made(step), again(step)
        assert all(torch.equal(one[key], other[key]) for key in one)
    batch = made(0)
    assert {key: len(rows) for key, rows in batch.items()} == dict.fromkeys(batch, 6)


def test_a_batch_has_pairs_of_like_length() -> None:
    generator = np.random.default_rng(1)
    sources = [np.arange(n) for n in generator.integers(3, 40, size=900)]
    targets = [np.arange(max(2, len(s) + generator.integers(-3, 4))) for s in sources]
    made = PairBatches(sources, targets, batch_tokens=300, seed=1, pad_id=0, start_id=0)
    shares, count = [], 0
    for step in range(made.per_epoch):
        batch = made(step)
        shares.append([batch["real"].float().mean(), (batch["targets"] >= 0).float().mean()])
        count += int((batch["targets"] >= 0).sum())
    assert np.mean(shares, axis=0).min() > 0.85  # in a drawn order 0.55 of it
    assert count / made.per_epoch == pytest.approx(300, rel=0.05)


def test_long_pairs_are_left_out_and_counted(tokenizer: Tokenizer) -> None:
    task = Numbers()
    sources, targets = (
        [len(tokenizer.encode(text).ids) for text in side] for side in task.pairs("train")
    )
    length = sorted(map(max, sources, targets))[40]
    fit = [pair for pair in zip(sources, targets, strict=True) if max(pair) <= length]
    assert 40 < len(fit) < 60
    with pytest.warns(UserWarning, match=f"{60 - len(fit)} of 60 training pairs .* {length} tok"):
        made = task.batches(tokenizer, length=length, batch_tokens=1, seed=1)
    assert made.rows == 1 and made.per_epoch == len(fit)
    widths = [
        (made(step)["source"].shape[1], made(step)["ids"].shape[1]) for step in range(len(fit))
    ]
    assert Counter(widths) == Counter(fit)
    with pytest.raises(TrainingError, match="all 60 training pairs have .* than 3 tokens: raise"):
        task.batches(tokenizer, length=3, batch_tokens=1, seed=1)
    with pytest.raises(TrainingError, match="60 training texts are too few .* lower batch_tokens"):
        task.batches(tokenizer, length=99, batch_tokens=9999, seed=1)


# loss and perplexity


def naive_nats(module: nn.Module, source: list[int], target: list[int]) -> list[list[float]]:
    """A pair alone, without padding: minus the log-probability of all tokens, token by token."""
    found = []
    for place in range(len(target)):
        ids = torch.tensor([[module.config.start_id, *target[:place]]])  # type: ignore[union-attr]
        logits = module(torch.tensor([source]), ids, torch.ones(1, len(source), dtype=torch.bool))
        found.append((-logits[0, -1].double().log_softmax(0)).tolist())
    return found


def test_the_loss_is_smoothed_and_blind_to_padding(model: Model, tokenizer: Tokenizer) -> None:
    task = Numbers()
    batch = task.batches(tokenizer, length=99, batch_tokens=200, seed=1)(0)
    assert (batch["targets"] == -100).any()
    V = tokenizer.get_vocab_size()
    sums, count = {0.0: 0.0, 0.1: 0.0}, 0
    for source, target in rows_of(batch, tokenizer):
        right = tokenizer.encode(target).ids
        nats = naive_nats(model.module, tokenizer.encode(source).ids, right)
        count += len(right)
        for smoothing in sums:  # Szegedy et al. 2016: (1 - e) of the right token, e / V of each
            sums[smoothing] += sum(
                (1 - smoothing) * row[token] + smoothing * sum(row) / V
                for row, token in zip(nats, right, strict=True)
            )
    loss = task.loss(model.module, batch)
    assert loss.item() == pytest.approx(sums[0.1] / count, rel=1e-5)
    logits = model.module(batch["source"], batch["ids"], batch["real"])
    expected = nn.functional.cross_entropy(
        logits.flatten(0, 1), batch["targets"].flatten(), label_smoothing=0.1
    )
    torch.testing.assert_close(loss, expected)
    task.label_smoothing = 0.0
    assert task.loss(model.module, batch).item() == pytest.approx(sums[0.0] / count, rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.module.parameters())


@torch.no_grad()
def test_perplexity_is_that_of_each_token_and_the_end(
    model: Model, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Numbers()
    sources, targets = (side[:20] for side in task.pairs("test"))
    rows = []
    for source, target in zip(sources, targets, strict=True):
        right = tokenizer.encode(target).ids
        nats = naive_nats(model.module, tokenizer.encode(source).ids, right)
        rows.append([sum(row[token] for row, token in zip(nats, right, strict=True)), len(right)])
    np.testing.assert_allclose(target_nats(model, sources, targets), rows, rtol=1e-5)
    translate_as(monkeypatch, dict.fromkeys(sources, "nichts"))
    scores = task.evaluate(model, "test", limit=20)
    total, count = np.sum(rows, axis=0)
    assert scores["perplexity_per_token"] == pytest.approx(math.exp(total / count), rel=1e-5)
    draws = np.random.default_rng(5).integers(20, size=(4000, 20))
    sums = np.array(rows)[draws].sum(1)
    spread = np.exp(sums[:, 0] / sums[:, 1]).std()
    assert scores["perplexity_per_token_stderr"] == pytest.approx(spread, rel=0.15)


def test_pairs_that_do_not_fit_are_left_out_of_the_perplexity(
    model: Model, tokenizer: Tokenizer
) -> None:
    sources, targets = ["one", "two", "one two three four five"], ["eins", "zwei drei", "eins"]
    both = target_nats(model, sources, targets)
    most = len(tokenizer.encode(targets[1]).ids)
    assert most < len(tokenizer.encode(sources[2]).ids)
    for options in ({"context": most}, {}):
        if not options:
            model.module.max_len = most
        with pytest.warns(UserWarning, match=f"1 of 3 pairs have a side of more than {most} tok"):
            found = target_nats(model, sources, targets, **options)
        np.testing.assert_allclose(found, both[:2])
    with pytest.raises(InputError, match="all 3 pairs have a side of more than 1 tokens"):
        target_nats(model, sources, targets, 1)


# scores of translations

HYPOTHESES = [
    "Ein Mann fährt ein rotes Fahrrad.",
    "Zwei Hunde spielen im Schnee",
    "die frau liest ein Buch, das alt ist.",
    "",
    "Das Wetter ist heute schön, nicht wahr?",
]
REFERENCES = [
    ["Ein Mann fährt auf einem roten Fahrrad.", "Ein Mann fährt ein rotes Rad."],
    ["Zwei Hunde spielen im Schnee."],
    ["Die Frau liest ein altes Buch."],
    ["Niemand sagt etwas."],
    ["Das Wetter ist heute schön, nicht wahr?", "Heute ist schönes Wetter, oder?"],
]


@pytest.mark.parametrize("many", [False, True])
def test_scores_are_those_of_sacrebleu(many: bool) -> None:
    references = REFERENCES if many else [group[:1] for group in REFERENCES]
    streams: Any = [[group[0] for group in references]]
    if many:
        streams.append([group[1] if len(group) > 1 else None for group in references])
    found = translation_scores(HYPOTHESES, references)
    bleu = sacrebleu.corpus_bleu(HYPOTHESES, streams, tokenize="13a")
    lower = sacrebleu.corpus_bleu(HYPOTHESES, streams, tokenize="13a", lowercase=True)
    chrf = sacrebleu.corpus_chrf(HYPOTHESES, streams)
    assert found["bleu"] == bleu.score and 10 < bleu.score < 90
    assert found["bleu_lowercased"] == lower.score > bleu.score
    assert found["chrf"] == chrf.score
    names = signatures(references)
    assert set(names) == {"bleu", "bleu_lowercased", "chrf"}
    assert f"nrefs:{'var' if many else 1}|case:mixed" in names["bleu"]
    assert "tok:13a" in names["bleu"] and "case:lc" in names["bleu_lowercased"]
    assert names["chrf"].endswith(f"version:{sacrebleu.__version__}")
    assert signatures()["bleu"].startswith("nrefs:1|")


def test_the_error_is_that_of_resampling() -> None:
    generator = random.Random(2)
    words = list(NUMBERS.values())
    right = [generator.choices(words, k=12) for _ in range(40)]
    hypotheses = [
        " ".join(generator.choice(words) if generator.random() < 0.3 else word for word in row)
        for row in right
    ]
    references = [" ".join(row) for row in right]
    found = translation_scores(hypotheses, [[text] for text in references])
    assert translation_scores(hypotheses, [[text] for text in references]) == found
    draws = [generator.choices(range(40), k=40) for _ in range(150)]
    for name, score in (("bleu", sacrebleu.corpus_bleu), ("chrf", sacrebleu.corpus_chrf)):
        others = [
            score([hypotheses[n] for n in draw], [[references[n] for n in draw]]).score
            for draw in draws
        ]
        assert found[f"{name}_stderr"] == pytest.approx(np.std(others), rel=0.2)
        others.sort()  # the fourth of 150 from either end is where 2.5% lie outside
        ends = [found[f"{name}_low"], found[f"{name}_high"]]
        assert ends == pytest.approx([others[3], others[-4]], abs=np.std(others) / 2)
    rare = translation_scores([references[0], *[""] * 39], [[text] for text in references])
    assert 0 < rare["bleu_stderr"] < 5  # the one that scores is in two of three draws
    one = translation_scores(hypotheses[:1], [references[:1]])
    assert all(math.isnan(one[f"bleu_{end}"]) for end in ("stderr", "low", "high"))
    assert one["bleu"] > 0


def test_perfect_and_silent_translators(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    task = Numbers()
    sources, targets = task.pairs("test")
    beams = translate_as(monkeypatch, dict(zip(sources, targets, strict=True)))
    best = task.evaluate(model, "test")
    assert beams == [4]
    for name in ("bleu", "bleu_lowercased", "chrf"):
        assert best[name] == pytest.approx(100) and best[f"{name}_stderr"] == pytest.approx(0)
    translate_as(monkeypatch, dict.fromkeys(sources, ""))
    worst = task.evaluate(model, "test", limit=10)
    assert [worst[name] for name in ("bleu", "bleu_lowercased", "chrf")] == [0, 0, 0]
    keys = {key for name in zoo_translation.METRICS for key in (name, f"{name}_stderr")}
    ends = {f"{name}_{end}" for name in task.signatures("test") for end in ("low", "high")}
    assert set(worst) == keys | ends


def test_scores_by_length(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    """Short sentences right, long ones not at all."""
    task = Numbers()
    sources, targets = task.pairs("test")
    answers = {
        source: target if source.count(" ") < 5 else "nichts davon"
        for source, target in zip(sources, targets, strict=True)
    }
    assert translate_as(monkeypatch, answers) == []
    rows = task.by_source_length(model, "test")
    lengths = [len(source.split()) for source in sources]
    assert [row[:2] for row in rows] == [
        ("1-5", sum(n <= 5 for n in lengths)),
        ("6-10", sum(6 <= n <= 10 for n in lengths)),
        ("11-15", sum(n > 10 for n in lengths)),
    ]
    assert rows[0].bleu == pytest.approx(100) and rows[0].chrf == pytest.approx(100)
    assert rows[1].bleu == rows[2].bleu == 0 and rows[2].chrf < 10
    given = task.by_source_length(model, "test", limit=3, translations=targets[:3])
    assert sum(row.sentences for row in given) == 3
    assert all(row.bleu == pytest.approx(100) for row in given)


def test_without_sacrebleu(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    for call in (
        lambda: Numbers().evaluate(model, "test"),
        lambda: Numbers().by_source_length(model, "test"),
        signatures,
    ):
        with pytest.raises(MissingExtraError, match=r"pip install 'txzoo\[hf\]'"):
            call()
    with pytest.raises(InputError, match="no translations to measure"):
        monkeypatch.undo()
        translation_scores([], [])


# the data sets


@pytest.fixture
def _no_memory() -> Iterator[None]:
    """What was read stays in this test."""
    readers = (data.multi30k, data.tatoeba)
    for read in readers:
        read.cache_clear()
    yield
    for read in readers:
        read.cache_clear()


def test_the_entries_name_their_tasks() -> None:
    entries = {entry.name: entry for entry in zoo_translation.txzoo_tasks()}
    assert set(entries) == {
        "multi30k-en-de", "multi30k-de-en", "tatoeba-en-de", "tatoeba-de-en", "en-de", "de-en",
        "captions-en-de",
    }  # fmt: skip
    for name, entry in entries.items():
        kind = resolve(entry.target)
        assert issubclass(kind, Translation) and kind.splits[0] == "train"
        assert set(kind.parts) == set(kind.splits) > set(kind.test_splits)
        assert (entry.pipeline, entry.license) == ("translation", "other")
        assert (kind.source, kind.target) == ((1, 0) if name.endswith("de-en") else (0, 1))


def test_the_other_direction_is_one_line_of_the_recipe() -> None:
    one, other = (
        [
            line
            for line in (zoo.info(name).folder / "recipe.toml").read_text().splitlines()
            if not line.startswith("# expect")  # what a training writes into it
        ]
        for name in ("seq2seq-en-de-base", "seq2seq-de-en")
    )
    differ = [pair for pair in zip(one, other, strict=True) if len(set(pair)) == 2]
    assert differ == [('task = "en-de"', 'task = "de-en"')]


def test_captions_may_be_most_of_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _no_memory: None
) -> None:
    monkeypatch.setattr(data, "multi30k", lambda split: [("A dog.", "Ein Hund.")])
    everyday = {split: [("Hello.", "Hallo.")] for split in ("train", "validation", "test")}
    monkeypatch.setattr(data, "tatoeba", lambda: everyday)
    for kind, times in ((data.EnDe, 3), (data.CaptionsEnDe, 8)):
        sources, targets = kind().pairs("train")
        assert sources == ["A dog."] * times + ["Hello."]
        assert targets == ["Ein Hund."] * times + ["Hallo."]
    for split in data.EnDe.splits[1:]:
        assert data.EnDe().pairs(split) == data.CaptionsEnDe().pairs(split)


def test_no_sentence_is_in_two_splits() -> None:
    pairs = [(f"Sentence {n}.", f"Satz {n}.") for n in range(60)]
    pairs += [(f"Sentence {n}.", f"Der Satz {n}.") for n in range(0, 60, 3)]
    pairs += [(f"sentence, {n}!", f"satz {n}!") for n in range(0, 60, 2)]  # spelled otherwise
    pairs += [(f"Another {n}.", f"Satz {n + 1}") for n in range(59)]  # of a German one that is held
    found = data.split_by_english(pairs, 10)
    assert sum(map(len, found.values())) < len(pairs)
    assert set(found) == {"train", "validation", "test"}
    for side in (data.EN, data.DE):
        texts = {split: {data.plain(pair[side]) for pair in found[split]} for split in found}
        assert not texts["train"] & texts["test"] and not texts["train"] & texts["validation"]
        assert not texts["validation"] & texts["test"]
    for split in ("validation", "test"):
        assert len({pair[0] for pair in found[split]}) == 10
        english = {pair[0] for pair in found[split]}
        assert set(found[split]) == {pair for pair in pairs if pair[0] in english}
    assert len(found["train"]) > 100 and set(found["train"]) < set(pairs)
    shuffled = data.split_by_english(sorted(pairs, key=lambda pair: pair[1]), 10)
    english = {data.plain(pair[0]) for pair in found["test"]}
    assert {data.plain(pair[0]) for pair in shuffled["test"]} == english


@pytest.mark.usefixtures("_no_memory")
def test_both_data_sets_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXZOO_DATA", str(tmp_path))
    monkeypatch.setattr(data, "HELD_OUT", 2)
    (tmp_path / "multi30k").mkdir()
    for name in ("train", "val", "test_2016_flickr"):
        for language, text in (("en", "A {} dog.\nA cat\u2028!\n"), ("de", "Ein {} Hund. \nÄ\n")):
            path = tmp_path / "multi30k" / f"{name}.{language}.gz"
            path.write_bytes(gzip.compress(text.format(name).encode()))
    (tmp_path / "tatoeba-deu-eng").mkdir()
    lines = [f"Go {n}.\tGeh {n}.\nGo {n}.\tLauf {n}.\nGo {n}.\tGeh {n}." for n in range(9)]
    lines[0] += "\tCC BY 2.0 by someone"
    with zipfile.ZipFile(tmp_path / data.TATOEBA, "w") as archive:
        archive.writestr("deu.txt", "\n".join([*lines, ""]))
        archive.writestr("_about.txt", "not a sentence")
    captions = data.Multi30kEnDe().pairs("test")
    assert captions == (
        ["A test_2016_flickr dog.", "A cat\u2028!"],
        ["Ein test_2016_flickr Hund.", "Ä"],
    )
    assert data.Multi30kDeEn().pairs("test") == captions[::-1]
    assert data.Multi30kEnDe().references("test") == [[text] for text in captions[1]]
    everyday = data.TatoebaEnDe()
    sources, targets = everyday.pairs("test")
    assert len(set(sources)) == len(sources) == 2
    for source, target, known in zip(sources, targets, everyday.references("test"), strict=True):
        assert known == [source.replace("Go", "Geh"), source.replace("Go", "Lauf")]
        assert target == known[0]
    both = data.EnDe()
    assert len(both.pairs("train")[0]) == 3 * 2 + 5 * 3  # captions three times
    assert both.pairs("test_2016") == captions and both.pairs("tatoeba_test") == (sources, targets)
    assert both.references("tatoeba_test") == everyday.references("test")
    assert data.TatoebaDeEn().pairs("train") == everyday.pairs("train")[::-1]
    reverse = data.DeEn()
    assert len(reverse.pairs("tatoeba_test")[0]) == 4
    assert set(reverse.pairs("tatoeba_test")[1]) == set(sources)
    assert reverse.pairs("train") == both.pairs("train")[::-1]


@pytest.mark.usefixtures("_no_memory")
def test_captions_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TXZOO_DATA", raising=False)
    asked = []

    def from_hub(repository: str, *, split: str, revision: str) -> list[dict[str, str]]:
        asked.append((repository, split))
        return [{"en": "A dog. ", "de": "Ein Hund."}]

    monkeypatch.setattr(data, "from_hub", from_hub)
    assert data.Multi30kEnDe().pairs("validation") == (["A dog."], ["Ein Hund."])
    assert asked == [("bentrevett/multi30k", "validation")]
    with pytest.raises(DataNotFoundError, match=r"\(test\) on the Hub is not what it was: its 1 p"):
        data.Multi30kEnDe().pairs("test")
    with pytest.raises(DataNotFoundError, match=r"manythings.*set TXZOO_DATA .*deu-eng\.zip"):
        data.TatoebaEnDe().pairs("train")


@needs_data
def test_the_data_sets_have_their_sizes() -> None:
    captions = data.Multi30kEnDe()
    sizes = {split: len(captions.pairs(split)[0]) for split in captions.splits}
    assert sizes == {"train": 29_000, "validation": 1_014, "test": 1_000}
    for split, digest in data.MULTI30K_SHA256.items():
        assert hashlib.sha256(json.dumps(data.multi30k(split)).encode()).hexdigest() == digest
    everyday = data.TatoebaEnDe()
    for split in ("validation", "test"):
        references = everyday.references(split)
        assert len(references) == 1500
        assert sum(len(known) > 1 for known in references) > 200
    train = everyday.pairs("train")
    assert len(train[0]) > 164_000
    known = [{data.plain(text) for text in side} for side in train]
    for split in ("validation", "test"):
        held = everyday.sources(split)
        assert not known[0] & {data.plain(text) for text, _ in held}
        assert not known[1] & {data.plain(text) for _, texts in held for text in texts}
    # nor is a caption to be measured on among the everyday sentences to be learned from
    for split in ("validation", "test"):
        for side, texts in zip(known, captions.pairs(split), strict=True):
            assert not side & set(map(data.plain, texts))


def test_end_texts_can_be_called_on_any_tokenizer() -> None:
    """A word tokenizer that has an end already keeps it."""
    bare = build_tokenizer("one two", {"kind": "word"})
    bare.add_special_tokens(["<|endoftext|>"])
    size = bare.get_vocab_size()
    end_texts(bare)
    assert bare.get_vocab_size() == size + 1  # <pad>
    assert bare.encode("two one").tokens == ["two", "one", "<|endoftext|>"]
