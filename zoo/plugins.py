"""Discovery: every entry point of group `txzoo`, each one isolated from all the others.

A plugin that raises, exits, prints or hangs harms nobody else: its output is held back, its error
is kept for `txzoo plugins`, and nothing of what it wanted to register stays.
"""

import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from typing import Any, NamedTuple

import pluggy

from zoo import __version__
from zoo.errors import PluginError, UnknownNameError, ZooError
from zoo.hookspecs import (
    HOOKS_VERSION,
    OLDEST_HOOKS_VERSION,
    RENAMED_HOOKS,
    Architecture,
    Entry,
    Hooks,
    Pipeline,
    Task,
    Tuning,
    View,
)

GROUP = "txzoo"
SLOW_SECONDS = 3.0  # a plugin that takes longer is named on stderr while it runs
HOOKS: dict[str, type] = {
    "txzoo_architectures": Architecture,
    "txzoo_tasks": Task,
    "txzoo_models": Path,
    "txzoo_pipelines": Pipeline,
    "txzoo_tunings": Tuning,
    "txzoo_gallery_views": View,
}
NAME = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")
TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
# what no plugin imports before it is used: each costs listing more than all the rest together
HEAVY = tuple(
    "torch transformers gradio huggingface_hub accelerate datasets matplotlib numpy pandas sklearn "
    "scipy tensorflow jax".split()
)

_lock = threading.RLock()


def lock() -> threading.RLock:
    """Held while plugins run: what they print is held back by changing `sys.stdout`."""
    return _lock


def _forget_lock() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_forget_lock)  # its owner is not in the child


@dataclass(eq=False)
class Plugin:
    """One entry point and what became of it.

    Attributes:
        name: `"distribution:entry_point_name"`.
        distribution: lower case with hyphens.
        version: of the distribution.
        module: what the entry point names.
        error: why it is set aside, in one line; None when it works or is disabled.
        traceback: of that error.
        disabled_by: the environment variable that sets it aside, or nothing.
        seconds: time its import and hooks took.
        heavy: packages that its import brought in and that listing does without, such as torch.
        output: what it printed meanwhile.
        warnings: what its author should change before it stops working, one line each.
        entries: what it provides, under the hook's name without `txzoo_`.
        broken_models: model folder to the error in its card; filled when models are first listed.
        hooks: its own hook caller.
    """

    name: str
    distribution: str
    version: str
    module: str
    error: str | None = None
    traceback: str | None = None
    disabled_by: str = ""
    seconds: float = 0.0
    heavy: tuple[str, ...] = ()
    output: str = ""
    warnings: list[str] = field(default_factory=list)
    entries: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    broken_models: dict[Path, str] = field(default_factory=dict)
    hooks: Any = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"hooks": None}  # callers hold modules, which nothing can pickle

    @property
    def disabled(self) -> bool:
        """Whether the environment sets it aside."""
        return bool(self.disabled_by)

    @property
    def third_party(self) -> bool:
        """Whether it comes from another distribution than txzoo."""
        return self.distribution != "txzoo"

    def is_called(self, word: str) -> bool:
        """Whether a word is its full name, its distribution or its entry point's name."""
        distribution, _, entry_point = self.name.partition(":")
        return word in (self.name, entry_point) or canonical(word) == distribution


def canonical(distribution: str) -> str:
    """A distribution's name in its one normal spelling (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


class Installed(NamedTuple):
    """An entry point of group `txzoo` that was found, not imported.

    Attributes:
        entry_point: what it names.
        distribution: where it stands.
        owner: the distribution's canonical name.
    """

    entry_point: EntryPoint
    distribution: Distribution
    owner: str

    def plugin(self) -> Plugin:
        """What is known before it is imported."""
        name = f"{self.owner}:{self.entry_point.name}"
        return Plugin(name, self.owner, self.distribution.version, self.entry_point.value)


def discover() -> list[Plugin]:
    """Every installed plugin, sorted by name: the working, the broken and the disabled ones.

    Raises:
        PluginError: a plugin is broken and `TXZOO_STRICT_PLUGINS` is 1.
    """
    found, plugins = installed()
    plugins += map(load, found)
    return sorted(plugins, key=lambda plugin: plugin.name)


def installed() -> tuple[list[Installed], list[Plugin]]:
    """All entry points, nothing imported; and a broken plugin for each damaged distribution."""
    found: list[Installed] = []
    damaged = []
    for distribution in distributions():
        try:
            entry_points = _entry_points(distribution)
            owner = canonical(distribution.name) if entry_points else ""
        except Exception as error:  # damaged metadata of anybody's package
            place = str(distribution.locate_file("entry_points.txt").parent)
            damaged.append(Plugin("unknown:unknown", "unknown", "", place, one_line(error)))
            continue
        # the first on the path wins, as it does for import
        if owner not in {other.owner for other in found}:
            found += [Installed(entry_point, distribution, owner) for entry_point in entry_points]
    return found, damaged


def is_strict() -> bool:
    """Whether broken plugins raise instead of being set aside."""
    return os.environ.get("TXZOO_STRICT_PLUGINS", "") not in ("", "0")


@contextmanager
def isolated(plugin: Plugin) -> Iterator[None]:
    """Run code of a plugin: hold back its output, name it when it is slow, keep its error.

    Raises:
        PluginError: the plugin fails and `TXZOO_STRICT_PLUGINS` is 1.
    """
    stderr = sys.stderr
    watchdog = threading.Timer(
        SLOW_SECONDS,
        lambda: print(
            f"txzoo: plugin {plugin.name} has been starting for {SLOW_SECONDS:g} s; "
            f"TXZOO_DISABLE_PLUGINS={plugin.name} leaves it out",
            file=stderr,
            flush=True,
        ),
    )
    watchdog.daemon = True
    kept: list[str] = []
    out, err = _Held(sys.stdout, kept), _Held(sys.stderr, kept)
    with lock():
        watchdog.start()
        there = {name for name in HEAVY if name in sys.modules}
        start = time.perf_counter()
        try:
            with redirect_stdout(out), redirect_stderr(err):
                yield
        except (Exception, SystemExit) as error:
            from traceback import format_exc

            plugin.error = one_line(error)
            plugin.traceback = format_exc()
            plugin.entries = {}
            if is_strict():
                raise PluginError(f"Plugin {plugin.name} is broken: {plugin.error}") from error
        finally:
            watchdog.cancel()
            out.holding = err.holding = False
            plugin.seconds += time.perf_counter() - start
            plugin.output += "".join(kept)
            new = [name for name in HEAVY if name in sys.modules and name not in there]
            plugin.heavy += tuple(new)


class _Held:
    """Stands for standard output while a plugin runs: keeps what the plugin's thread writes.

    What other threads write goes on, and so does everything afterwards: a logger made by the plugin
    may keep this object for ever.

    Args:
        stream: where the others write.
        kept: gets the pieces.
    """

    def __init__(self, stream: Any, kept: list[str]) -> None:
        self.holding = True
        self._stream, self._kept = stream, kept
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        """Keep a text, or pass it on."""
        if self.holding and threading.get_ident() == self._thread:
            self._kept.append(text)
            return len(text)
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _entry_points(distribution: Distribution) -> Sequence[EntryPoint]:
    text = distribution.read_text("entry_points.txt") or ""
    if f"[{GROUP}]" not in text:  # parsing everybody's would cost more than all the rest
        return ()
    return tuple(distribution.entry_points.select(group=GROUP))


def load(found: Installed) -> Plugin:
    """Import one entry point and collect what its hooks give.

    Raises:
        PluginError: it is broken and `TXZOO_STRICT_PLUGINS` is 1.
    """
    plugin = found.plugin()
    plugin.disabled_by = _disabled_by(plugin)
    if plugin.disabled:
        return plugin
    with isolated(plugin):
        if plugin.third_party:
            _check_requirement(found.distribution)
        collect(plugin, found.entry_point.load())
    _warn(plugin)
    return plugin


def collect(plugin: Plugin, module: Any) -> None:
    """Fill a plugin with what the hooks of its module give.

    Raises:
        PluginError: its hooks are for another version, or give what they must not.
        UnknownNameError: it has a hook that there is not.
    """
    _check_version(module)
    renamed = {old: new for old, new in RENAMED_HOOKS.items() if hasattr(module, old)}
    _check_hooks(module, renamed)
    manager = pluggy.PluginManager("txzoo")
    manager.add_hookspecs(Hooks)
    for old, new in renamed.items():
        manager.add_hookspecs(type("Renamed", (), {old: getattr(Hooks, new)}))
        plugin.warnings.append(f"the hook {old} is now called {new}: rename it")
    manager.register(module, plugin.name)
    manager.check_pending()
    plugin.hooks = manager.hook
    plugin.entries = {
        hook.removeprefix("txzoo_"): _collect(
            hook, kind, [hook, *(old for old in renamed if renamed[old] == hook)], manager.hook
        )
        for hook, kind in HOOKS.items()
    }


def _disabled_by(plugin: Plugin) -> str:
    """The environment variable that sets a plugin aside, or nothing."""

    def words(variable: str) -> list[str]:
        return [word.strip() for word in os.environ.get(variable, "").split(",") if word.strip()]

    refused = words("TXZOO_DISABLE_PLUGINS")
    if ("*" in refused and plugin.third_party) or any(map(plugin.is_called, refused)):
        return "TXZOO_DISABLE_PLUGINS"
    allowed = "TXZOO_PLUGINS" not in os.environ or not plugin.third_party
    return "" if allowed or any(map(plugin.is_called, words("TXZOO_PLUGINS"))) else "TXZOO_PLUGINS"


def _check_version(module: Any) -> None:
    """Raise `PluginError` when a plugin's hooks are older or newer than those called here."""
    asked = getattr(module, "TXZOO_HOOKS", 1)
    if not isinstance(asked, int):
        raise PluginError(f"TXZOO_HOOKS must be a whole number, got {asked!r}")
    if asked > HOOKS_VERSION:
        raise PluginError(
            f"written for version {asked} of the hooks, txzoo {__version__} calls version "
            f"{HOOKS_VERSION}: pip install --upgrade txzoo"
        )
    if asked < OLDEST_HOOKS_VERSION:
        raise PluginError(
            f"written for version {asked} of the hooks, txzoo {__version__} calls versions "
            f"{OLDEST_HOOKS_VERSION} to {HOOKS_VERSION}: upgrade the plugin, or use an older txzoo"
        )


def _warn(plugin: Plugin) -> None:
    """Say what a plugin's author should change, once a process."""
    import warnings

    for words in plugin.warnings:
        line = f"Plugin {plugin.name}: {words}"
        if line not in _warned:
            _warned.add(line)
            warnings.warn(line, DeprecationWarning, stacklevel=2)


_warned: set[str] = set()


def _check_requirement(distribution: Distribution) -> None:
    """Raise `PluginError` when the distribution asks for another version of txzoo."""
    asked = [line for line in distribution.requires or () if line.lower().startswith("txzoo")]
    if not asked:
        return
    from packaging.requirements import Requirement

    for requirement in map(Requirement, asked):
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if canonical(requirement.name) != "txzoo" or not applies:
            continue
        if not requirement.specifier.contains(__version__, prereleases=True):
            raise PluginError(
                f"needs txzoo{requirement.specifier}, this is txzoo {__version__}: "
                f"pip install --upgrade txzoo {distribution.name}"
            )


def _check_hooks(module: Any, renamed: Iterable[str]) -> None:
    """Raise on a function that looks or is marked like a hook and is none, or lacks the mark."""
    known = [hook for hook in vars(Hooks) if hook.startswith("txzoo_")]
    for name, value in vars(module).items():
        marked = hasattr(value, "txzoo_impl")
        if not (marked or name.startswith("txzoo_")):
            continue
        if name not in (*known, *renamed):
            raise UnknownNameError("hook", name, known)
        if not marked:
            raise PluginError(f"{name} is not a hook yet: decorate it with @zoo.hookimpl")


def _collect(hook: str, kind: type, names: Sequence[str], hooks: Any) -> tuple[Any, ...]:
    """What one hook gives, under its own name and older ones, checked."""
    results = []
    for name in names:
        caller = getattr(hooks, name)
        given = caller()
        if len(given) < len(caller.get_hookimpls()):
            raise PluginError(f"{name} gives None, it must give {kind.__name__} objects")
        results += given
    found: list[Any] = []
    for result in results:
        if not isinstance(result, Iterable):
            raise PluginError(f"{hook} must give {kind.__name__} objects, got {result!r}")
        found.extend(result)
    taken = set()
    for entry in found:
        if not isinstance(entry, kind):
            raise PluginError(f"{hook} must give {kind.__name__} objects, got {entry!r}")
        if not isinstance(entry, Entry):
            continue
        if not isinstance(entry.name, str) or not NAME.fullmatch(entry.name):
            raise PluginError(
                f"{hook} gives the name {entry.name!r}; "
                f"names are lower case letters, digits, hyphens and dots"
            )
        if not isinstance(entry.target, str) or not TARGET.fullmatch(entry.target):
            raise PluginError(
                f"{hook} gives {entry.name!r} the target {entry.target!r}; "
                f"a target reads 'package.module:Class'"
            )
        if entry.name in taken:
            raise PluginError(f"{hook} gives the name {entry.name!r} twice")
        taken.add(entry.name)
    return tuple(found)


def one_line(error: BaseException) -> str:
    """An error in one line, with its class unless it is one of ours."""
    if isinstance(error, SystemExit):
        return f"calls sys.exit({error.code!r})"
    words = " ".join(str(error).split())
    return words if isinstance(error, ZooError) else f"{type(error).__name__}: {words}"
