"""Every block of code in the README, the docs and the cards runs as it stands."""

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from blocks import blocks, run_page
from click.testing import CliRunner

import zoo
from zoo.cli import cli

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(
        page
        for page in sorted((ROOT / "docs").rglob("*.md"))
        if "examples" not in page.parts and page.stem != "lab-notes"
    ),
]
CARDS = sorted(  # of models that are trained: the others cannot be loaded yet
    path.with_name("README.md") for path in (ROOT / "plugins").glob("*/models/*/model.safetensors")
)
# pages whose commands need a server run in tests/hub/test_guides.py, on one
ON_A_SERVER = {"publish", "offline"}
# what a command of the pages gets here, to be done soon
QUICK = {"train": ["--set", "steps=2"], "eval": ["--limit", "2000"]}
QUICK |= {"bench": ["--rounds", "1"], "quantize": ["--rounds", "1", "--limit", "2000"]}
LONG = ("txzoo gallery", "txzoo train alibi-lm ")  # parsed only


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name_of(page))
        for page in [*PAGES, *CARDS]
        if any(not block["file"] for block in blocks(text_of(page), "python"))
    ],
)
def test_python_blocks_of_a_page_run(page: Path) -> None:
    for result in run_page(text_of(page)):
        assert result.figure == "" or result.figure.lstrip().startswith("<svg")


def python_fragments() -> list[object]:
    found = []
    for page in PAGES:
        for number, block in enumerate(blocks(text_of(page), "py")):
            found.append(pytest.param(block["code"], id=f"{name_of(page)}-{number}"))
    return found


@pytest.mark.parametrize("code", python_fragments())
def test_a_fragment_of_python_parses(code: str) -> None:
    ast.parse(code)


@pytest.mark.parametrize("page", [pytest.param(page, id=name_of(page)) for page in PAGES])
def test_settings_on_a_page_parse(page: Path) -> None:
    for block in blocks(text_of(page), "toml"):
        tomllib.loads(block["code"])
    for block in blocks(text_of(page), "yaml"):
        yaml.safe_load(block["code"])


def shell_lines() -> list[tuple[str, str]]:
    """Every line in a shell block, with its page's name."""
    return [
        (page.stem, line)
        for page in PAGES
        for block in blocks(text_of(page), "bash")
        for line in filter(None, block["code"].splitlines())
    ]


def txzoo_lines() -> list[str]:
    """Every `txzoo ...` in a shell block or between backticks, without those for a NAME."""
    found = [line for _, line in shell_lines() if line.startswith("txzoo ")]
    for page in PAGES:
        found += re.findall(r"`(txzoo [^`]+)`", text_of(page))
    return sorted({line for line in found if not re.search(r"\b[A-Z]{2,}\b", line)})


@pytest.mark.parametrize("line", txzoo_lines())
def test_command_is_understood(line: str) -> None:
    """Each `txzoo ...` line parses: its verb and its options exist."""
    _, verb, *arguments = shlex.split(line)
    command = cli.get_command(cli.make_context("txzoo", [verb], resilient_parsing=True), verb)
    assert command is not None, verb
    if arguments:
        command.make_context(verb, arguments)


def runnable() -> list[object]:
    lines = {line for page, line in shell_lines() if page not in ON_A_SERVER}
    return [
        pytest.param(line, id=line)
        for line in sorted(lines)
        if line.startswith("txzoo ") and not line.startswith(LONG)
    ]


@pytest.mark.parametrize("line", runnable())
def test_command_runs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line)[1:]
    if words[0] == "eval" and "alibi-lm" in words and "TXZOO_DATA" not in os.environ:
        pytest.skip("needs WikiText-2: set TXZOO_DATA")
    for path in ("plugins", "docs"):
        (tmp_path / path).symlink_to(ROOT / path)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, [*words, *QUICK.get(words[0], [])])
    assert done.exit_code == 0, done.output


def test_other_commands_are_of_programs_that_are_known() -> None:
    """What is neither `txzoo` nor checked elsewhere: set-up, and launchers."""
    known = ("make demo", "make test", "make docs", "accelerate launch ", "hf auth login")
    for page, line in shell_lines():
        if line.startswith("pip install "):
            asked = re.fullmatch(r"pip install '?txzoo(?:\[(\w+)\])?'?", line)
            assert asked is not None or "-e" in line, line
        elif not line.startswith("txzoo ") and page not in ON_A_SERVER:
            program = re.sub(r"^(\w+=\S+ )+", "", line)
            assert program.startswith((*known, "torchrun ")), line


def test_make_targets_that_the_pages_name_exist() -> None:
    makefile = text_of(ROOT / "Makefile")
    named = {line for _, line in shell_lines() if line.startswith("make ")}
    assert named
    for line in named:
        assert re.search(rf"^{line.split()[1]}:", makefile, re.M), line


def test_task_of_the_guide_is_a_task(tmp_path: Path) -> None:
    """The files of guides/own-data.md, as a distribution: a text of ours is trained on."""
    page = text_of(ROOT / "docs" / "guides" / "own-data.md")
    for block in blocks(page, "python"):
        path = tmp_path / block["file"]
        path.parent.mkdir(exist_ok=True)
        path.write_text(block["code"], encoding="utf-8")
    project, recipe = (block["code"] for block in blocks(page, "toml"))
    (entry,) = tomllib.loads(project)["project"]["entry-points"]["txzoo"].items()
    information = tmp_path / "zoo_diary-0.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-diary\nVersion: 0.1\n")
    (information / "entry_points.txt").write_text(f"[txzoo]\n{entry[0]} = {entry[1]}\n")
    (tmp_path / "diary-lm.toml").write_text(recipe)
    diary = tmp_path / "diary"
    diary.mkdir()
    sentences = [
        f"On day {n} we walked {n % 7} miles and saw {n % 11} birds .\n" for n in range(3000)
    ]
    for split, part in (("train", slice(2600)), ("validation", slice(2600, 2800))):
        (diary / f"{split}.txt").write_text("".join(sentences[part]))
    (diary / "test.txt").write_text("".join(sentences[2800:]))
    code = (
        "import zoo; model = zoo.train('diary-lm.toml', out='diary-lm', steps=20);"
        "print(model('On day', max_new_tokens=3, temperature=0));"
        "print(zoo.info('./diary-lm').license, zoo.info('./diary-lm').scores[0].value)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "TXZOO_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    license, perplexity = done.stdout.splitlines()[-1].split()
    assert license == "other"
    assert 1 < float(perplexity) < 1000


def test_public_names_are_what_the_pages_use() -> None:
    text = "\n".join(block["code"] for page in PAGES for block in blocks(text_of(page), "python"))
    used = set(re.findall(r"\bzoo\.([a-z_]+)\(", text))
    assert used
    assert used <= set(zoo.__all__)
