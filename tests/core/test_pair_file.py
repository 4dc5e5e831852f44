"""A user's own sentence pairs: read, refused with a reason, held out, described for the card."""

import csv
import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

from zoo.errors import DataNotFoundError, InputError
from zoo.tasks.pair_file import PairFile, Pairs, entry_of, open_pairs, read_pairs

PAIRS = [('He said "no",\tthen left', "Er sagte „nein“; und ging"), ("x", "ß"), ("漢字", "Übel, y")]
SOURCES, TARGETS = ([pair[side] for pair in PAIRS] for side in (0, 1))


def made(sources: list[str], name: str = "a.tsv") -> Pairs:
    targets = [f"nach {source}" for source in sources]
    return Pairs(name, "", name, "0" * 64, "en", "de", sources, targets)


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def test_all_formats_give_the_same_pairs(tmp_path: Path) -> None:
    for name, delimiter in (("a.csv", ","), ("b.csv", ";"), ("c.tsv", "\t")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file, delimiter=delimiter).writerows([("en", "de"), *PAIRS])
    lines = [json.dumps({"en": source, "de": target}) for source, target in PAIRS]
    write(tmp_path / "d.jsonl", *lines)
    (tmp_path / "e.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    for path in sorted(tmp_path.iterdir()):
        found = read_pairs(str(path))
        assert (found.sources, found.targets) == (SOURCES, TARGETS), path.name
        assert (found.source_column, found.target_column) == ("en", "de")
        assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (found.name, found.path, found.target_path) == (path.name, str(path), "")


def test_two_files_are_read_side_by_side(tmp_path: Path) -> None:
    sources = write(tmp_path / "train.en", *SOURCES)
    (tmp_path / "train.de").write_bytes(("\r\n".join(TARGETS) + "\r\n\r\n").encode("utf-8-sig"))
    (tmp_path / "train.de.gz").write_bytes(gzip.compress((tmp_path / "train.de").read_bytes()))
    for name in ("train.de", "train.de.gz"):
        found = read_pairs(sources, str(tmp_path / name))
        assert (found.sources, found.targets) == (SOURCES, TARGETS)
        raw = Path(sources).read_bytes() + (tmp_path / name).read_bytes()
        assert found.sha256 == hashlib.sha256(raw).hexdigest()
        assert found.name == f"train.en and {name}"
    assert read_pairs("train.en", "train.de", near=tmp_path).sources == SOURCES


@pytest.mark.parametrize(
    ("head", "given", "found"),
    [
        (("source", "target"), {}, ("source", "target")),
        (("id", "Tgt", "Src"), {}, ("Src", "Tgt")),
        (("de", "en"), {}, ("de", "en")),
        (("de", "pt-BR"), {"source_column": "pt-BR"}, ("pt-BR", "de")),
        (("English", "German"), {"source_column": "English"}, ("English", "German")),
        (("English", "German"), {"target_column": "English"}, ("German", "English")),
        (("id", "en", "de"), {"source_column": "de", "target_column": "en"}, ("de", "en")),
    ],
)
def test_columns_are_found(
    tmp_path: Path, head: tuple[str, ...], given: dict[str, str], found: tuple[str, str]
) -> None:
    path = write(tmp_path / "a.tsv", "\t".join(head), "\t".join(f"in {name}" for name in head))
    pairs = read_pairs(path, **given)
    assert (pairs.source_column, pairs.target_column) == found
    assert (pairs.sources, pairs.targets) == ([f"in {found[0]}"], [f"in {found[1]}"])


@pytest.mark.parametrize(
    ("name", "text", "given", "message"),
    [
        ("a.tsv", "Hi.\tHallo!\nRun!\tLauf!\n", {}, "'Hi.', 'Hallo!': say which .* first row"),
        ("a.tsv", "en\tde\tfr\na\tb\tc\n", {}, "'en', 'de', 'fr': say which one holds the sources"),
        ("a.tsv", "en\tde\na\tb\n", {"target_column": "fr"}, "none called 'fr' for the targets"),
        ("a.tsv", "en\ten\na\tb\n", {"source_column": "en"}, "more than one called 'en'"),
        (
            "a.tsv",
            "en\tde\na\tb\n",
            {"source_column": "en", "target_column": "en"},
            "cannot both be in column 'en'",
        ),
        ("a.tsv", "en\tde\n", {}, "a.tsv has no pairs"),
        ("a.tsv", "", {}, "is empty"),
        ("a.tsv", "en\tde\na\tb\n\nc\td\n\t\ne\tf\n", {}, "a.tsv: rows 3, 5 have no text at all"),
        ("a.tsv", "en\tde\na\tb\nc\t \n", {}, "row 3 has no text in the column 'de'"),
        ("a.tsv", "en\tde\na\tb\nc\n", {}, "has 2 columns, and row 3 has another number of cells"),
        ("a.jsonl", '{"en": "a", "de": "b"}\n\n{"en": "c", "de": "d"}\n', {}, "row 2 has no text"),
        ("a.jsonl", '{"en": "a", "de": "b"}\n{"en": "c", "de": 3}\n', {}, "row 2 has no text in"),
        ("a.txt", "a\n", {}, "two text files: then give the one of the translations"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused(
    tmp_path: Path, name: str, text: str, given: dict[str, str], message: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_pairs(str(tmp_path / name), **given)


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        ("abc", "de", "has 3 lines and a.de 2: line 3 of a.de is missing, in a.en it reads 'c'"),
        ("a", "bcd", "a.en has 1 line and a.de 3: line 2 of a.en is missing, in a.de it reads"),
        ("abcd", "e gfh", "a.en has 4 .* a.de 5: line 2 of a.de is empty, in a.en it reads 'b'"),
        ("a c e", "fghij", "a.en: lines 2, 4 are empty: delete them in a.en and a.de"),
        ("abc", "d f", "a.de: line 2 is empty"),
        ("a", " ", "a.de is empty"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, sources: str, targets: str, message: str
) -> None:
    """A letter is a line here, a blank an empty one."""
    paths = [write(tmp_path / "a.en", *sources), write(tmp_path / "a.de", *targets)]
    with pytest.raises(InputError, match=message):
        read_pairs(*paths)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "a.en", "a", "b", "c")
    bad = tmp_path / "a.de"
    bad.write_bytes("ä\nö\nü\n".encode()[:-3] + "ü\n".encode("latin-1"))
    for pair in ((good, str(bad)), (str(bad), good)):
        with pytest.raises(InputError, match=r"a\.de is not UTF-8: byte 0xfc in line 3"):
            read_pairs(*pair)
    bad.rename(tmp_path / "b.tsv")
    with pytest.raises(InputError, match=r"b\.tsv is not UTF-8: byte 0xfc in line 3"):
        read_pairs(str(tmp_path / "b.tsv"))
    (tmp_path / "a.de.gz").write_bytes(gzip.compress(b"a\nb\nc\n")[:-3])
    with pytest.raises(InputError, match="is not a whole gzip file"):
        read_pairs(good, str(tmp_path / "a.de.gz"))
    with pytest.raises(DataNotFoundError, match="nowhere.de was not found"):
        read_pairs(good, "nowhere.de")
    with pytest.raises(InputError, match="two files, which have no columns"):
        read_pairs(good, good, source_column="en")
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other" / "a.en", "a")  # files of one name are told apart
    with pytest.raises(InputError, match=f"^{good} has 3 lines and {other} 1: line 2 of {other} "):
        read_pairs(good, other)


def test_a_tenth_of_the_sources_is_held_out() -> None:
    sources = [f"sentence {n % 50}" for n in range(120)]
    task = PairFile(made(sources), seed=3)
    assert task.splits == ("train", "test")
    parts = {split: list(zip(*task.pairs(split), strict=True)) for split in task.splits}
    held = {source for source, _ in parts["test"]}
    assert len(held) == 5 and not held & {source for source, _ in parts["train"]}
    everything = sorted((source, f"nach {source}") for source in sources)
    assert sorted(parts["train"] + parts["test"]) == everything
    again = PairFile(made(sources[::-1]), seed=3)
    assert set(again.pairs("test")[0]) == held != set(PairFile(made(sources)).pairs("test")[0])
    assert len(PairFile(made([str(n) for n in range(12_000)])).pairs("test")[0]) == 1000
    assert len(PairFile(made(["a", "b"])).pairs("test")[0]) == 1
    with pytest.raises(InputError, match=r"a\.tsv has too few different sources \(1\)"):
        PairFile(made(["a", "a"]))


def test_pairs_to_test_on(tmp_path: Path) -> None:
    task = PairFile(made(["a", "b"]), made(["c"], "b.tsv"))
    assert task.pairs("train")[0] == ["a", "b"] and task.pairs("test") == (["c"], ["nach c"])
    assert PairFile(None, made(["c"])).splits == ("test",)
    with pytest.warns(UserWarning, match=r"1 of the 2 texts of b\.tsv stand in a\.tsv too"):
        PairFile(made(["a", "b"]), made(["b", "c"], "b.tsv"))


@pytest.mark.parametrize("two_files", [False, True])
@pytest.mark.parametrize("tested", [False, True])
def test_the_facts_open_the_same_pairs_again(tmp_path: Path, two_files: bool, tested: bool) -> None:
    data: dict[str, str] = {}
    for key, letters in (("", "abcdefghij"), ("test_", "klm")):
        if two_files:
            data[f"{key}path"] = write(tmp_path / f"{key}x.en", *letters)
            data[f"{key}target_path"] = write(tmp_path / f"{key}x.de", *letters.upper())
        else:
            lines = [f"{letter}\t{letter.upper()}" for letter in letters]
            data[f"{key}path"] = write(tmp_path / f"{key}x.tsv", "to be read\twritten", *lines)
        if not tested:
            break
    if not two_files:
        data["source_column"] = "to be read"
    task = open_pairs(data, 7)
    facts = task.facts()
    assert facts["pairs"] == 10 and facts["path"] == data["path"]
    if tested:
        assert (facts["test_pairs"], facts["test_path"]) == (3, data["test_path"])
    else:
        assert (facts["held_out"], facts["seed"]) == (1, 7)
    json.dumps(facts)
    again = open_pairs(facts, 7)
    assert again.parts == task.parts and again.facts() == facts
    sources, targets = again.pairs("train")
    assert [source.upper() for source in sources] == targets
    entry = entry_of(task, "cc0-1.0")
    assert (entry.pipeline, entry.metrics[0], entry.license) == ("translation", "bleu", "cc0-1.0")
    assert re.fullmatch(r"x\.tsv|x\.en and x\.de", entry.name)


def test_pairs_are_a_translation_task() -> None:
    task = PairFile(made([f"sentence {n}" for n in range(50)]))
    tokenizer = task.build_tokenizer({"kind": "byte-pair", "vocab_size": 260})
    batch = task.batches(tokenizer, length=40, batch_tokens=60, seed=1)(0)
    ids = batch["targets"][0]
    assert re.fullmatch(r"nach sentence \d+", tokenizer.decode(ids[ids >= 0].tolist()))
    assert task.references("test") == [[text] for text in task.pairs("test")[1]]
