"""Running text as a stream: the same batches wherever a run goes on, and a window in memory."""

import gzip
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer

import zoo
from zoo.cli import cli
from zoo.errors import DataNotFoundError, InputError, TrainingError, ZooError
from zoo.tasks import text_stream
from zoo.tasks.text_stream import Source, StreamBatches, TextStream, is_stream
from zoo.tokenization import build_tokenizer
from zoo.training import checkpoint, train
from zoo.training.loop import Run

pytest.importorskip("datasets", reason="needs txzoo[hf]")
torch.set_num_threads(1)

WORDS = "the river runs to a sea of salt and sand by night".split()
RECIPE = """
architecture = "alibi-decoder"
task = "synthetic"
[tokenizer]
kind = "word"
[config]
max_seq_len = 16
d_model = 16
n_layers = 1
n_heads = 2
d_ff = 16
[training]
steps = 90
batch_tokens = 64
learning_rate = 1e-2
log_every = 1
checkpoint_every = 5
storage = "float32"
"""


def lines(count: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(3, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer("\n".join(lines(50)) + "\n", {"kind": "word"})


class Listed:
    """Documents that count how many of them were asked for."""

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.place, self.asked = texts, 0, 0

    def __iter__(self) -> Iterator[str]:
        while self.place < len(self.texts):
            self.place += 1
            self.asked += 1
            yield self.texts[self.place - 1] + "\n"
        self.place = 0

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place = state["place"]


def batches_of(documents: Any, tokenizer: Tokenizer, **changes: Any) -> StreamBatches:
    sizes = {"start": "\n", "length": 8, "rows": 3, "seed": 1, "window": 4}
    return StreamBatches(documents, tokenizer, **{**sizes, **changes})


def test_every_token_is_read_once_and_followed_by_the_right_one(tokenizer: Tokenizer) -> None:
    texts = lines(40)
    ids = tokenizer.encode("\n" + "".join(f"{text}\n" for text in texts)).ids
    found = batches_of(Listed(texts), tokenizer)
    window = [found(step) for step in range(4)]
    rows = torch.cat([torch.cat([b["ids"], b["targets"][:, -1:]], 1) for b in window]).tolist()
    wanted = [ids[start : start + 9] for start in range(0, 4 * 3 * 8, 8)]
    assert sorted(rows) == sorted(wanted) and rows != wanted  # in an order drawn by chance
    assert all(torch.equal(b["ids"][:, 1:], b["targets"][:, :-1]) for b in window)
    after = found(4)["ids"]
    start = 4 * 3 * 8
    assert {tuple(row) for row in after.tolist()} <= {
        tuple(ids[start + n : start + n + 8]) for n in range(0, 4 * 3 * 8, 8)
    }


def test_a_batch_is_a_function_of_the_step_and_a_run_goes_on_anywhere(tokenizer: Tokenizer) -> None:
    texts = lines(30)  # some passes
    whole = batches_of(Listed(texts), tokenizer)
    seen = [whole(step)["ids"] for step in range(60)]
    assert torch.equal(whole(2)["ids"], seen[2])  # backwards too
    for stop in (0, 3, 4, 17, 42):
        first = batches_of(Listed(texts), tokenizer)
        for step in range(stop):
            first(step)
        place = json.loads(json.dumps(first.state()))
        again = Listed(texts)
        rest = batches_of(again, tokenizer)
        rest.restore(place)
        assert all(torch.equal(rest(step)["ids"], seen[step]) for step in range(stop, 60))
    assert not torch.equal(batches_of(Listed(texts), tokenizer, seed=2)(0)["ids"], seen[0])


def test_no_more_is_read_than_a_window_needs(tokenizer: Tokenizer) -> None:
    documents = Listed(lines(100_000))
    found = batches_of(documents, tokenizer)
    for step in range(400):
        found(step)
    tokens = 400 * 3 * 8
    shortest = 4  # tokens of a document, its line end among them
    assert documents.asked <= tokens / shortest + 2 * text_stream.TOGETHER
    assert len(found._ids) == 4 * 3 * 8 + 1
    assert len(found._left) < 14 * text_stream.TOGETHER


def written(folder: Path, kind: str, texts: list[str]) -> str:
    """Two files of a kind; returns the pattern that means both."""
    for number, part in enumerate((texts[: len(texts) // 3], texts[len(texts) // 3 :])):
        file = folder / f"part-{number}.{kind}"
        plain = "".join(f"{text}\n" for text in part)
        rows = "".join(json.dumps({"id": 7, "text": text}) + "\n" for text in part)
        if kind == "txt":
            file.write_text(plain)
        elif kind == "txt.gz":
            file.write_bytes(gzip.compress(plain.encode()))
        elif kind == "jsonl":
            file.write_text(rows)
        elif kind == "parquet":
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.table({"text": part}), file)
    return str(folder / f"part-*.{kind}")


@pytest.mark.parametrize("kind", ["txt", "txt.gz", "jsonl", "parquet"])
def test_files_of_every_kind_go_on_where_they_stopped(
    kind: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    texts = lines(120)
    pattern = written(tmp_path, kind, texts)
    assert [*Source(pattern, "text")] == [f"{text}\n" for text in texts]
    assert [*Source(pattern, "text").after(7)] == [f"{text}\n" for text in texts[7:]]
    whole = batches_of(Listed(texts[7:]), tokenizer)  # of memory, against those of files
    first = batches_of(Source(pattern, "text").after(7), tokenizer)
    for step in range(9):
        assert torch.equal(first(step)["ids"], whole(step)["ids"])
    place = json.loads(json.dumps(first.state()))
    rest = batches_of(Source(pattern, "text").after(7), tokenizer)
    rest.restore(place)
    for step in range(8, 80):  # into the third pass
        assert torch.equal(rest(step)["ids"], whole(step)["ids"]), step


def test_a_run_over_files_goes_on_with_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_stream, "HELD_OUT", 2000)
    monkeypatch.setattr(text_stream, "WINDOW", 8)
    (tmp_path / "texts").mkdir()
    written(tmp_path / "texts", "txt", lines(600))
    (tmp_path / "r.toml").write_text(RECIPE)
    changes = {"data": str(tmp_path / "texts"), "name": "running"}
    train(tmp_path / "r.toml", out=tmp_path / "whole", **changes)

    def stop(run: Run) -> None:
        if run.step == 47:
            raise KeyboardInterrupt

    step = Run.one_step
    monkeypatch.setattr(Run, "one_step", lambda run: (stop(run), step(run))[1])
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "r.toml", out=tmp_path / "cut", **changes)
    monkeypatch.setattr(Run, "one_step", step)
    _, state = checkpoint.read(tmp_path / "cut.partial")
    assert state["step"] == 45 and state["data"][0]["window"] == 5
    model = train(tmp_path / "r.toml", out=tmp_path / "cut", resume=True, **changes)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]

    card = model.card
    assert card is not None
    facts = card.data["txzoo"]["data"]
    assert facts["name"] == "texts" and 2000 <= facts["characters"] < 2100
    assert "epochs" not in card.training and "read as a stream" in card.text
    scores = {score.name: score.value for score in card.scores}
    again = zoo.evaluate(str(tmp_path / "cut"))  # on what was held out, read again
    assert again["accuracy"] == pytest.approx(scores["accuracy"], rel=1e-3)
    assert again["accuracy"] > 0.1
    assert zoo.evaluate(model, data=str(tmp_path / "texts"))["accuracy"] == again["accuracy"]
    (tmp_path / "other.txt").write_text("\n".join(lines(40, seed=9)))
    assert zoo.evaluate(model, data=str(tmp_path / "other.txt"))["accuracy"] != again["accuracy"]
    (tmp_path / "texts" / "part-0.txt").write_text("the sea\n" * 900)
    with pytest.raises(DataNotFoundError, match="this one has sha256"):
        zoo.evaluate(str(tmp_path / "cut"))


MEMORY = """
import resource, sys
from zoo.tasks.text_stream import Source

peaks, count = [], 0
for number, text in enumerate(Source(sys.argv[1])):
    count += len(text)
    if number == 31_000:  # what the reader reads ahead is taken by then
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(count, *peaks)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_a_long_file_takes_no_more_memory_than_its_beginning(tmp_path: Path) -> None:
    line = "the sea of salt and sand by night " * 60
    with (tmp_path / "long.txt").open("w") as file:
        for _ in range(60_000):
            file.write(line + "\n")
    size = (tmp_path / "long.txt").stat().st_size
    words = [sys.executable, "-c", MEMORY, str(tmp_path / "long.txt")]
    shown = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    count, early, late = map(int, shown.split())
    assert count == size > 120e6
    assert (late - early) * 1024 < 8e6  # 60 MB were read in between


def test_test_data_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"words": "the sea of sand"}\n' * 300)
    (tmp_path / "test.jsonl").write_text('{"words": "the river runs"}\n' * 20)
    task = text_stream.open_stream(
        {
            "path": str(tmp_path / "train.jsonl"),
            "test_path": str(tmp_path / "test.jsonl"),
            "text_column": "words",
        }
    )
    assert task.text("test") == "the river runs\n" * 20
    assert task.tokenizer_text() == task.text("train") == "the sea of sand\n" * 300
    facts = task.facts()
    assert facts["text_column"] == "words" and facts["test_name"] == "test.jsonl"


def test_what_is_meant_by_data() -> None:
    streams = ["a.txt", "a.txt.gz", "a.parquet", "b/*.jsonl"]
    assert all(is_stream({"path": path}) for path in streams)
    assert is_stream({"path": "a.jsonl", "text_column": "text"})
    assert not is_stream({"path": "a.jsonl"})  # conversations
    assert not is_stream({"path": "a.csv", "text_column": "text", "label_column": "label"})


def test_bad_sources_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "few.txt").write_text("the sea\n")
    (tmp_path / "rows.jsonl").write_text('{"body": "the sea"}\n')
    (tmp_path / "mixed").mkdir()
    for name in ("a.txt", "b.parquet"):
        (tmp_path / "mixed" / name).write_text("x")
    wrong: list[tuple[str, str, type[ZooError], str]] = [
        ("no.txt", "", DataNotFoundError, "no.txt was not found"),
        ("no/*.txt", "", DataNotFoundError, "there is no such file"),
        ("mixed", "", InputError, "files of several kinds: parquet, text"),
        ("empty.txt", "", InputError, "has no text in its first"),
        ("few.txt", "words", InputError, "plain text, which has no column 'words'"),
        ("rows.jsonl", "", InputError, "no text in the column 'text', its columns are 'body'"),
    ]
    for path, column, kind, message in wrong:
        with pytest.raises(kind, match=message):
            Source(str(tmp_path / path), column)
    with pytest.raises(InputError, match="all of which would be held out: give texts to test on"):
        TextStream(Source(str(tmp_path / "few.txt")))
    with pytest.raises(InputError, match="reads hf://datasets/owner/name"):
        Source("hf://datasets/nobody")
    with pytest.raises(TrainingError, match="the training text is empty"):
        batches_of(Listed([]), tokenizer)(0)
    words = ["train", "alibi-lm", "--data", str(tmp_path / "few.txt"), "--out", str(tmp_path / "o")]
    shown = CliRunner().invoke(cli, words)
    assert shown.exit_code == 1
