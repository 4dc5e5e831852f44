"""Discovery: every entry point of group `txzoo`, each one isolated from all the others.

A plugin that raises, exits, prints or hangs harms nobody else: its output is held back, its error
is kept for `txzoo plugins`, and nothing of what it wanted to register stays.
"""

import io
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
from typing import Any

import pluggy

from zoo import __version__
from zoo.errors import PluginError, UnknownNameError, ZooError
from zoo.hookspecs import Architecture, Entry, Hooks, Pipeline, Task, Tuning, View

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
        disabled: set aside by `TXZOO_DISABLE_PLUGINS`.
        seconds: time its import and hooks took.
        output: what it printed meanwhile.
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
    disabled: bool = False
    seconds: float = 0.0
    output: str = ""
    entries: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    broken_models: dict[Path, str] = field(default_factory=dict)
    hooks: Any = field(default=None, repr=False)

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


def discover() -> list[Plugin]:
    """Every installed plugin, sorted by name: the working, the broken and the disabled ones.

    Raises:
        PluginError: a plugin is broken and `TXZOO_STRICT_PLUGINS` is 1.
    """
    plugins = []
    seen = set()
    for distribution in distributions():
        try:
            entry_points = _entry_points(distribution)
            name = canonical(distribution.name) if entry_points else ""
        except Exception as error:  # damaged metadata of anybody's package
            place = str(distribution.locate_file("entry_points.txt").parent)
            plugins.append(Plugin("unknown:unknown", "unknown", "", place, one_line(error)))
            continue
        if not entry_points or name in seen:  # the first on the path wins, as it does for import
            continue
        seen.add(name)
        plugins += [_load(entry_point, distribution, name) for entry_point in entry_points]
    return sorted(plugins, key=lambda plugin: plugin.name)


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
    watchdog.start()
    output = io.StringIO()
    start = time.perf_counter()
    try:
        with redirect_stdout(output), redirect_stderr(output):
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
        plugin.seconds += time.perf_counter() - start
        plugin.output += output.getvalue()


def _entry_points(distribution: Distribution) -> Sequence[EntryPoint]:
    text = distribution.read_text("entry_points.txt") or ""
    if f"[{GROUP}]" not in text:  # parsing everybody's would cost more than all the rest
        return ()
    return tuple(distribution.entry_points.select(group=GROUP))


def _load(entry_point: EntryPoint, distribution: Distribution, owner: str) -> Plugin:
    """Import one entry point and collect what its hooks give."""
    plugin = Plugin(f"{owner}:{entry_point.name}", owner, distribution.version, entry_point.value)
    if _is_disabled(plugin):
        plugin.disabled = True
        return plugin
    with isolated(plugin):
        if plugin.third_party:
            _check_requirement(distribution)
        module = entry_point.load()
        _check_hooks(module)
        manager = pluggy.PluginManager("txzoo")
        manager.add_hookspecs(Hooks)
        manager.register(module, plugin.name)
        manager.check_pending()
        plugin.hooks = manager.hook
        plugin.entries = {
            hook.removeprefix("txzoo_"): _collect(plugin.hooks, hook, kind)
            for hook, kind in HOOKS.items()
        }
    return plugin


def _is_disabled(plugin: Plugin) -> bool:
    words = [word.strip() for word in os.environ.get("TXZOO_DISABLE_PLUGINS", "").split(",")]
    return ("*" in words and plugin.third_party) or any(map(plugin.is_called, filter(None, words)))


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


def _check_hooks(module: Any) -> None:
    """Raise on a `txzoo_*` function that is no hook, or that lacks the mark."""
    for name in filter(lambda name: name.startswith("txzoo_"), dir(module)):
        known = [hook for hook in dir(Hooks) if hook.startswith("txzoo_")]
        if name not in known:
            raise UnknownNameError("hook", name, known)
        if not hasattr(getattr(module, name), "txzoo_impl"):
            raise PluginError(f"{name} is not a hook yet: decorate it with @zoo.hookimpl")


def _collect(hooks: Any, hook: str, kind: type) -> tuple[Any, ...]:
    """What one hook gives, checked."""
    caller = getattr(hooks, hook)
    results = caller()
    if len(results) < len(caller.get_hookimpls()):
        raise PluginError(f"{hook} gives None, it must give {kind.__name__} objects")
    found: list[Any] = []
    for result in results:
        if not isinstance(result, Iterable):
            raise PluginError(f"{hook} must give {kind.__name__} objects, got {result!r}")
        found.extend(result)
    names = set()
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
        if entry.name in names:
            raise PluginError(f"{hook} gives the name {entry.name!r} twice")
        names.add(entry.name)
    return tuple(found)


def one_line(error: BaseException) -> str:
    """An error in one line, with its class unless it is one of ours."""
    if isinstance(error, SystemExit):
        return f"calls sys.exit({error.code!r})"
    words = " ".join(str(error).split())
    return words if isinstance(error, ZooError) else f"{type(error).__name__}: {words}"
