"""Runs side by side: each once, whoever asks; one that was killed is taken again."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from zoo.errors import InputError, TrainingError
from zoo.evaluation import cells
from zoo.evaluation.cells import Cell, run_cells

# a run that says when it began, and does what it is told before it is done
SCRIPT = """
import importlib.util, os, signal, sys, time
from pathlib import Path

spec = importlib.util.spec_from_file_location("cells", CELLS)  # without all of zoo.evaluation
cells = importlib.util.module_from_spec(spec)
sys.modules["cells"] = cells
spec.loader.exec_module(cells)

done, way = Path(sys.argv[1]), sys.argv[2]
with cells.claimed(done) as mine:
    if mine:
        with open("begun.txt", "a") as file:
            file.write(done.stem + "\\n")
        times = Path("begun.txt").read_text().split().count(done.stem)
        if way == "killed" or (way == "killed-once" and times == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if way == "wrong":
            sys.exit(3)
        time.sleep(float(way) if way[0].isdigit() else 0)
        done.write_text(str(os.environ.get("OMP_NUM_THREADS")))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = SCRIPT.replace("CELLS", repr(cells.__file__))
    (tmp_path / "one_cell.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return tmp_path


def cell(folder: Path, name: str, way: str = "0") -> Cell:
    done = folder / f"{name}.txt"
    return Cell(name, ["one_cell", str(done), way], done)


def begun(folder: Path) -> list[str]:
    return (folder / "begun.txt").read_text().split()


def test_two_who_ask_for_the_same_do_each_once(folder: Path) -> None:
    wanted = [cell(folder, name, "0.3") for name in "abcd"]
    given: list[list[str]] = [[], []]
    told: list[str] = []

    def ask(place: int) -> None:
        for one in run_cells(wanted, workers=2, tell=told.append):
            given[place].append(one.name)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(begun(folder)) == list("abcd")
    assert all(set(names) <= set("abcd") for names in given)
    assert set(given[0] + given[1]) == set("abcd")
    assert list(run_cells(wanted, tell=told.append)) == []  # all of it is there
    assert begun(folder) == begun(folder)[:4]


def test_workers_share_the_processors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cells.os, "cpu_count", lambda: 8)
    done = list(run_cells([cell(folder, "a"), cell(folder, "b")], workers=2, tell=lambda _: None))
    assert [one.done.read_text() for one in done] == ["4", "4"]
    (alone,) = run_cells([cell(folder, "c")], tell=lambda _: None)
    assert alone.done.read_text() == "None"  # as the caller has it


def test_a_killed_one_is_taken_again(folder: Path) -> None:
    told: list[str] = []
    wanted = [cell(folder, "a", "killed-once"), cell(folder, "b")]
    assert {one.name for one in run_cells(wanted, tell=told.append)} == {"a", "b"}
    assert begun(folder) == ["a", "a", "b"]
    assert told == ["1/2 a", "a was killed by signal 9: once more", "1/2 a", "2/2 b"]
    with pytest.raises(TrainingError, match="The run c ended with status -9; the others are kept"):
        list(run_cells([cell(folder, "c", "killed"), cell(folder, "d")], tell=told.append))
    assert begun(folder)[3:] == ["c", "c"]  # and d was not begun


def test_what_another_is_at_is_waited_for_and_taken_when_it_is_killed(folder: Path) -> None:
    other = subprocess.Popen([sys.executable, "-m", "one_cell", str(folder / "a.txt"), "60"])
    while not (folder / "begun.txt").exists():
        time.sleep(0.01)
    found: list[str] = []
    thread = threading.Thread(
        target=lambda: found.extend(
            one.name for one in run_cells([cell(folder, "a")], tell=lambda _: None)
        )
    )
    thread.start()
    time.sleep(0.5)
    assert thread.is_alive() and begun(folder) == ["a"]
    other.send_signal(signal.SIGKILL)
    other.wait()
    thread.join(30)
    assert found == ["a"] and begun(folder) == ["a", "a"]


def test_a_failed_one_lets_those_beside_it_end_and_begins_no_more(folder: Path) -> None:
    ways = {"a": "wrong", "b": "0.5", "c": "0"}
    wanted = [cell(folder, name, way) for name, way in ways.items()]
    with pytest.raises(TrainingError, match="The run a ended with status 3; the others are kept"):
        list(run_cells(wanted, workers=2, tell=lambda _: None))
    assert (folder / "b.txt").exists() and not (folder / "c.txt").exists()


@pytest.mark.parametrize("workers", [0, -1, "many", 1.5, True])
def test_workers_that_make_no_sense(workers: object, folder: Path) -> None:
    with pytest.raises(InputError, match="workers must be a number from 1 on, or 'ray'"):
        list(run_cells([cell(folder, "a")], workers=workers))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_on_ray(folder: Path) -> None:
    ray = pytest.importorskip("ray", reason="needs txzoo[ray]")
    told: list[str] = []
    wanted = [cell(folder, "a", "killed-once"), cell(folder, "b"), cell(folder, "c")]
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
        given = {one.name for one in run_cells(wanted, workers="ray", tell=told.append)}
    finally:
        ray.shutdown()
    assert given == set("abc")
    assert sorted(begun(folder)) == ["a", "a", "b", "c"]
    assert "a was killed by signal 9: once more" in told
