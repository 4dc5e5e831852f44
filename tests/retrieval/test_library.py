"""Finding passages, keeping what was read, and answers with their places."""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo import conversation
from zoo.card import Card
from zoo.chat import Chat
from zoo.errors import InputError, MissingExtraError
from zoo.folder import sha256
from zoo.pipelines.feature_extraction import FeatureExtraction
from zoo.retrieval import Library, Passage, answer
from zoo.retrieval.answer import STOP
from zoo.retrieval.words import Words


def test_a_question_finds_its_passage(library: Library) -> None:
    first = library.search("When does the night train leave?", k=2)[0]
    assert first.passage.place == "trains.html:2-12"
    assert "leaves at ten" in first.passage.text
    assert library.search("bees in winter")[0].passage.place == "bees.md:5-11"
    assert not any("swordfish" in one.text for one in library.passages)


def test_without_an_encoder_only_shared_words_count(library: Library) -> None:
    hits = library.search("bees bees, winter?", k=9)
    assert [hit.by_words for hit in hits] == [1, 2]
    assert all("bees" in hit.passage.text.lower() for hit in hits)
    assert all(hit.by_meaning is None for hit in hits)
    assert library.search("zebras") == [] == library.search("the") == library.search("?")
    with pytest.raises(InputError, match="No passage was found for 'zebras': ask in other words"):
        library.ask("zebras")


def test_words_are_ranked_by_equation_of_bm25() -> None:
    """Robertson & Zaragoza 2009, equation 3.15, with the idf that is never below 0."""
    texts = [["bees", "sleep", "bees"], ["hive", "bees"], ["soup", "salt", "pot", "lid", "fire"]]
    asked = ["bees", "hive", "salt"]
    mean = sum(map(len, texts)) / len(texts)

    def score(text: list[str]) -> float:
        total = 0.0
        for word in asked:
            holding = sum(word in other for other in texts)
            idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
            often = text.count(word)
            total += idf * often / (often + 1.5 * (1 - 0.75 + 0.75 * len(text) / mean))
        return total

    expected = sorted(range(3), key=lambda place: -score(texts[place]))
    words = Words([" ".join(text) for text in texts])
    assert words.rank(" ".join(asked), 3) == expected == [1, 2, 0]
    assert words.rank("salt hive", 1) == [1]
    for nothing in ([], ["the", "a"], ["!", "?"]):
        assert Words(nothing).rank("bees", 3) == []


def test_both_rankings_are_fused_by_their_ranks(encoded: Library) -> None:
    vectors = encoded.vectors([one.text for one in encoded.passages])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    [question] = encoded.vectors(["Where is the key?"])
    order = np.argsort(-(vectors @ question)).tolist()
    words = Words([one.text for one in encoded.passages]).rank("Where is the key?", 9)
    assert len(words) == 1
    hits = encoded.search("Where is the key?", k=100)
    assert len(hits) == len(encoded.passages)
    for hit in hits:
        place = encoded.passages.index(hit.passage)
        assert hit.by_meaning == order.index(place) + 1
        assert hit.by_words == (1 if place == words[0] else None)
    worth = [1 / (60 + hit.by_meaning) + (1 / 61 if hit.by_words else 0) for hit in hits]
    assert worth == sorted(worth, reverse=True)
    assert hits[0].by_words == 1


def test_an_encoder_gives_the_vectors_of_its_pipeline(encoded: Library) -> None:
    library = encoded
    encoder = FeatureExtraction(zoo.load("emotion-encoder"))
    expected = torch.stack(encoder([one.text for one in library.passages])).numpy()
    kept = library.index.reconstruct_n(0, library.index.ntotal)
    np.testing.assert_allclose(kept, expected, atol=1e-5)
    reader = library.embed.reader()
    assert all(row.left_out == 0 for row in reader([one.text for one in library.passages]))


@pytest.mark.parametrize(("question", "k"), [("", 5), ("   ", 5), ("bees", 0), ("bees", True)])
def test_questions_that_are_none(library: Library, question: str, k: int) -> None:
    with pytest.raises(InputError, match="is empty|k must be a whole number"):
        library.search(question, k)


def test_what_is_kept_comes_back(library: Library, encoded: Library, tmp_path: Path) -> None:
    for kept, files in ((encoded, {"index.faiss", "passages.json"}), (library, {"passages.json"})):
        folder = kept.save(tmp_path / "index")
        assert {path.name for path in folder.iterdir()} == files
        again = Library.load(folder)
        assert again.passages == kept.passages
        assert again.skipped == kept.skipped
        assert again.search("Where is the key?") == kept.search("Where is the key?")


def test_only_what_changed_is_read_again(
    docs: Path, library: Library, encoded: Library, tmp_path: Path
) -> None:
    mine = tmp_path / "docs"
    shutil.copytree(docs, mine, symlinks=True, ignore=shutil.ignore_patterns("pipe.txt"))
    assert library.refreshed(mine).made_anew == 0
    (mine / "bees.md").write_text("Bees dance.\n")
    (mine / "trains.html").unlink()
    (mine / "new.txt").write_text("A new page.\n")
    changed = library.refreshed(mine)
    assert changed.made_anew == 2
    assert [one.path for one in changed.passages] == [
        *("bees.md", "new.txt", "more/soup.txt", "more/deep/README")
    ]
    assert Library.of(mine).passages == changed.passages
    changed, fresh = encoded.refreshed(mine), Library.of(mine, "emotion-encoder")
    assert (changed.made_anew, fresh.made_anew) == (2, 4)
    kept, made = (one.index.reconstruct_n(0, 4) for one in (changed, fresh))
    np.testing.assert_allclose(kept, made, atol=1e-6)


def test_another_encoder_is_refused(library: Library, encoded: Library, tmp_path: Path) -> None:
    folder = encoded.save(tmp_path / "index")
    with pytest.raises(InputError, match="made with emotion-encoder .*this is speech-encoder "):
        Library.load(folder, "speech-encoder")
    other = zoo.load("emotion-encoder")
    with torch.no_grad():
        next(iter(other.module.parameters())).add_(1)
    with pytest.raises(InputError, match=r"made with emotion-encoder .*do not compare"):
        Library.load(folder, other)
    with pytest.raises(InputError, match="made without an encoder: remove it"):
        Library.load(library.save(tmp_path / "words"), "emotion-encoder")
    with pytest.raises(InputError, match="feature-extraction needs a model with the head"):
        Library("alibi-lm")


@pytest.mark.parametrize("damage", ["cut", "json", "passages", "format", "path", "text"])
def test_a_damaged_index_is_refused(encoded: Library, tmp_path: Path, damage: str) -> None:
    folder = encoded.save(tmp_path / "index")
    index, passages = folder / "index.faiss", folder / "passages.json"
    data = json.loads(passages.read_text())
    if damage == "cut":
        index.write_bytes(index.read_bytes()[:-4])
    elif damage == "json":
        passages.write_text(passages.read_text()[:-9])
    else:
        if damage == "passages":
            data["passages"].pop()
        elif damage == "format":
            data["format"] = "another"
        elif damage == "text":
            data["passages"][0]["text"] = 5
        else:
            data["passages"][0]["path"] = "of-no-document.md"
        passages.write_text(json.dumps(data))
    with pytest.raises(InputError, match="is damaged: remove it"):
        Library.load(folder)


def test_folders_that_hold_no_index(library: Library, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no index of passages"):
        Library.load(tmp_path)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is there and is no index"):
        library.save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setitem(sys.modules, "bm25s", None)
    for use in (lambda: Library("emotion-encoder"), lambda: Words(["bees"])):
        with pytest.raises(MissingExtraError, match=r"pip install 'txzoo\[retrieval\]'"):
            use()


def test_an_answer_is_written_from_the_passages_and_cites_them(library: Library) -> None:
    found = library.ask("When does the night train leave?", k=2, model="alibi-lm")
    assert found.citations == [
        f"[{number}] {one.place}" for number, one in enumerate(found.passages, 1)
    ]
    assert found.passages[0].place == "trains.html:2-12"
    assert f"[1] {found.passages[0].text}\n[2] " in found.prompt
    assert found.prompt.endswith("Question: When does the night train leave?\nAnswer:")
    model = zoo.load("alibi-lm")
    alone = model(
        found.prompt,
        max_new_tokens=48,
        repetition_penalty=1.3,
        stop=STOP,
        return_full_text=False,
    )
    assert found.text == alone.strip()


def test_passages_that_do_not_fit_are_left_out_last_ones_first() -> None:
    lm = zoo.load("alibi-lm")
    given = [Passage("a.md", n, n, f"{n} " + "The bees sleep here. " * 15) for n in (1, 2, 3, 4)]
    found = answer("Why?", given, lm, max_new_tokens=8)
    assert 0 < len(found.passages) < 4
    assert found.passages == given[: len(found.passages)]
    assert found.left_out == 4 - len(found.passages)
    assert len(lm.tokenizer.encode(found.prompt).ids) + 8 <= lm.config.max_seq_len
    long = [Passage("a.md", 1, 9, "The bees sleep here. " * 90)]
    [cut] = answer("Why?", long, lm, max_new_tokens=8).passages
    assert long[0].text.startswith(cut.text)
    assert 200 < len(lm.tokenizer.encode(cut.text).ids) < lm.config.max_seq_len
    with pytest.raises(InputError, match="too few for this question"):
        answer("Why? " * 300, given, lm)
    with pytest.raises(InputError, match="an answer takes a text-generation one"):
        answer("Why?", given, "emotion-encoder")


def test_a_model_with_a_chat_template_is_asked_in_a_message(
    library: Library, tmp_path: Path
) -> None:
    folder = zoo.load("alibi-lm").save_pretrained(tmp_path / "talker")
    conversation.write(folder, conversation.Template.called("chatml"))
    with pytest.warns(UserWarning, match="tokenizer_config.json is not on the card"):
        assert zoo.load(folder).template is None
    card, file = Card.read(folder), folder / "tokenizer_config.json"
    card.data["txzoo"]["files"][file.name] = {
        "sha256": sha256(file),
        "bytes": file.stat().st_size,
    }
    card.write(folder)
    model = zoo.load(folder)
    found = library.ask("Where is the key?", k=1, model=model, max_new_tokens=8)
    [passage] = found.passages
    message = f"Answer the question from the passages.\n\n[1] {passage.text}\n\nWhere is the key?"
    assert found.prompt == f"<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n"
    talk = Chat(model, template="chatml", max_new_tokens=8, repetition_penalty=1.3)
    assert found.text == talk.say(message)
