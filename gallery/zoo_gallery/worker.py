"""Training in another process, one at a time, which cannot take the gallery down.

`Trainer` is the gallery's side: it starts `python -m zoo_gallery.worker`, watches it, and ends it
when it is told to, or when it takes too long or too much memory. The process ends by itself when
the gallery is gone: its standard input is a pipe that only the gallery holds open.
"""

import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.card import Card, Score
from zoo.charts import losses, read_curve
from zoo.errors import ZooError
from zoo.registry import registry, resolve
from zoo.training.recipe import Recipe

COMMAND = (sys.executable, "-m", "zoo_gallery.worker")
POLL_SECONDS = 0.2
PROBE_SECONDS = 120.0
PREFIX = "txzoo-train-"  # of the folders everything lies in; the process that made them follows


class BusyError(ZooError):
    """A training is running already."""


@dataclass
class Job:
    """One training, running or over.

    Attributes:
        recipe: what is trained.
        folder: everything of it lies here.
        example: an input to try the result with.
        state: "running", "finished", "stopped" (by a person) or "failed".
        message: why it failed.
        scores: of the finished model.
        ended: seconds it took, None while it runs.
    """

    recipe: Recipe
    folder: Path
    example: str = ""
    state: str = "running"
    message: str = ""
    scores: list[Score] = field(default_factory=list)
    ended: float | None = None
    began: float = field(default_factory=time.monotonic)
    kept: list[dict[str, Any]] = field(default_factory=list)  # the curve, once it is over

    @property
    def out(self) -> Path:
        """The model folder, once it is finished."""
        return self.folder / self.recipe.name

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        return time.monotonic() - self.began if self.ended is None else self.ended

    def rows(self) -> list[dict[str, Any]]:
        """The lines of its log so far."""
        if self.ended is not None:
            return self.kept
        partial = self.out.with_name(f"{self.out.name}.partial")
        return read_curve(partial) or read_curve(self.out)

    def step(self) -> int:
        """The last step that its log tells of."""
        curve = losses(self.rows())
        return curve[-1][0] if curve else 0


class Trainer:
    """Trains in another process.

    Args:
        seconds: a training that takes longer is ended.
        memory: bytes; one that takes more is ended. Only Linux tells.
        finished: called with a training that came to its end, before its state says so.
    """

    def __init__(
        self, *, seconds: float, memory: int, finished: Callable[[Job], None] = lambda job: None
    ) -> None:
        self.limits = (seconds, memory)
        self.finished = finished
        self.job: Job | None = None
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: threading.Thread | None = None
        self._stopped = False
        remove_orphans()
        atexit.register(self.close)

    def start(self, recipe: Recipe, example: str = "") -> Job:
        """Begin a training; the result of the one before is thrown away.

        Args:
            recipe: what is trained.
            example: an input to try the result with.

        Raises:
            BusyError: one is running.
        """
        with self._lock:
            if self.job is not None and self.job.state == "running":
                raise BusyError(
                    "A training is running: wait until it ends, or stop it, then start yours"
                )
            self._throw_away()
            folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
            job = Job(recipe, folder, example)
            plan = folder / f"{recipe.name}.toml"
            plan.write_text(recipe.dump(), encoding="utf-8")
            self._stopped = False
            with (folder / "errors.txt").open("wb") as errors:
                self._process = subprocess.Popen(
                    [*COMMAND, "train", str(plan), str(job.out)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    env=_environment(),
                    start_new_session=True,  # ended as a group, and not by a Ctrl-C meant for us
                )
            self.job = job
            self._watcher = threading.Thread(
                target=self._watch, args=(job, self._process), name="training", daemon=True
            )
            self._watcher.start()
        return job

    def stop(self) -> None:
        """End the training that runs, if one does, and throw away what there is of it."""
        with self._lock:
            watcher, process = self._watcher, self._process
            if watcher is None or process is None or process.poll() is not None:
                return
            self._stopped = True
            _end(process)
        watcher.join()

    def close(self) -> None:
        """Stop, and leave nothing behind."""
        self.stop()
        with self._lock:
            self._throw_away()
            self.job = None
        atexit.unregister(self.close)

    def _throw_away(self) -> None:
        if self.job is not None:
            shutil.rmtree(self.job.folder, ignore_errors=True)

    def _watch(self, job: Job, process: "subprocess.Popen[bytes]") -> None:
        """Follow a training to its end, whatever the end is."""
        problem = ""
        while process.poll() is None:
            problem = problem or self._exceeded(job, process)
            if problem:
                _end(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
        if process.stdin is not None:
            process.stdin.close()
        job.kept = job.rows()
        errors = ""
        with contextlib.suppress(OSError):  # somebody emptied the folder for temporary files
            errors = (job.folder / "errors.txt").read_text(encoding="utf-8", errors="replace")
        if process.returncode == 0 and job.out.is_dir():
            state = "finished"
        elif self._stopped:
            state = "stopped"
        else:
            state, job.message = "failed", problem or _what_happened(process.returncode, errors)
        job.ended = job.seconds
        if state == "finished":
            job.scores = Card.read(job.out).scores
            self.finished(job)
        else:
            shutil.rmtree(job.folder, ignore_errors=True)
        job.state = state

    def _exceeded(self, job: Job, process: "subprocess.Popen[bytes]") -> str:
        """Which limit a training is beyond, in words."""
        seconds, memory = self.limits
        if job.seconds > seconds:
            return f"It took longer than {seconds:.0f} seconds: take fewer steps or layers"
        if (taken := _resident(process.pid)) > memory:
            allowed = memory >> 20
            return f"It took {taken >> 20} MiB of memory, {allowed} are allowed: take fewer layers"
        return ""


def data_problems(recipes: Mapping[str, Recipe]) -> dict[str, str]:
    """Which data are not at hand: looked for without a network, in another process.

    Args:
        recipes: by any name.

    Returns:
        Each name and why its data cannot be had; an empty text where they can.
    """
    if not recipes:
        return {}
    asked = {name: {"task": r.task, "tokenizer": dict(r.tokenizer)} for name, r in recipes.items()}
    try:
        process = subprocess.run(
            [*COMMAND, "data"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            env=_environment(),
            timeout=PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return dict.fromkeys(recipes, f"its data were not found in {PROBE_SECONDS:.0f} seconds")
    if process.returncode != 0:
        problem = _what_happened(process.returncode, process.stderr)
        return dict.fromkeys(recipes, f"looking for its data failed: {problem}")
    found: dict[str, str] = json.loads(process.stdout.splitlines()[-1])
    return found


def remove_orphans() -> None:
    """Remove what galleries left behind that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdecimal() and not _alive(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _environment() -> dict[str, str]:
    """Of the other process: offline, and with threads to spare for the gallery."""
    threads = max(1, (os.cpu_count() or 1) // 2)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return {**os.environ, **offline, "OMP_NUM_THREADS": str(threads)}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _resident(pid: int) -> int:
    """Bytes of memory that a process takes; 0 where the system does not tell."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _what_happened(code: int, errors: str) -> str:
    """Why a process ended, in one line: who killed it, or the last thing it said."""
    if code < 0:
        return f"Its process was killed by something else ({signal.Signals(-code).name})"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return lines[-1] if lines else f"Its process ended with status {code} and said nothing"


# ---- what runs in the other process ----


def main(arguments: Sequence[str]) -> int:
    """`train RECIPE OUT`, or `data` with questions on standard input."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(5)
    if arguments[0] == "data":
        print(json.dumps(_answers(json.load(sys.stdin))))
        return 0
    recipe, out = map(Path, arguments[1:])
    _end_with_the_gallery(out.parent)
    from zoo.training.loop import train

    try:
        train(recipe, out=out)
    except ZooError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _answers(asked: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """For each question an empty text, or why its data are not at hand."""
    known: dict[str, str] = {}
    answers = {}
    for name, question in asked.items():
        key = json.dumps(question, sort_keys=True)
        if key not in known:
            try:
                task = resolve(registry().tasks.get(question["task"]).target)()
                if question["tokenizer"].get("kind") == "source":  # somebody else's, fetched later
                    task.tokenizer_text()
                else:
                    task.build_tokenizer(question["tokenizer"])
                known[key] = ""
            except Exception as error:  # a stranger's plugin may raise anything
                known[key] = " ".join(str(error).split()) or type(error).__name__
        answers[name] = known[key]
    return answers


def _end_with_the_gallery(folder: Path) -> None:
    """Have this process end, and its folder go, when the other end of standard input is closed."""

    def wait() -> None:
        # not sys.stdin: its lock, held by a thread that waits, breaks the interpreter's way out
        while os.read(0, 1):
            pass
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
