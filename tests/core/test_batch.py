"""A model over a file: every line answered once, whatever happens in between."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo import batch
from zoo.batch import Done, run_file
from zoo.cli import main
from zoo.errors import InputError

TEXTS = [
    "I feel wonderful.",
    "how sad " * 9,
    "so angry",
    "love " * 30,
    "afraid of it",
    "what ?",
    ".",
]


class Counting:
    """A model that remembers what it was asked, and breaks when told to."""

    name, card, pipeline = "counting", None, "text-classification"

    def __init__(self, breaks: int = -1, dtype: torch.dtype = torch.float32) -> None:
        self.module = torch.nn.Linear(1, 1, dtype=dtype)
        self.calls: list[list[str]] = []
        self.breaks = breaks
        self.answer: Any = lambda numbers: numbers[0]

    def __call__(self, texts: list[str], times: int = 1) -> list[Any]:
        self.calls.append(list(texts))
        if len(self.calls) == self.breaks:
            raise KeyboardInterrupt
        if "bad" in texts:
            raise InputError("'bad' is bad")
        if len(texts) > 1:
            warnings.warn("several at once", stacklevel=1)
        return [self.answer([len(text) * times]) for text in texts]


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(batch, "WINDOW", 4)
    monkeypatch.setattr(batch, "ROWS", 2)


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.filterwarnings("ignore:.* did not fit")
def test_answers_are_the_model_s_in_the_order_of_the_lines(tmp_path: Path) -> None:
    model = zoo.load("emotion-encoder")
    source = write(tmp_path, *({"text": text, "id": place} for place, text in enumerate(TEXTS)))
    done = run_file(model, source, tmp_path / "out.jsonl", top_k=2)
    assert done == Done(lines=7, failed=0)
    for place, (text, row) in enumerate(zip(TEXTS, read(tmp_path / "out.jsonl"), strict=True)):
        assert (row["text"], row["id"]) == (text, place)
        for got, expected in zip(row["result"], model(text, top_k=2), strict=True):
            assert got["label"] == expected["label"]
            assert got["score"] == pytest.approx(expected["score"], abs=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl"}


def test_vectors_become_lists(tmp_path: Path) -> None:
    model: Any = Counting()
    model.answer = torch.tensor
    run_file(model, write(tmp_path, "bees"), tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == [{"text": "bees", "result": [4]}]


def test_longest_first_in_windows_that_memory_can_hold(tmp_path: Path) -> None:
    model: Any = Counting()
    source = write(tmp_path, *("a" * n for n in (3, 9, 1, 7, 5, 2, 8, 4, 6)))
    with pytest.warns(UserWarning, match=r"several at once \(and 3 more such\)"):
        run_file(model, source, tmp_path / "out.jsonl", times=2)
    lengths = [[len(text) for text in call] for call in model.calls]
    assert lengths == [[9, 7], [3, 1], [8, 5], [4, 2], [6]]
    assert [row["result"] for row in read(tmp_path / "out.jsonl")] == [
        2 * n for n in (3, 9, 1, 7, 5, 2, 8, 4, 6)
    ]


@pytest.mark.filterwarnings("ignore:several at once")
def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    lines = ["a", "bad", "ccc", 4, "eeeee", "ffffff", "bad", "hh", "i", "jj"]
    source = write(tmp_path, *lines)
    whole: Any = Counting()
    expected = run_file(whole, source, tmp_path / "whole.jsonl")
    assert (expected.lines, expected.failed) == (10, 3)
    assert expected.first == "line 2: 'bad' is bad"
    out = tmp_path / "out.jsonl"
    cut: Any = Counting(breaks=6)
    with pytest.raises(KeyboardInterrupt):
        run_file(cut, source, out)
    half = tmp_path / "out.jsonl.partial" / "lines.jsonl"
    assert len(read(half)) == 4
    half.write_bytes(half.read_bytes() + b'{"text": "eeeee", "result": 5}\n{"text": "fff')
    begun = half.with_name("begun-4.jsonl")
    assert read(begun) == [{"result": 6}, {"result": 5}]  # the longest two of the second window
    begun.write_bytes(begun.read_bytes() + b'{"result": 2}\n{"res')
    assert not out.exists()
    with pytest.raises(InputError, match="of a run that did not end: resume it, or overwrite"):
        run_file(whole, source, out)
    again: Any = Counting()
    assert run_file(again, source, out, resume=True) == expected
    assert again.calls[0] == ["bad", "hh"]  # what the second window lacks
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not half.parent.exists()


def test_a_run_goes_on_only_as_it_was(tmp_path: Path) -> None:
    source, out = write(tmp_path, *"abcdefgh"), tmp_path / "out.jsonl"

    def stopped() -> Any:
        return Counting(breaks=3)

    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning):
        run_file(stopped(), source, out, times=2)
    with pytest.raises(InputError, match=r"another options: \{'times': 2\}, now \{\}"):
        run_file(stopped(), source, out, resume=True)
    with pytest.raises(InputError, match="another engine: 'PyTorch, float32', now 'PyTorch, bflo"):
        run_file(Counting(dtype=torch.bfloat16), source, out, times=2, resume=True)  # type: ignore[arg-type]
    source.write_text(source.read_text().replace("c", "x"))  # of the same length
    with pytest.raises(InputError, match="another file"):
        run_file(stopped(), source, out, times=2, resume=True)
    with source.open("a") as file:
        file.write('"i"\n')
    with pytest.raises(InputError, match="holds nothing to go on with"):
        run_file(stopped(), source, tmp_path / "other.jsonl", resume=True)
    with pytest.warns(UserWarning, match="several"):
        run_file(Counting(), source, out, overwrite=True)  # type: ignore[arg-type]
    assert len(read(out)) == 9
    with pytest.raises(InputError, match="is there: take another name"):
        run_file(stopped(), source, out)


def test_two_at_a_time_are_refused(tmp_path: Path) -> None:
    source, out = write(tmp_path, *"abc"), tmp_path / "out.jsonl"
    model: Any = Counting()

    def again(numbers: list[int]) -> int:
        for way in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(InputError, match=r"Another process writes .*out\.jsonl\.partial"):
                run_file(Counting(), source, out, **way)  # type: ignore[arg-type]
        return numbers[0]

    model.answer = again
    with pytest.warns(UserWarning, match="several"):
        assert run_file(model, source, out) == Done(lines=3, failed=0)
    assert [row["result"] for row in read(out)] == [1, 1, 1]


def test_progress_is_told_after_each_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(
        "zoo.training.progress.Progress.update", lambda self, step, **values: told.append(step)
    )
    model: Any = Counting()
    with pytest.warns(UserWarning, match="several"):
        run_file(model, write(tmp_path, *"abcdef"), tmp_path / "out.jsonl")
    assert told == [2, 4, 4, 6, 6]


def test_an_engine_is_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="needs txzoo[onnx]")
    pytest.importorskip("onnxscript", reason="needs txzoo[onnx]")
    monkeypatch.setenv("TXZOO_HOME", str(tmp_path / "home"))
    model = zoo.load("emotion-encoder")
    engines = [zoo.load("emotion-encoder", engine=name) for name in ("onnx", "onnx-int8")]
    models = [model, *engines, zoo.quantize(model, "int8")]
    source = write(tmp_path, "so sad")
    said = [batch._about(one, source, "text", {})["engine"] for one in models]
    assert said == ["PyTorch, float32", "onnx", "onnx-int8", "PyTorch, int8"]


@pytest.mark.filterwarnings("ignore:several at once")
def test_a_draft_helps_with_each_line(tmp_path: Path) -> None:
    texts = ["The river", "In 1914 , the British army was", "A"]
    source, out = write(tmp_path, *texts), tmp_path / "out.jsonl"
    words = ["run", "alibi-lm", "--input", str(source), "--output", str(out)]
    assert main([*words, "--draft", "rope-lm", "--max-new-tokens", "8"]) == 0
    model = zoo.load("alibi-lm")
    assert [row["result"] for row in read(out)] == [model(text, max_new_tokens=8) for text in texts]


def test_pictures_lie_beside_the_file(tmp_path: Path) -> None:
    model: Any = Counting()
    model.pipeline = "image-classification"
    run_file(model, write(tmp_path, {"picture": "cats/1.png"}), tmp_path / "out.jsonl")
    assert model.calls == [[str(tmp_path / "cats/1.png")]]


BAD = [
    (b"nothing", "not valid JSON: "),
    (b"[" * 100_000, "not valid JSON: "),
    (b'"\xff"', "not UTF-8 at byte 2"),
    (b"[1, 2]", "neither a table nor a text, but list"),
    (b'{"body": "a", "id": 1}', "no 'text'; its keys are 'body', 'id'"),
    (b'{"text": 5}', "'text' must be a text, got int"),
    (b'{"text": "a", "result": 5}', "it has the key 'result' already: rename it"),
    (b'{"text": ""}', "The text '' is empty"),
]


def test_a_bad_line_is_named_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b'"good"\n\n' + b"\n".join(line for line, _ in BAD) + b'\n"good"')
    words = ["run", "emotion-encoder", "--input", str(source), "--output", str(out)]
    assert main(words) == 1
    told, err = capsys.readouterr()
    assert told == f"{out}: 10 lines, 8 of them errors\n"
    assert (
        "The first: line 3: not valid JSON: Expecting value: line 1 column 1 (char 0): nothing"
        in err
    )
    rows = read(out)
    assert "label" in rows[0]["result"] and "label" in rows[-1]["result"]
    for number, ((_, message), row) in enumerate(zip(BAD, rows[1:-1], strict=True), 3):
        assert row["error"].startswith(f"line {number}: {message}")
    assert rows[1]["raw"] == "nothing" and rows[2]["raw"] == "[" * 80 + "…"
    assert rows[5] == {"body": "a", "id": 1, "error": rows[5]["error"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "IN"], "a file takes both --input and --output"),
        (["--resume", "text"], "a file takes both --input and --output"),
        (["--input", "IN", "--output", "new", "--json"], "no PROMPT and no --json"),
        (["--input", "nowhere", "--output", "new"], "There is no file nowhere"),
        (["--input", "EMPTY", "--output", "new"], "EMPTY is empty"),
        (["--input", "IN", "--output", "no/such/new"], "it must be a file in a folder that exists"),
        (["--input", "IN", "--output", "new", "--top-k", "0"], "None of the first 1 lines was "),
        (["--input", "IN", "--output", "new", "--text-column", "a"], "None of the first 1 lines "),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("IN").write_text('{"text": "good"}\n')
    Path("EMPTY").write_text("\n \n")
    assert main(["run", "emotion-encoder", *words]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"IN", "EMPTY"}
