"""A user's own labelled texts: read, refused with a reason, trained on, measured, on the card."""

import contextlib
import csv
import gzip
import hashlib
import io
import json
import re
import shlex
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo.cli import main
from zoo.errors import (
    CardError,
    DataNotFoundError,
    InputError,
    RecipeError,
    TrainingError,
    UnknownNameError,
    ZooError,
)
from zoo.evaluation.baseline import baseline_of, tfidf_baseline
from zoo.evaluation.evaluate import trained_on
from zoo.loading import info
from zoo.numbers import rounded
from zoo.tasks import labelled_file
from zoo.tasks.labelled_file import LabelledFile, Table, in_order, open_data, read_table
from zoo.training.loop import plan
from zoo.training.recipe import Recipe

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "your-own-texts.md"
SIZES: dict[str, Any] = {
    "max_seq_len": 16,
    "d_model": 32,
    "dropout": 0.0,
    "n_layers": 1,
    "n_heads": 2,
    "d_ff": 16,
    "batch_tokens": 128,
    "warmup_steps": 2,
    "tokenizer": {"kind": "word"},
}
ROWS = [
    (f"plate {n} is {'warm' if n % 3 else 'cold'} today", "liked" if n % 3 else "not")
    for n in range(60)
]


def write(
    path: Path, rows: list[tuple[str, ...]], head: tuple[str, ...] = ("text", "label")
) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def table(rows: list[tuple[str, str]], name: str = "a.csv") -> Table:
    texts, labels = ([row[i] for row in rows] for i in (0, 1))
    return Table(name, name, "0" * 64, "text", "label", texts, labels)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with my.csv and the model `mine` that has learned from it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("own")
    write(folder / "my.csv", ROWS)
    with contextlib.chdir(folder):
        zoo.train("emotion-encoder", data="my.csv", out="mine", steps=100, **SIZES)
    return folder


# reading


def test_all_formats_give_the_same_texts(tmp_path: Path) -> None:
    """What csv and json of the standard library write, by hand and packed."""
    rows = [('He said "no",\nthen left', "b"), ("ein Übel; 漢字\ttab", "a"), ("x", "b"), ("y", "a")]
    expected = [text for text, _ in rows], [label for _, label in rows]
    write(tmp_path / "a.csv", rows)
    for name, delimiter in (("b.csv", ";"), ("c.csv", "\t"), ("d.tsv", "\t")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file, delimiter=delimiter).writerows([("text", "label"), *rows])
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (tmp_path / "e.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    for name in ("a.csv", "d.tsv", "e.jsonl"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    for path in sorted(tmp_path.iterdir()):
        found = read_table(str(path))
        assert (found.texts, found.labels) == expected, path.name
        assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert found.name == path.name


def test_a_tsv_with_lone_quotes_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"so-called\tno\nfine "art\tyes\n', encoding="utf-8")
    assert read_table(str(path)).texts == ['"so-called', 'fine "art']


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (("text", "label"), ("text", "label")),
        (("id", "Review", "Sentiment"), ("Review", "Sentiment")),
        (("class", "what was said"), ("what was said", "class")),
        (("sentence", "verdict"), ("sentence", "verdict")),
    ],
)
def test_columns_are_found(tmp_path: Path, head: tuple[str, ...], found: tuple[str, str]) -> None:
    path = write(
        tmp_path / "a.csv", [tuple(f"{name} {n}" for name in head) for n in range(3)], head
    )
    read = read_table(str(path))
    assert (read.text_column, read.label_column) == found
    assert read.texts[0] == f"{found[0]} 0" and read.labels[2] == f"{found[1]} 2"


def test_labels_are_in_order() -> None:
    assert in_order(["b", "a", "B"]) == ["B", "a", "b"]
    assert in_order(["10", "9", "-1", "9"]) == ["-1", "9", "10"]
    assert in_order(["10", "9", "x"]) == ["10", "9", "x"]
    assert in_order(["2.5", "10.0", "3"]) == ["2.5", "3", "10.0"]


def test_labels_of_json_are_named_as_they_are_spelled(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        '{"text": "a", "label": 10}',
        '{"text": "b", "label": 9.0}',
        '{"text":"c","label":true}',
    ]
    path.write_text("\n".join(lines))
    assert read_table(str(path)).labels == ["10", "9", "true"]


GOOD = "text,label\na,x\nb,y\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", "\ufeff\n", "a.csv is empty"),
        ("a.csv", ",,\n", "empty cells only"),
        ("a.csv", "text,label\n", "has no texts"),
        ("a.txt", GOOD, r"come as .csv, .tsv, .jsonl, .ndjson.*ends in .txt"),
        ("a.csv.gz", GOOD, "not a whole gzip file"),
        ("a.csv", "id,body text,y\n1,a,x\n", r"columns 'id', 'body text', 'y': say which.*text"),
        ("a.csv", "text,title,mark\na,b,x\n", "'title', 'mark': say which one holds the labels"),
        ("a.csv", "text,review,label\na,b,x\n", "say which one holds the texts"),
        ("a.csv", "text,label,label\na,b,x\n", "say which one holds the labels"),
        ("a.csv", "text,label\na,x\n,y\nb,x\n   ,y\n", "rows 3, 5 have no text"),
        ("a.csv", "text,label\na,x\n\nb,\nc,NaN\nd, nan \n", "rows 4, 5, 6 have no label"),
        ("a.csv", "text,label\na,x\nb\nc,y,z\n", r"rows 3, 4 have another .*1 in row 3"),
        ("a.csv", 'text,label\n"a,x\nb,y\n', "line 3 does not parse"),
        ("a.csv", 'text,label\n"a"b,x\n', "line 2 does not parse"),
        ("a.jsonl", '{"text": "a"\n', "line 1 is not JSON"),
        ("a.jsonl", '{"text": "a", "label": 1}\n["a", 1]\n', "line 2: each line must be an object"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"label": 2}\n', "row 2 has no text"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', "row 2 has no label"),
        ("a.jsonl", '{"text": "a", "label": NaN}\n', "row 1 has no label"),
        ("a.jsonl", '{"text": "a", "label": 2.5}\n', r"row 1 has another .* 2.5"),
        ("a.jsonl", '{"text": "a", "label": ["x", "y"]}\n', "row 1 has another"),
        ("a.jsonl", '{"text": "\\ud800", "label": 1}\n', "row 1 has a text that is not valid"),
        ("a.jsonl", "[" * 100_000 + "\n", "line 1 is not JSON"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_table(str(tmp_path / name))


def test_other_encodings_are_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\na,x\nnaïve,y\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"not UTF-8: byte 0xef in line 3"):
        read_table(str(path))
    path.write_bytes(GOOD.encode("utf-16"))
    with pytest.raises(InputError, match=r"not UTF-8: byte 0xff in line 1"):
        read_table(str(path))


def test_missing_files_and_columns_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TXZOO_DATA", raising=False)
    with pytest.raises(DataNotFoundError, match=r"gone.csv was not found.*TXZOO_DATA \(not set\)"):
        read_table(str(tmp_path / "gone.csv"))
    with pytest.raises(DataNotFoundError, match="was not found"):
        read_table(str(tmp_path))
    path = str(write(tmp_path / "a.csv", [("a", "x")]))
    with pytest.raises(InputError, match=r"'text', 'label', none called 'y' for the labels"):
        read_table(path, label_column="y")
    with pytest.raises(InputError, match="cannot both be in the column 'label'"):
        read_table(path, "label", "label")
    monkeypatch.setenv("TXZOO_DATA", str(tmp_path))
    assert read_table("a.csv").texts == ["a"]


def test_a_text_of_any_length_is_read(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = write(tmp_path / "a.csv", [("word " * 100_000, "x"), ("short", "y")])
    assert len(read_table(str(path)).texts[0]) == 500_000 > before
    assert csv.field_size_limit() == before


# splits


def test_a_fifth_of_each_label_is_held_out() -> None:
    rows = [(f"text {n}", "abc"[min(n % 10, 2)]) for n in range(500)]  # 50, 50 and 400
    task = LabelledFile(table(rows), seed=3)
    assert task.splits == ("train", "test") and task.labels == ("a", "b", "c")
    texts, labels = task.examples("test")
    assert np.bincount(labels).tolist() == [10, 10, 80]
    learned, theirs = task.examples("train")
    assert sorted([*texts, *learned]) == sorted(text for text, _ in rows)
    right = dict(rows)
    for text, label in zip([*texts, *learned], [*labels, *theirs], strict=True):
        assert task.labels[label] == right[text]


def test_what_is_held_out_depends_on_seed_and_texts_alone() -> None:
    rows = [(f"text {n}", "ab"[n % 2]) for n in range(100)]
    held = set(LabelledFile(table(rows), seed=1).examples("test")[0])
    assert held == set(LabelledFile(table(rows[::-1]), seed=1).examples("test")[0])
    assert held != set(LabelledFile(table(rows), seed=2).examples("test")[0])


def test_a_text_that_stands_twice_is_on_one_side() -> None:
    rows = [(f"text {n % 20}", "ab"[n % 2]) for n in range(100)]
    task = LabelledFile(table(rows))
    assert not set(task.examples("train")[0]) & set(task.examples("test")[0])
    assert Counter(task.examples("test")[0]) == dict.fromkeys(task.examples("test")[0], 5)
    with pytest.raises(InputError, match=r"too few different texts \(1\).*--test-data"):
        LabelledFile(table([("same", label) for label in "aabb"]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["yes"] * 9, r"all 9 texts have the label 'yes': there is nothing to tell apart"),
        ([str(n / 4) for n in range(9)], r"9 labels for 9 texts.*number to be predicted"),
        ([f"id{n // 2}" for n in range(7)] + ["other"], r"5 labels for 8 texts.*--label-column"),
    ],
)
def test_columns_that_are_no_classes_are_refused(labels: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LabelledFile(table([(f"text {n}", label) for n, label in enumerate(labels)]))
    half = [(f"text {n}", str(n // 2)) for n in range(8)]
    assert len(LabelledFile(table(half)).labels) == 4  # just half is still let through


def test_a_test_file_is_held_against_the_training_file() -> None:
    rows = [(f"text {n}", "ab"[n % 2]) for n in range(10)]
    task = LabelledFile(table(rows), table([("new", "b")], "b.csv"))
    assert task.examples("test") == (["new"], [1]) and len(task.examples("train")[0]) == 10
    message = "b.csv has the labels a, c; a.csv has a, b, and so not c"
    with pytest.raises(InputError, match=message):
        LabelledFile(table(rows), table([("new", "a"), ("other", "c")], "b.csv"))
    with pytest.warns(UserWarning, match=r"1 of the 2 texts of b.csv stand in a.csv too"):
        LabelledFile(table(rows), table([("new", "b"), ("text 3", "b")], "b.csv"))


# the Hub


@pytest.fixture
def on_hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A data set of the library itself stands for any of the Hub; what was asked for is kept."""
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    kinds = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    asked: list[dict[str, Any]] = []

    def found(repository: str, **options: Any) -> Any:
        asked.append({"repository": repository, **options})
        content = {"text": [f"t{n}" for n in range(20)], "label": [n % 2 for n in range(20)]}
        return datasets.Dataset.from_dict(content, features=kinds)

    monkeypatch.setattr(labelled_file, "from_hub", found)
    return asked


def test_a_data_set_of_the_hub_has_the_names_of_its_labels(on_hub: list[dict[str, Any]]) -> None:
    found = read_table("hf://datasets/owner/name/part@abc", split="test")
    assert found.labels[:3] == ["neg", "pos", "neg"] and found.name == "owner/name"
    assert on_hub == [
        {"repository": "owner/name", "split": "test", "name": "part", "revision": "abc"}
    ]
    again = read_table("hf://datasets/owner/name")
    assert again.sha256 == found.sha256 and len(found.sha256) == 64
    assert on_hub[1] == {
        "repository": "owner/name",
        "split": "train",
        "name": None,
        "revision": "main",
    }
    with pytest.raises(InputError, match="hf://datasets/owner/name, got"):
        read_table("hf://datasets/owner")


def test_without_the_library_the_hub_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ZooError, match=r"owner/name from the Hub.*pip install 'txzoo\[hf\]'"):
        read_table("hf://datasets/owner/name")


# recipes


def test_a_recipe_takes_data_and_writes_it(tmp_path: Path) -> None:
    path = write(tmp_path / "Our Letters.csv", ROWS)
    found = plan("emotion-encoder", data=path, text_column='a "b"\n\\', steps=3)
    assert (found.task, found.name) == ("", "our-letters-encoder")
    assert found.data == {"path": str(path), "text_column": 'a "b"\n\\'}
    (tmp_path / "r.toml").write_text(found.dump(), encoding="utf-8")
    again = Recipe.read(tmp_path / "r.toml")
    assert again.data == found.data and again.training == found.training and not again.task
    tuned = plan("speech-encoder", data=path, tuning="lora", test_data="t.csv", license="mit")
    assert (tuned.name, tuned.base) == ("our-letters-encoder-lora", "speech-encoder")
    assert tuned.data == {"path": str(path), "test_path": "t.csv", "license": "mit"}
    other = found.with_changes(data="b.csv")
    assert other.data == {"path": "b.csv"}  # columns of another file say nothing


def test_a_recipe_finds_the_file_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "my.csv", ROWS)
    (tmp_path / "sub" / "r.toml").write_text(plan("emotion-encoder", data="my.csv").dump())
    monkeypatch.chdir(tmp_path)
    path = Recipe.read(Path("sub/r.toml")).data["path"]
    assert Path(path).read_bytes() == (tmp_path / "sub" / "my.csv").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_column": "x"}, r"text_column belongs to labelled texts.*--data"),
        ({"data": "a.csv", "task": "imdb"}, None),
        ({"data": {"path": "a.csv", "colour": "red"}}, r"\[data\] has no key 'colour'"),
        ({"data": {"text_column": "x"}}, r"\[data\] lacks path"),
        ({"data": 3}, r"\[data\] path must be a text, got 3"),
        ({"data": "a.csv", "evaluate_every": 5}, "evaluate_every must be 0"),
    ],
)
def test_recipes_with_wrong_data_are_refused(changes: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert plan("emotion-encoder", **changes).task == ""
        return
    with pytest.raises(RecipeError, match=message):
        plan("emotion-encoder", **changes)


def test_a_recipe_with_task_and_data_is_refused() -> None:
    values = {"name": "a", "architecture": "encoder", "task": "imdb", "data": {"path": "a.csv"}}
    settings = {"steps": 1, "batch_tokens": 1, "learning_rate": 0.1}
    with pytest.raises(RecipeError, match=r"the task 'imdb' and \[data\]: leave one of them out"):
        Recipe.from_dict({**values, "training": settings})


def test_a_decoder_cannot_tell_labels_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "my.csv", ROWS)
    with pytest.raises(RecipeError, match="alibi-decoder has no head that tells labels apart"):
        zoo.train("alibi-lm", data=path, out=tmp_path / "x")


# training and measuring


def test_a_model_learns_the_texts_of_a_file(trained: Path) -> None:
    model = zoo.load(trained / "mine")
    assert model.config.labels == ("liked", "not")
    assert model("plate 999 is cold today")["label"] == "not"
    assert model("plate 999 is warm today")["label"] == "liked"


def test_its_card_says_which_file_and_claims_no_other_data(trained: Path) -> None:
    card = info(trained / "mine")
    text = card.path.read_text(encoding="utf-8")
    assert "imdb" not in text.lower() and "film" not in text
    assert (card.license, card.task, card.datasets) == ("unknown", None, [])
    digest = hashlib.sha256((trained / "my.csv").read_bytes()).hexdigest()
    assert card.data["txzoo"]["data"] == {
        "name": "my.csv",
        "path": "my.csv",
        "sha256": digest,
        "texts": 60,
        "text_column": "text",
        "label_column": "label",
        "held_out": 12,
        "seed": 1,
    }
    assert f"60 texts of `my.csv`,\nsha256 `{digest}`" in card.text
    assert {(score.dataset, score.split) for score in card.scores} == {("my.csv", "test")}
    assert card.requires.keys() == {"txzoo"}


def test_its_recipe_trains_the_same_model_again(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    again = zoo.train("mine/recipe.toml", out=tmp_path / "again")
    first = zoo.load(trained / "mine")
    for one, other in zip(first.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(one, other)
    assert again.card is not None and first.card is not None
    assert again.card.text == first.card.text  # what people wrote is kept
    changed = write(tmp_path / "other.csv", ROWS[:-6])
    new = zoo.train("mine/recipe.toml", data=changed, out=tmp_path / "new", steps=1)
    assert new.card is not None and "54 texts of `other.csv`" in new.card.text


def test_it_is_measured_on_what_was_held_out(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    model = zoo.load("./mine")
    task = open_data({"path": "my.csv"}, 1)
    texts, labels = task.examples("test")
    given = [answer["label"] for answer in model(texts)]
    right = [task.labels[label] for label in labels]
    share = sum(a == b for a, b in zip(given, right, strict=True)) / 12
    assert zoo.evaluate(model)["accuracy"] == share
    # the very file is not measured as if it were new
    assert zoo.evaluate(model, data="my.csv") == zoo.evaluate(model)
    assert zoo.evaluate(model, split="train").keys() == zoo.evaluate(model).keys()
    assert zoo.verify("./mine").ok
    assert {check.ok for check in zoo.verify("./mine").checks} == {True}
    with pytest.raises(InputError, match=r"was trained on my.csv, columns text and label"):
        zoo.evaluate(model, data="my.csv", text_column="label", label_column="text")
    with pytest.raises(UnknownNameError, match="Unknown split of my.csv 'validation'"):
        zoo.evaluate(model, split="validation")


def test_without_the_file_it_says_which_one_it_needs(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TXZOO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    model = zoo.load(trained / "mine")
    with pytest.raises(DataNotFoundError, match=r"was trained on my.csv \(60 texts, sha256 "):
        zoo.evaluate(model)
    report = zoo.verify(str(trained / "mine"))
    assert [check.ok for check in report.checks if "(test)" in check.claim] == [None] * 3
    write(tmp_path / "my.csv", ROWS[1:])
    with pytest.raises(DataNotFoundError, match="my.csv is not the my.csv of my-encoder"):
        zoo.evaluate(model)


def test_it_is_measured_on_other_files(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    model = zoo.load("./mine")
    new = [("plate 99 is cold today", "not"), ("plate 98 is warm today", "not")]
    path = write(tmp_path / "new.csv", new)
    found = zoo.evaluate(model, data=path)
    assert found["accuracy"] == 0.5 and found["is_not_called_liked"] == 0.5
    assert zoo.evaluate(model, data=path, limit=1)["accuracy"] == 1
    path = write(tmp_path / "stars.csv", [("fine", "1"), ("bad", "2")])
    with pytest.raises(InputError, match="stars.csv has the labels 1, 2; the model has liked, not"):
        zoo.evaluate(model, data=path)
    learned = open_data({"path": "my.csv"}, 1).examples("train")[0][0]
    path = write(tmp_path / "mixed.csv", [*new, (learned, "not")])
    with pytest.warns(UserWarning, match=r"1 of the 3 texts of mixed.csv stand in my.csv too"):
        zoo.evaluate(model, data=path)
    with pytest.raises(InputError, match="not on both"):
        zoo.evaluate(model, "imdb", data=path)
    with pytest.raises(InputError, match="text_column belongs to a file"):
        zoo.evaluate(model, text_column="text")
    with pytest.raises(InputError, match="alibi-lm is a text-generation model"):
        zoo.evaluate("alibi-lm", data=path)


def test_a_test_file_is_measured_and_on_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my.csv", ROWS)
    write(tmp_path / "t.csv", [("plate 1000 is warm today", "liked")] * 3)
    options = {**SIZES, "license": "cc0-1.0", "steps": 2}
    model = zoo.train("emotion-encoder", data="my.csv", test_data="t.csv", out="m", **options)
    assert model.card is not None
    facts = model.card.data["txzoo"]["data"]
    assert (facts["test_path"], facts["test_texts"], "held_out" in facts) == ("t.csv", 3, False)
    assert model.card.license == "cc0-1.0" and "measured on 3 texts of `t.csv`" in model.card.text
    assert zoo.verify("./m").ok
    with pytest.raises(InputError, match="was trained on my.csv"):
        zoo.evaluate(model, data="my.csv")
    write(tmp_path / "t.csv", [("another", "liked")])
    with pytest.raises(DataNotFoundError, match="t.csv is not the t.csv of my-encoder"):
        zoo.evaluate(model)


def test_a_trained_encoder_is_adapted_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my.csv", ROWS)
    options = {"tuning": "lora", "rank": 2, "steps": 1, "batch_tokens": 128, "seed": 5}
    model = zoo.train("speech-encoder", data="my.csv", out="tuned", **options)
    assert model.card is not None and model.config.labels == ("liked", "not")
    assert model.card.base_models == ["speech-encoder"] and model.card.license == "unknown"
    assert model.card.summary == "speech-encoder adapted to my.csv by lora"
    _, measured = trained_on(model.card)
    assert measured.examples("test") == open_data({"path": "my.csv"}, 5).examples("test")
    assert measured.examples("test") != open_data({"path": "my.csv"}, 1).examples("test")
    merged = zoo.load("./tuned").merge()
    assert zoo.evaluate(merged)["accuracy"] == zoo.evaluate(model)["accuracy"]
    assert "60 texts of `my.csv`" in model.card.text and zoo.verify("./tuned").ok


def test_long_texts_are_cut_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    rows = [*ROWS, ("cold " * 100_000, "not"), ("cold " * 100_001, "not")]
    write(tmp_path / "my.csv", rows)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        zoo.train("emotion-encoder", data="my.csv", out="m", steps=1, **SIZES)
    said = [str(w.message) for w in caught if "are longer than" in str(w.message)]
    # 16 tokens of each are read, one of them marks the start
    lost = {n - 15 for n in (100_000, 100_001)}
    assert said
    for line in said:
        found = re.search(r"left out, ([\d,]+) tokens", line)
        assert found is not None
        assert int(found[1].replace(",", "")) in {*lost, sum(lost)}, line
        assert "longer than the 16 tokens that are read: 99" in line or "100.0%" in line


def test_few_texts_for_a_batch_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "my.csv", ROWS[:10])
    with pytest.raises(TrainingError, match="8 training texts are too few for a batch of 64"):
        zoo.train("emotion-encoder", data=path, out=tmp_path / "m", tokenizer={"kind": "word"})


def test_a_card_with_broken_data_is_refused(trained: Path, tmp_path: Path) -> None:
    model = zoo.load(trained / "mine")
    assert model.card is not None
    for broken in ("my.csv", {"path": "my.csv"}, {**model.card.data["txzoo"]["data"], "path": 3}):
        ours = {**model.card.data["txzoo"], "data": broken}
        model.card = zoo.Card({**model.card.data, "txzoo": ours}, "", tmp_path / "README.md")
        with pytest.raises(CardError, match="txzoo.data must be a mapping with name, path"):
            zoo.evaluate(model)


# the baseline


def test_baseline_is_that_of_scikit_learn(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same texts, through a pipeline of scikit-learn's."""
    text = pytest.importorskip("sklearn.feature_extraction.text", reason="needs scikit-learn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    monkeypatch.chdir(trained)
    new = [("warm and cold today", "liked"), ("plate is cold", "not"), ("warm", "not")]
    path = write(tmp_path / "new.csv", new)
    found = baseline_of(zoo.load("./mine"), data=path)
    task = open_data({"path": "my.csv"}, 1)
    vectorizer = text.TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    reference = make_pipeline(vectorizer, LogisticRegression(C=10.0, max_iter=1000))
    reference.fit(*task.examples("train"))
    assert found["accuracy"] == pytest.approx(
        reference.score([t for t, _ in new], [task.labels.index(label) for _, label in new])
    )
    assert 0 < found["accuracy"] < 1
    assert baseline_of(zoo.load("./mine"))["accuracy"] == reference.score(*task.examples("test"))
    assert baseline_of(zoo.load("./mine"), data=path, limit=2)["accuracy_stderr"] >= 0
    scores = {score.key: score.baseline for score in info("./mine").scores}
    reached = baseline_of(zoo.load("./mine"))
    for name in ("accuracy", "macro_f1"):
        assert scores[name] == rounded(reached[name], reached[f"{name}_stderr"])


def test_the_baseline_counts_pairs_of_words_where_they_help() -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    pair = [(f"{a} {b} {n}", "ab"[a == b]) for n in range(40) for a in "xyz" for b in "xyz"]
    found = LabelledFile(table([(text.replace("x", "one"), label) for text, label in pair]))
    one, two = (tfidf_baseline(found, words=words)["accuracy"] for words in (1, 2))
    assert one < two == tfidf_baseline(found)["accuracy"]
    assert (tfidf_baseline(found)["words"], tfidf_baseline(found, words=1)["words"]) == (2, 1)


def test_baseline_of_other_tasks_is_refused() -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    with pytest.raises(InputError, match="synthetic is a text-generation task"):
        baseline_of(zoo.load("synthetic-decoder"))
    short = LabelledFile(table([(f"{n}", "ab"[n % 2]) for n in range(10)]))
    with pytest.raises(InputError, match="no TF-IDF baseline of 8 texts"):
        tfidf_baseline(short)
    other = LabelledFile(table([(f"{n}", "cd"[n % 2]) for n in range(10)]))
    with pytest.raises(InputError, match="learn the labels a, b, and be measured on c, d"):
        tfidf_baseline(short, on=other)


# the command


def run(*words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(words))
    return status, out.getvalue(), err.getvalue()


def test_the_command_trains_on_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my.csv", [(text, label, "-") for text, label in ROWS], ("said", "mood", "x"))
    settings = [f"--set={key}={value}" for key, value in SIZES.items() if key != "tokenizer"]
    settings += ['--set=tokenizer={kind = "word"}', "--set=steps=2"]
    words = ["train", "emotion-encoder", "--data", "my.csv", "--out", "m", *settings]
    status, _, err = run(*words)
    assert status == 2 and "'said', 'mood', 'x': say which one holds the texts" in err
    columns = ["--text-column", "said", "--label-column", "mood", "--license", "mit"]
    status, out, err = run(*words, *columns)
    assert status == 0 and "macro f1" in out, err
    assert info("./m").license == "mit"
    status, out, _ = run("eval", "./m", "--json")
    found = json.loads(out)
    assert (found["task"], found["data"], found["split"]) == (None, "my.csv", "test")
    assert found["metrics"]["accuracy"] == zoo.evaluate("./m")["accuracy"]
    for given in ([], columns[:4]):  # a column left out is the one that was learned from
        status, out, err = run("eval", "./m", "--data", "my.csv", *given, "--json")
        assert status == 0 and json.loads(out)["metrics"] == found["metrics"], err


def test_the_command_says_a_warning_once_in_a_line(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    path = write(tmp_path / "new.csv", [("warm " * 30, "liked"), ("cold", "not")])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        words = ["--data", str(path), "--errors", "1", "--baseline"]
        status, _, err = run("eval", "./mine", *words)
        assert status == 0, err
        write(tmp_path / "new.csv", ROWS)  # what was learned, in another file of other bytes
        (tmp_path / "new.csv").write_text("\n" + (tmp_path / "new.csv").read_text())
        status, _, twice = run("eval", "./mine", *words)  # for the model, and for the baseline
    assert err == (
        "txzoo: warning: 1 of 2 test texts are longer than the 16 tokens that are read: 48.4% of "
        "them is left out, 15 tokens\n"  # 15 of 31
    )
    assert status == 0 and twice.count("48 of the 60 texts of new.csv stand in my.csv too") == 1


def test_a_stopped_run_says_how_to_go_on_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.training import loop

    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my.csv", ROWS)
    stop = loop.Run.one_step

    def step(self: Any) -> Any:
        if self.step == 3:
            raise KeyboardInterrupt
        return stop(self)

    monkeypatch.setattr(loop.Run, "one_step", step)
    settings = [f"--set={key}={value}" for key, value in SIZES.items() if key != "tokenizer"]
    settings += ['--set=tokenizer={kind = "word"}', "--set=steps=4", "--set=checkpoint_every=1"]
    words = ["--data", "my.csv", "--text-column", "text"]
    status, _, err = run("train", "emotion-encoder", "--out", "m", *words, *settings)
    assert status == 1
    again = shlex.split(err[err.index("txzoo train") :])[1:]
    monkeypatch.setattr(loop.Run, "one_step", stop)
    status, _, err = run(*again)
    assert status == 0 and info("./m").training["steps"] == 4, err


@pytest.fixture(scope="module")
def pages() -> Any:
    sys.path.insert(0, str(GUIDE.parents[1] / "_build"))
    try:
        import blocks
    finally:
        sys.path.pop(0)
    return blocks


def test_commands_of_the_guide_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: Any
) -> None:
    """In their order, on the file of the page's first block; smaller and shorter."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    text = GUIDE.read_text(encoding="utf-8")
    exec(next(pages.blocks(text, "python"))["code"], {})
    lines = [
        line
        for block in pages.blocks(text, "sh")
        for line in filter(None, block["code"].split("\n"))
    ]
    assert len(lines) >= 4
    sizes = {key: SIZES[key] for key in ("max_seq_len", "batch_tokens", "warmup_steps")}
    for line in lines:
        program, verb, *words = shlex.split(line)
        assert program == "txzoo"
        if verb == "train":
            words += [f"--set={key}={value}" for key, value in {**sizes, "steps": 2}.items()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 16 tokens are too few for some letters
            status, out, err = run(verb, *words)
        assert status == 0 and out, (line, err)


def test_what_only_a_task_knows_does_not_hold_for_other_data(tmp_path: Path) -> None:
    path, recipe = write(tmp_path / "my.csv", ROWS), tmp_path / "recipe.toml"
    text = Path(zoo.info("imdb-encoder").folder, "recipe.toml").read_text()
    text = re.sub(r"\[objective\]\n.*?\n\n", "", text, flags=re.S)
    recipe.write_text(text.replace("[training]", "[objective]\nunlabelled = 5\n\n[training]", 1))
    assert plan(recipe).objective == {"unlabelled": 5}
    assert plan(recipe, data=path).objective == {}
    pictures = Path(zoo.info("vit-cifar10").folder, "recipe.toml").read_text()
    pictures = re.sub(r"\[objective\]\n.*?\n\n", "", pictures, flags=re.S)
    smooth = "[objective]\nlabel_smoothing = 0.1\n\n[training]"
    recipe.write_text(pictures.replace("[training]", smooth, 1))
    assert plan(recipe, data=tmp_path).objective == {"label_smoothing": 0.1}


def test_a_recipe_with_a_base_lets_its_lengths_be_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "my.csv", ROWS)
    found = plan("imdb-encoder", data=path, max_seq_len=32, steps=3)
    assert (found.base, found.tuning) == ("mlm-encoder", {"method": "full"})
    assert found.config == {"max_seq_len": 32, "dropout": 0.1} and found.training.steps == 3
    with pytest.raises(zoo.errors.ZooError, match="full has no option d_model=8"):
        zoo.train("imdb-encoder", data=path, out=tmp_path / "m", d_model=8)
