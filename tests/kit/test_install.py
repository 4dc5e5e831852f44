"""Plugins on a real install: built, installed by pip, broken on disk; and generated ones."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

import zoo
from zoo.template import KINDS, write_plugin

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
TUTORIAL = ROOT / "docs" / "guides" / "write-a-plugin.md"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python"]
SETTINGS = ("TXZOO_", "PYTHON", "HF_")


class Environment:
    """A virtual environment that sees torch and txzoo, and nothing else that we wrote.

    Args:
        folder: where it is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, with_pip=False)
        self.python = folder / "bin" / "python"
        names = {"base": str(folder), "platbase": str(folder)}
        self.site = Path(sysconfig.get_path("purelib", vars=names))
        ours = sysconfig.get_path("purelib")  # with its .pth files, of which one leads to the clone
        (self.site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")

    def run(
        self, *words: str, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a module or a file with the environment's Python."""
        plain = {name: v for name, v in os.environ.items() if not name.startswith(SETTINGS)}
        return subprocess.run(
            [str(self.python), *words],
            cwd=cwd or self.folder,
            env={
                **plain,
                "TXZOO_HOME": str(self.folder / "home"),
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                **env,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def txzoo(
        self, *words: str, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "zoo", *words, cwd=cwd, **env)

    def install(self, *words: str) -> None:
        command = [*PIP, str(self.python), "install", "--no-deps", "--no-index"]
        subprocess.run(
            [*command, "--no-build-isolation", *words], check=True, capture_output=True, text=True
        )

    def plugins(self, **env: str) -> dict[str, dict[str, object]]:
        """What `txzoo plugins --all --json` says, by name."""
        done = self.txzoo("plugins", "--all", "--json", **env)
        assert done.returncode == 0, done.stderr
        return {plugin["name"]: plugin for plugin in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Both example distributions, built as wheels and installed."""
    made = Environment(tmp_path_factory.mktemp("venv") / "venv")
    dist = tmp_path_factory.mktemp("dist")
    for name in ("zoo-bigram", "zoo-sums"):
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", dist]
        source = shutil.copytree(EXAMPLES / name, dist / name)
        subprocess.run([*map(str, command), str(source)], check=True, capture_output=True)
    made.install(*map(str, dist.glob("*.whl")))
    return made


@pytest.mark.slow
def test_two_installed_plugins_are_found_and_pass(environment: Environment) -> None:
    found = environment.plugins()
    bigram, sums = found["zoo-bigram:zoo_bigram"], found["zoo-sums:zoo_sums"]
    assert (bigram["distribution"], bigram["version"]) == ("zoo-bigram", "0.1.0")
    assert bigram["brings"] == {"architectures": ["bigram"]}
    assert sums["brings"] == {"tasks": ["sums"], "models": ["sums-tiny"]}
    for plugin in (bigram, sums):
        assert plugin["state"] == "ok"
        assert 0 < float(str(plugin["seconds"])) < 0.5
    done = environment.txzoo("check-plugin", "zoo-bigram", "zoo-sums", "--json")
    assert done.returncode == 0, done.stdout
    reports = json.loads(done.stdout)
    assert [(report["plugin"], report["level"]) for report in reports] == [
        ("zoo-bigram:zoo_bigram", "full"),
        ("zoo-sums:zoo_sums", "full"),
    ]
    assert "passed" in str(environment.plugins()["zoo-sums:zoo_sums"]["conformance"])


def spoilt(text: str) -> Callable[[Path], None]:
    """Put a line at the top of the plugin's module."""

    def spoil(package: Path) -> None:
        face = package / "__init__.py"
        face.write_text(f"{text}\n{face.read_text()}")

    return spoil


def removed(package: Path) -> None:
    shutil.rmtree(package)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(spoilt("def ("), "SyntaxError", id="does not parse"),
        pytest.param(spoilt("raise OSError('no')"), "OSError: no", id="raises"),
        pytest.param(spoilt("import sys; sys.exit(3)"), "calls sys.exit(3)", id="exits"),
        pytest.param(spoilt("import no_such_package"), "ModuleNotFoundError", id="misses one"),
        pytest.param(removed, "ModuleNotFoundError", id="is not there"),
    ],
)
def test_one_that_is_broken_on_disk_breaks_nothing_else(
    environment: Environment, spoil: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    package = environment.site / "zoo_bigram"
    kept = shutil.copytree(package, tmp_path / "kept")
    try:
        spoil(package)
        found = environment.plugins()
        broken = found.pop("zoo-bigram:zoo_bigram")
        assert reason in str(broken["error"])
        assert (broken["distribution"], broken["version"]) == ("zoo-bigram", "0.1.0")
        assert {plugin["state"] for plugin in found.values()} == {"ok"}
        if spoil is not removed:  # the others are set aside by the same lines
            return
        shown = environment.txzoo("plugins")
        assert shown.returncode == 0 and reason in shown.stdout
        assert environment.txzoo("plugins", "--strict").returncode == 1
        listed = environment.txzoo("list", "--json")
        assert "sums-tiny" in listed.stdout and "alibi-lm" in listed.stdout
        written = environment.txzoo("run", "synthetic-decoder", "count 1 2", "--max-new-tokens=3")
        assert written.returncode == 0, written.stderr
    finally:
        shutil.rmtree(package, ignore_errors=True)
        shutil.copytree(kept, package)


@pytest.mark.slow
def test_one_that_imports_torch_is_named_with_its_cost(
    environment: Environment, tmp_path: Path
) -> None:
    face = environment.site / "zoo_bigram" / "__init__.py"
    kept = face.read_text()
    try:
        spoilt("import torch")(face.parent)
        found = environment.plugins()
        slow = found.pop("zoo-bigram:zoo_bigram")
        assert slow["state"] == "ok"
        assert "torch" in str(slow["heavy"])
        cost = float(str(slow["seconds"]))
        assert sum(float(str(plugin["seconds"])) for plugin in found.values()) < cost
        shown = environment.txzoo("plugins").stdout
        assert re.search(r"zoo_bigram imports .*torch.* when it starts: every command waits", shown)
        quick = environment.run(
            "-c",
            "import sys, zoo; zoo.list_models(); assert 'torch' not in sys.modules",
            TXZOO_DISABLE_PLUGINS="zoo-bigram",
        )
        assert quick.returncode == 0, quick.stderr
    finally:
        face.write_text(kept)


@pytest.mark.slow
def test_a_plugin_of_ours_is_the_same_in_a_distribution_of_its_own(
    environment: Environment, tmp_path: Path
) -> None:
    project = tmp_path / "apart"
    shutil.copytree(ROOT / "plugins" / "zoo_alibi", project / "zoo_alibi_apart")
    for path in project.rglob("*.py"):
        path.write_text(path.read_text().replace("zoo_alibi.", "zoo_alibi_apart."))
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "zoo-alibi-apart"\nversion = "1.0"\ndependencies = ["txzoo"]\n'
        '[project.entry-points.txzoo]\nzoo_alibi_apart = "zoo_alibi_apart"\n'
        '[tool.hatch.build.targets.wheel]\npackages = ["zoo_alibi_apart"]\n'
    )
    environment.install(str(project))
    try:
        code = (
            "import zoo; model = zoo.load({name!r}); print(model.card.folder);"
            "print(model('The river', max_new_tokens=5, temperature=0))"
        )
        both = environment.txzoo("info", "alibi-lm")
        assert both.returncode == 2 and "zoo-alibi-apart:alibi-lm" in both.stderr
        for name in ("zoo-alibi-apart:alibi-lm", "alibi-lm"):
            done = environment.run(
                "-c", code.format(name=name), TXZOO_DISABLE_PLUGINS="txzoo:zoo_alibi"
            )
            assert done.returncode == 0, done.stderr
            folder, text = done.stdout.split("\n", 1)
            assert Path(folder).is_relative_to(environment.site)
            expected = zoo.load("alibi-lm")("The river", max_new_tokens=5, temperature=0)
            assert text.strip() == str(expected).strip()
    finally:
        subprocess.run(
            [*PIP, str(environment.python), "uninstall", "-y", "zoo-alibi-apart"], check=True
        )


def project(environment: Environment, folder: Path, kind: str) -> Path:
    """A generated plugin, installed as its README says; its recipe is cut short."""
    done = environment.txzoo("new-plugin", "zoo-hello", "--kind", kind, cwd=folder)
    assert done.returncode == 0, done.stderr
    made = folder / "zoo-hello"
    for recipe in made.rglob("recipe.toml"):
        text = recipe.read_text("utf-8")
        assert re.search(r"^steps = \d+$", text, re.M)
        recipe.write_text(re.sub(r"^steps = \d+$", "steps = 100", text, flags=re.M), "utf-8")
    environment.install("-e", str(made))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_generated_installs_and_passes_its_own_tests(kind: str, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    made = project(environment, tmp_path, kind)
    tested = environment.run("-m", "pytest", "-q", cwd=made)
    assert tested.returncode == 0, tested.stdout
    if kind != "task":  # the tutorial below does the rest for an architecture
        return
    lines = (made / "README.md").read_text().splitlines()
    commands = [line.split()[1:] for line in lines if line.startswith("txzoo ")]
    assert [words[0] for words in commands] == ["check-plugin", "train", "verify"]
    for words in commands:
        done = environment.txzoo(*words, cwd=made)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_tutorial_shows_what_is_generated(tmp_path: Path) -> None:
    write_plugin("zoo-hello", tmp_path / "zoo-hello")
    block = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", re.M | re.S)
    shown: dict[str, list[str]] = {}
    for path, text in block.findall(TUTORIAL.read_text("utf-8")):
        shown.setdefault(path, []).append(text.strip("\n"))
    assert {"zoo_hello/__init__.py", "zoo_hello/model.py"} < set(shown)
    for path, parts in shown.items():
        written = (tmp_path / "zoo-hello" / path).read_text("utf-8")
        assert re.sub(r"\n+", "\n", "\n".join(parts)) == re.sub(r"\n+", "\n", written.strip("\n"))


@pytest.mark.slow
def test_the_tutorial_runs_and_ends_with_a_model_to_publish(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    made = project(environment, tmp_path, "architecture")
    text = TUTORIAL.read_text("utf-8")
    commands = [shlex.split(line) for line in re.findall(r"^\$ (.+)$", text, re.M)]
    assert [words[0] for words in commands[:3]] == ["txzoo", "cd", "pip"]  # done above
    assert {words[0] for words in commands[3:]} == {"txzoo", "pytest"}
    for words in commands[3:]:
        module = ["-m", "zoo"] if words[0] == "txzoo" else ["-m", "pytest", "-q"]
        done = environment.run(*module, *words[1:], cwd=made)
        assert done.returncode == 0, done.stdout + done.stderr
    listed = json.loads(environment.txzoo("list", "hello-tiny", "--json").stdout)
    assert [model["name"] for model in listed] == ["hello-tiny"]
    sent = environment.txzoo("publish", "hello-tiny", "you/hello-tiny", "--dry-run")
    assert sent.returncode == 0, sent.stderr
    assert "Nothing was sent (--dry-run)" in sent.stdout
