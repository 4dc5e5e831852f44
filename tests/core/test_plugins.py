"""Discovery on real entry points: one bad plugin harms nobody else, and says so."""

from collections.abc import Callable
from pathlib import Path

import pytest

from zoo import plugins
from zoo.errors import PluginError
from zoo.plugins import Plugin, discover, isolated

GOOD = """
    from zoo import Architecture, hookimpl

    @hookimpl
    def txzoo_architectures():
        return [Architecture("good-decoder", target="good.model:Good", summary="A good one")]
"""

Install = Callable[..., Path]


def found(name: str) -> Plugin:
    """The plugin of a name among those discovered."""
    return {plugin.name: plugin for plugin in discover()}[name]


def test_a_plugin_is_named_by_distribution_and_entry_point(install: Install) -> None:
    install("My_Zoo.Extra", {"good.py": GOOD}, entry_points={"goodies": "good"})
    [plugin] = discover()
    assert plugin.name == "my-zoo-extra:goodies"
    assert (plugin.distribution, plugin.version, plugin.module) == ("my-zoo-extra", "1.0", "good")
    assert [entry.name for entry in plugin.entries["architectures"]] == ["good-decoder"]
    assert plugin.error is None


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("raise RuntimeError('no\\nluck')", "RuntimeError: no luck"),
        ("import sys; sys.exit(3)", "calls sys.exit(3)"),
        ("import sys; sys.exit()", "calls sys.exit(None)"),
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
        (
            "from zoo import hookimpl\n@hookimpl\ndef txzoo_models(extra): return []",
            "Argument(s) {'extra'} are declared in the hookimpl but can not be found",
        ),
        (
            "from zoo import hookimpl\n@hookimpl\ndef txzoo_model(): return []",
            "Unknown hook 'txzoo_model'. Did you mean 'txzoo_models'",
        ),
        (
            "from zoo import hookimpl\n@hookimpl\ndef models(): return []",
            "Unknown hook 'models'. Did you mean 'txzoo_models'?",
        ),
        ("def txzoo_models(): return []", "txzoo_models is not a hook yet: decorate it"),
        (
            "from zoo import hookimpl\n@hookimpl\ndef txzoo_tasks(): raise KeyError('x')",
            "KeyError: 'x'",
        ),
        (
            "from zoo import hookimpl\n@hookimpl\ndef txzoo_models():\n yield 1 / 0",
            "ZeroDivisionError: division by zero",
        ),
        (
            "from zoo import hookimpl\n@hookimpl\ndef txzoo_models(): pass",
            "txzoo_models gives None, it must give Path objects",
        ),
        (
            "from zoo import hookimpl\n@hookimpl\ndef txzoo_models(): return 'models'",
            "txzoo_models must give Path objects, got 'm'",
        ),
        (
            "from zoo import Task, hookimpl\n@hookimpl\ndef txzoo_architectures():\n"
            " return [Task('t', target='a:B', pipeline='p', metrics=(), license='mit')]",
            "txzoo_architectures must give Architecture objects, got Task(",
        ),
        (
            "from zoo import Architecture, hookimpl\n@hookimpl\ndef txzoo_architectures():\n"
            " return [Architecture('Bad_Name', target='a:B')]",
            "gives the name 'Bad_Name'; names are lower case",
        ),
        (
            "from zoo import Architecture, hookimpl\n@hookimpl\ndef txzoo_architectures():\n"
            " return [Architecture('fine', target='a.B')]",
            "the target 'a.B'; a target reads 'package.module:Class'",
        ),
        (
            "from zoo import Architecture, hookimpl\n@hookimpl\ndef txzoo_architectures():\n"
            " return [Architecture('one', target='a:B')] * 2",
            "gives the name 'one' twice",
        ),
    ],
)
def test_a_broken_plugin_is_set_aside_with_its_reason(
    install: Install, source: str, error: str
) -> None:
    install("broken", {"broken_plugin.py": source})
    install("good", {"good.py": GOOD})
    broken, good = discover()
    assert broken.error is not None and error in broken.error
    assert "\n" not in broken.error
    assert broken.traceback is not None and "Traceback" in broken.traceback
    assert broken.entries == {}
    assert good.error is None and len(good.entries["architectures"]) == 1


def test_a_plugin_whose_second_hook_fails_provides_nothing(install: Install) -> None:
    source = GOOD + "\n    @hookimpl\n    def txzoo_models():\n        raise OSError('gone')\n"
    install("half", {"half.py": source})
    [plugin] = discover()
    assert plugin.error == "OSError: gone"
    assert plugin.entries == {}


def test_what_a_plugin_prints_is_kept_and_not_shown(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = "import sys\nprint('hello')\nprint('careful', file=sys.stderr)\n"
    install("noisy", {"noisy.py": noise})
    [plugin] = discover()
    assert plugin.output == "hello\ncareful\n"
    assert plugin.error is None
    assert capsys.readouterr() == ("", "")


def test_a_slow_import_is_named_while_it_runs(
    install: Install, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "SLOW_SECONDS", 0.05)
    install("slow", {"slow_plugin.py": "import time\ntime.sleep(0.5)\n"})
    [plugin] = discover()
    assert plugin.error is None
    assert plugin.seconds >= 0.5
    line = capsys.readouterr().err
    assert line == (
        "txzoo: plugin slow:slow_plugin has been starting for 0.05 s; "
        "TXZOO_DISABLE_PLUGINS=slow:slow_plugin leaves it out\n"
    )


def test_two_distributions_may_use_one_entry_point_name(install: Install) -> None:
    install("first", {"first_module.py": GOOD}, entry_points={"same": "first_module"})
    install("second", {"second_module.py": GOOD}, entry_points={"same": "second_module"})
    assert [(p.name, p.error) for p in discover()] == [("first:same", None), ("second:same", None)]


@pytest.mark.parametrize(
    ("words", "disabled"),
    [
        ("", []),
        ("*", ["first:a", "second:b"]),
        ("second", ["second:b"]),
        ("a", ["first:a"]),
        (" first:a , second:b", ["first:a", "second:b"]),
        ("second:a", []),
        ("txzoo", ["txzoo:own"]),
    ],
)
def test_plugins_are_disabled_by_any_of_their_names(
    install: Install, monkeypatch: pytest.MonkeyPatch, words: str, disabled: list[str]
) -> None:
    install("first", {"mod_a.py": GOOD}, entry_points={"a": "mod_a"})
    install("second", {"mod_b.py": "raise RuntimeError"}, entry_points={"b": "mod_b"})
    install("txzoo", {"mod_own.py": GOOD}, entry_points={"own": "mod_own"})
    monkeypatch.setenv("TXZOO_DISABLE_PLUGINS", words)
    result = discover()
    assert [plugin.name for plugin in result if plugin.disabled] == disabled
    assert all(not p.entries and p.error is None for p in result if p.disabled)


def test_strict_raises_for_a_broken_plugin(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("broken", {"broken_plugin.py": "raise RuntimeError('no')"})
    monkeypatch.setenv("TXZOO_STRICT_PLUGINS", "0")
    assert discover()[0].error
    monkeypatch.setenv("TXZOO_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=r"^Plugin broken:broken_plugin is broken: .* no$"):
        discover()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("txzoo>=9", "needs txzoo>=9, this is txzoo 0."),
        ("txzoo<0.1", "needs txzoo<0.1, this is txzoo 0."),
        ("TxZoo (>=9)", "needs txzoo>=9"),
        ("txzoo>=0.0.1,<99", None),
        ("txzoo>=9 ; extra == 'later'", None),
        ("txzoo>=9 ; python_version < '3'", None),
        ("txzoo-extras>=9", None),
        ("txzoo", None),
    ],
)
def test_a_plugin_for_another_version_of_txzoo_is_set_aside_unimported(
    install: Install, line: str, reason: str | None
) -> None:
    install("picky", {"picky.py": "print('imported')"}, requires=("numpy", line))
    [plugin] = discover()
    if reason is None:
        assert plugin.error is None
    else:
        assert plugin.error is not None and reason in plugin.error
        assert plugin.error.endswith("pip install --upgrade txzoo picky")
        assert plugin.output == ""


def test_damaged_metadata_of_anybody_is_no_end(site: Path, install: Install) -> None:
    install("good", {"good.py": GOOD})
    damaged = site / "damaged-1.0.dist-info"
    damaged.mkdir()
    (damaged / "METADATA").write_text("Name: damaged\nVersion: 1\n")
    (damaged / "entry_points.txt").write_bytes(b"[txzoo]\nname = \xff\n")
    other = site / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Name: other\nVersion: 1\n")
    (other / "entry_points.txt").write_text("[console_scripts]\nno equals sign\n")
    good, unknown = discover()
    assert good.name == "good:good" and good.error is None
    assert unknown.error is not None and "UnicodeDecodeError" in unknown.error


def test_one_module_under_two_names_is_harmless(install: Install) -> None:
    install("twice", {"good.py": GOOD}, entry_points={"a": "good", "b": "good"})
    assert [plugin.error for plugin in discover()] == [None, None]


def test_isolated_keeps_output_and_error_of_later_hooks(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    source = """
        from zoo import hookimpl

        @hookimpl
        def txzoo_commands(cli):
            print("adding")
            cli.append("one")
            raise SystemExit(2)
    """
    install("commanding", {"commanding.py": source})
    [plugin] = discover()
    assert plugin.error is None
    commands: list[str] = []
    with isolated(plugin):
        plugin.hooks.txzoo_commands(cli=commands)
    assert commands == ["one"]
    assert plugin.error == "calls sys.exit(2)"
    assert plugin.output == "adding\n"
    assert capsys.readouterr() == ("", "")


def test_ctrl_c_during_an_import_gets_through(install: Install) -> None:
    install("hanging", {"hanging.py": "raise KeyboardInterrupt"})
    with pytest.raises(KeyboardInterrupt):
        discover()
