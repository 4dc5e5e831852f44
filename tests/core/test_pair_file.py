"""A user's own sentence pairs: read, refused with a reason, held out, described for the card."""

import contextlib
import csv
import gzip
import hashlib
import io
import json
import re
import shlex
import shutil
import warnings
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sacrebleu
import torch

import zoo
from zoo.card import Card
from zoo.cli import main
from zoo.errors import CardError, DataNotFoundError, InputError, RecipeError, ZooError
from zoo.loading import info
from zoo.tasks.pair_file import PairFile, Pairs, entry_of, open_pairs, read_pairs
from zoo.training import loop
from zoo.training.loop import plan
from zoo.training.recipe import Recipe

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
    with pytest.raises(InputError, match="pairs are read from files, not from the Hub"):
        read_pairs("hf://datasets/owner/name")
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


def test_a_table_is_tested_on_two_files(tmp_path: Path) -> None:
    data = {"path": write(tmp_path / "a.tsv", "src\ttgt", "a\tA", "b\tB")}
    data |= {"test_path": write(tmp_path / "t.en", "c")}
    data |= {"test_target_path": write(tmp_path / "t.de", "C")}
    assert open_pairs(data, 1).pairs("test") == (["c"], ["C"])


def test_pairs_are_a_translation_task() -> None:
    task = PairFile(made([f"sentence {n}" for n in range(50)]))
    tokenizer = task.build_tokenizer({"kind": "byte-pair", "vocab_size": 260})
    batch = task.batches(tokenizer, length=40, batch_tokens=60, seed=1)(0)
    ids = batch["targets"][0]
    assert re.fullmatch(r"nach sentence \d+", tokenizer.decode(ids[ids >= 0].tolist()))
    assert task.references("test") == [[text] for text in task.pairs("test")[1]]


# training and measuring

SIZES: dict[str, Any] = {
    "max_seq_len": 12,
    "d_model": 32,
    "n_layers": 1,
    "n_encoder_layers": 1,
    "n_heads": 2,
    "d_ff": 32,
    "dropout": 0.0,
    "batch_tokens": 512,
    "learning_rate": 0.02,
    "warmup_steps": 5,
    "tokenizer": {"kind": "word"},
}
NUMERALS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier"}
ENGLISH = [" ".join(words) for words in product(NUMERALS, repeat=4)]  # 256


def german(text: str) -> str:
    return " ".join(NUMERALS[word] for word in text.split())


class Done(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


def run(*words: str) -> Done:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(words))
    return Done(status, out.getvalue(), err.getvalue())


def settings(**others: Any) -> list[str]:
    given = {**SIZES, **others, "tokenizer": '{kind = "word"}'}
    return [word for key, value in given.items() for word in ("--set", f"{key}={value}")]


def table(path: Path, texts: list[str]) -> str:
    return write(
        path, "n\tenglish\tgerman", *(f"{n}\t{t}\t{german(t)}" for n, t in enumerate(texts))
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pairs.tsv and the model `mine` that has learned from it, in the shell."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pairs")
    table(folder / "pairs.tsv", ENGLISH)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        columns = ("--source-column", "english", "--target-column", "german")
        words = ("--data", "pairs.tsv", *columns, "--license", "cc0-1.0", "--out", "mine")
        done = run("train", "seq2seq-en-de-base", *words, *settings(steps=30))
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture
def there(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    monkeypatch.chdir(trained)
    return trained


def test_recipe_and_card_say_which_pairs(there: Path) -> None:
    recipe = Recipe.read(there / "mine" / "recipe.toml")
    assert (recipe.architecture, recipe.task) == ("seq2seq", "")
    given = {"path": "pairs.tsv", "source_column": "english", "target_column": "german"}
    assert recipe.data == {**given, "license": "cc0-1.0", "pipeline": "translation"}
    card = info("./mine")
    digest = hashlib.sha256((there / "pairs.tsv").read_bytes()).hexdigest()
    facts = {"name": "pairs.tsv", "sha256": digest, "pairs": 256, "held_out": 26, "seed": 1}
    assert card.data["txzoo"]["data"] == {**given, **facts}
    assert (card.pipeline, card.license, card.task) == ("translation", "cc0-1.0", None)
    assert (card.name, card.datasets) == ("pairs-seq2seq", [])
    assert f"256 pairs of `pairs.tsv`,\nsha256 `{digest}`" in card.text
    text = card.path.read_text(encoding="utf-8")
    assert not re.search("multi30k|tatoeba|en-de|flickr", text, re.IGNORECASE)
    assert {(score.dataset, score.split) for score in card.scores} == {("pairs.tsv", "test")}
    assert zoo.verify("./mine").ok


def test_it_is_measured_on_what_was_held_out(there: Path) -> None:
    done = run("eval", "./mine", "--json")
    found = json.loads(done.stdout)
    assert (found["task"], found["data"]) == (None, "pairs.tsv")
    model = zoo.load("./mine")
    sources, targets = open_pairs(Recipe.read(there / "mine" / "recipe.toml").data, 1).pairs("test")
    assert targets == [german(source) for source in sources] and len(sources) == 26
    reference = sacrebleu.corpus_bleu(model(sources, num_beams=4), [targets])
    assert found["metrics"]["bleu"] == pytest.approx(reference.score)
    assert reference.score > 1
    # the very file is not measured as if it were new
    again = run("eval", "./mine", "--data", "pairs.tsv", "--json")
    assert json.loads(again.stdout)["metrics"] == found["metrics"]
    swapped = ("--source-column", "german", "--target-column", "english")
    done = run("eval", "./mine", "--data", "pairs.tsv", *swapped)
    assert done.exit_code == 2 and "columns english and german: scores on what" in done.stderr


def test_it_is_measured_on_other_pairs(there: Path, tmp_path: Path) -> None:
    new = ["one two", "four one four three two", "two"]
    path = table(tmp_path / "new.tsv", new)  # its columns are those that were learned from
    done = run("eval", "./mine", "--data", path, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    answers = zoo.load("./mine")(new, num_beams=4)
    reference = sacrebleu.corpus_chrf(answers, [[german(text) for text in new]])
    assert found["metrics"]["chrf"] == pytest.approx(reference.score)
    assert found["data"] == path
    files = write(tmp_path / "new.en", *new), write(tmp_path / "new.de", *map(german, new))
    both = run("eval", "./mine", "--data", files[0], "--data", files[1], "--json")
    assert json.loads(both.stdout) == found | {"data": list(files)}
    scores = zoo.evaluate("./mine", data=files)
    assert scores["chrf"] == found["metrics"]["chrf"]
    assert zoo.evaluate("./mine", data=path, limit=1)["chrf"] == pytest.approx(
        sacrebleu.corpus_chrf(answers[:1], [["eins zwei"]]).score
    )
    learned = open_pairs(info("./mine").data["txzoo"]["data"], 1).pairs("train")[0][0]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = run("eval", "./mine", "--data", table(tmp_path / "mixed.tsv", [*new, learned]))
    assert "warning: 1 of the 4 texts of mixed.tsv stand in pairs.tsv too" in done.stderr


def test_without_the_pairs_it_says_which_ones_it_needs(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TXZOO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataNotFoundError, match=r"trained on pairs.tsv \(256 pairs, sha256 .* pairs"
    ):
        zoo.evaluate(there / "mine")
    table(tmp_path / "pairs.tsv", ENGLISH[1:])
    with pytest.raises(DataNotFoundError, match="pairs.tsv is not the pairs.tsv of pairs-seq2seq"):
        zoo.evaluate(there / "mine")
    model = zoo.load(there / "mine")
    assert model.card is not None
    for broken in ({"pairs": 3, "path": "a"}, {**model.card.data["txzoo"]["data"], "sha256": 3}):
        ours = {**model.card.data["txzoo"], "data": broken}
        model.card = Card({**model.card.data, "txzoo": ours}, "", tmp_path / "README.md")
        with pytest.raises(CardError, match="mapping with name, path, sha256$"):
            zoo.evaluate(model)


def test_two_files_in_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped, gone on with, trained again from another folder, measured on other files."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    for name, texts in (("train", ENGLISH), ("t", ["one", "four four"])):
        write(tmp_path / f"{name}.en", *texts)
        write(tmp_path / f"{name}.de", *map(german, texts))
    one_step = loop.Run.one_step

    def step(self: Any) -> Any:
        if self.step == 2:
            raise KeyboardInterrupt
        return one_step(self)

    monkeypatch.setattr(loop.Run, "one_step", step)
    files = [
        "--data",
        "train.en",
        "--data",
        "train.de",
        "--test-data",
        "t.en",
        "--test-data",
        "t.de",
    ]
    words = ["--out", "m", *files, *settings(steps=3, checkpoint_every=1)]
    done = run("train", "seq2seq-en-de-base", *words)
    monkeypatch.setattr(loop.Run, "one_step", one_step)
    assert done.exit_code == 1
    again = shlex.split(done.stderr[done.stderr.index("txzoo train") :])[1:]
    done = run(*again)
    assert done.exit_code == 0, done.stderr
    card = info("./m")
    paths = {"path": "train.en", "target_path": "train.de"}
    paths |= {"test_path": "t.en", "test_target_path": "t.de"}
    facts = card.data["txzoo"]["data"]
    assert facts.items() >= {**paths, "pairs": 256, "test_pairs": 2}.items()
    assert facts["name"] == "train.en and train.de" and "source_column" not in facts
    assert "measured on 2 pairs of `t.en and t.de`" in card.text
    assert json.loads(run("eval", "./m", "--json").stdout)["data"] == ["train.en", "train.de"]
    with pytest.raises(InputError, match="was trained on train.en and train.de: scores on what"):
        zoo.evaluate("./m", data=("train.en", "train.de"))
    for name in ("train.en", "train.de", "t.en", "t.de"):  # what lies beside a recipe is found
        shutil.move(name, "m")
    other = zoo.train("m/recipe.toml", out="other")
    for one, same in zip(
        zoo.load("./m").module.parameters(), other.module.parameters(), strict=True
    ):
        assert torch.equal(one, same)
    assert zoo.verify("./m").ok  # and beside a card


def test_files_of_unequal_lengths_are_one_line_of_error(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.en", "one", "two", "three")
    write(tmp_path / "a.de", "eins", "zwei")
    files = ("--data", "a.en", "--data", "a.de")
    message = "a.en has 3 lines and a.de 2: line 3 of a.de is missing, in a.en it reads 'three'"
    for words in (("train", "seq2seq-en-de-base", "--out", "m"), ("eval", str(there / "mine"))):
        done = run(*words, *files)
        assert done.exit_code == 2 and done.stderr.splitlines()[-1].endswith(message), done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.de", "a.en"]


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("imdb-encoder", {"data": "a.tsv", "source_column": "en"}, "source_column belongs to sen"),
        ("imdb-encoder", {"data": ("a.en", "a.de")}, "a second file belongs to sentence pairs"),
        ("seq2seq-en-de-base", {"data": "a.tsv", "text_column": "en"}, "text_column belongs to"),
        ("seq2seq-en-de-base", {"source_column": "en"}, "belongs to sentence pairs: give"),
        ("seq2seq-en-de-base", {"data": ["a", "b", "c"]}, "data is one file, or two.*got 3"),
        ("seq2seq-en-de-base", {"data": "a", "test_data": ["b", "c", "d"]}, "test_data is one"),
        ("seq2seq-en-de-base", {"data": "a.en"}, "a second --data or target_path="),
        (
            "seq2seq-en-de-base",
            {"data": {"path": "a.tsv", "pipeline": "fill-mask"}},
            "pipeline must be translation, summarization, .* got 'fill-mask'",
        ),
        (
            "alibi-lm",
            {"data": {"path": "a.tsv", "pipeline": "translation"}},
            "alibi-decoder does not make a text of another",
        ),
    ],
)  # fmt: skip
def test_what_is_for_the_other_kind_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, changes: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.tsv", "en\tde", "a\tb", "c\td")
    for name in ("a.en", "a.de"):
        write(tmp_path / name, "a", "b")
    with pytest.raises((RecipeError, InputError), match=message):
        zoo.train(recipe, out="m", **changes)


def test_measuring_refuses_what_is_for_the_other_kind(there: Path) -> None:
    for options, message in (
        ({"data": "pairs.tsv", "label_column": "n"}, "label_column belongs to labelled texts"),
        ({"data": ["a", "b", "c"]}, "two, sources and targets; got 3"),
        ({"source_column": "n"}, "source_column belongs to a file"),
        ({"data": ("a", "b"), "task": "en-de"}, "the task en-de or on a and b, not on both"),
    ):
        with pytest.raises(ZooError, match=message):
            zoo.evaluate("./mine", **options)  # type: ignore[arg-type]
    words = ("--data", "pairs.tsv", "--source-column", "english", "--baseline")
    done = run("eval", "./mine", *words)
    assert done.exit_code == 2 and "pairs-seq2seq is a translation model" in done.stderr


def test_pairs_stand_in_recipes(tmp_path: Path) -> None:
    found = plan("seq2seq-en-de-base", data=(tmp_path / "Our.en", "our.de"), test_data=["t.tsv"])
    paths = {"path": str(tmp_path / "Our.en"), "target_path": "our.de", "test_path": "t.tsv"}
    assert found.data == {**paths, "pipeline": "translation"}
    assert (found.name, found.task) == ("our-seq2seq", "")
    (tmp_path / "r.toml").write_text(found.dump(), encoding="utf-8")
    assert Recipe.read(tmp_path / "r.toml").data == found.data
    # other data say nothing of columns and second files, and are pairs again
    assert found.with_changes(data="b.tsv").data == {"path": "b.tsv", "pipeline": "translation"}
    tested = found.with_changes(test_data=("u.en", "u.de"))
    assert tested.data == {**found.data, "test_path": "u.en", "test_target_path": "u.de"}
    assert tested.with_changes(test_data="t.tsv").data == found.data


def test_the_pipeline_of_pairs_is_that_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    data = {"path": table(tmp_path / "a.tsv", ENGLISH), "pipeline": "summarization"}
    data |= {"source_column": "english", "target_column": "german"}
    model = zoo.train("seq2seq-en-de-base", data=data, out="m", steps=1, **SIZES)
    assert model.pipeline == "summarization" and model.card is not None
    assert model.card.summary == "Summarization, trained on a.tsv"
    options = {"tuning": "bitfit", "steps": 1, "batch_tokens": 512, "data": data}
    data["pipeline"] = "translation"  # a model of one can be adapted to the other
    tuned = zoo.train("./m", out="tuned", **options)
    assert tuned.pipeline == "translation" and tuned.card is not None
    assert tuned.card.summary == "a-seq2seq adapted to a.tsv by bitfit"
