"""Finding passages, keeping what was read, and answers with their places."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import zoo
from zoo import conversation
from zoo.chat import Chat
from zoo.errors import InputError, MissingExtraError
from zoo.retrieval import Library, Passage, answer
from zoo.retrieval.answer import STOP
from zoo.retrieval.tokens import TokenVectors


def test_a_question_finds_its_passage(library: Library) -> None:
    first = library.search("When does the night train leave?", k=2)[0]
    assert first.passage.place == "trains.html:2-12"
    assert "leaves at ten" in first.passage.text
    assert library.search("bees in winter")[0].passage.place == "bees.md:5-11"
    assert not any("swordfish" in one.text for one in library.passages)


def test_scores_are_cosines_of_all_passages_best_first(library: Library) -> None:
    vectors = library.vectors([one.text for one in library.passages])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    [question] = library.vectors(["Where is the key?"])
    hits = library.search("Where is the key?", k=100)
    assert len(hits) == len(library.passages)
    expected = sorted((float(vector @ question) for vector in vectors), reverse=True)
    np.testing.assert_allclose([hit.score for hit in hits], expected, atol=1e-5)


def test_an_encoder_gives_the_vectors_of_its_pipeline(docs: Path) -> None:
    from zoo.pipelines.feature_extraction import FeatureExtraction

    library = Library.of(docs, "emotion-encoder")
    encoder = FeatureExtraction(zoo.load("emotion-encoder"))
    expected = torch.stack(encoder([one.text for one in library.passages])).numpy()
    kept = library.index.reconstruct_n(0, library.index.ntotal)
    np.testing.assert_allclose(kept, expected, atol=1e-5)
    reader = library.embed.reader()
    assert all(row.left_out == 0 for row in reader([one.text for one in library.passages]))


def test_vectors_of_tokens_follow_the_papers() -> None:
    """By singular values, and a mean with weights word by word."""
    model = zoo.load("alibi-lm")
    table = model.module.state_dict()["head.weight"].double()
    table = table - table.mean(0)
    left, spread, _ = torch.linalg.svd(table, full_matrices=False)
    white = left * len(table) ** 0.5
    ids = model.tokenizer.encode(" The bees sleep.").ids
    total = torch.zeros(table.shape[1], dtype=torch.float64)
    for token in ids:
        rank = max(token - 256 + 1, 1)
        share = 1 / (rank * np.log(len(table)))
        total += white[token] * 1e-3 / (1e-3 + share)
    other = model.tokenizer.encode(" A hive.").ids
    second = sum(
        white[token] * 1e-3 / (1e-3 + 1 / (max(token - 255, 1) * np.log(len(table))))
        for token in other
    )
    expected = F.cosine_similarity(total, second, dim=0).item()
    one, two = TokenVectors(model)(["The bees sleep.", "A hive."])
    assert (one @ two).item() == pytest.approx(expected, abs=1e-4)  # whatever way axes turn


@pytest.mark.parametrize(("question", "k"), [("", 5), ("   ", 5), ("bees", 0), ("bees", True)])
def test_questions_that_are_none(library: Library, question: str, k: int) -> None:
    with pytest.raises(InputError, match="is empty|k must be a whole number"):
        library.search(question, k)


def test_what_is_kept_comes_back(library: Library, tmp_path: Path) -> None:
    folder = library.save(tmp_path / "index")
    assert {path.name for path in folder.iterdir()} == {"index.faiss", "passages.json"}
    again = Library.load(folder)
    assert again.passages == library.passages
    assert again.skipped == library.skipped
    assert again.search("Where is the key?") == library.search("Where is the key?")


def test_only_what_changed_is_read_again(docs: Path, library: Library, tmp_path: Path) -> None:
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
    fresh = Library.of(mine)
    assert fresh.passages == changed.passages
    kept, made = (one.index.reconstruct_n(0, 4) for one in (changed, fresh))
    np.testing.assert_allclose(kept, made, atol=1e-6)


def test_another_encoder_is_refused(library: Library, tmp_path: Path) -> None:
    folder = library.save(tmp_path / "index")
    with pytest.raises(InputError, match="made with alibi-lm .*this is rope-lm .*do not compare"):
        Library.load(folder, "rope-lm")
    other = zoo.load("alibi-lm")
    with torch.no_grad():
        next(iter(other.module.parameters())).add_(1)
    with pytest.raises(InputError, match="made with alibi-lm"):
        Library.load(folder, other)


@pytest.mark.parametrize("damage", ["cut", "json", "passages", "format", "path", "text"])
def test_a_damaged_index_is_refused(library: Library, tmp_path: Path, damage: str) -> None:
    folder = library.save(tmp_path / "index")
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


def test_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'txzoo\[retrieval\]'"):
        Library()


def test_an_answer_is_written_from_the_passages_and_cites_them(library: Library) -> None:
    found = library.ask("When does the night train leave?", k=2)
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
    model = zoo.load(folder)
    found = library.ask("Where is the key?", k=1, model=model, max_new_tokens=8)
    [passage] = found.passages
    message = f"Answer the question from the passages.\n\n[1] {passage.text}\n\nWhere is the key?"
    assert found.prompt == f"<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n"
    talk = Chat(model, template="chatml", max_new_tokens=8, repetition_penalty=1.3)
    assert found.text == talk.say(message)
