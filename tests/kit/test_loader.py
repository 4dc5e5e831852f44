"""The loader: who may come in, for which version, at what cost; from many threads and processes."""

import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

import zoo
from zoo import hookspecs, plugins, registry
from zoo.errors import PluginError
from zoo.plugins import Plugin, discover

Install = Callable[..., Path]
GOOD = """
    from pathlib import Path
    from zoo import hookimpl

    @hookimpl
    def txzoo_models():
        return []
"""
OLD = "from zoo import hookimpl\n@hookimpl\ndef txzoo_cards(): return []"


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (None, ["first:a", "second:b", "txzoo:own"]),
        ("", ["txzoo:own"]),
        ("second", ["second:b", "txzoo:own"]),
        (" a , nobody", ["first:a", "txzoo:own"]),
        ("first:a,second:b", ["first:a", "second:b", "txzoo:own"]),
    ],
)
def test_the_allow_list_lets_in_txzoos_own_and_those_named(
    install: Install, monkeypatch: pytest.MonkeyPatch, words: str | None, kept: list[str]
) -> None:
    install("first", {"mod_a.py": GOOD}, entry_points={"a": "mod_a"})
    install("second", {"mod_b.py": GOOD}, entry_points={"b": "mod_b"})
    install("txzoo", {"mod_own.py": GOOD}, entry_points={"own": "mod_own"})
    if words is None:
        monkeypatch.delenv("TXZOO_PLUGINS", raising=False)
    else:
        monkeypatch.setenv("TXZOO_PLUGINS", words)
    found = discover()
    assert [plugin.name for plugin in found if not plugin.disabled] == kept
    assert {plugin.disabled_by for plugin in found} <= {"", "TXZOO_PLUGINS"}
    monkeypatch.setenv("TXZOO_DISABLE_PLUGINS", "*")
    assert [plugin.name for plugin in discover() if not plugin.disabled] == ["txzoo:own"]


def test_a_plugin_that_is_left_out_is_not_imported(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("loud", {"loud.py": "raise RuntimeError"})
    monkeypatch.setenv("TXZOO_PLUGINS", "")
    [plugin] = discover()
    assert plugin.error is None and "loud" not in sys.modules
    with pytest.raises(zoo.ZooError, match=r"loud:loud \(disabled by TXZOO_PLUGINS\)"):
        registry.registry().models.get("x")


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("", None),
        ("TXZOO_HOOKS = 2", None),
        ("TXZOO_HOOKS = 3", None),
        ("TXZOO_HOOKS = 4", "written for version 4 of the hooks, txzoo 0.1.0 calls version 3: pip"),
        ("TXZOO_HOOKS = 'x'", "TXZOO_HOOKS must be a whole number, got 'x'"),
    ],
)
def test_hooks_carry_a_version(
    install: Install, monkeypatch: pytest.MonkeyPatch, said: str, error: str | None
) -> None:
    monkeypatch.setattr(plugins, "HOOKS_VERSION", 3)
    install("dated", {"dated.py": dedent(GOOD) + said})
    [plugin] = discover()
    assert plugin.error is None if error is None else plugin.error.startswith(error)


def test_hooks_older_than_the_oldest_are_refused(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "HOOKS_VERSION", 3)
    monkeypatch.setattr(plugins, "OLDEST_HOOKS_VERSION", 2)
    install("old", {"old_plugin.py": GOOD})  # says nothing, so it is of version 1
    [plugin] = discover()
    assert plugin.error == (
        "written for version 1 of the hooks, txzoo 0.1.0 calls versions 2 to 3: "
        "upgrade the plugin, or use an older txzoo"
    )


def test_a_renamed_hook_works_and_warns_once(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(hookspecs.RENAMED_HOOKS, "txzoo_cards", "txzoo_models")
    monkeypatch.setattr(plugins, "_warned", set())
    folder = "from pathlib import Path\n" + OLD.replace("[]", "[Path('shelf')]")
    install("behind", {"behind.py": folder})
    with pytest.warns(DeprecationWarning) as caught:
        [plugin] = discover()
    [warning] = caught
    words = "the hook txzoo_cards is now called txzoo_models: rename it"
    assert str(warning.message) == f"Plugin behind:behind: {words}"
    assert plugin.error is None and plugin.entries["models"] == (Path("shelf"),)
    assert plugin.warnings == [words]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert discover()[0].warnings == [words]


def test_without_the_rename_it_is_an_unknown_hook(install: Install) -> None:
    install("behind", {"behind.py": OLD})
    error = discover()[0].error
    assert error is not None and error.startswith("Unknown hook 'txzoo_cards'. Did you mean")


def test_a_heavy_import_is_named_with_its_cost(install: Install) -> None:
    before = sys.modules.pop("matplotlib", None)
    stand_in = "import time\ntime.sleep(0.05)\n"
    install("heavy", {"heavy.py": "import matplotlib\n" + dedent(GOOD), "matplotlib.py": stand_in})
    install("light", {"light.py": GOOD})
    try:
        heavy, light = discover()
    finally:
        sys.modules.pop("matplotlib", None)
        if before is not None:
            sys.modules["matplotlib"] = before
    assert (heavy.heavy, light.heavy) == (("matplotlib",), ())
    assert heavy.error is None and heavy.seconds > 0.05 > light.seconds


def test_a_plugin_that_asks_for_the_registry_at_import_is_set_aside(install: Install) -> None:
    install("asking", {"asking.py": "import zoo\nzoo.list_models()"})
    [plugin] = registry.registry().plugins
    assert plugin.error is not None
    assert plugin.error.startswith("asks for the registry while plugins are being discovered")


# threads and processes


@pytest.fixture
def switch_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def test_eight_threads_get_one_registry_and_keep_their_output(
    install: Install, capsys: pytest.CaptureFixture[str], switch_often: None
) -> None:
    counted = """
        import time
        from zoo import hookimpl

        print("starting")
        time.sleep(0.05)

        @hookimpl
        def txzoo_models():
            import builtins
            builtins.calls_of_the_hook = getattr(builtins, "calls_of_the_hook", 0) + 1
            return []
    """
    for number in range(5):
        install(f"plugin-{number}", {f"plugin_{number}.py": counted})
    import builtins

    builtins.calls_of_the_hook = 0  # type: ignore[attr-defined]
    barrier, found, errors = threading.Barrier(8), [], []

    def ask(number: int) -> None:
        try:
            barrier.wait()
            sys.stdout.write(
                f"thread {number} speaks\n"
            )  # at once: print writes the line's end apart
            found.append(registry.registry())
            found[-1].models.names()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors
    assert len(found) == 8 and len(set(map(id, found))) == 1
    assert builtins.calls_of_the_hook == 5  # type: ignore[attr-defined]
    assert {plugin.output for plugin in found[0].plugins} == {"starting\n"}
    spoken = capsys.readouterr().out.splitlines()
    assert sorted(spoken) == [f"thread {number} speaks" for number in range(8)]
    assert sys.stdout.write.__qualname__ != "_Held.write"


def test_a_logger_made_at_import_still_speaks_later(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    source = """
        import logging, sys
        log = logging.getLogger("talker")
        log.addHandler(logging.StreamHandler(sys.stderr))
        log.warning("at import")
    """
    install("talker", {"talker.py": source})
    [plugin] = discover()
    assert plugin.output == "at import\n"
    sys.modules["talker"].log.warning("later")
    assert capsys.readouterr().err == "later\n"


def test_plugins_and_what_they_bring_can_be_pickled() -> None:
    found = zoo.list_plugins()
    again = pickle.loads(pickle.dumps(found))
    assert [plugin.name for plugin in again] == [plugin.name for plugin in found]
    assert [plugin.entries for plugin in again] == [plugin.entries for plugin in found]


FORK = """
import os, sys, threading, time
import zoo.registry, zoo.plugins

def discover_slowly():
    with zoo.plugins.lock():
        started.set()
        time.sleep(1)

started = threading.Event()
threading.Thread(target=discover_slowly, daemon=True).start()
started.wait()
pid = os.fork()
if pid == 0:
    signal_after = threading.Timer(20, lambda: os._exit(9))
    signal_after.daemon = True
    signal_after.start()
    names = zoo.registry.registry().models.names()
    os._exit(0 if "alibi-lm" in names else 8)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.exit(status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_while_plugins_are_loaded_does_not_hang() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


SPAWN = """
import multiprocessing, zoo

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        one, other = pool.map(zoo.list_models, ["*-lm", "*-lm"])
    assert one == other == zoo.list_models("*-lm") and one
"""


def test_a_spawned_process_finds_the_same(tmp_path: Path) -> None:
    (tmp_path / "spawn.py").write_text(SPAWN)
    command = [sys.executable, str(tmp_path / "spawn.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_strict_names_the_first_broken_one(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("broken", {"broken_plugin.py": "1 / 0"})
    monkeypatch.setenv("TXZOO_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match="Plugin broken:broken_plugin is broken: ZeroDivision"):
        registry.registry()
    monkeypatch.delenv("TXZOO_STRICT_PLUGINS")
    assert isinstance(registry.registry().plugins[0], Plugin)  # the failed attempt left no trace
