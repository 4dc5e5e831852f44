"""Many runs that do not need each other, some at a time: the cells of a study or a comparison.

Each cell is a command that leaves a file when it is done, so that what was stopped goes on with the
cells that are left. While it runs it holds a lock that the system takes back when its process ends,
however it ends: two workers, of two commands or on two machines with one folder, never do the same
cell, and one whose process was killed can be taken again.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import InputError, MissingExtraError, TrainingError, ZooError

TAKEN = 75  # exit status of a cell that another process is at: EX_TEMPFAIL of sysexits.h
PAUSE = 1.0  # seconds before such a cell is asked for again
RAY = "ray"
Workers = int | str  # so many processes here, or "ray"


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        name: of the run, for messages.
        command: the module and arguments that Python is called with; it uses `claimed`.
        done: the file that is there when the run is done.
    """

    name: str
    command: Sequence[str]
    done: Path


def run_cells(
    cells: Sequence[Cell], *, workers: Workers = 1, tell: Callable[[str], None] = print
) -> Iterator[Cell]:
    """Do the cells that are not done yet; gives each as soon as it is.

    One whose process was killed by a signal is taken again, once.

    Args:
        cells: to be done.
        workers: how many at a time, each in a process of its own; or "ray", which then decides how
            many and where, from all processors (and, where there are any, one accelerator each) of
            the cluster that `RAY_ADDRESS` names, or of this machine.
        tell: is given a line for each cell that is begun.

    Raises:
        InputError: neither a number from 1 on nor "ray".
        MissingExtraError: Ray is not installed.
        TrainingError: a cell failed; those that were running are waited for, all that is done is
            kept.
    """
    check_workers(workers)
    titles = {
        cell.name: f"{number}/{len(cells)} {cell.name}" for number, cell in enumerate(cells, 1)
    }
    left = [cell for cell in cells if not cell.done.is_file()]
    if not left:
        return
    call, count = (_on_ray(), len(left)) if workers == RAY else (_here(int(workers)), int(workers))
    failed: list[str] = []
    killed: set[str] = set()
    with ThreadPoolExecutor(count) as threads:

        def begin(cell: Cell, pause: float = 0.0) -> Future[int]:
            return threads.submit(_called, call, cell, tell, titles[cell.name], pause)

        running = {begin(cell): cell for cell in left[:count]}
        waiting = list(left[count:])
        try:
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    cell, status = running.pop(future), future.result()
                    if cell.done.is_file():
                        yield cell
                    elif status == TAKEN:
                        running[begin(cell, PAUSE)] = cell
                        continue
                    elif status < 0 and cell.name not in killed:
                        killed.add(cell.name)
                        tell(f"{cell.name} was killed by signal {-status}: once more")
                        waiting.insert(0, cell)
                    else:
                        failed.append(f"The run {cell.name} ended with status {status}")
                    while waiting and not failed and len(running) < count:
                        following = waiting.pop(0)
                        running[begin(following)] = following
        finally:
            for future in running:
                future.cancel()
    if failed:
        raise TrainingError(
            f"{failed[0]}; the others are kept: mend it, then give the same command again"
        )


def check_workers(workers: Workers) -> None:
    """Raise `InputError` for what is neither a number from 1 on nor "ray"."""
    if workers != RAY and (type(workers) is not int or workers < 1):
        raise InputError(f"workers must be a number from 1 on, or {RAY!r}, got {workers!r}")


@contextmanager
def claimed(done: Path) -> Iterator[bool]:
    """Whether this process may do a cell now: nobody else is at it, and it is not done.

    Args:
        done: the cell's file. Beside its folder, or beside it, stands the lock.

    Raises:
        SystemExit: with `TAKEN`, where another process is at it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(f"{done}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        sys.exit(TAKEN)
    try:
        yield not done.is_file()
    finally:
        lock.release()


def _called(
    call: Callable[[Sequence[str]], int],
    cell: Cell,
    tell: Callable[[str], None],
    title: str,
    pause: float,
) -> int:
    """Begin a cell after a pause; its exit status, negative for a signal."""
    time.sleep(pause)
    if cell.done.is_file():
        return 0
    if not pause:
        tell(title)
    return call(cell.command)


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", *arguments]


def _here(workers: int) -> Callable[[Sequence[str]], int]:
    """Calls a command on this machine, whose processors the workers share."""
    each = max(1, (os.cpu_count() or 1) // workers)
    shared = {} if workers == 1 else {"OMP_NUM_THREADS": str(each)}
    environment: Mapping[str, str] = {**shared, **os.environ}

    def call(arguments: Sequence[str]) -> int:
        return subprocess.run(_command(arguments), env=environment).returncode

    return call


def _on_ray() -> Callable[[Sequence[str]], int]:
    """Calls a command on Ray, wherever it has a processor free, in the folder of this process."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("workers='ray'", "ray") from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    folder, environment = os.getcwd(), dict(os.environ)

    @ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)  # type: ignore[untyped-decorator]
    def run(arguments: list[str]) -> int:
        own = {k: v for k, v in os.environ.items() if k.startswith(("CUDA_", "OMP_"))}
        own = {**environment, **own}
        return subprocess.run(_command(arguments), cwd=folder, env=own).returncode

    def call(arguments: Sequence[str]) -> int:
        try:
            status: int = ray.get(run.remote(list(arguments)))
        except ray.exceptions.WorkerCrashedError:
            return -9
        return status

    return call


def main(arguments: Sequence[str]) -> int:
    """Measure a model as the JSON in `arguments` says, and write what was found to its file."""
    import json

    from zoo.evaluation.evaluate import evaluate
    from zoo.loading import load

    asked = json.loads(arguments[0])
    done = Path(asked["done"])
    try:
        with claimed(done) as mine:
            if mine:
                model = load(asked["ref"])
                found = {
                    "name": model.name,
                    "parameters": sum(number.numel() for number in model.module.parameters()),
                    "scores": evaluate(model, asked["task"], **asked["options"]),
                }
                beside = done.with_name(f"{done.name}.new")
                beside.write_text(json.dumps(found) + "\n", encoding="utf-8")
                os.replace(beside, done)
    except ZooError as error:
        print(f"txzoo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
