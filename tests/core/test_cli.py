"""The command as a person or a script meets it: what it prints, where, and its exit status."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
import zoo_synthetic.task

import zoo
from zoo.cli import VERBS, main

Install = Callable[..., Path]
ESCAPE = "\x1b["


class Ran:
    """What one call gave."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def words(self) -> list[list[str]]:
        return [line.split() for line in self.out.splitlines()]


@pytest.fixture
def txzoo(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Call the command in this process."""

    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return Ran(status, *capsys.readouterr())

    return call


Txzoo = Callable[..., Ran]


def process(*arguments: object, code: str | None = None, **environment: str) -> Ran:
    """Run Python in a process of its own: `-m zoo` with arguments, or some code."""
    start = ["-c", code] if code is not None else ["-m", "zoo", *map(str, arguments)]
    done = subprocess.run(
        [sys.executable, *start],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def card(scores: dict[str, float] | None = None, *, trained: bool = True, **ours: object) -> str:
    """The text of a card; scores are named as in `"perplexity per word"`."""
    metrics = [
        {"type": name.split(" per ")[0], "name": name, "value": value}
        for name, value in (scores or {}).items()
    ]
    result = {"dataset": {"name": "d", "type": "d", "split": "test"}, "metrics": metrics}
    files = {"model.safetensors": {"sha256": "0" * 64, "bytes": 1}} if trained else {}
    data = {
        "license": ours.pop("license", "mit"),
        "pipeline_tag": "text-generation",
        "model-index": [{"name": "x", "results": [result] if metrics else []}],
        "txzoo": {"architecture": "some-decoder", "files": files, **ours},
    }
    return f"---\n{yaml.safe_dump(data)}---\n"


MODELS = """
    from pathlib import Path
    from zoo import hookimpl

    @hookimpl
    def txzoo_models():
        return Path(__file__).parent.glob("models/*/")
"""


@pytest.fixture
def shelf(install: Install) -> None:
    """Five cards to choose from."""
    cards = {
        "worst": card({"perplexity per word": 200.0}, parameters=9_000_000),
        "best": card({"accuracy": 0.1, "perplexity per word": 90.0}, parameters=2_000_000),
        "middle": card({"perplexity per word": 120.0}, license="apache-2.0"),
        "other": card({"accuracy": 0.9}, task="counting", parameters=500),
        "unmade": card(trained=False, summary="To be trained"),
    }
    files = {f"shelf/models/{name}/README.md": text for name, text in cards.items()}
    install("shelf", {"shelf/__init__.py": MODELS, **files})


def first_column(ran: Ran) -> list[str]:
    return [words[0] for words in ran.words[1:]]


# Starting


def test_help_and_listing_import_nothing_heavy(tiny_model: Path) -> None:
    calls = [["--help"], ["list"], ["list", "--json"], ["list", "--tasks"], ["list", "--help"]]
    calls += [["info", str(tiny_model)], ["plugins"], ["lisst"]]
    code = f"""
import sys
from zoo.cli import main
print([main(call) for call in {calls}], file=sys.stderr)
print(*{{name.split(".")[0] for name in sys.modules}}, file=sys.stderr)
"""
    ran = process(code=code)
    *_, statuses, modules = ran.err.splitlines()
    assert statuses == "[0, 0, 0, 0, 0, 0, 0, 2]"
    heavy = {"torch", "numpy", "huggingface_hub", "tokenizers", "safetensors", "transformers"}
    assert "click" in modules.split()
    assert not heavy & set(modules.split())


def test_help_imports_no_plugin_and_no_rich() -> None:
    code = "import sys\nfrom zoo.cli import main\nmain(['--help'])\nprint(*sys.modules)"
    modules = process(code=code).out.splitlines()[-1].split()
    assert "zoo.cli.browse" in modules
    assert not {"rich", "zoo.plugins", "zoo.registry", "zoo_alibi"} & set(modules)


def test_python_m_zoo_is_the_same_command() -> None:
    ran = process("--version")
    assert (ran.status, ran.out) == (0, f"txzoo {zoo.__version__}\n")
    ran = process("info")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == "txzoo: Missing argument 'REF'. See: txzoo info --help\n"


def test_without_a_verb_it_shows_the_verbs(txzoo: Txzoo) -> None:
    ran = txzoo()
    assert ran.status == 0
    verbs = re.findall(r"^  ([\w-]+) {2,}\w", ran.out.partition("Commands:")[2], re.MULTILINE)
    promised = [
        *(
            "ask",
            "attention",
            "bench",
            "cache",
            "chat",
            "check-plugin",
            "compare",
            "demo",
            "doctor",
            "eval",
            "explain",
            "export",
            "info",
        ),
        *(
            "install",
            "list",
            "lm-eval",
            "merge",
            "new-plugin",
            "plugins",
            "prompts",
            "publish",
            "pull",
            "quantize",
            "run",
            "serve",
            "train",
        ),
        *("uninstall", "verify"),
    ]
    assert sorted(verbs) == promised
    assert "gallery" in ran.out.partition("demo  ")[2]


def test_a_verb_of_a_plugin(txzoo: Txzoo) -> None:
    ran = txzoo("gallery", "--help")
    assert ran.out.startswith("Usage: txzoo gallery ")


def test_every_verb_has_help(txzoo: Txzoo) -> None:
    for verb in VERBS:
        ran = txzoo(verb, "--help")
        assert ran.status == 0
        assert ran.out.startswith(f"Usage: txzoo {verb} ")


# Errors


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["verfy"], 2, "Unknown command 'verfy'. Did you mean 'verify'?"),
        (["list", "--taks"], 2, "No such option '--taks'."),
        (["list", "--max-params", "5X"], 2, "Invalid value for '--max-params': '5X' is not a num"),
        (["list", "--task", "countin"], 2, "Unknown task 'countin'. Did you mean 'counting'?"),
        (["list", "--tasks", "--license", "mit"], 2, "--license is for models, not with --tasks"),
        (["list", "--sort", "perplexty"], 2, "Unknown score 'perplexty'. Did you mean 'perplexity"),
        (["info", "bst"], 2, "Unknown model 'bst'. Did you mean 'best'"),
        (["info", "./nowhere"], 1, "There is no folder 'nowhere'."),
        (["run", "bst", "hello"], 2, "Unknown model 'bst'."),
        (["verify"], 2, "give names of models, or --all"),
        (["verify", "best", "--all"], 2, "give names of models, or --all"),
        (["train", "best", "--out", "x", "--set", "steps"], 2, "--set takes KEY=VALUE"),
        (["train", "nothing.toml", "--out", "x"], 2, "nothing.toml is not a recipe"),
    ],
)
def test_an_error_is_one_line(
    shelf: None, txzoo: Txzoo, arguments: list[str], status: int, message: str
) -> None:
    ran = txzoo(*arguments)
    assert ran.status == status
    assert ran.out == ""
    [line] = ran.err.splitlines()
    assert line.startswith(f"txzoo: {message}")


@pytest.mark.parametrize(
    "arguments", [["--traceback", "info", "bst"], ["info", "bst", "--traceback"]]
)
def test_traceback_shows_where_from(shelf: None, txzoo: Txzoo, arguments: list[str]) -> None:
    ran = txzoo(*arguments)
    assert ran.status == 2
    assert ran.err.startswith("Traceback (most recent call last):")
    assert ran.err.splitlines()[-1].startswith("txzoo: Unknown model 'bst'.")


def test_an_error_that_nobody_foresaw_is_one_line_too(
    txzoo: Txzoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(zoo, "list_plugins", fail)
    ran = txzoo("plugins")
    assert ran.status == 1
    assert ran.err == "txzoo: RuntimeError: two lines (--traceback shows where)\n"


def test_an_operating_system_error_names_the_file(
    txzoo: Txzoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        Path("no/such/file").read_text()

    monkeypatch.setattr(zoo, "list_plugins", fail)
    ran = txzoo("plugins")
    assert (ran.status, ran.err) == (1, "txzoo: no/such/file: No such file or directory\n")


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "zoo", "list", "--tasks"],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert done.stderr == b""


# Listing


def test_list_shows_a_line_for_each_model(shelf: None, txzoo: Txzoo) -> None:
    ran = txzoo("list")
    assert ran.status == 0
    assert ran.words[0] == ["name", "architecture", "task", "license", "size", "score"]
    assert first_column(ran) == ["best", "middle", "other", "unmade", "worst"]
    assert ran.words[1] == ["best", "some-decoder", "mit", "2.0M", "0.1", "accuracy"]
    assert ran.words[4] == ["unmade", "some-decoder", "mit", "no", "weights", "yet"]
    assert not [line for line in ran.out.splitlines() if line != line.rstrip()]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["w*"], ["worst"]),
        (["trained"], ["unmade"]),
        (["--task", "counting"], ["other"]),
        (["--license", "apache-2.0"], ["middle"]),
        (["--max-params", "2M"], ["best", "other"]),
        (["--max-params", "0.5k"], ["other"]),
        (["--max-params", "1999999"], ["other"]),
        (["--not-bundled"], ["unmade"]),
        (["--bundled", "--plugin", "shelf"], ["best", "middle", "other", "worst"]),
        (["--pipeline", "text-generation", "--architecture", "some-decoder", "wor"], ["worst"]),
    ],
)
def test_list_filters(shelf: None, txzoo: Txzoo, options: list[str], names: list[str]) -> None:
    assert first_column(txzoo("list", *options)) == names
    assert [row["name"] for row in txzoo("list", *options, "--json").json] == names


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("name", ["best", "middle", "other", "unmade", "worst"]),
        ("parameters", ["other", "best", "worst", "middle", "unmade"]),
        ("perplexity", ["best", "middle", "worst", "other", "unmade"]),
        ("perplexity per word", ["best", "middle", "worst", "other", "unmade"]),
        ("perplexity_per_word", ["best", "middle", "worst", "other", "unmade"]),
        ("accuracy", ["other", "best", "middle", "unmade", "worst"]),
    ],
)
def test_list_sorts_best_first_and_what_has_no_score_last(
    shelf: None, txzoo: Txzoo, key: str, names: list[str]
) -> None:
    assert first_column(txzoo("list", "--sort", key)) == names


def test_a_sorted_list_shows_the_score_it_is_sorted_by(shelf: None, txzoo: Txzoo) -> None:
    ran = txzoo("list", "--sort", "perplexity")
    assert ran.words[1][-4:] == ["90", "perplexity", "per", "word"]


def test_no_match_is_said_on_standard_error(shelf: None, txzoo: Txzoo) -> None:
    ran = txzoo("list", "zebra")
    assert (ran.status, ran.out) == (0, "")
    assert ran.err == "No model passes: txzoo list shows all 5\n"
    assert txzoo("list", "zebra", "--json").json == []


@pytest.mark.parametrize("kind", ["architectures", "tasks", "pipelines"])
def test_list_shows_what_models_are_made_of(txzoo: Txzoo, kind: str) -> None:
    names = getattr(zoo, f"list_{kind}")()
    assert names
    assert first_column(txzoo("list", f"--{kind}")) == names
    rows = txzoo("list", f"--{kind}", "--json").json
    assert [row["name"] for row in rows] == names
    assert all(row["summary"] and row["plugin"].startswith("txzoo:") for row in rows)


def test_list_tasks_takes_a_query(txzoo: Txzoo) -> None:
    assert first_column(txzoo("list", "--tasks", "PATTERNS")) == ["synthetic"]


# On a terminal


def on_terminal(*arguments: str, columns: int = 80, **environment: str) -> str:
    """What the command writes to a terminal of that width."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    hidden = ("NO_COLOR", "COLUMNS", "LINES")
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    running = subprocess.Popen(
        [sys.executable, "-m", "zoo", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**inherited, "TERM": "xterm-256color", **environment},
    )
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 4096):
            written += chunk
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    assert running.wait() == 0
    return written.decode()


def test_a_terminal_gets_colour_and_lines_that_fit() -> None:
    shown = on_terminal("list", "--tasks")
    assert f"{ESCAPE}36m" in shown
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert max(map(len, plain.splitlines())) <= 80
    assert "wikitext-2" in plain
    narrow = re.sub(r"\x1b\[[\d;]*m", "", on_terminal("list", columns=60))
    assert "license" not in narrow.splitlines()[0]
    assert max(map(len, narrow.splitlines())) <= 60


def test_no_color_means_no_colour() -> None:
    shown = on_terminal("plugins", "--all", NO_COLOR="1")
    assert "zoo_alibi" in shown
    assert not re.search(r"\x1b\[[\d;]*3\dm", shown)


# One model


def test_info_shows_the_card(tiny_model: Path, txzoo: Txzoo) -> None:
    ran = txzoo("info", tiny_model)
    assert ran.status == 0
    facts = zoo.info(tiny_model)
    assert ["parameters", f"{facts.parameters:,}"] in ran.words
    assert ["license", "cc0-1.0"] in ran.words
    assert ["txzoo", f">={zoo.__version__},<1"] in ran.words
    assert ["steps", "5"] in ran.words
    accuracy = next(score for score in facts.scores if score.name == "accuracy")
    assert accuracy.standard_error is not None
    [line] = [words for words in ran.words if words[:1] == ["accuracy"] and words[1] != "of"]
    assert [float(line[1]), line[2], float(line[3])] == [
        accuracy.value,
        "±",
        accuracy.standard_error,
    ]
    files = {words[0] for words in ran.words if words and "." in words[0]}
    assert files == set(facts.files)


def test_info_as_json(tiny_model: Path, txzoo: Txzoo) -> None:
    found = txzoo("info", tiny_model, "--json").json
    facts = zoo.info(tiny_model)
    assert found["name"] == "tiny"
    assert found["parameters"] == facts.parameters
    assert found["files"]["config.json"]["bytes"] == (tiny_model / "config.json").stat().st_size
    assert [score["value"] for score in found["scores"]] == [s.value for s in facts.scores]
    assert found["training"]["steps"] == 5
    assert (found["plugin"], found["bundled"]) == (None, False)


def test_run_streams_what_the_model_writes(tiny_model: Path, txzoo: Txzoo) -> None:
    options = ("--max-new-tokens", 12, "--temperature", 0.9, "--top-k", 5, "--seed", 3)
    text = zoo.load(tiny_model)("count 1 2", max_new_tokens=12, temperature=0.9, top_k=5, seed=3)
    ran = txzoo("run", tiny_model, "count 1 2", *options)
    assert (ran.status, ran.out) == (0, f"{text}\n")
    found = txzoo("run", tiny_model, "count 1 2", *options, "--json").json
    assert found == {"model": "tiny", "prompt": "count 1 2", "generated_text": text}


def test_run_searches_with_beams(tiny_model: Path, txzoo: Txzoo) -> None:
    text = zoo.load(tiny_model)("count 1", max_new_tokens=4, num_beams=3)
    ran = txzoo("run", tiny_model, "count 1", "--max-new-tokens", 4, "--num-beams", 3)
    assert ran.out == f"{text}\n"


def test_run_stops_at_a_text(tiny_model: Path, txzoo: Txzoo) -> None:
    ran = txzoo("run", tiny_model, "count 1 2", "--max-new-tokens", 9)
    word = ran.out.split()[3]
    ran = txzoo("run", tiny_model, "count 1 2", "--max-new-tokens", 9, "--stop", word)
    assert ran.out.split() == ["count", "1", "2"]


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_run_reads_the_prompt_from_a_pipe(
    tiny_model: Path, txzoo: Txzoo, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"mirror 4\n")))
    ran = txzoo("run", tiny_model, *arguments, "--json", "--max-new-tokens", 1)
    assert ran.json["prompt"] == "mirror 4"


def test_run_refuses_what_is_not_utf_8(
    tiny_model: Path, txzoo: Txzoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"count \xff")))
    ran = txzoo("run", tiny_model)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == "txzoo: Standard input is not UTF-8 at byte 7\n"


def test_run_asks_for_a_prompt_on_a_terminal(
    tiny_model: Path, txzoo: Txzoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    ran = txzoo("run", tiny_model)
    assert ran.status == 2
    assert ran.err.startswith("txzoo: a text is missing: txzoo run ")


@pytest.mark.parametrize(
    "options", [["--temperature", "-1"], ["--top-p", "1.5"], ["--max-new-tokens", "0"]]
)
def test_run_refuses_options_out_of_range(
    tiny_model: Path, txzoo: Txzoo, options: list[str]
) -> None:
    ran = txzoo("run", tiny_model, "count 1", *options)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"txzoo: {options[0][2:].replace('-', '_')} must be")


def test_attention_draws(tiny_model: Path, txzoo: Txzoo, tmp_path: Path) -> None:
    picture = tmp_path / "map.png"
    ran = txzoo("attention", tiny_model, "count 1 2 3", "--out", picture)
    assert (ran.status, ran.out) == (0, f"{picture}: 1 layer of 2 heads\n")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_export_writes_a_transformers_folder(
    tiny_model: Path, txzoo: Txzoo, tmp_path: Path
) -> None:
    folder = tmp_path / "bloom"
    ran = txzoo("export", tiny_model, "--format", "transformers", "--out", folder)
    assert ran.status == 0
    assert json.loads((folder / "config.json").read_text())["model_type"] == "bloom"
    ran = txzoo("export", tiny_model, "--format", "tensorflow", "--out", tmp_path / "other")
    assert ran.status == 2
    assert "tensorflow" in ran.err


# Measuring


def test_eval_prints_what_evaluate_finds(tiny_model: Path, txzoo: Txzoo) -> None:
    found = zoo.evaluate(tiny_model, split="validation", limit=640, context=16)
    options = ("--split", "validation", "--limit", 640, "--context", 16)
    ran = txzoo("eval", tiny_model, *options, "--json")
    assert ran.json["metrics"] == pytest.approx(found)
    assert (ran.json["task"], ran.json["split"]) == ("synthetic", "validation")
    rows = txzoo("eval", tiny_model, *options).words
    assert rows[0] == ["metric", "value", "standard", "error"]
    printed = {"_".join(words[:-2]): words[-2:] for words in rows[1:]}
    assert set(printed) == {name for name in found if not name.endswith("_stderr")}
    for name, (value, error) in printed.items():
        assert float(error) == pytest.approx(found[f"{name}_stderr"], rel=0.05)
        assert float(value) == pytest.approx(found[name], abs=found[f"{name}_stderr"] / 10)
        assert len(value.partition(".")[2]) == len(error.partition(".")[2])


def test_eval_says_how_many_tokens_it_left_out(
    tiny_model: Path, txzoo: Txzoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.load(tiny_model)
    weights = model.module.get_parameter("token_embedding.weight")
    weights.data[-1] = 1e30  # its square is infinite
    monkeypatch.setattr(zoo, "load", lambda ref, **_: model)
    options = ("--split", "validation", "--limit", 640, "--context", 16)
    skipped = txzoo("eval", tiny_model, *options, "--json").json["metrics"]["skipped_tokens"]
    assert 0 < skipped < 640
    said = f"{skipped:.0f} tokens had no finite loss and were left out."
    assert said in txzoo("eval", tiny_model, *options).out


@pytest.mark.filterwarnings("ignore:std")
def test_eval_of_one_token_is_still_json(tiny_model: Path, txzoo: Txzoo) -> None:
    metrics = txzoo("eval", tiny_model, "--limit", 1, "--json").json["metrics"]
    assert metrics["accuracy"] in (0.0, 1.0)
    assert metrics["accuracy_stderr"] is None


def test_eval_refuses_an_unknown_split(tiny_model: Path, txzoo: Txzoo) -> None:
    ran = txzoo("eval", tiny_model, "--split", "nowhere")
    assert ran.status == 2
    assert ran.err.startswith("txzoo: Unknown split of synthetic 'nowhere'.")


def test_verify_finds_what_the_card_claims(tiny_model: Path, txzoo: Txzoo) -> None:
    ran = txzoo("verify", tiny_model)
    assert ran.status == 0
    assert ran.words[1:3] == [["tiny"], ["claim", "claimed", "found", "result"]]
    assert {words[-1] for words in ran.words[3:]} == {"ok"}
    claims = [" ".join(words) for words in ran.words]
    assert any(claim.startswith("accuracy (test) ") for claim in claims)


def copy(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder / "tiny")
    return folder / "tiny"


def test_verify_fails_when_a_claim_does(tiny_model: Path, txzoo: Txzoo, tmp_path: Path) -> None:
    folder = copy(tiny_model, tmp_path)
    text = (folder / "README.md").read_text()
    parameters = zoo.info(folder).parameters
    (folder / "README.md").write_text(text.replace(f"parameters: {parameters}", "parameters: 7"))
    ran = txzoo("verify", folder, "--json")
    assert ran.status == 1
    [report] = ran.json
    assert not report["ok"]
    [failed] = [check for check in report["checks"] if not check["ok"]]
    assert (failed["claim"], failed["claimed"], failed["found"]) == (
        "parameters",
        "7",
        str(parameters),
    )


def test_verify_goes_on_after_a_model_that_does_not_load(
    tiny_model: Path, txzoo: Txzoo, tmp_path: Path
) -> None:
    folder = copy(tiny_model, tmp_path)
    (folder / "model.safetensors").write_bytes(b"damaged")
    ran = txzoo("verify", folder, tiny_model)
    assert ran.status == 1
    assert [
        words[-1] for words in ran.words if words[:3] == ["sha256", "of", "model.safetensors"]
    ] == [
        "failed",
        "ok",
    ]


def test_verify_all_reports_cards_that_do_not_parse(install: Install, txzoo: Txzoo) -> None:
    install("shelf", {"shelf/__init__.py": MODELS, "shelf/models/a/README.md": "no card"})
    ran = txzoo("verify", "--all")
    assert ran.status == 1
    assert ran.words[1] == ["a"]
    assert "a card opens with front matter" in ran.out


# Training


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A recipe, and a task with less text than it has."""
    path = tmp_path / "small.toml"
    shutil.copy(tiny_model / "recipe.toml", path)
    for split in zoo_synthetic.task.LINES:
        monkeypatch.setitem(zoo_synthetic.task.LINES, split, 40)
    zoo_synthetic.task.generate.cache_clear()
    yield path
    zoo_synthetic.task.generate.cache_clear()


def test_train_makes_a_model_folder(recipe: Path, txzoo: Txzoo, tmp_path: Path) -> None:
    out = tmp_path / "small"
    changes = ("--set", "steps=2", "--set", "optimizer=muon", "--set", "betas=[0.8, 0.9]")
    ran = txzoo("train", recipe, "--out", out, *changes, "--set", "d_model=8")
    assert ran.status == 0
    assert ran.out.startswith(f"{out}: ")
    assert first_column(ran)[1:] == ["accuracy", "accuracy", "perplexity"]
    text = (out / "recipe.toml").read_text()
    for line in ("steps = 2", 'optimizer = "muon"', "betas = [0.8, 0.9]", "d_model = 8"):
        assert line in text.splitlines()
    again = txzoo("train", recipe, "--out", out)
    assert (again.status, again.out) == (1, "")
    assert "--overwrite" in again.err


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    from zoo.training.loop import Run

    real = Run.one_step

    def one_step(self: Run) -> tuple[float, float] | None:
        if self.step == step:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(Run, "one_step", one_step)


def test_an_interrupted_run_says_how_to_go_on_and_does(
    recipe: Path, txzoo: Txzoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "my model"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        ran = txzoo("train", recipe, "--out", out, "--set", "checkpoint_every=2")
    assert (ran.status, ran.out) == (1, "")
    message = ran.err.splitlines()[-1]
    assert message.startswith(
        f"txzoo: stopped. The last checkpoint is in {out}.partial; go on with"
    )
    [_, *arguments] = shlex.split(message.partition("go on with: ")[2])
    ran = txzoo(*arguments)
    assert ran.status == 0
    assert zoo.info(out).data["txzoo"]["training"]["steps"] == 5


def test_a_run_interrupted_early_says_so(
    recipe: Path, txzoo: Txzoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, 1)
    ran = txzoo("train", recipe, "--out", tmp_path / "small")
    assert ran.status == 1
    assert ran.err.splitlines()[-1] == "txzoo: stopped. There was no checkpoint yet: start again"


# Plugins


COMMANDS = """
    from zoo import hookimpl

    @hookimpl
    def txzoo_commands(cli):
        @cli.command()
        def greet():
            print("hello")

        @cli.command("list")
        def other():
            print("mine")
"""
RAISES = "print('starting')\nraise RuntimeError('no luck')"


def test_a_plugin_adds_commands_but_takes_none(install: Install, txzoo: Txzoo) -> None:
    install("greeter", {"greeter.py": COMMANDS})
    assert txzoo("greet").out == "hello\n"
    assert "mine" not in txzoo("list").out
    assert txzoo("greeter:list").out == "mine\n"
    assert txzoo("greet", "--traceback").out == "hello\n"
    [row] = txzoo("plugins", "--json").json
    assert row["brings"] == {"commands": ["greet", "greeter:list"]}
    ran = txzoo("gret")
    assert ran.status == 2
    assert ran.err.startswith("txzoo: Unknown command 'gret'. Did you mean 'greet'")


def test_two_plugins_with_one_command_are_told_apart(install: Install, txzoo: Txzoo) -> None:
    install("one", {"one.py": COMMANDS})
    install("two", {"two.py": COMMANDS.replace("hello", "hallo")})
    ran = txzoo("greet")
    assert ran.status == 2
    assert "'one:greet' or 'two:greet'" in ran.err
    assert txzoo("two:greet").out == "hallo\n"


def test_a_broken_plugin_harms_nothing_and_is_shown(install: Install, txzoo: Txzoo) -> None:
    install("bad", {"bad.py": RAISES})
    install("greeter", {"greeter.py": COMMANDS})
    assert txzoo("--help").status == 0
    assert txzoo("greet").out == "hello\n"
    ran = txzoo("list", "--tasks")
    assert (ran.status, ran.err) == (0, "txzoo: broken: 1 plugin; txzoo plugins shows why\n")
    assert "RuntimeError: no luck" in txzoo("info", "x").err

    ran = txzoo("plugins")
    assert ran.status == 0
    assert [words[0] for words in ran.words if words[-1] == "broken"] == ["bad:bad"]
    assert "bad:bad: RuntimeError: no luck" in ran.out.splitlines()
    assert "Traceback" not in ran.out
    assert "bad:bad printed 1 line while starting (--traceback shows)" in ran.out.splitlines()
    ran = txzoo("plugins", "--traceback")
    assert "Traceback (most recent call last):" in ran.out
    assert "starting" in ran.out.splitlines()
    rows = {row["name"]: row for row in txzoo("plugins", "--json").json}
    assert (rows["bad:bad"]["state"], rows["greeter:greeter"]["state"]) == ("broken", "ok")


def test_a_plugin_whose_command_hook_raises_is_set_aside(install: Install, txzoo: Txzoo) -> None:
    install(
        "bad", {"bad.py": "from zoo import hookimpl\n@hookimpl\ndef txzoo_commands(cli): 1 / 0"}
    )
    ran = txzoo("greet")
    assert ran.status == 2
    assert "bad:bad (ZeroDivisionError: division by zero)" in ran.err


def test_a_model_with_a_broken_card_is_mentioned(install: Install, txzoo: Txzoo) -> None:
    install("shelf", {"shelf/__init__.py": MODELS, "shelf/models/a/README.md": "no card"})
    assert txzoo("list").err.splitlines()[-1] == "txzoo: broken: 1 model; txzoo plugins shows why"
    assert "a card opens with front matter" in txzoo("plugins").out


# The doctor


def findings(ran: Ran) -> dict[str, dict[str, str]]:
    return {finding["name"]: finding for finding in ran.json["findings"]}


def test_doctor_looks_at_everything(txzoo: Txzoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("TXZOO_DATA", str(Path(__file__).parent))
    ran = txzoo("doctor", "--json")
    found = findings(ran)
    assert found["torch"]["value"] == version("torch")
    assert found["TXZOO_DATA"]["value"] == str(Path(__file__).parent)
    assert found["HF_TOKEN"]["value"] == "set, not shown"
    assert "hf_secret" not in ran.out
    assert {plugin.name for plugin in zoo.list_plugins()} <= set(found)
    for name in zoo.list_models(bundled=True):
        assert found[name]["state"] == "ok"
    assert ran.json["ok"] == (ran.status == 0)


def test_doctor_is_content_with_a_sound_installation(site: Path, txzoo: Txzoo) -> None:
    ran = txzoo("doctor")
    assert ran.status == 0
    assert ran.out.splitlines()[-1] == "All is well"


def test_doctor_finds_what_is_wrong(
    install: Install, tiny_model: Path, txzoo: Txzoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = install("bad", {"bad.py": RAISES}) / "shelf"
    install("shelf", {"shelf/__init__.py": MODELS})
    copy(tiny_model, folder / "models")
    (folder / "models/tiny/config.json").write_text("{}")
    monkeypatch.setenv("TXZOO_DATA", "/no/such/folder")
    ran = txzoo("doctor", "--json")
    assert ran.status == 1
    wrong = {name for name, finding in findings(ran).items() if finding["state"] == "wrong"}
    assert wrong == {"bad:bad", "tiny", "data sets"}
    ran = txzoo("doctor")
    assert ran.status == 1
    assert "bad:bad: txzoo plugins --traceback shows where" in ran.out.splitlines()
