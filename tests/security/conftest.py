"""A watch over what a load does, and the counts of what the fuzzers tried."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

COUNTS: Counter[tuple[str, str]] = Counter()
TRIES = int(os.environ.get("TXZOO_FUZZ", "1"))  # multiplies the examples of every fuzzer

FORBIDDEN = (
    *("pickle.find_class", "ctypes.dlopen", "code.__new__"),
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen"),
    *("socket.connect", "socket.getaddrinfo", "urllib.Request", "webbrowser.open"),
    *("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.chmod", "shutil.rmtree"),
)
# modules that are imported on first use, and what torch asks of the system then
INSTALLED = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), "/proc/", "/sys/")


class Watch:
    """What happens inside `watching`, by Python's audit events."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.seen: list[str] = []

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event} {arguments!r:.80}")
        code = {"exec": 0, "compile": 1}.get(event)
        if code is not None:  # nothing runs but what is installed
            source = getattr(arguments[code], "co_filename", arguments[code])
            if not str(source).startswith((*INSTALLED, "<frozen ")):
                self.seen.append(f"{event} {arguments!r:.80}")
        if event == "open" and isinstance(arguments[0], str | bytes):
            path, mode = os.fsdecode(arguments[0]), arguments[1]
            inside = Path(os.path.realpath(path)).is_relative_to(self.folder)
            if not inside and not path.startswith(INSTALLED):
                self.seen.append(f"open {path}")
            elif mode and set(mode) & set("wax+"):
                self.seen.append(f"write {path}")

    @contextmanager
    def over(self, folder: Path) -> Iterator[None]:
        """Allow nothing but reading what lies in a folder."""
        self.folder, self.seen = Path(os.path.realpath(folder)), []
        try:
            yield
        finally:
            self.folder = None
        assert self.seen == []


WATCH = Watch()
sys.addaudithook(WATCH.hook)


@pytest.fixture(scope="session")
def watch() -> Watch:
    """The watch; a hook cannot be taken away, so there is one for the session."""
    return WATCH


@pytest.fixture(scope="session")
def counts() -> Counter[tuple[str, str]]:
    """Count a try with `counts[what, outcome] += 1`; printed at the end of the run."""
    return COUNTS


@pytest.fixture(scope="session")
def tries() -> int:
    """What the number of examples is multiplied by."""
    return TRIES


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the counts."""
    if not COUNTS:
        return
    terminalreporter.section("fuzzing: tries and outcomes")
    for what in sorted({what for what, _ in COUNTS}):
        outcomes = {outcome: n for (w, outcome), n in sorted(COUNTS.items()) if w == what}
        total = sum(outcomes.values())
        words = ", ".join(f"{outcome} {n}" for outcome, n in outcomes.items())
        terminalreporter.write_line(f"{what}: {total} tries ({words})")
