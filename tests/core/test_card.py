"""The card: what it gives, and what each wrong field says."""

from pathlib import Path

import pytest
import yaml

from zoo import Card
from zoo.card import HubPointer, Score
from zoo.errors import CardError
from zoo.folder import FileRecord

DIGEST = "0123456789abcdef" * 4
TEXT = f"""---
license: cc-by-sa-4.0
library_name: txzoo
pipeline_tag: text-generation
datasets: [wikitext]
model-index:
- name: alibi-lm
  results:
  - task: {{type: text-generation}}
    dataset: {{name: WikiText-2, type: wikitext, split: test}}
    metrics:
    - {{type: perplexity, name: perplexity per word, value: 113.2}}
    - {{type: accuracy, value: 0}}
txzoo:
  name: alibi-lm
  summary: Slopes — no positions
  architecture: alibi-decoder
  task: wikitext-2
  parameters: 3012345
  requires: {{txzoo: ">=0.1,<1"}}
  files:
    model.safetensors: {{sha256: {DIGEST}, bytes: 6291456}}
  standard_error: {{test: {{perplexity per word: 1.0}}}}
---
# Prose

---
more
"""


def test_a_card_gives_every_field() -> None:
    card = Card.parse(TEXT, Path("models/alibi-lm/README.md"))
    assert card.name == "alibi-lm"
    assert card.summary == "Slopes — no positions"
    assert card.license == "cc-by-sa-4.0"
    assert card.pipeline == "text-generation"
    assert card.datasets == ["wikitext"]
    assert card.architecture == "alibi-decoder"
    assert card.task == "wikitext-2"
    assert card.parameters == 3012345
    assert card.requires == {"txzoo": ">=0.1,<1"}
    assert card.files == {"model.safetensors": FileRecord(DIGEST, 6291456)}
    assert card.hub is None
    assert card.trained
    assert card.text == "# Prose\n\n---\nmore\n"
    assert card.folder == Path("models/alibi-lm")
    perplexity, accuracy = card.scores
    assert perplexity == Score(
        "perplexity", "perplexity per word", 113.2, "WikiText-2", "test", standard_error=1.0
    )
    assert perplexity.key == "perplexity_per_word"
    assert accuracy == Score("accuracy", "accuracy", 0.0, "WikiText-2", "test", None)


def test_scores_at_other_lengths_say_so() -> None:
    plain = "{type: accuracy, value: 0}"
    longer = "{type: accuracy, name: accuracy at 512 tokens, value: 0.5, args: {context: 512}}"
    score = Card.parse(TEXT.replace(plain, longer), Path("README.md")).scores[1]
    assert (score.value, score.context, score.key) == (0.5, 512, "accuracy")
    with pytest.raises(CardError, match=r"args.context: must be at least 1, got 0"):
        Card.parse(TEXT.replace(plain, longer.replace("t: 512}", "t: 0}")), Path("README.md"))


def test_how_a_score_was_counted() -> None:
    plain = "{type: accuracy, value: 0}"
    said = "{type: bleu, value: 30, args: {signature: 'nrefs:1|tok:13a', interval: [28.5, 31]}}"
    score = Card.parse(TEXT.replace(plain, said), Path("README.md")).scores[1]
    assert (score.signature, score.interval) == ("nrefs:1|tok:13a", (28.5, 31))
    for right, wrong, message in (
        ("[28.5, 31]", "[28.5]", "args.interval: must be two numbers, got 1"),
        ("[28.5, 31]", "[28.5, a]", "args.interval.1.: must be a number, got 'a'"),
        ("[28.5, 31]", "30", "args.interval: must be a list, got 30"),
        ("'nrefs:1|tok:13a'", "13", "args.signature: must be text, got 13"),
        ("interval: [28.5, 31]", "baseline: [3]", "args.baseline: must be two numbers, got 1"),
    ):
        with pytest.raises(CardError, match=message):
            Card.parse(TEXT.replace(plain, said.replace(right, wrong)), Path("README.md"))


def test_what_tfidf_reaches_stands_beside_a_score() -> None:
    plain = "{type: accuracy, value: 0}"
    said = "{type: accuracy, value: 0.75, args: {baseline: [0.7, 0.01]}}"
    card = Card.parse(TEXT.replace(plain, said), Path("README.md"))
    assert [score.baseline for score in card.scores] == [None, (0.7, 0.01)]
    assert card.baselines() == (("TF-IDF",), [("",), ("0.700 ± 0.010",)])
    assert Card.parse(TEXT, Path("README.md")).baselines() == ((), [(), ()])


def test_a_small_card_has_plain_defaults() -> None:
    text = (
        "---\nlicense: mit\npipeline_tag: x\ntxzoo: {architecture: a, files: null, task: null}\n---"
    )
    card = Card.parse(text, Path("some/folder/README.md"))
    assert (card.name, card.summary, card.task, card.parameters) == ("folder", "", None, None)
    assert (card.files, card.requires, card.datasets, card.scores) == ({}, {}, [], [])
    assert not card.trained


def test_a_pointer_to_the_hub_is_pinned() -> None:
    commit = "a" * 40
    text = TEXT.replace("  files:", f"  hub: {{repo: me/alibi, revision: {commit}}}\n  files:")
    assert Card.parse(text, Path("README.md")).hub == HubPointer("me/alibi", commit)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    card = Card.parse(TEXT, Path("README.md"))
    path = card.write(tmp_path)
    assert path == tmp_path / "README.md"
    again = Card.read(tmp_path)
    assert again == card and again.path == path
    assert Card.read(path) == card
    assert [entry.name for entry in tmp_path.iterdir()] == ["README.md"]
    # the Hub reads front matter with a plain YAML loader
    front = path.read_text(encoding="utf-8").split("---\n")[1]
    assert yaml.safe_load(front) == card.data


def test_writing_keeps_the_old_card_when_the_new_one_is_wrong(tmp_path: Path) -> None:
    card = Card.parse(TEXT, Path("README.md"))
    card.write(tmp_path)
    del card.data["license"]
    with pytest.raises(CardError, match="license: is missing"):
        card.write(tmp_path)
    assert Card.read(tmp_path).license == "cc-by-sa-4.0"


@pytest.mark.parametrize("ending", ["\r\n", "\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_endings_and_byte_order_marks_do_not_matter(
    tmp_path: Path, ending: str, mark: str
) -> None:
    data = (mark + TEXT).replace("\n", ending).encode()
    (tmp_path / "README.md").write_bytes(data)
    assert Card.read(tmp_path).architecture == "alibi-decoder"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("license: cc-by-sa-4.0\n", "", "README.md:1: license: is missing"),
        ("cc-by-sa-4.0", "''", "README.md:2: license: is missing"),
        ("cc-by-sa-4.0", "no", "README.md:2: license: must be text, got False"),
        ("pipeline_tag: text-generation\n", "", "README.md:1: pipeline_tag: is missing"),
        ("[wikitext]", "wikitext", "README.md:5: datasets: must be a list, got 'wikitext'"),
        ("[wikitext]", "[1]", "README.md:5: datasets[0]: must be text, got 1"),
        ("  architecture: alibi-decoder\n", "", "README.md:14: txzoo.architecture: is missing"),
        ("task: wikitext-2", "task: 2", "README.md:18: txzoo.task: must be text, got 2"),
        ("3012345", "3M", "README.md:19: txzoo.parameters: must be a whole number, got '3M'"),
        ("3012345", "true", "README.md:19: txzoo.parameters: must be a whole number, got True"),
        ("3012345", "-1", "README.md:19: txzoo.parameters: must not be below 0"),
        ('">=0.1,<1"', "0.1", "README.md:20: txzoo.requires.txzoo: must be text, got 0.1"),
        ('{txzoo: ">=0.1,<1"}', "[txzoo]", "README.md:20: txzoo.requires: must be a mapping"),
        (DIGEST, "abc", "README.md:22: txzoo.files.model.safetensors.sha256: must be 64"),
        (DIGEST, DIGEST.upper(), "README.md:22: txzoo.files.model.safetensors.sha256: must be"),
        (DIGEST, "'" + "1" * 63 + "'", "README.md:22: txzoo.files.model.safetensors.sha256: mus"),
        (f"sha256: {DIGEST}, ", "", "README.md:22: txzoo.files.model.safetensors.sha256: is mis"),
        ("6291456", "6.5", "README.md:22: txzoo.files.model.safetensors.bytes: must be a whole"),
        ("model.safetensors:", "../model.safetensors:", "leaves the model folder"),
        ("model.safetensors:", "/etc/passwd:", "README.md:22: txzoo.files./etc/passwd: leaves"),
        ("model.safetensors:", "'C:\\model':", "leaves the model folder"),
        ("model.safetensors:", "7:", "leaves the model folder"),
        ("113.2", "good", "README.md:12: model-index[0].results[0].metrics[0].value: must be a n"),
        ("113.2", ".nan", "README.md:12: model-index[0].results[0].metrics[0].value: must be a f"),
        ("type: perplexity, ", "", "README.md:12: model-index[0].results[0].metrics[0].type: is"),
        ("name: WikiText-2, ", "", "README.md:10: model-index[0].results[0].dataset.name: is mi"),
        ("{test: {perplexity per word: 1.0}}", "{perplexity per word: 1.0}", "standard_error"),
        ("word: 1.0", "word: one", "README.md:23: txzoo.standard_error.test.perplexity per word"),
        ("  name: alibi-lm", "  name: [", "not valid YAML: did not find expected"),
        ("  name: alibi-lm", "\tname: alibi-lm", "README.md:15: not valid YAML"),
        ("  name: alibi-lm", "  name: !!python/object:os.system x", "not valid YAML"),
        ("  name: alibi-lm", "  when: 2024-99-99", "not valid YAML: month must be in 1..12"),
        ("  name: alibi-lm", "  name: *nowhere", "README.md:15: not valid YAML"),
        ("  name: alibi-lm", "  name: \0", "not valid YAML"),
        ("---\nlicense", "license", "README.md:1: a card opens with front matter"),
    ],
)
def test_a_wrong_field_names_file_line_and_field(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(CardError) as caught:
        Card.parse(TEXT.replace(old, new, 1), Path("README.md"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pointer", "message"),
    [
        ("me/alibi", "txzoo.hub: must be a mapping, got 'me/alibi'"),
        ("{repo: alibi, revision: x}", "txzoo.hub.repo: must read owner/name, got 'alibi'"),
        ("{repo: me/alibi}", "txzoo.hub.revision: is missing"),
        ("{repo: me/alibi, revision: main}", "must be a commit of 40 lower-case hex digits"),
    ],
)
def test_a_wrong_pointer_to_the_hub(pointer: str, message: str) -> None:
    text = TEXT.replace("  files:", f"  hub: {pointer}\n  files:")
    with pytest.raises(CardError, match=r"README\.md:21: txzoo\.hub") as caught:
        Card.parse(text, Path("README.md"))
    assert message in str(caught.value)


def test_a_pointer_to_the_hub_needs_the_hash_of_the_weights() -> None:
    text = TEXT.replace("    model.saf", "    other.saf").replace(
        "  files:", f"  hub: {{repo: a/b, revision: {'a' * 40}}}\n  files:"
    )
    with pytest.raises(CardError, match="txzoo.files: must give the sha256 of the Hub's model.saf"):
        Card.parse(text, Path("README.md"))


@pytest.mark.parametrize("front", ["", "just words", "- a\n- list", "3"])
def test_front_matter_that_is_no_mapping(front: str) -> None:
    with pytest.raises(CardError, match="front matter must be a mapping"):
        Card.parse(f"---\n{front}\n---\n", Path("README.md"))


def test_no_card_and_a_card_that_is_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"README\.md: a model folder needs a card, No such file"):
        Card.read(tmp_path)
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    with pytest.raises(CardError, match=r"README\.md: not UTF-8"):
        Card.read(tmp_path)


@pytest.mark.parametrize(
    ("line", "models"),
    [
        ("", []),
        ("base_model: me/base\n", ["me/base"]),
        ("base_model: [a/b, c/d]\n", ["a/b", "c/d"]),
    ],
)
def test_what_a_model_was_made_from(line: str, models: list[str]) -> None:
    card = Card.parse(TEXT.replace("\ntxzoo:", f"\n{line}txzoo:"), Path("README.md"))
    assert card.base_models == models


def test_a_base_model_that_is_none() -> None:
    with pytest.raises(CardError, match="base_model: must be text, got 3"):
        Card.parse(TEXT.replace("\ntxzoo:", "\nbase_model: 3\ntxzoo:"), Path("README.md"))


def test_a_value_that_stands_twice_is_written_twice(tmp_path: Path) -> None:
    card = Card.parse(TEXT, Path("README.md"))
    shared = {"hardware": "x"}
    card.data["txzoo"]["training"] = {"first": shared, "second": shared}
    card.write(tmp_path)  # an alias would be refused when it is read back
    assert Card.read(tmp_path).training == {"first": shared, "second": shared}
