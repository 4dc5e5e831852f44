"""Error analysis: which texts, in which order, of which length, and how it is printed."""

import contextlib
import io
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo.cli import main
from zoo.cli.train import shortened
from zoo.errors import InputError, UnknownNameError
from zoo.evaluation import errors
from zoo.evaluation.errors import by_length
from zoo.tasks.classification import Floats
from zoo.tasks.labelled_file import LabelledFile, Table

# text, right label, probability of "pos"
KNOWN = [
    ("a", "neg", 0.1),
    ("a b", "neg", 0.9),  # wrong, 0.9 sure
    ("a b c", "pos", 0.4),  # wrong, 0.6 sure
    ("a b c d", "pos", 0.9),
    ("a b c d e", "neg", 0.95),  # wrong, 0.95 sure
    ("a b c d e f", "pos", 0.8),
    ("a b c d e f g", "pos", 0.1),  # wrong, 0.9 sure, after the first
    ("a b c d e f g h", "neg", 0.2),
]


class Sure(LabelledFile):
    """A task whose model answers as `KNOWN` says."""

    def probabilities(self, model: Any, texts: Sequence[str], context: int | None = None) -> Floats:
        positive = {text: chance for text, _, chance in KNOWN}
        return np.array([[1 - positive[text], positive[text]] for text in texts])


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    texts, labels = ([row[i] for row in KNOWN] for i in (0, 1))
    found = Sure(None, Table("k.csv", "k.csv", "", "t", "l", texts, labels), labels=("neg", "pos"))  # type: ignore[arg-type]
    entry = SimpleNamespace(name="k.csv", pipeline="text-classification")
    monkeypatch.setattr(
        sys.modules["zoo.evaluation.errors"], "choose", lambda *_, **__: (entry, found)
    )
    return zoo.load("speech-encoder")


def test_the_surest_mistakes_come_first(model: Any) -> None:
    found = errors(model, n=3)
    assert (found.task, found.split, found.texts, found.wrong) == ("k.csv", "test", 8, 4)
    assert [(m.place, m.text, m.label, m.given) for m in found.surest] == [
        (4, "a b c d e", "neg", "pos"),
        (1, "a b", "neg", "pos"),
        (6, "a b c d e f g", "pos", "neg"),
    ]
    assert [m.probability for m in found.surest] == pytest.approx([0.95, 0.9, 0.9])
    assert found.scores["accuracy"] == 0.5
    assert [m.place for m in errors(model, n=99).surest] == [4, 1, 6, 2]
    assert errors(model, limit=4).wrong == 2


def test_errors_by_length_by_hand(model: Any) -> None:
    quarters = errors(model).by_length
    assert [(q.words, q.texts, q.wrong) for q in quarters] == [
        ((1, 2), 2, 1),
        ((3, 4), 2, 1),
        ((5, 6), 2, 1),
        ((7, 8), 2, 1),
    ]
    assert quarters[0].share == 0.5
    assert quarters[0].share_stderr == pytest.approx(math.sqrt(0.5 * 0.5 / 1))


def test_texts_of_one_length_are_not_divided() -> None:
    (only,) = by_length([3] * 10, [True] * 4 + [False] * 6)
    assert (only.words, only.texts, only.wrong) == ((3, 3), 10, 4)
    assert only.share_stderr == pytest.approx(math.sqrt(0.4 * 0.6 / 9))
    found = by_length([1, 1, 1, 1, 1, 9], [0, 0, 0, 0, 0, 1])
    assert [(q.words, q.texts, q.share) for q in found] == [((1, 1), 5, 0.0), ((9, 9), 1, 1.0)]
    assert math.isnan(found[1].share_stderr)
    lengths = np.random.default_rng(0).permutation(101).tolist()
    assert [q.texts for q in by_length(lengths, [False] * 101)] == [26, 25, 25, 25]


def test_what_cannot_be_analysed_is_refused(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="errors must be at least 1, got 0"):
        errors(model, n=0)
    monkeypatch.undo()
    with pytest.raises(InputError, match="synthetic is a text-generation task"):
        errors("synthetic-decoder")
    with pytest.raises(UnknownNameError):
        errors("synthetic-decoder", "no-such-task")


@pytest.mark.skipif(not os.environ.get("TXZOO_DATA"), reason="TXZOO_DATA is not set: needs data")
def test_on_a_trained_model_it_agrees_with_its_answers() -> None:
    torch.set_num_threads(1)
    model = zoo.load("speech-encoder")
    found = errors(model, n=10, limit=60)
    assert found.scores == pytest.approx(zoo.evaluate(model, limit=60), nan_ok=True)
    assert found.wrong == round((1 - found.scores["accuracy"]) * 60) > 0
    for mistake in found.surest:
        answer = model(mistake.text)
        assert answer["label"] == mistake.given != mistake.label
        assert answer["score"] == pytest.approx(mistake.probability, abs=1e-4)


# the command


def run(*words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(words))
    return status, out.getvalue(), err.getvalue()


@pytest.mark.usefixtures("model")
def test_the_command_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    status, out, err = run("eval", "speech-encoder", "--errors", "2", "--no-baseline")
    assert status == 0, err
    lines = [line.split() for line in out.splitlines()]
    assert ["accuracy", "0.50", "0.19"] in lines  # sqrt(0.25 / 7)
    assert "4 of 8 texts wrong, the surest ones first" in out
    first = lines.index(["0.950", "pos", "neg", "a", "b", "c", "d", "e"])
    assert lines[first + 1] == ["0.900", "pos", "neg", "a", "b"]
    assert lines[first + 2] == []
    assert ["1-2", "2", "1", "0.50", "0.50"] in lines


@pytest.mark.usefixtures("model")
def test_json_has_everything() -> None:
    status, out, err = run("eval", "speech-encoder", "--errors", "1", "--json", "--no-baseline")
    assert status == 0, err
    found = json.loads(out)
    assert (found["texts"], found["wrong"]) == (8, 4)
    (mistake,) = found["errors"]
    assert mistake == {
        "place": 4,
        "text": "a b c d e",
        "label": "neg",
        "given": "pos",
        "probability": 0.95,
    }
    assert found["errors_by_length"][3]["words"] == [7, 8]
    assert found["metrics"]["accuracy"] == 0.5


def test_the_command_refuses_other_models() -> None:
    status, _, err = run("eval", "synthetic-decoder", "--errors", "3")
    assert status == 2 and "synthetic is a text-generation task" in err
    status, _, err = run("eval", "synthetic-decoder", "--baseline", "--limit", "10")
    assert status == 2 and "TF-IDF baseline is one of text classification" in err


def test_the_command_shows_the_baseline_beside(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    from zoo.evaluation.baseline import baseline_of

    torch.set_num_threads(1)
    path = tmp_path / "my.csv"
    rows = [f"plate {n} is {'warm' if n % 3 else 'cold'},{n % 3}" for n in range(60)]
    path.write_text("\n".join(["text,label", *rows]))
    sizes = {"max_seq_len": 16, "d_model": 8, "n_layers": 1, "n_heads": 1, "d_ff": 8}
    zoo.train(
        "emotion-encoder",
        data=path,
        out=tmp_path / "m",
        steps=1,
        batch_tokens=128,
        tokenizer={"kind": "word"},
        **sizes,
    )
    status, out, err = run("eval", str(tmp_path / "m"), "--baseline")
    assert status == 0, err
    lines = [line.split() for line in out.splitlines()]
    head = "metric value standard error TF-IDF its standard error"
    assert " ".join(lines[0]) == head
    (accuracy,) = (line for line in lines if line[0] == "accuracy")
    reached = baseline_of(zoo.load(tmp_path / "m"))["accuracy"]
    assert float(accuracy[3]) == pytest.approx(reached, abs=0.01)
    found = json.loads(run("eval", str(tmp_path / "m"), "--baseline", "--json")[1])
    assert found["baseline"]["accuracy"] == reached
    assert found["metrics"].keys() <= found["baseline"].keys()


def test_texts_are_shortened_to_a_line() -> None:
    assert shortened("a\n b\tc", 20) == "a b c"
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdefg", 6) == "abcde…"
    assert "\x1b" not in shortened("\x1b[2J", 20)
