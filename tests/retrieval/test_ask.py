"""The verb `txzoo ask`."""

import json
from pathlib import Path

import pytest

from zoo.cli import main
from zoo.retrieval import Library

ASKED = "When does the night train leave?"


@pytest.fixture
def index(library: Library, tmp_path: Path) -> Path:
    """Kept already, so that no test reads the documents again."""
    return library.save(tmp_path / "index")


def test_passages_come_first_then_the_answer_and_where_it_is_from(
    docs: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", "--docs", str(docs), "--index", str(index), "--k", "2", ASKED]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "[1] trains.html:2-12"
    assert "leaves at ten" in lines[1]
    assert lines[2].startswith("[2] ")
    assert lines[-1].startswith("Written by instruct-lm, 4.3M parameters, from [1] trains.html")
    assert "6 passages of 4 documents, 0 of them new; left out: 8: " in err
    assert "latin.txt (not UTF-8 at byte 2), loop (a link) and 3 more" in err


def test_json_has_all_of_it(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--index", str(index), "--json", "--k", "1", ASKED]) == 0
    found = json.loads(capsys.readouterr().out)
    [passage] = found["passages"]
    assert passage["place"] == "trains.html:2-12"
    assert (passage["first"], passage["last"]) == (2, 12)
    assert found["citations"] == ["[1] trains.html:2-12"]
    assert isinstance(found["answer"], str)
    assert {one["path"] for one in found["skipped"]} >= {"photo.png", "pipe.txt"}


def test_an_index_is_made_where_there_is_none_and_kept_up_to_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("Bees sleep in winter.\n")
    words = ["ask", "--no-answer", "--index", str(tmp_path / "index"), "bees"]
    assert main([*words, "--docs", str(docs)]) == 0
    (docs / "b.md").write_text("Trains run at night.\n")
    assert main([*words, "--docs", str(docs)]) == 0
    assert "2 documents, 1 of them new" in capsys.readouterr().err
    assert main([*words, "--k", "9"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split("  ")[0] for line in out.splitlines()[::2]] == ["[1] a.md:1"]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["bees"], 2, "documents are missing: txzoo ask --docs FOLDER QUESTION"),
        (["--docs", "nowhere", "bees"], 2, "nowhere does not exist: give the folder"),
        (["--index", "nowhere", "bees"], 2, "nowhere holds no index yet"),
        (["--index", "INDEX", "--encoder", "rope-lm", "bees"], 2, "The index in "),
        (["--index", "INDEX", "--k", "0", "bees"], 2, "k must be a whole number"),
        (["--index", "INDEX", "--model", "speech-encoder", "bees"], 2, "speech-encoder is a "),
        (["--index", "INDEX", "--no-answer", "--model", "rope-lm", "bees"], 2, "--model writes"),
        (["--index", "INDEX", ""], 2, "The text '' is empty"),
    ],
)
def test_an_error_is_one_line(
    index: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    message: str,
) -> None:
    words = [str(index) if word == "INDEX" else word for word in words]
    assert main(["ask", *words]) == status
    out, err = capsys.readouterr()
    assert out == ""
    [line] = err.splitlines()
    assert line.startswith(f"txzoo: {message}")


def test_a_document_cannot_control_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a\x1b[2J.md").write_text("Bees\x1b]0;owned\x07 sleep.\n")
    assert main(["ask", "--docs", str(tmp_path), "--no-answer", "bees"]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert r"a\x1b[2J.md:1" in out
