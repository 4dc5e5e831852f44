"""Where a translator errs: in Python and in the shell."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sacrebleu import sentence_chrf

import zoo
from zoo.cli import cli
from zoo.errors import InputError
from zoo.evaluation import evaluate, translation_errors

# what the toy translator knows; the second reference is not what it writes, the last one neither
PAIRS = [
    ("one two three", "eins zwei drei"),
    ("two two", "zwei und zwei"),
    ("one two three four five four", "eins zwei drei vier fünf vier"),
    ("four", "Katze"),
]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join("\t".join(row) for row in [("en", "de"), *PAIRS]), encoding="utf-8")
    return path


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


def test_the_worst_come_first(translator: Path, pairs: Path) -> None:
    model = zoo.load(translator)
    found = translation_errors(model, n=2, data=pairs)
    assert (found.sentences, len(found.worst)) == (4, 2)
    worst, second = found.worst
    assert (worst.place, worst.source, worst.references) == (3, "four", ("Katze",))
    assert (worst.translation, second.translation) == ("vier", "zwei zwei")
    for one in found.worst:
        right = sentence_chrf(one.translation, list(one.references)).score
        assert one.chrf == pytest.approx(right)
    assert worst.chrf < second.chrf < 100
    assert [(row.words, row.sentences) for row in found.by_length] == [("1-5", 3), ("6-10", 1)]
    assert found.by_length[1].chrf == pytest.approx(100)
    assert found.scores == evaluate(model, data=pairs)
    assert len(translation_errors(model, data=pairs, limit=1).worst) == 1


def test_the_command_shows_them(
    translator: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    shown = run("eval", str(translator), "--data", str(pairs), "--errors", "2").output
    assert "The 2 worst of 4 sentences" in shown
    assert shown.index("Katze") < shown.index("zwei und zwei")
    assert "Scores by length of the source" in shown and "6-10" in shown
    # signatures are to be copied, so they stand in one line
    assert max(len(line) for line in shown.splitlines() if "|" not in line) <= 60
    done = run("eval", str(translator), "--data", str(pairs), "--errors", "2", "--json")
    found = json.loads(done.output)
    assert found["sentences"] == 4 and found["metrics"]["bleu"] > 0
    assert found["worst"][0]["references"] == ["Katze"]
    assert [row["words"] for row in found["scores_by_length"]] == ["1-5", "6-10"]


def test_scores_come_with_their_intervals_and_signatures(translator: Path, pairs: Path) -> None:
    shown = run("eval", str(translator), "--data", str(pairs)).output
    assert "95% interval" in shown
    done = run("eval", str(translator), "--data", str(pairs), "--json")
    found = json.loads(done.output)
    assert set(found["signatures"]) == {"bleu", "bleu_lowercased", "chrf"}
    scores = found["metrics"]
    for name, signature in found["signatures"].items():
        assert f"nrefs:1|case:{'lc' if name == 'bleu_lowercased' else 'mixed'}|" in signature
        assert f": {signature}\n" in shown
        low, high = (scores[f"{name}_{end}"] for end in ("low", "high"))
        assert low < scores[name] < high
        places = len(shown.split("chrF ")[1].split()[0].partition(".")[2])
        if name == "chrf":
            assert f"{low:.{places}f} to {high:.{places}f}" in shown


def test_what_does_not_fit_is_refused(translator: Path, pairs: Path) -> None:
    with pytest.raises(InputError, match="errors must be at least 1, got 0"):
        translation_errors(translator, n=0, data=pairs)
    with pytest.raises(InputError, match="synthetic is a text-generation task"):
        translation_errors("synthetic-decoder", limit=10)
    one = ("eval", str(translator), "--data", str(pairs), "--text-column", "en", "--errors", "1")
    done = run(*one)
    assert done.exit_code == 2 and "--text-column is not of the texts that" in done.stderr
