"""The kit itself: its list, its reports, its command, its fixtures for pytest."""

import gzip
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import datasets
import numpy as np
import pytest
from click.testing import CliRunner, Result

import zoo
import zoo.testing
from zoo.cli import cli
from zoo.errors import InputError, UnknownNameError
from zoo.registry import registry, reset
from zoo.testing import CHECKS, KIT_VERSION, ConformanceError, check_plugin, last_record
from zoo.testing.checks import BY_NUMBER, KINDS
from zoo.testing.kit import Session, Subject, find
from zoo.testing.static import current

pytest_plugins = ["pytester"]

Plant = Callable[..., Path]
BUILT_IN = sorted(p.name for p in zoo.list_plugins() if p.distribution == "txzoo")
MODEL = "zoo_hello/model.py"
NO_GRADIENT = (
    "        nn.init.normal_(self.token_embedding.weight, std=0.1)\n",
    "        nn.init.normal_(self.token_embedding.weight, std=0.1)\n"
    "        self.unused = nn.Parameter(torch.ones(3))\n",
)


def spoil(
    site: Path, file: str = MODEL, old: str = NO_GRADIENT[0], new: str = NO_GRADIENT[1]
) -> None:
    """Change a file of a planted plugin, as between two processes."""
    text = (site / file).read_text()
    assert old in text
    (site / file).write_text(text.replace(old, new))
    for name in [name for name in sys.modules if name.split(".")[0] == "zoo_hello"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    reset()


def absent(*_: object, **__: object) -> None:
    """Stands for the Hub where there is no network, without its minutes of trying."""
    raise ConnectionError("no network here")


def txzoo(*arguments: str) -> Result:
    """Run the command in this process; errors come out as they are."""
    return CliRunner().invoke(cli, arguments, obj={"traceback": False})


@pytest.fixture
def a_part_of_the_reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One review of fifty: the kit reads a task's data many times over, and these are 100,000."""
    import zoo_imdb.task

    folder = Path(os.environ.get("TXZOO_DATA", "nowhere")) / "imdb"
    (tmp_path / "data" / "imdb").mkdir(parents=True)
    for path in folder.glob("*.jsonl.gz"):
        lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
        part = gzip.compress(b"".join(lines[::50]))
        (tmp_path / "data" / "imdb" / path.name).write_bytes(part)
    if folder.is_dir():
        monkeypatch.setenv("TXZOO_DATA", str(tmp_path / "data"))
    zoo_imdb.task.read.cache_clear()
    yield
    zoo_imdb.task.read.cache_clear()


@pytest.fixture
def a_part_of_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pair of fifty of each split of Tatoeba, whose 170,000 are read many times over too."""
    from zoo_translation import task

    whole = task.tatoeba
    part = cache(lambda: {split: pairs[::50] for split, pairs in whole().items()})
    monkeypatch.setattr(task, "tatoeba", part)


@pytest.fixture
def black_pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """CIFAR-10's names and labels, with nothing decoded."""
    from zoo_cifar import task

    monkeypatch.setattr(task, "_pixels", lambda image: np.zeros((32, 32, 3), dtype=np.uint8))
    task.read.cache_clear()
    yield
    task.read.cache_clear()


@pytest.fixture
def a_part_of_the_instructions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without T0's 37,000 prompts and the film reviews."""
    from zoo_instruct import task

    monkeypatch.setattr(task, "T0", task.SEEDS)
    monkeypatch.setattr(task, "reviews", str)
    task.said.cache_clear()
    yield
    task.said.cache_clear()


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_plugin_of_ours_passes_the_full_level(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Data that are not in TXZOO_DATA leave the checks that need them not applicable."""
    monkeypatch.setattr(datasets, "load_dataset", absent)
    if name.endswith("zoo_imdb"):
        request.getfixturevalue("a_part_of_the_reviews")
    if name.endswith("zoo_translation"):
        request.getfixturevalue("a_part_of_the_pairs")
    if name.endswith(("zoo_cifar", "zoo_scenes")):
        request.getfixturevalue("black_pictures")
    if name.endswith("zoo_instruct"):
        request.getfixturevalue("a_part_of_the_instructions")
    report = check_plugin(name)
    assert report.ok and report.level == "full"
    assert not report.count("expected failure") and not report.count("not run")


def test_numbers_are_unique_sorted_and_point_back() -> None:
    numbers = [check.number for check in CHECKS]
    assert len(set(numbers)) == len(numbers)
    for kind in KINDS:
        own = [number for number in numbers if number[0] == kind]
        assert own == sorted(own) and own
    for index, check in enumerate(CHECKS):
        assert set(check.after) <= set(numbers[:index])
        assert all(BY_NUMBER[number].kind == check.kind for number in check.after)
        assert 1 <= check.since <= KIT_VERSION
        assert check.level == "full" or all(BY_NUMBER[n].level == "quick" for n in check.after)


def test_the_quick_level_leaves_out_the_slow_ones(plant: Plant) -> None:
    plant()
    quick, full = check_plugin("zoo-hello", level="quick"), check_plugin("zoo-hello")
    numbers = {result.number for result in quick.results}
    assert {BY_NUMBER[number].level for number in numbers} == {"quick"}
    assert numbers < {result.number for result in full.results}
    assert (quick.kit, quick.plugin, quick.version) == (KIT_VERSION, "zoo-hello:zoo_hello", "0.1.0")


def test_a_failure_raises_with_number_subject_and_reason(plant: Plant) -> None:
    spoil(plant())
    message = r"^zoo-hello:zoo_hello fails 1 checks?: A321 hello: no gradient reaches unused$"
    with pytest.raises(ConformanceError, match=message):
        check_plugin("zoo-hello")
    report = check_plugin("zoo-hello", on_fail=None)
    assert not report.ok
    later = {result.number: result for result in report.results}["A322"]
    assert (later.outcome, later.message) == ("not run", "A321 comes first")


def test_an_expected_failure_is_no_failure_and_keeps_its_reason(plant: Plant) -> None:
    spoil(plant())
    report = check_plugin("zoo-hello", expected_failures={"A321": "kept for old weights"})
    [result] = [result for result in report.results if result.number == "A321"]
    assert (result.outcome, result.ok) == ("expected failure", True)
    assert result.message == "kept for old weights (no gradient reaches unused)"


def test_a_plugin_declares_its_expected_failures_itself(plant: Plant) -> None:
    site = plant()
    spoil(site)
    declared = "summary=summary, expected_failures={'A321': 'by design'})"
    spoil(site, "zoo_hello/__init__.py", "summary=summary)", declared)
    report = check_plugin("zoo-hello")
    assert [r.number for r in report.results if r.outcome == "expected failure"] == ["A321"]


def test_an_unexpected_pass_is_a_failure(plant: Plant) -> None:
    plant()
    with pytest.raises(ConformanceError, match="A321 hello: it passes now; expected to fail"):
        check_plugin("zoo-hello", expected_failures={"A321": "was so once"})


def test_wrong_arguments_are_named(plant: Plant, tmp_path: Path) -> None:
    plant()
    with pytest.raises(UnknownNameError, match=r"Unknown check 'A3210'\. Did you mean 'A321'"):
        check_plugin("zoo-hello", expected_failures={"A3210": "x"})
    with pytest.raises(InputError, match="level must be quick or full, got 'medium'"):
        check_plugin("zoo-hello", level="medium")
    with pytest.raises(UnknownNameError, match="Unknown plugin 'zoo-hallo'. Did you mean 'zoo-hel"):
        check_plugin("zoo-hallo")
    with pytest.raises(InputError, match="txzoo brings several plugins, check one of them: txzoo:"):
        check_plugin("txzoo")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "zoo-elsewhere"\n')
    with pytest.raises(InputError, match="is not installed: pip install -e "):
        check_plugin(tmp_path)


def test_a_plugin_is_found_by_all_its_names_and_by_its_folder(plant: Plant, tmp_path: Path) -> None:
    plant()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "Zoo_Hello"\n')
    for target in ("zoo-hello", "zoo_hello", "zoo-hello:zoo_hello", tmp_path):
        assert [one.plugin().name for one in find(target)] == ["zoo-hello:zoo_hello"]


def test_a_deprecated_name_fails_its_check(plant: Plant) -> None:
    plant()
    session = Session("zoo-hello")
    subject = Subject("plugin", "x", session.found, {"probe": {"warnings": ["rename it"]}})
    with pytest.raises(Exception, match="^rename it$"):
        current(subject)


# records


def test_the_last_run_is_remembered_until_the_code_changes(plant: Plant, home: Path) -> None:
    site = plant()
    [plugin] = [p for p in registry().plugins if p.name == "zoo-hello:zoo_hello"]
    assert last_record(plugin) is None
    assert txzoo("check-plugin", "zoo-hello", "--level", "quick").exit_code == 0
    record = last_record(plugin)
    assert record is not None and not record.stale
    assert (record.kit, record.level, record.failed) == (KIT_VERSION, "quick", ())
    assert str(record) == f"passed {record.passed} (kit {KIT_VERSION}, quick)"
    spoil(site)
    assert str(last_record(plugin)).endswith(", stale")
    assert txzoo("check-plugin", "zoo-hello", "--level", "quick").exit_code == 1
    assert str(last_record(plugin)) == f"failed A321 (kit {KIT_VERSION}, quick)"
    row = next(r for r in json.loads(txzoo("plugins", "--json").stdout) if "hello" in r["name"])
    assert row["conformance"]["words"] == f"failed A321 (kit {KIT_VERSION}, quick)"


def test_a_damaged_record_is_none(plant: Plant, home: Path) -> None:
    plant()
    txzoo("check-plugin", "zoo-hello", "--level", "quick")
    [path] = home.rglob("*.json")
    [plugin] = [p for p in registry().plugins if p.name == "zoo-hello:zoo_hello"]
    for text in ("", "[]", "{}", '{"kit": 1}'):
        path.write_text(text)
        assert last_record(plugin) is None


# the command


def test_check_plugin_prints_what_did_not_pass(plant: Plant) -> None:
    spoil(plant())
    done = txzoo("check-plugin", "zoo-hello")
    assert done.exit_code == 1
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["A321", "hello", "failed", "no", "gradient", "reaches", "unused"] in rows
    assert not any(row[:1] == ["A310"] for row in rows)
    done = txzoo("check-plugin", "zoo-hello", "--expect", "A321=by design")
    assert done.exit_code == 0
    [report] = json.loads(txzoo("check-plugin", "zoo-hello", "--json").stdout)
    assert (report["ok"], report["kit"]) == (False, KIT_VERSION)
    assert {r["number"] for r in report["results"] if r["outcome"] == "failed"} == {"A321"}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "give plugins, or --all"),
        (("zoo_rope", "--all"), "give plugins, or --all"),
        (("zoo_rope", "--expect", "A321"), "--expect takes NUMBER=REASON, got 'A321'"),
    ],
)
def test_check_plugin_refuses_what_makes_no_sense(arguments: tuple[str, ...], error: str) -> None:
    done = txzoo("check-plugin", *arguments)
    assert done.exit_code == 2 and error in done.output


def test_strict_turns_a_broken_plugin_into_status_1(plant: Plant) -> None:
    site = plant()
    assert txzoo("plugins", "--strict").exit_code == 0
    spoil(site, "zoo_hello/__init__.py", "@hookimpl", "1 / 0\n\n\n@hookimpl")
    assert txzoo("plugins").exit_code == 0
    done = txzoo("plugins", "--strict")
    assert done.exit_code == 1
    assert "zoo-hello:zoo_hello: ZeroDivisionError: division by zero" in done.stdout.splitlines()
    assert not any(line.startswith("txzoo:") for line in done.stdout.splitlines())
    names = [row["name"] for row in json.loads(txzoo("plugins", "--all", "--json").stdout)]
    assert names == sorted([*BUILT_IN, "zoo-hello:zoo_hello"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("Zoo_Hello",), "'Zoo_Hello' cannot be the name of a plugin"),
        (("json",), "the package 'json' would hide another one"),
        (("zoo",), "the package 'zoo' would hide another one"),
        (("zoo-decoder",), "the package 'zoo_decoder' would hide another one"),
        (("my-synthetic", "--kind", "task", "--out", "."), "is there already"),
    ],
)
def test_new_plugin_refuses_bad_names(
    arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = txzoo("new-plugin", *arguments)
    assert isinstance(done.exception, InputError) and words in str(done.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "kind"), [("txzoo-decoder", "architecture"), ("txzoo-synthetic", "task")]
)
def test_new_plugin_refuses_a_name_that_somebody_has(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = txzoo("new-plugin", name, "--kind", kind)
    assert "has the name" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_what_is_generated_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert txzoo("new-plugin", "zoo-hello").exit_code == 0
    files = [*Path("zoo-hello").rglob("*.py")]
    assert sum(len(file.read_text().splitlines()) for file in files) < 100
    assert not [path for path in Path("zoo-hello").rglob("*") if "$" in path.name]


def test_install_and_uninstall_print_the_command_and_hand_it_to_pip(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, len(ran))

    monkeypatch.setattr("zoo.cli.kit.subprocess.run", run)
    done = txzoo("install", "zoo-hello>=1", "--no-deps", "-e", "./x y")
    words = [sys.executable, "-m", "pip", "install", "zoo-hello>=1", "--no-deps", "-e", "./x y"]
    assert ran == [words] and done.exit_code == 1
    assert done.stdout.startswith(f"$ {sys.executable} -m pip install 'zoo-hello>=1' --no-deps")
    done = txzoo("uninstall", "-y", "zoo-hello")
    assert ran[1][2:] == ["pip", "uninstall", "-y", "zoo-hello"] and done.exit_code == 2
    done = txzoo("uninstall", "txzoo")
    assert len(ran) == 2 and "cannot uninstall itself" in str(done.exception)


# pytest


def test_the_checks_run_as_tests(pytester: pytest.Pytester, plant: Plant) -> None:
    site = plant()
    spoil(site)
    pytester.makepyfile(
        """
        from zoo.testing import parametrize_with_checks

        @parametrize_with_checks("zoo-hello", expected_failures={"A331": "was so once"})
        def test_conformance(check):
            check()

        @parametrize_with_checks("zoo-hello", expected_failures={"A321": "by design"})
        def test_lenient(check):
            check()
        """
    )
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    path = os.pathsep.join([str(site), *sys.path])
    pytester._monkeypatch.setenv("PYTHONPATH", path)
    done = pytester.runpytest_subprocess("-rA")
    outcomes = done.parseoutcomes()
    assert (outcomes["failed"], outcomes["xfailed"]) == (2, 1)
    done.stdout.fnmatch_lines(["*hello: no gradient reaches unused*"])
    done.stdout.fnmatch_lines(["*it passes now; expected to fail because: was so once*"])
    done.stdout.fnmatch_lines(["XFAIL*test_lenient*A321*by design*"])
    done.stdout.fnmatch_lines(["SKIPPED*A321 comes first*"])


def test_an_unknown_plugin_fails_every_test_and_stops_no_collection(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        from zoo.testing import parametrize_with_checks

        @parametrize_with_checks("zoo-nobody", level="quick")
        def test_conformance(check):
            check()
        """
    )
    done = pytester.runpytest_subprocess("-x")
    done.stdout.fnmatch_lines(["*UnknownNameError: Unknown plugin 'zoo-nobody'*"])


FIXTURES = """
import socket, sys, types
import pytest
import zoo
from zoo import Architecture, hookimpl
from zoo.errors import UnknownNameError

def test_nothing_is_imported_before_it_is_asked_for():
    pass

class Face:
    @hookimpl
    def txzoo_architectures(self):
        return [Architecture("mine", target="a:B")]

def face():
    module = types.ModuleType("face")
    @hookimpl
    def txzoo_architectures():
        return [Architecture("mine", target="a:B")]
    module.txzoo_architectures = txzoo_architectures
    return module

def test_an_isolated_registry(txzoo_registry):
    assert {p.distribution for p in zoo.list_plugins() if not p.disabled} == {"txzoo"}
    assert "decoder" in zoo.list_architectures() and "mine" not in zoo.list_architectures()
    plugin = txzoo_registry.add(face())
    assert plugin.name == "under-test:plugin"
    assert "mine" in zoo.list_architectures()

def test_it_is_gone_afterwards():
    assert "mine" not in zoo.list_architectures()

def test_a_wrong_hook_raises(txzoo_registry):
    module = face()
    module.txzoo_model = module.txzoo_architectures
    with pytest.raises(UnknownNameError, match="Did you mean 'txzoo_models'"):
        txzoo_registry.add(module)

def test_a_tiny_corpus(txzoo_corpus):
    assert len(txzoo_corpus.splitlines()) == 200
    assert len(set(txzoo_corpus.split())) < 12

def test_no_network(txzoo_no_network):
    with pytest.raises(RuntimeError, match="may not use the network, and asked for 'example.org'"):
        socket.create_connection(("example.org", 80))
    with pytest.raises(RuntimeError, match="asked for '203.0.113.1'"):
        socket.socket().connect(("203.0.113.1", 80))
    server = socket.create_server(("127.0.0.1", 0))
    socket.create_connection(server.getsockname()).close()
    server.close()
"""


def test_the_fixtures_are_there_and_do_what_they_say(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FIXTURES)
    done = pytester.runpytest_subprocess("-W", "error", "-W", "ignore::ResourceWarning")
    done.assert_outcomes(passed=6)


def test_the_pytest_plugin_imports_next_to_nothing() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import zoo.testing.pytest_plugin;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"zoo", "zoo.testing", "zoo.testing.pytest_plugin"} | set(
        sys.stdlib_module_names
    )


def test_the_public_names_are_there() -> None:
    assert zoo.testing.__all__ == sorted(zoo.testing.__all__, key=lambda n: (not n.isupper(), n))
    for name in zoo.testing.__all__:
        assert getattr(zoo.testing, name) is not None
