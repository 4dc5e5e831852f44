"""Classification tasks: scores by hand and by scikit-learn, batches, data sets, a training run."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_tasks import Colours

import zoo
from zoo.errors import DataNotFoundError, InputError, RecipeError, TrainingError
from zoo.pipelines.reading import Reader
from zoo.registry import registry, resolve
from zoo.tasks.classification import (
    ExampleBatches,
    calibration_error,
    classification_scores,
    confusion,
    macro_f1,
)
from zoo.tokenization import build_tokenizer, mark_texts, pad_id_of

needs_data = pytest.mark.skipif(
    not os.environ.get("TXZOO_DATA"), reason="TXZOO_DATA is not set: needs data"
)


# five texts, two labels: predictions right, right, wrong, right, wrong
PROBABILITIES = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8], [0.45, 0.55]])
LABELS = np.array([0, 0, 1, 1, 0])


def test_scores_by_hand() -> None:
    found = classification_scores(PROBABILITIES, LABELS, ("no", "yes"))
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["accuracy_stderr"] == pytest.approx(math.sqrt(0.6 * 0.4 / 4))
    # label no: 2 hits, 3 texts, 3 guesses; label yes: 1 hit, 2 texts, 2 guesses
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["is_no_called_yes"] == pytest.approx(1 / 3)
    assert found["is_yes_called_no"] == pytest.approx(1 / 2)
    # each text in a bin of its own: |0.9-1|, |0.6-1|, |0.7-0|, |0.8-1|, |0.55-0|
    expected = (0.1 + 0.4 + 0.7 + 0.2 + 0.55) / 5
    assert found["expected_calibration_error"] == pytest.approx(expected)
    assert all(f"{name}_stderr" in found for name in found if not name.endswith("_stderr"))


def test_texts_of_one_bin_balance() -> None:
    confidence, right = np.array([0.81, 0.82, 0.83, 0.84]), np.array([1.0, 1.0, 1.0, 0.0])
    assert calibration_error(confidence, right, bins=5) == pytest.approx(0.825 - 0.75)


def test_f1_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    generator = np.random.default_rng(1)
    labels, guesses = generator.integers(4, size=(2, 300))
    table = confusion(labels, guesses, 4)
    assert table.tolist() == metrics.confusion_matrix(labels, guesses).tolist()
    assert macro_f1(table) == pytest.approx(metrics.f1_score(labels, guesses, average="macro"))


def test_standard_errors_are_how_much_scores_scatter() -> None:
    generator = np.random.default_rng(2)
    found: dict[str, list[float]] = {}
    for _ in range(150):
        labels = generator.integers(2, size=200)
        sure = generator.uniform(0.5, 1, size=200)
        right = generator.random(200) < sure - 0.1  # overconfident
        chances = np.where(labels == right, sure, 1 - sure)  # of label 1
        scores = classification_scores(
            np.stack([1 - chances, chances], 1), labels.astype(np.int64), ("a", "b")
        )
        for name, value in scores.items():
            found.setdefault(name, []).append(value)
    for name in ("accuracy", "macro_f1", "is_a_called_b"):
        claimed = float(np.mean(found[f"{name}_stderr"]))
        assert claimed == pytest.approx(float(np.std(found[name])), rel=0.25), name
    # a mean of absolute values does not scatter like a mean: within half is what the draws give
    claimed = float(np.mean(found["expected_calibration_error_stderr"]))
    assert claimed == pytest.approx(float(np.std(found["expected_calibration_error"])), rel=0.5)


def made(seed: int = 1, tokens: int = 64) -> ExampleBatches:
    task = Colours()
    tokenizer = task.build_tokenizer({"kind": "word"})
    return task.batches(tokenizer, length=16, batch_tokens=tokens, seed=seed)


def test_an_epoch_has_each_text_once_with_its_label() -> None:
    batches, task = made(), Colours()
    tokenizer = task.build_tokenizer({"kind": "word"})
    assert batches.per_epoch == 10
    seen = []
    for step in range(10, 20):
        batch = batches(step)
        assert batch["ids"].shape == batch["real"].shape and batch["targets"].shape == (4,)
        for ids, real, target in zip(*batch.values(), strict=True):
            assert (ids[~real] == pad_id_of(tokenizer)).all()
            text = tokenizer.decode(ids[real].tolist())
            assert text.endswith(f"is {task.labels[target]}")
            seen.append(text)
    assert sorted(seen) == sorted(task.examples("train")[0])


def test_batches_depend_on_seed_and_step_alone() -> None:
    one, again = made(), made()
    later = again(23)
    for step in (0, 23, 7):
        assert all(torch.equal(one(step)[key], again(step)[key]) for key in ("ids", "targets"))
    assert torch.equal(later["ids"], one(23)["ids"])
    assert not all(torch.equal(one(s)["targets"], made(seed=2)(s)["targets"]) for s in range(10))


def test_too_few_texts_or_labels_are_refused() -> None:
    with pytest.raises(TrainingError, match="40 training texts are too few for a batch of 62"):
        made(tokens=1000)
    tokenizer = build_tokenizer("a b", {"kind": "word"})
    mark_texts(tokenizer)
    rows = Reader(tokenizer, 4)(["a", "b"])
    with pytest.raises(TrainingError, match="all 2 training texts have one label"):
        ExampleBatches(rows, [1, 1], rows=1, seed=1, pad_id=0)


def test_how_likely_a_label_is_can_be_learned() -> None:
    tokenizer = build_tokenizer("a b c", {"kind": "word"})
    mark_texts(tokenizer)
    rows = Reader(tokenizer, 4)(["a", "b", "c"])
    batches = ExampleBatches(rows, [1, (0.75, 0.25), (0.5, 0.5)], rows=3, seed=1, pad_id=0)
    batch = batches(0)
    expected = {rows[0].ids[-1]: 1.0, rows[1].ids[-1]: 0.25, rows[2].ids[-1]: 0.5}
    found = zip(batch["ids"][:, -1].tolist(), batch["targets"][:, 1].tolist(), strict=True)
    assert dict(found) == expected
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5], [0.0, 0.1]])
    loss = Colours().loss(lambda ids, real: logits, batch)  # type: ignore[arg-type]
    by_hand = 0.0
    for (no, yes), (p_no, p_yes) in zip(logits.tolist(), batch["targets"].tolist(), strict=True):
        total = math.log(math.exp(no) + math.exp(yes))
        by_hand -= p_no * (no - total) + p_yes * (yes - total)
    assert float(loss) == pytest.approx(by_hand / 3)
    with pytest.raises(TrainingError, match="all 3 training texts have one label"):
        ExampleBatches(rows, [(0.5, 0.5)] * 3, rows=1, seed=1, pad_id=0)


def test_reviews_without_labels_get_those_of_tfidf(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    import zoo_imdb.task as imdb

    words = ("dull", "superb")
    labelled = [(f"the {words[n % 2]} film {n}", n % 2) for n in range(40)]
    others = [("what a superb film", -1), ("this dull film", -1), ("nothing of it", -1)]
    monkeypatch.setattr(imdb, "read", {"train": labelled, "unsupervised": others}.__getitem__)
    task = resolve(registry().tasks.get("imdb").target)()
    assert task.training_examples() == task.examples("train")
    task.set_objective({"unlabelled": 2})
    texts, labels = task.training_examples()
    assert texts[:40] == [text for text, _ in labelled]
    assert labels[:40] == [n % 2 for n in range(40)]
    assert texts[40:] == [text for text, _ in others[:2]]
    assert labels[40][1] > 0.8 > 0.2 > labels[41][1]
    assert all(sum(one) == pytest.approx(1) for one in labels[40:])
    for wrong in (4, -1, 1.5):
        task = resolve(registry().tasks.get("imdb").target)()
        task.set_objective({"unlabelled": wrong})
        with pytest.raises(RecipeError, match=rf"unlabelled must be .* from 0 to 3, got {wrong}"):
            task.training_examples()


def test_an_encoder_learns_is_measured_and_called(
    encoder_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = encoder_recipe("colours", steps=60)
    model = zoo.train(path, out=tmp_path / "tiny")
    assert model.card is not None
    scores = {score.key: score.value for score in model.card.scores}
    assert scores["accuracy"] > 0.9 and scores["macro_f1"] > 0.9
    assert model.config.labels == ("red", "green", "blue")
    assert model("one is green")["label"] == "green"
    assert zoo.evaluate(model, limit=7)["accuracy"] > 0.5
    again = zoo.train(path, out=tmp_path / "again")
    for one, other in zip(model.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(one, other)
    if "speeches" in zoo.list_tasks() and os.environ.get("TXZOO_DATA"):
        with pytest.raises(InputError, match="has the labels red, green, blue; the task has obama"):
            zoo.evaluate(model, "speeches")


@needs_data
@pytest.mark.parametrize(
    ("name", "split", "counts"),
    [
        ("speeches", "train", None),
        ("speeches", "test", [250, 250, 250]),
        ("speeches", "test-unseen", None),
        ("imdb", "train", [12500, 12500]),
        ("imdb", "test", [12500, 12500]),
        ("emotion", "train", [4666, 5362, 1304, 2159, 1937, 572]),
        ("emotion", "validation", None),
        ("emotion", "test", [581, 695, 159, 275, 224, 66]),
    ],
)
def test_data_sets_have_the_published_sizes(
    name: str, split: str, counts: list[int] | None
) -> None:
    task = resolve(registry().tasks.get(name).target)()
    texts, labels = task.examples(split)
    sizes = {"speeches": {"train": 2092, "test-unseen": 199}, "emotion": {"validation": 2000}}
    assert len(texts) == len(labels) == (sum(counts) if counts else sizes[name][split])
    assert all(isinstance(text, str) and text.strip() for text in texts)
    found = np.bincount(labels, minlength=len(task.labels)).tolist()
    assert counts is None or found == counts
    if name == "imdb":  # not by label, and without the page's tags
        assert 0.3 < np.mean(labels[:100]) < 0.7 and not any("<br" in text for text in texts)


@needs_data
def test_no_unseen_sentence_is_in_the_training_split() -> None:
    task = resolve(registry().tasks.get("speeches").target)()
    train, test, unseen = (task.examples(split)[0] for split in task.splits)
    bare = [{text.lower().replace(" ", "") for text in texts} for texts in (train, test, unseen)]
    assert not bare[2] & bare[0] and bare[2] < bare[1]
    assert all(text in bare[0] for text in bare[1] - bare[2])


def test_missing_data_says_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXZOO_DATA", "/nowhere")
    task = resolve(registry().tasks.get("speeches").target)()
    from zoo_speeches.task import read

    read.cache_clear()
    with pytest.raises(DataNotFoundError, match="speeches/train_CLS.tsv"):
        task.examples("train")
