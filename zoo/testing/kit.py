"""Runs the checks of `CHECKS` over what a plugin brings."""

import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from zoo import __version__
from zoo.errors import InputError, UnknownNameError, ZooError
from zoo.plugins import Installed, Plugin, canonical, installed, one_line
from zoo.registry import registry
from zoo.testing.checks import BY_NUMBER, CHECKS, KIT_VERSION, Check

LEVELS = ("quick", "full")
BAD = ("failed", "unexpected pass")


class ConformanceError(ZooError, AssertionError):
    """A plugin does not pass its checks."""


class Failed(Exception):
    """What a check raises when it fails: what was found, and what was promised."""


class NotApplicable(Exception):
    """What a check raises when it has nothing to look at; says why."""


@dataclass(frozen=True)
class Subject:
    """What a check looks at.

    Attributes:
        kind: "plugin", "architecture", "task", "model", "pipeline" or "tuning".
        name: for reports.
        found: the plugin's entry point.
        thing: the entry, or the folder of a model; None for a plugin.
        values: for an architecture, what its small config is made from besides the kit's own.
        shared: what the checks of a session keep for each other.
    """

    kind: str
    name: str
    found: Installed
    shared: dict[str, Any]
    thing: Any = None
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plugin(self) -> Plugin:
        """The plugin as this process has it."""
        return next(p for p in registry().plugins if p.name == self.found.plugin().name)


@dataclass(frozen=True)
class Result:
    """What became of one check of one subject.

    Attributes:
        number: of the check.
        title: of the check.
        subject: what was looked at.
        outcome: "passed", "failed", "expected failure", "unexpected pass", "not applicable", or
            "not run" because another check failed first.
        message: why, in one line; empty when it passed.
        seconds: what it took.
    """

    number: str
    title: str
    subject: str
    outcome: str
    message: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it is nothing to mend."""
        return self.outcome not in BAD


@dataclass(frozen=True)
class Report:
    """What the kit found.

    Attributes:
        plugin: its name.
        version: of its distribution.
        txzoo: version of txzoo.
        kit: version of the kit.
        level: "quick" or "full".
        results: one for each check and subject, in the order of `CHECKS`.
    """

    plugin: str
    version: str
    txzoo: str
    kit: int
    level: str
    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed that was not expected to, and nothing passed that was."""
        return all(result.ok for result in self.results)

    def count(self, outcome: str) -> int:
        """How many results have an outcome."""
        return sum(result.outcome == outcome for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "ok": self.ok}


def check_plugin(
    target: str | Path,
    *,
    level: str = "full",
    expected_failures: Mapping[str, str] | None = None,
    on_fail: str | None = "raise",
) -> Report:
    """Hold an installed plugin against the kit.

    Args:
        target: its distribution, its entry point, `"distribution:entry_point"`, or the folder of
            its project (which must be installed: `pip install -e FOLDER`).
        level: "quick" leaves out what takes longer.
        expected_failures: number of a check to the reason why it fails; added to those that the
            plugin's entries declare. One that passes is a failure.
        on_fail: "raise", or None to return the report of a failing plugin too.

    Raises:
        ConformanceError: something failed, or passed against expectation, and `on_fail` is "raise".
        UnknownNameError: no such plugin, or no such check.
        InputError: the target names several plugins, or one that is disabled.
    """
    session = Session(target, level=level, expected_failures=expected_failures)
    report = session.report()
    if on_fail == "raise" and not report.ok:
        raise ConformanceError(
            f"{report.plugin} fails {sum(not r.ok for r in report.results)} checks: "
            + "; ".join(f"{r.number} {r.subject}: {r.message}" for r in report.results if not r.ok)
        )
    return report


def parametrize_with_checks(
    target: str | Path,
    *,
    level: str = "full",
    expected_failures: Mapping[str, str] | None = None,
) -> Any:
    """A pytest mark that runs a test once for each check; the test calls its argument `check`.

    Nothing of the plugin is imported before a test runs. A check that is not applicable skips, an
    expected failure is an `xfail`, an unexpected pass fails.

    Args:
        target: as in `check_plugin`.
        level: as in `check_plugin`.
        expected_failures: as in `check_plugin`.
    """
    import pytest

    sessions: list[Session] = []

    def run(number: str) -> None:
        __tracebackhide__ = True
        if not sessions:
            sessions.append(Session(target, level=level, expected_failures=expected_failures))
        _as_pytest(sessions[0].results(number))

    checks = [check for check in CHECKS if check.level in LEVELS[: LEVELS.index(level) + 1]]
    ids = [f"{check.number}-{check.title.replace(' ', '_')}" for check in checks]
    return pytest.mark.parametrize("check", [partial(run, c.number) for c in checks], ids=ids)


def _as_pytest(results: list[Result]) -> None:
    """Raise what pytest makes of the results of one check."""
    import pytest

    __tracebackhide__ = True
    lines = {o: [] for o in (*BAD, "not run", "expected failure")}  # type: dict[str, list[str]]
    for result in results:
        if result.outcome in lines:
            lines[result.outcome].append(f"{result.subject}: {result.message}")
    if bad := lines["failed"] + lines["unexpected pass"]:
        pytest.fail("\n".join(bad), pytrace=False)
    if lines["expected failure"]:
        pytest.xfail("; ".join(lines["expected failure"]))
    if not any(result.outcome == "passed" for result in results):
        reasons = {f"{r.outcome}: {r.message}" for r in results}
        pytest.skip("; ".join(sorted(reasons)) or "the plugin brings nothing of this kind")


def find(target: str | Path) -> list[Installed]:
    """The entry points that a target names, nothing imported.

    Raises:
        UnknownNameError: no plugin is called so.
        InputError: the target is a folder whose project is not installed.
    """
    found, _ = installed()
    folder = Path(target)
    if (folder / "pyproject.toml").is_file():
        text = (folder / "pyproject.toml").read_text(encoding="utf-8")
        name = tomllib.loads(text).get("project", {}).get("name", "")
        matching = [one for one in found if one.owner == canonical(name)]
        if not matching:
            raise InputError(f"The project in {folder} is not installed: pip install -e {folder}")
        return matching
    matching = [one for one in found if one.plugin().is_called(str(target))]
    if not matching:
        known = {word for one in found for word in (one.plugin().name, one.owner)}
        raise UnknownNameError("plugin", str(target), known, "txzoo plugins --all shows them.")
    return matching


class Session:
    """The checks of one plugin; each is run once, when it is asked for.

    Args:
        target: as in `check_plugin`.
        level: as in `check_plugin`.
        expected_failures: as in `check_plugin`.
    """

    def __init__(
        self,
        target: str | Path | Installed,
        *,
        level: str = "full",
        expected_failures: Mapping[str, str] | None = None,
    ) -> None:
        if level not in LEVELS:
            raise InputError(f"level must be {' or '.join(LEVELS)}, got {level!r}")
        self.level = level
        self.expected = dict(expected_failures or {})
        for number in self.expected:
            _require_number(number)
        matching = [target] if isinstance(target, Installed) else find(target)
        if len(matching) > 1:
            names = ", ".join(one.plugin().name for one in matching)
            raise InputError(f"{target} brings several plugins, check one of them: {names}")
        self.found = matching[0]
        self.known = self.found.plugin()
        self._results: dict[str, list[Result]] = {}
        self._shared: dict[str, Any] = {}

    def report(self) -> Report:
        """Run every check of the level."""
        levels = LEVELS[: LEVELS.index(self.level) + 1]
        results = [r for c in CHECKS if c.level in levels for r in self.results(c.number)]
        return Report(
            self.known.name,
            self.known.version,
            __version__,
            KIT_VERSION,
            self.level,
            tuple(results),
        )

    def results(self, number: str) -> list[Result]:
        """What becomes of a check, for each subject it looks at."""
        if number not in self._results:
            check = _require_number(number)
            subjects = list(self._subjects(check.kind))
            self._results[number] = [self._run(check, subject) for subject in subjects]
        return self._results[number]

    def _subjects(self, kind: str) -> Iterator[Subject]:
        """What the plugin brings of a kind; nothing as long as it cannot be imported."""
        make = partial(Subject, kind, found=self.found, shared=self._shared)
        if kind == "plugin":
            yield make(self.known.name)
            return
        if not all(result.outcome == "passed" for result in self.results("I201")):
            return
        plugin = make("").plugin
        for thing in plugin.entries.get(f"{kind}s", ()):
            if kind == "model":
                if not thing.name.startswith("."):
                    yield make(thing.name, thing=thing)
            elif kind == "architecture":
                for values in thing.tiny:
                    variant = ", ".join(f"{key}={value}" for key, value in values.items())
                    name = f"{thing.name} ({variant})" if variant else thing.name
                    yield make(name, thing=thing, values=values)
            else:
                yield make(thing.name, thing=thing)

    def _run(self, check: Check, subject: Subject) -> Result:
        """Run one check of one subject."""
        made = partial(Result, check.number, check.title, subject.name)
        for number in check.after:
            before = next(r for r in self.results(number) if r.subject == subject.name)
            if before.outcome == "not applicable":
                return made(before.outcome, before.message)
            if before.outcome not in ("passed", "unexpected pass"):
                return made("not run", f"{number} comes first")
        module, _, name = check.target.partition(":")
        function: Callable[[Subject], None] = getattr(import_module(f"zoo.testing.{module}"), name)
        start = time.perf_counter()
        with _one_thread() if check.kind != "plugin" else nullcontext():
            outcome, message = _outcome(function, subject)
        seconds = round(time.perf_counter() - start, 3)
        declared = getattr(subject.thing, "expected_failures", {})
        reason = self.expected.get(check.number, declared.get(check.number))
        if reason is not None and outcome == "failed":
            return made("expected failure", f"{reason} ({message})", seconds)
        if reason is not None and outcome == "passed":
            words = f"it passes now; expected to fail because: {reason}"
            return made("unexpected pass", words, seconds)
        return made(outcome, message, seconds)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small matrices are faster on one thread, on a busy machine many times."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _outcome(function: Callable[[Subject], None], subject: Subject) -> tuple[str, str]:
    """Call a check."""
    try:
        function(subject)
    except NotApplicable as reason:
        return "not applicable", " ".join(str(reason).split())
    except Failed as failure:
        return "failed", " ".join(str(failure).split())
    except (Exception, SystemExit) as error:
        return "failed", one_line(error)
    return "passed", ""


def _require_number(number: str) -> Check:
    if number not in BY_NUMBER:
        raise UnknownNameError("check", number, BY_NUMBER)
    return BY_NUMBER[number]
