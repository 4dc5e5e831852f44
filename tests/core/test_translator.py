"""A translator from its recipe to its uses: Python, the shell, alignments, the gallery's view."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from transformers import AutoTokenizer, MarianMTModel
from zoo_gallery.attention_tab import look
from zoo_gallery.compare import compared
from zoo_gallery.state import Gallery, Limits
from zoo_gallery.views.text2text import writer

import zoo
from zoo.attention import alignment
from zoo.cli import cli
from zoo.errors import InputError
from zoo.export import export
from zoo.hookspecs import Task
from zoo.pipelines.text2text import unknown
from zoo.registry import registry

TEXT, GERMAN = "three one four", "drei eins vier"


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


@pytest.fixture
def model(translator: Path) -> zoo.Model:
    return zoo.load(translator)


def test_it_translates_and_its_card_says_how_well(model: zoo.Model) -> None:
    assert model(TEXT) == GERMAN
    assert model([TEXT, "two"], num_beams=4) == [GERMAN, "zwei"]
    assert "".join(model(TEXT, stream=True)) == GERMAN
    scores = {score.key: score.value for score in model.card.scores}  # type: ignore[union-attr]
    assert scores["bleu"] > 95
    assert scores["chrf"] > 95
    assert 1 <= scores["perplexity_per_token"] < 1.2
    for score in model.card.scores:  # type: ignore[union-attr]
        if score.key == "perplexity_per_token":
            assert (score.signature, score.interval) == ("", None)
        else:
            assert score.signature.startswith("nrefs:1|case:")
            assert score.interval is not None
            assert score.interval[0] <= score.value <= score.interval[1]


def test_the_n_best_of_the_shell(translator: Path) -> None:
    assert run("run", str(translator), TEXT).output == f"{GERMAN}\n"
    assert run("run", str(translator), TEXT, "--num-beams", "3").output == f"{GERMAN}\n"
    several = ("--num-beams", "3", "--num-return-sequences", "3")
    table = run("run", str(translator), TEXT, *several).output.splitlines()
    assert table[0].split() == ["score", "text"]
    assert GERMAN in table[1] and len(table) == 4
    answers = json.loads(run("run", str(translator), TEXT, *several, "--json").output)["answers"]
    assert answers[0]["text"] == GERMAN
    assert [a["score"] for a in answers] == sorted((a["score"] for a in answers), reverse=True)
    drawn = ("--temperature", "1", "--seed", "1", "--num-return-sequences", "3")
    assert len(run("run", str(translator), TEXT, *drawn).output.splitlines()) == 3


def test_a_translator_of_one_pair_has_no_languages_to_choose_from(translator: Path) -> None:
    for option in ("--target-language", "--source-language"):
        done = run("run", str(translator), TEXT, option, "de")
        assert done.exit_code == 1
        assert "has no languages to choose from" in str(done.exception)


def test_a_long_text_is_told_of_in_the_shell(translator: Path) -> None:
    lines = "\n".join([TEXT, "two", TEXT, "one two three", "five"])
    done = run("run", str(translator), lines)
    assert done.stderr.startswith("Warning: The text did not fit into the 12 tokens")
    assert done.stdout == f"{GERMAN} zwei {GERMAN} eins zwei drei fünf\n"
    refused = run("run", str(translator), "one " * 20)
    assert "21 tokens in one piece" in str(refused.exception)


@pytest.mark.parametrize("text", ["?!...", "😀😀", " 2012 - 14:30 "])
def test_what_has_no_letter_comes_back_as_it_is(
    model: zoo.Model, translator: Path, gallery: Gallery, text: str
) -> None:
    with pytest.warns(UserWarning, match="The text has no letter: nothing to translate"):
        assert model(text, num_beams=2, num_return_sequences=2) == [text, text]
    with pytest.warns(UserWarning, match="no letter"):
        assert "".join(model(text, stream=True)) == text
    with pytest.warns(UserWarning, match="1 of 3 texts have no letter"):
        assert model([TEXT, text, "two"]) == [GERMAN, text, "zwei"]
    with pytest.warns(UserWarning, match="no letter"):
        *_, (one,) = compared(gallery, [str(translator)], text, 10, 0, 1, 1)
    assert one.text == text
    done = run("run", str(translator), text)
    assert (done.stdout, done.exit_code) == (f"{text}\n", 0)
    assert done.stderr.startswith("Warning: The text has no letter")


def test_another_language_is_told_of_where_its_words_are_unknown(model: zoo.Model) -> None:
    with pytest.warns(UserWarning, match="The text is mostly of words or characters that"):
        model("trois un quatre")
    with pytest.warns(UserWarning, match="2 of 3 texts are mostly of words or characters"):
        model(["trois", TEXT, "один"])
    model("three one deux")  # no warning: half of it and more is known


def test_what_is_unknown_to_a_tokenizer_of_bytes() -> None:
    reader = zoo.load("seq2seq-en-de").called.reader
    counts = {"A dog runs.": 0, "Ein hübscher Hund": 0, "Ein 😀": 1, "Привет, Hund": 6, "I": 0}
    for row, count in zip(reader(list(counts)), counts.values(), strict=True):
        assert unknown(row, None) == count, row.text


@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning"])
def test_what_stands_before_the_texts_of_a_translator(
    method: str, translator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained, saved, loaded and asked; it shows where a target looks among the source's words."""
    tasks = registry().tasks
    metrics = ("bleu", "bleu_lowercased", "chrf", "perplexity_per_token")
    target = "toy_tasks:Numerals"
    entry = Task(
        "numerals", pipeline="translation", target=target, metrics=metrics, license="cc0-1.0"
    )
    monkeypatch.setitem(tasks._entries, "numerals", [(tasks.owner("speeches"), entry)])
    options = {"num_virtual_tokens": 3, "steps": 3, "learning_rate": 0.05, "warmup_steps": 0}
    zoo.train(str(translator), tuning=method, out=tmp_path / "out", **options)
    model, base = zoo.load(tmp_path / "out"), zoo.load(translator)
    assert model.adapter is not None
    texts = [TEXT, "two", "one three"]
    together = model(texts)
    assert together == [model(text) for text in texts]
    assert model(texts, num_beams=3) == [model(text, num_beams=3) for text in texts]
    for target in (None, "vier eins"):
        found = alignment(model, TEXT, target)
        assert found.source == [*TEXT.split(), "end"]
        (weights,) = found.layers
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, len(found.target)))
    plain = alignment(base, TEXT, "vier eins").layers[0]
    assert not torch.allclose(weights, plain, atol=1e-4)
    assert model.set_adapter(None)(texts) == base(texts)


def test_an_answer_that_fills_all_positions_is_aligned(
    model: zoo.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = model.module
    plain = module.decode

    def without_end(*given: Any, **named: Any) -> torch.Tensor:
        logits: torch.Tensor = plain(*given, **named)
        special = list(model.tokenizer.get_added_tokens_decoder())  # type: ignore[union-attr]
        logits[..., special] = -1e9  # words alone, and no end
        return logits

    monkeypatch.setattr(module, "decode", without_end)
    assert len(model.tokenizer.encode(model(TEXT)).ids) > module.max_len  # type: ignore[union-attr, arg-type]
    (weights,) = alignment(model, TEXT).layers
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, module.max_len))


def test_alignment_finds_the_words(model: zoo.Model, translator: Path, tmp_path: Path) -> None:
    found = alignment(model, TEXT)
    assert (found.source, found.target) == ([*TEXT.split(), "end"], [*GERMAN.split(), "end"])
    (weights,) = found.layers
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4))
    assert weights.sum(0)[:3].argmax(-1).tolist() == [0, 1, 2]  # word by word, as it was taught
    torch.testing.assert_close(model.attention(TEXT)[0], weights)
    other = alignment(model, TEXT, "vier")
    assert other.layers[0].shape == (2, 2, 4)
    with pytest.raises(InputError, match="empty"):
        alignment(model, TEXT, " ")
    for words in ((), ("--target", "vier eins")):
        out = tmp_path / f"map{len(words)}.svg"
        done = run("attention", str(translator), TEXT, "--out", str(out), *words)
        assert done.exit_code == 0, done.output
        assert "1 layer of 2 heads" in done.output
        written = words[1].split() if words else GERMAN.split()
        drawn = re.findall("<!-- (.+?) -->", out.read_text())  # what the outlines beside it say
        assert [word for word in drawn if word in GERMAN.split()] == written
        assert [word for word in drawn if word in TEXT.split()] == TEXT.split() * 2  # of each head
        assert {"the word that is written", "the word of the source that is looked at"} <= {*drawn}


def test_transformers_opens_its_export(model: zoo.Model, tmp_path: Path) -> None:
    folder = export(model, tmp_path / "out")
    theirs, tokenizer = (kind.from_pretrained(folder) for kind in (MarianMTModel, AutoTokenizer))
    ids = tokenizer([TEXT], return_tensors="pt").input_ids
    written = theirs.generate(ids, num_beams=1, do_sample=False, max_new_tokens=8)
    assert tokenizer.decode(written[0], skip_special_tokens=True) == GERMAN
    again = zoo.load(folder)
    assert again.pipeline == "translation"
    assert again(TEXT) == GERMAN


@pytest.fixture
def gallery(translator: Path) -> Gallery:
    made = Gallery(limits=Limits(models=1, new_tokens=20))
    made.models.add(str(translator), translator)
    return made


def test_the_view_of_the_gallery(gallery: Gallery, translator: Path) -> None:
    card = zoo.info(translator)
    write: Any = writer(gallery, card)
    *_, (text, others) = write(TEXT, 1)
    assert (text, others) == (GERMAN, "")
    ((best, table),) = list(write(TEXT, 3, 1.0))
    assert best == GERMAN
    assert table.count("<tr") == 4 and GERMAN in table


def test_translators_stand_side_by_side(gallery: Gallery, translator: Path) -> None:
    name = str(translator)
    *_, (one, other) = compared(gallery, [name, "synthetic-decoder"], TEXT, 10, 0, 1, 1)
    assert (one.text, one.tokens) == (GERMAN, 3)
    assert other.text
    lines = "\n".join([TEXT, "two", TEXT, "one two three", "five"])
    with pytest.warns(UserWarning, match="5 sentences"):
        *_, (one,) = compared(gallery, [name], lines, 10, 0, 1, 1)
    assert one.text == f"{GERMAN} zwei {GERMAN} eins zwei drei fünf"


def test_the_attention_of_the_gallery_is_the_alignment(gallery: Gallery, translator: Path) -> None:
    rows, columns, maps = look(gallery, zoo.info(translator), TEXT)
    assert rows == [*GERMAN.split(), "end"]
    assert columns == [*TEXT.split(), "end"]
    assert maps[0].shape == (2, 4, 4)
