"""Every Python block of the README, the docs and the cards runs as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import zoo
from zoo.cli import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)
MODELS = sorted(path.parent for path in (ROOT / "plugins").glob("*/models/*/model.safetensors"))


def blocks(page: Path, language: str) -> list[re.Match[str]]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [block for block in found if block["language"] == language]


RUNNABLE = [
    pytest.param(block["code"], id=f"{page.parent.name}-{page.stem}-{number}")
    for page in [*PAGES, *(folder / "README.md" for folder in MODELS)]
    for number, block in enumerate(blocks(page, "python"))
    if not block["file"]
]


@pytest.mark.parametrize("code", RUNNABLE)
def test_python_block_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "example", "exec"), {"__name__": "example"})


def commands() -> list[str]:
    """Every `txzoo ...` in a shell block or between backticks, without those for a NAME."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    lines = [
        line for page in PAGES for b in blocks(page, "bash") for line in b["code"].splitlines()
    ]
    found = [line for line in lines if line.startswith("txzoo ")]
    found += re.findall(r"`(txzoo [^`]+)`", text)
    return sorted({line for line in found if "NAME" not in line})


@pytest.mark.parametrize("line", commands())
def test_command_is_understood(line: str) -> None:
    """Each `txzoo ...` line parses: its verb and its options exist."""
    _, verb, *arguments = shlex.split(line)
    command = cli.get_command(cli.make_context("txzoo", [verb], resilient_parsing=True), verb)
    assert command is not None, verb
    command.make_context(verb, arguments)


@pytest.mark.parametrize(
    "line", [line for line in commands() if line.split()[1] in ("run", "list")]
)
def test_cheap_command_runs(line: str) -> None:
    done = CliRunner().invoke(cli, shlex.split(line)[1:])
    assert done.exit_code == 0, done.output


def test_plugin_of_the_docs_is_a_plugin(tmp_path: Path) -> None:
    """The files of docs/plugins.md, as a distribution: found, and trained on a text task."""
    page = ROOT / "docs" / "plugins.md"
    for block in blocks(page, "python"):
        path = tmp_path / block["file"]
        path.parent.mkdir(exist_ok=True)
        path.write_text(block["code"], encoding="utf-8")
    info = tmp_path / "zoo_bigram-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-bigram\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[txzoo]\nzoo_bigram = zoo_bigram\n")
    (tmp_path / "bigram.toml").write_text(
        'architecture = "bigram"\ntask = "synthetic"\n[tokenizer]\nkind = "word"\n'
        "[config]\nmax_seq_len = 64\n"
        "[training]\nsteps = 30\nbatch_tokens = 512\nlearning_rate = 0.3\n"
    )
    code = (
        "import zoo; print(zoo.list_architectures());"
        "model = zoo.train('bigram.toml', out='bigram');"
        "print(model('count 3', max_new_tokens=3, temperature=0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "bigram" in done.stdout.splitlines()[0]
    rows = (tmp_path / "bigram" / "training.jsonl").read_text().splitlines()
    losses = [float(row["loss"]) for row in map(__import__("json").loads, rows) if "loss" in row]
    assert losses[-1] < losses[0]


def test_public_names_are_what_the_readme_uses() -> None:
    used = set(re.findall(r"\bzoo\.([a-z_]+)\(", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert used <= set(zoo.__all__)
