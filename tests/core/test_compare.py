"""Comparisons: models that are measured, and studies that are run, stopped, gone on with."""

import dataclasses
import json
import os
import shutil
import statistics
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from embedding_sources import bert_folder
from tokenizers import Tokenizer

import zoo
from zoo.cli import cli
from zoo.errors import InputError, RecipeError, TrainingError, UnknownNameError
from zoo.evaluation.baseline import tfidf_baseline
from zoo.evaluation.compare import Table
from zoo.evaluation.study import find_study, run_study, studies
from zoo.numbers import with_error
from zoo.registry import registry

PLAN = """
summary = "Two ways"
base = "BASE"
task = "synthetic"
seeds = [1, 2]

[training]
steps = 4
batch_tokens = 256
learning_rate = 0.01
log_every = 1
storage = "float32"

[methods.lora]
rank = 2
learning_rate = 0.02

[methods.low]
method = "lora"
rank = 1
"""


@pytest.fixture
def plan(tmp_path: Path, tiny_model: Path) -> Path:
    path = tmp_path / "two-ways.toml"
    path.write_text(PLAN.replace("BASE", str(tiny_model)))
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The folder of a study whose runs are done; its plan lies in it."""
    folder = tmp_path_factory.mktemp("study")
    path = folder / "two-ways.toml"
    path.write_text(PLAN.replace("BASE", str(tiny_model)))
    told: list[str] = []
    run_study(find_study(path), folder, workers=2, tell=told.append)
    assert sorted(told) == ["1/4 lora-1", "2/4 low-1", "3/4 lora-2", "4/4 low-2"]
    return folder


def test_models_are_measured_as_evaluate_does(tiny_model: Path) -> None:
    table = zoo.compare(["synthetic-decoder", tiny_model], limit=3000)
    assert [row[0] for row in table.rows] == ["synthetic-decoder", "tiny"]
    scores = zoo.evaluate(str(tiny_model), "synthetic", limit=3000)
    assert table.records[1]["scores"] == scores
    assert table.records[1]["score"] == scores["accuracy"]
    lines = table.to_markdown().splitlines()
    assert lines[0].startswith("| model | accuracy |") and lines[1].startswith("| --- |")
    assert "| 160.1k |" in lines[2]
    other = zoo.compare(["alibi-lm", "synthetic-decoder"], "synthetic", limit=600)
    assert [row[0] for row in other.rows] == ["synthetic-decoder", "alibi-lm"]


def test_models_in_processes_of_their_own_are_measured_once(
    tiny_model: Path, tmp_path: Path
) -> None:
    refs, told = ["synthetic-decoder", str(tiny_model)], list[str]()
    here = zoo.compare(refs, limit=600)
    options = {"limit": 600, "out": tmp_path / "kept", "workers": 2, "tell": told.append}
    there = zoo.compare(refs, **options)  # type: ignore[arg-type]
    assert there.rows == here.rows and there.records == here.records
    assert sorted(told) == ["1/2 synthetic-decoder", "2/2 tiny"]
    assert zoo.compare(refs, **options).records == here.records  # type: ignore[arg-type]
    assert len(told) == 2  # kept, and so not measured again
    (left,) = (tmp_path / "kept").glob("tiny-*.json")
    left.unlink()
    zoo.compare(refs, **options)  # type: ignore[arg-type]
    assert told[2:] == ["2/2 tiny"]
    with pytest.raises(InputError, match="is a loaded model, which other processes cannot measure"):
        zoo.compare([zoo.load(str(tiny_model))], workers=2)
    with pytest.raises(InputError, match="workers must be a number from 1 on, or 'ray', got 0"):
        zoo.compare(refs, workers=0)


def test_lower_is_better_for_perplexity() -> None:
    from zoo.evaluation.compare import _of_models

    measured = [
        {"name": name, "parameters": 7, "scores": {"perplexity": value}}
        for name, value in [("a", 9.0), ("b", 3.0)]
    ]
    table = _of_models(measured, "wikitext-2", "test", ["perplexity"], None)
    assert [row[0] for row in table.rows] == ["b", "a"] and table.baseline is None


@pytest.mark.skipif(not os.environ.get("TXZOO_DATA"), reason="TXZOO_DATA is not set: needs data")
def test_tfidf_stands_below_classifiers() -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    table = zoo.compare(["speech-encoder"], limit=300)
    reached = tfidf_baseline("speeches", limit=300)
    assert table.baseline == (reached["accuracy"], reached["accuracy_stderr"])
    assert [row[0] for row in table.rows] == ["speech-encoder", "TF-IDF, logistic regression"]
    assert table.rows[1][1] == with_error(reached["accuracy"], reached["accuracy_stderr"])
    assert len(table.records) == 1  # which are of models


def test_tfidf_of_a_study_is_a_level(done: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs txzoo[plot]")
    study = find_study(done / "two-ways.toml")
    known = dataclasses.replace(study, facts={**study.facts, "baseline": [0.5, 0.1]})
    table = zoo.compare(known)
    assert table.rows[-1] == ("TF-IDF, logistic regression", "0.50 ± 0.10", *[""] * 6)
    levels = [line for line in table.figure().axes[0].lines if list(line.get_ydata()) == [0.5, 0.5]]
    assert len(levels) == 1 and len(table.records) == 2


def test_a_table_is_saved_by_its_ending(done: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs txzoo[plot]")
    table = zoo.compare(done / "two-ways.toml")
    assert table.save(tmp_path / "t.md").read_text() == table.to_markdown()
    assert json.loads(table.save(tmp_path / "t.json").read_text()) == list(table.records)
    drawing = ElementTree.parse(table.save(tmp_path / "t.svg")).getroot()
    words = {"".join(text.itertext()) for text in drawing.iter() if text.tag.endswith("text")}
    assert {"lora", "low", "accuracy", "trained parameters"} <= words
    assert table.save(tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"saved as \.md, \.json"):
        table.save(tmp_path / "t.xls")
    assert len(table.curves().axes[0].lines) == 2
    with pytest.raises(InputError, match="only a study has curves"):
        Table("", (), (), ()).curves()


def test_the_outcome_of_a_study(done: Path, tiny_model: Path) -> None:
    study = find_study(done / "two-ways.toml")
    assert [(run.name, run.seed) for run in study.runs] == [
        (name, seed) for name in ("lora", "low") for seed in (1, 2)
    ]
    base = zoo.load(str(tiny_model)).module
    linears = [part for name, part in base.named_modules() if hasattr(part, "in_features")]
    each = {run.name: run for run in study.runs}
    assert each["lora"].trained == sum(2 * (p.in_features + p.out_features) for p in linears)
    assert each["low"].trained == each["lora"].trained // 2
    assert each["lora"].parameters == each["lora"].trained + sum(
        p.numel() for p in base.parameters()
    )
    for run in study.runs:
        folder = done / f"{run.name}-{run.seed}"
        assert run.bytes == (folder / "adapter_model.safetensors").stat().st_size
        assert run.memory is None or run.memory > 50e6  # torch alone takes more
        assert [step for step, _ in run.curve] == [1, 2, 3, 4]
        recipe = (folder / "recipe.toml").read_text()
        assert f"seed = {run.seed}" in recipe
        assert ("learning_rate = 0.02" in recipe) == (run.name == "lora")
    found = [run.scores["accuracy"] for run in study.runs if run.name == "lora"]
    mean, error, _ = study.means()["lora"]
    assert mean == statistics.fmean(found)
    assert error == pytest.approx(statistics.stdev(found) / 2**0.5)
    assert study.facts["base"] == "tiny" and len(study.facts["base_sha256"]) == 64
    record = next(r for r in zoo.compare(study).records if r["name"] == "low")
    assert record["seeds"] == [1, 2] and record["score"] == study.means()["low"][0]


def test_a_study_goes_on_where_it_stopped(done: Path, tmp_path: Path) -> None:
    before = zoo.compare(done / "two-ways.toml").records
    shutil.copytree(done, tmp_path / "out")
    kept = (tmp_path / "out" / "low-1" / "run.json").read_bytes()
    (tmp_path / "out" / "low-2" / "run.json").unlink()  # as if it had been killed
    plan = shutil.move(tmp_path / "out" / "two-ways.toml", tmp_path)
    told: list[str] = []
    part = zoo.compare(plan, out=tmp_path / "out", methods=["low"], tell=told.append)
    assert told == ["2/2 low-2"]
    assert (tmp_path / "out" / "low-1" / "run.json").read_bytes() == kept
    scores = {record["name"]: record["score"] for record in before}
    assert {record["name"]: record["score"] for record in part.records} == scores


def test_runs_of_another_plan_or_other_weights_are_no_part_of_a_study(
    done: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(done, tmp_path / "out"))
    plan = Path(shutil.move(out / "two-ways.toml", tmp_path))
    whole = plan.read_text()
    plan.write_text(whole.replace("steps =", "warmup_steps = 1\nsteps ="))
    with pytest.raises(RecipeError, match=r"lora-1 follows another plan .* Give another out="):
        zoo.compare(plan, out=out, tell=str)
    plan.write_text(whole)
    run = out / "low-2" / "run.json"
    run.write_text(run.read_text().replace('"base_sha256": "', '"base_sha256": "0'))
    with pytest.raises(RecipeError, match=r"low-2 began with other weights of tiny"):
        zoo.compare(plan, out=out, methods=["lora"], tell=str)


ARMS = """
architecture = "decoder"
task = "synthetic"
seeds = [1]

[tokenizer]
kind = "source"
source = "SOURCE"

[config]
max_seq_len = 16
d_model = 8
n_layers = 1
n_heads = 2
d_ff = 16
tie_embeddings = true

[embeddings]
source = "SOURCE"
frozen_epochs = 1.0

[training]
steps = 2
batch_tokens = 64
learning_rate = 0.01
log_every = 1

[methods.random]
embeddings = { source = "" }

[methods.frozen]
embeddings = { frozen_epochs = inf }

[methods.thawed]
config = { d_ff = 24 }
learning_rate = 0.005
"""


def test_a_study_of_ways_to_train_from_the_start(tmp_path: Path) -> None:
    source = bert_folder(tmp_path / "bert", " ".join(map(str, range(30))), 8, 16)
    plan = tmp_path / "arms.toml"
    plan.write_text(ARMS.replace("SOURCE", str(source)))
    study = run_study(find_study(plan), tmp_path / "out", tell=str)
    runs = {run.name: run for run in study.runs}
    random, frozen, thawed = (runs[name] for name in ("random", "frozen", "thawed"))
    assert random.trained == random.parameters == frozen.parameters
    rows = Tokenizer.from_file(str(tmp_path / "out/frozen-1/tokenizer.json")).get_vocab_size()
    assert frozen.parameters - frozen.trained == rows * 8
    assert thawed.parameters - frozen.parameters == 2 * 8 * 8 + 8  # two matrices and a bias
    assert {run.method for run in study.runs} == {""}
    assert "[embeddings]" not in (tmp_path / "out" / "random-1" / "recipe.toml").read_text()
    assert "learning_rate = 0.005" in (tmp_path / "out" / "thawed-1" / "recipe.toml").read_text()
    assert zoo.compare(study).title == "arms: decoder on synthetic"
    assert run_study(find_study(plan), tmp_path / "out", tell=str).runs == study.runs
    with pytest.raises(RecipeError, match="trains from the start, it has no base"):
        run_study(find_study(plan), tmp_path / "out", base="tiny")
    plan.write_text(plan.read_text().replace("[methods.random]", "[methods.random]\nrank = 2"))
    with pytest.raises(RecipeError, match="rank of random is no key of .training."):
        run_study(find_study(plan), tmp_path / "other")
    plan.write_text(plan.read_text().replace('architecture = "decoder"', ""))
    with pytest.raises(RecipeError, match="lacks a base to adapt, or an architecture to train"):
        find_study(plan)


def test_what_is_wrong_with_a_study_is_said(plan: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Unknown study 'adaptatoin'. Did you mean 'adapt"):
        zoo.compare("adaptatoin")
    with pytest.raises(InputError, match="two-ways has no outcome yet: give out="):
        zoo.compare(plan)
    with pytest.raises(UnknownNameError, match="method of two-ways 'lorra'. Did you mean 'lora'"):
        zoo.compare(plan, out=tmp_path / "out", methods=["lorra"])
    text = plan.read_text()
    for change, words in {
        ("[1, 2]", "[-1]"): "seeds must be whole numbers",
        ("[methods.", "[ways."): r"has a table \[methods.NAME\]",
        ('task = "synthetic"', ""): "lacks task",
        ("[training]", "[training"): "is not a study",
        ("steps = 4", "stepps = 4"): "no key 'stepps'",
    }.items():
        plan.write_text(text.replace(*change))
        with pytest.raises(RecipeError, match=words):
            zoo.compare(plan, out=tmp_path / "out")
    plan.write_text(text.replace("rank = 1", "rank = 0"))
    with pytest.raises(TrainingError, match="The run low-1 ended with status 1"):
        zoo.compare(plan, out=tmp_path / "out", methods=["low"])
    plan.write_text(text)
    (plan.with_suffix(".json")).write_text('{"runs": [{}]}')
    with pytest.raises(RecipeError, match="is not the outcome of a study"):
        zoo.compare(plan)
    with pytest.raises(InputError, match="There is nothing to compare"):
        zoo.compare([])


def test_the_command(done: Path, tmp_path: Path) -> None:
    plan = str(done / "two-ways.toml")
    result = CliRunner().invoke(cli, ["compare", "--study", plan])
    assert result.exit_code == 0, result.output
    assert "two-ways: tiny on synthetic" in result.output
    assert "trained" in result.output and "low" in result.output
    shown = json.loads(CliRunner().invoke(cli, ["compare", "--study", plan, "--json"]).output)
    assert {record["name"] for record in shown} == {"lora", "low"}
    words = ["compare", "synthetic-decoder", "--limit", "500", "--save", str(tmp_path / "a.md")]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert "synthetic-decoder" in (tmp_path / "a.md").read_text()
    for wrong in ([], ["alibi-lm", "--study", "x"], ["alibi-lm", "--base", "x"]):
        assert CliRunner().invoke(cli, ["compare", *wrong]).exit_code == 2


@pytest.mark.parametrize("name", sorted(studies()))
def test_the_studies_of_our_plugins_can_be_run(name: str) -> None:
    study = find_study(name)
    assert study.summary and len(study.seeds) >= 3
    for method in study.methods:
        recipe = study.recipe(method, 1)
        if recipe.base:
            assert recipe.tuning["method"] in registry().tunings.names()
    for run in study.runs:
        assert run.name in study.methods and run.seed in study.seeds
