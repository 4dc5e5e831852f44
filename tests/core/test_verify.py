"""The lock: what a card claims, and what is found when it is looked at again."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.card import Card
from zoo.evaluation import Check


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A model whose card tells the truth."""
    shutil.copytree(tiny_model, tmp_path / "tiny")
    return tmp_path / "tiny"


def change(folder: Path, **changes: Any) -> None:
    """Change the first result, or the first metric of it, on the card."""
    card = Card.read(folder)
    result = card.data["model-index"][0]["results"][0]
    for key, value in changes.items():
        place = result["metrics"][0] if key in ("value", "name") else result["dataset"]
        place[key] = value
    card.write(folder)


def failed(folder: Path) -> list[Check]:
    """The claims that did not hold."""
    report = zoo.verify(str(folder))
    assert report.ok is not any(check.ok is False for check in report.checks)
    return [check for check in report.checks if check.ok is not True]


def test_a_card_that_tells_the_truth(folder: Path) -> None:
    report = zoo.verify(str(folder))
    assert report.ok and failed(folder) == []
    notes = [check.note for check in report.checks if check.claim.endswith("(test)")]
    assert notes and all(note.startswith("matches within its error bar of ") for note in notes)


def test_a_score_outside_its_error_bar(folder: Path) -> None:
    score = zoo.info(folder).scores[0]
    assert score.standard_error is not None
    change(folder, value=score.value + 3 * score.standard_error)
    (check,) = failed(folder)
    assert check.ok is False and check.note.startswith("does not match within its error bar")


def test_a_score_of_a_split_that_there_is_not(folder: Path) -> None:
    change(folder, split="nowhere")
    assert failed(folder) and all("'nowhere'" in check.note for check in failed(folder))


def test_a_score_that_the_task_does_not_measure(folder: Path) -> None:
    change(folder, name="beauty")
    (check,) = failed(folder)
    assert (check.claim, check.found, check.ok) == ("beauty (test)", "nan", False)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_file_that_decides_results_and_is_not_on_the_card(folder: Path, name: str) -> None:
    card = Card.read(folder)
    del card.data["txzoo"]["files"][name]
    card.write(folder)
    (check,) = failed(folder)
    assert (check.claim, check.claimed) == (f"sha256 of {name}", "not on the card")


def test_a_changed_file(folder: Path) -> None:
    (folder / "recipe.toml").write_text("# another\n")
    (check,) = failed(folder)
    assert check.claim == "sha256 of recipe.toml" and check.found != check.claimed
