"""Peers that take turns (A B A B ...), each in a process of its own; starved rounds do not count.

A peer's process prepares, says what it prepared in a line of JSON, and then does one round for each
line that it is sent. A round in which it waited for a processor more than 3 % of the time is left
out.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

WAITED = 0.03  # share of a round that its main thread may wait for a processor
SCHEDULE = Path("/proc/self/schedstat")  # nanoseconds run and nanoseconds waited, on Linux
STATUS = Path("/proc/self/status")
Round = Callable[[], dict[str, Any] | None]


def waited() -> int:
    """Nanoseconds that this thread stood ready without a processor; 0 where nobody counts."""
    return int(SCHEDULE.read_text().split()[1]) if SCHEDULE.exists() else 0


def peak_bytes() -> int:
    """The most memory that this process has had; 0 where nobody counts."""
    # not `getrusage`, which goes on from the process that started this one
    told = STATUS.read_text().partition("VmHWM:")[2].split() if STATUS.exists() else []
    return int(told[0]) * 1024 if told else 0


def serve(prepare: Callable[[], tuple[dict[str, Any], Round]]) -> None:
    """A peer's process.

    Args:
        prepare: gives what is said before the first round, and what a round is; that may give
            further numbers, or other seconds than those it took.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed does not belong to the answers

    def say(**facts: Any) -> None:
        answers.write(json.dumps(facts) + "\n")
        answers.flush()

    facts, work = prepare()
    say(**facts)
    for _ in sys.stdin:
        before, start = waited(), time.perf_counter()
        found = work() or {}
        seconds = time.perf_counter() - start
        share = (waited() - before) / 1e9 / seconds
        say(**{"seconds": seconds, "waited": share, "peak_bytes": peak_bytes(), **found})


class Peer:
    """A peer's process, seen from outside.

    Args:
        command: that starts it.

    Attributes:
        facts: what it said before the first round; None if it ended before that.
        samples: of its rounds.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=None if env is None else {**os.environ, **env},
        )
        self.samples: list[dict[str, Any]] = []
        self.facts = self._answer()

    def _answer(self) -> dict[str, Any] | None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found: dict[str, Any] | None = json.loads(line) if line else None
        return found

    def round(self) -> None:
        """Let it do one; a peer that ended has no more samples."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return
        if (found := self._answer()) is not None:
            self.samples.append(found)

    def end(self) -> None:
        """Let it end."""
        self.process.communicate()

    @property
    def fed(self) -> list[dict[str, Any]]:
        """The samples of rounds that were not starved."""
        return [sample for sample in self.samples if sample["waited"] <= WAITED]


def take_turns(peers: Mapping[str, Peer], rounds: int, most: int) -> None:
    """Let each have so many rounds that are not starved, in at most so many turns."""
    for turn in range(most):
        if turn >= rounds and all(len(peer.fed) >= rounds for peer in peers.values()):
            break
        for peer in peers.values():
            peer.round()
    for peer in peers.values():
        peer.end()


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the quartiles on both sides of it."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def processor() -> str:
    """The name of the processor."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
