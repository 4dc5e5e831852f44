"""What is read of a folder, what is not, and how texts become passages."""

import hashlib
import os
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import zoo
from zoo.errors import InputError
from zoo.retrieval import Document, cut, documents, read_files, read_folder


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return zoo.load("alibi-lm").tokenizer


def test_texts_markdown_and_html_of_all_folders_are_read(docs: Path) -> None:
    found, _ = read_folder(docs)
    paths = ["bees.md", "trains.html", "more/soup.txt", "more/deep/README"]
    assert [one.path for one in found] == paths
    assert found[2].text == "Soup needs salt.\nAdd it at the end.\n"
    assert found[3].text == "The key is under the mat.\n"
    assert found[0].sha256 == hashlib.sha256((docs / "bees.md").read_bytes()).hexdigest()


def test_what_is_left_out_is_named_with_the_reason(docs: Path) -> None:
    _, skipped = read_folder(docs)
    assert {one.path: one.reason for one in skipped} == {
        ".hidden.md": "hidden",
        "binary.txt": "binary",
        "empty.md": "empty",
        "latin.txt": "not UTF-8 at byte 2",
        "loop": "a link",
        "out.txt": "a link out of the folder",
        "photo.png": ".png is not text, Markdown or HTML",
        "pipe.txt": "not a file",
    }


def test_what_is_unreadable_or_huge_is_left_out(
    docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "bees.md":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(documents, "LARGEST", 100)
    found, skipped = read_folder(docs)
    assert "bees.md" not in [one.path for one in found]
    reasons = {one.path: one.reason for one in skipped}
    assert reasons["trains.html"] == "0.0 MB, more than 0"
    monkeypatch.setattr(documents, "LARGEST", 10_000)
    reasons = {one.path: one.reason for one in read_folder(docs)[1]}
    assert reasons["bees.md"] == "cannot be read: Permission denied"


def test_a_folder_that_cannot_be_opened_is_named(
    docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found, skipped = read_folder(docs)
    assert len(found) == 3
    assert skipped[-1].path == "more/deep"
    assert skipped[-1].reason == "cannot be read: Permission denied"


def test_no_documents(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist: give the folder"):
        read_folder(tmp_path / "nowhere")
    for number in range(7):
        (tmp_path / f"{number}.png").write_bytes(b"1")
    with pytest.raises(InputError, match=r"holds no text.*left out: 7: 0\.png.* and 2 more"):
        read_folder(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        read_folder(tmp_path / "0.png")


def test_files_from_anywhere_are_read_as_those_of_a_folder(docs: Path, tmp_path: Path) -> None:
    (tmp_path / ".hidden.md").write_text("Shown by name.\n")
    files = {"a.md": docs / "bees.md", "b.md": tmp_path / ".hidden.md", "c": docs / "photo.png"}
    found, skipped = read_files(files)
    assert [one.path for one in found] == ["a.md", "b.md"]
    assert found[0].text == read_folder(docs)[0][0].text
    assert [(one.path, one.reason) for one in skipped] == [
        ("c", ".png is not text, Markdown or HTML")
    ]
    with pytest.raises(InputError, match=r"There is no text, .*left out: 1: d \(cannot be read"):
        read_files({"d": tmp_path / "gone.md"})


def test_html_keeps_its_words_on_their_lines(docs: Path) -> None:
    text = read_folder(docs)[0][1].text
    lines = text.split("\n")
    assert [" ".join(line.split()) for line in lines] == [
        *("", "Trains", "", "", "", "Trains"),
        *("The night train to Vienna leaves at ten. Tickets & seats", "are sold at the station."),
        *("", "", "", "Bicycles travel free.", "", ""),
    ]


def test_passages_begin_at_headings_and_know_their_lines(docs: Path, tokenizer: Tokenizer) -> None:
    found = cut(read_folder(docs)[0][0], tokenizer, 100)
    assert [one.place for one in found] == ["bees.md:1-3", "bees.md:5-11", "bees.md:13-15"]
    assert found[0].text.startswith("# Keeping bees A hive wants a dry place.")
    assert "# no heading" in found[1].text
    assert found[2].text == "## Swarms A swarm leaves in May. The old queen goes with it."


def test_full_passages_overlap_by_whole_sentences(tokenizer: Tokenizer) -> None:
    sentences = [f"Sentence number {number} stands here." for number in range(40)]
    found = cut(Document("a.txt", "\n".join(sentences), ""), tokenizer, 60)
    assert len(found) > 3
    seen: list[str] = []
    for one in found:
        inside = one.text.split(". ")
        assert len(tokenizer.encode(one.text).ids) <= 60
        assert (one.first, one.last) == (
            1 + int(inside[0].split()[2]),
            1 + int(inside[-1].split()[2]),
        )
        if seen:
            assert seen[-1].strip(".") == inside[0].strip(".")  # the last one again
        seen = inside
    assert found[-1].last == 40


def test_a_sentence_that_is_too_long_is_cut_between_words(tokenizer: Tokenizer) -> None:
    words = " ".join(f"word{number}" for number in range(200))
    found = cut(Document("a.txt", words + " " + "x" * 3000, ""), tokenizer, 50)
    assert all(len(tokenizer.encode(one.text).ids) <= 52 for one in found)
    told = [word for one in found for word in one.text.split()]
    assert set(words.split()) <= set(told)


@pytest.mark.parametrize(
    "piece", ["= ", "#", "```\n~~~\n", "a. ", 'a."', "\n ", "\u2029", "1.\n", "=\n", "(a)"]
)
def test_no_text_takes_for_ever(piece: str, tokenizer: Tokenizer) -> None:
    """Seconds where work grows with the length, hours where with its square."""
    found = cut(Document("a.txt", "begin " + piece * 30_000 + "end", ""), tokenizer, 100)
    assert found[0].text.startswith("begin")
    assert found[-1].text.endswith("end")


@pytest.mark.parametrize(
    "piece",
    [
        "<",
        "<a ",
        "<a b='",
        '<a b="',
        "<!--",
        "<!",
        "</",
        "&#",
        "<script",
        "<script>",
        "<svg ",
        "<?",
    ],
)
def test_no_markup_takes_for_ever(piece: str) -> None:
    assert documents.without_tags("begin " + piece * 100_000).startswith("begin")


def test_html_that_is_odd() -> None:
    text = (
        'a<br/>b <IMG alt="x > y">c<SCRIPT>if (1 < 2) {}\n</script>d &lt;e&gt; 1 < 2\n'
        "<p\nclass='q'>f&#10;g<!-- h\n--><i>j</i>k"
    )
    lines = documents.without_tags(text).split("\n")
    assert [line.split() for line in lines] == [
        ["a", "b", "c"],
        ["d", "<e>", "1", "<", "2"],
        [],
        ["f", "g"],
        ["jk"],
    ]


def test_headings_of_a_wiki(tokenizer: Tokenizer) -> None:
    text = "== Bees ==\nBees sleep.\n\n== Soup ==\nSoup needs salt.\n"
    found = cut(Document("a.txt", text, ""), tokenizer, 100)
    assert [one.place for one in found] == ["a.txt:1-2", "a.txt:4-5"]


@cache
def counts_words() -> Tokenizer:
    return zoo.load("synthetic-decoder").tokenizer


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="aB1 .!?\n\t#-*=()\"'\u2029é漢`", max_size=300))
def test_every_word_of_any_text_is_in_a_passage_of_its_lines(text: str) -> None:
    """Nothing is lost, whatever stands where, and lines are those of the text."""
    found = cut(Document("a.txt", text, ""), counts_words(), 12)
    lines = text.split("\n")
    covered: dict[int, str] = {}
    for one in found:
        assert 1 <= one.first <= one.last <= len(lines)
        inside = " ".join(lines[one.first - 1 : one.last]).split()
        assert "".join(one.text.split()) in "".join(inside)
        for line in range(one.first, one.last + 1):
            covered[line] = covered.get(line, "") + "".join(one.text.split())
    for number, line in enumerate(lines, 1):
        for word in line.split():
            if any(sign.isalnum() for sign in word):
                assert any(sign in covered[number] for sign in word if sign.isalnum())
