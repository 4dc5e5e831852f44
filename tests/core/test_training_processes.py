"""Training as separate processes: killed, interrupted, and two at once."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import zoo_synthetic.task
from safetensors.torch import load_file

import zoo
from zoo.training import checkpoint, train

pytestmark = pytest.mark.slow

RECIPE = """
architecture = "alibi-decoder"
task = "synthetic"

[tokenizer]
kind = "word"

[config]
max_seq_len = 32
d_model = 16
n_layers = 1
n_heads = 2
d_ff = 16
dropout = {dropout}

[training]
steps = {steps}
batch_tokens = {batch_tokens}
learning_rate = 1e-2
optimizer = "{optimizer}"
log_every = {log_every}
checkpoint_every = 7
storage = "float32"
"""
LINES = {"train": 800, "validation": 20, "test": 20}
SCRIPT = """
import signal
import sys
from pathlib import Path

import torch
import zoo_synthetic.task

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
torch.set_num_threads(1)
zoo_synthetic.task.LINES = LINES
from zoo.training import train

train(Path("recipe.toml"), out=sys.argv[1], resume="resume" in sys.argv)
"""


@pytest.fixture(autouse=True)
def _as_in_the_script(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What runs in this process sees the same text, and one thread."""
    torch.set_num_threads(1)
    monkeypatch.setattr(zoo_synthetic.task, "LINES", LINES)
    zoo_synthetic.task.generate.cache_clear()
    yield
    zoo_synthetic.task.generate.cache_clear()


class Runs:
    """Training runs in subprocesses, all of one recipe.

    Args:
        folder: where they work.
        recipe: the recipe's text.
    """

    def __init__(self, folder: Path, recipe: str) -> None:
        self.folder = folder
        (folder / "recipe.toml").write_text(recipe)
        (folder / "script.py").write_text(SCRIPT.replace("LINES = LINES", f"LINES = {LINES}"))

    def start(self, *arguments: str, launcher: str = "", **env: object) -> subprocess.Popen[str]:
        """Start the script; its standard error is kept."""
        return subprocess.Popen(
            [sys.executable, *launcher.split(), "script.py", *arguments],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | {k: str(v) for k, v in env.items()},
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, *arguments: str) -> None:
        """Run the script to its end."""
        process = self.start(*arguments)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors

    def finish_two(self, *arguments: str) -> None:
        """Run the script in two processes that share each batch, over gloo.

        `accelerate launch --cpu` starts one process, whatever its --num_processes; which of them it
        is stands in the environment, as `mpirun` or `torchrun` would put it there.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        both = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
        launcher = "-m accelerate.commands.launch --cpu --num_processes 1 --num_machines 1"
        launcher += f" --mixed_precision no --dynamo_backend no --main_process_port {port}"
        processes = [
            self.start(
                *arguments, launcher=launcher, RANK=rank, LOCAL_RANK=rank, MASTER_PORT=port, **both
            )
            for rank in range(2)
        ]
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors

    def stop(self, name: str, *arguments: str, after: float, by: signal.Signals) -> str:
        """Send a signal some seconds after the next checkpoint; returns what was said."""
        file = self.folder / f"{name}.partial" / checkpoint.FILE
        before = file.stat().st_mtime_ns if file.exists() else 0
        process = self.start(name, *arguments)
        while not file.exists() or file.stat().st_mtime_ns == before:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.005)
        time.sleep(after)
        os.kill(process.pid, by)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == -by if by == signal.SIGKILL else process.returncode != 0
        assert not (self.folder / name).exists()
        return errors

    def log(self, name: str) -> list[dict[str, object]]:
        """The rows of a finished run's curve, without the clock."""
        text = (self.folder / name / "training.jsonl").read_text()
        rows = [json.loads(line) for line in text.splitlines()]
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_killed_and_interrupted_runs_end_bit_identical(tmp_path: Path) -> None:
    """kill -9 at a random moment, then Ctrl-C at another, then on to the end."""
    text = RECIPE.format(dropout=0.2, steps=500, batch_tokens=1024, optimizer="muon", log_every=10)
    runs = Runs(tmp_path, text)
    seconds = random.Random(os.urandom(8))
    train(tmp_path / "recipe.toml", out=tmp_path / "whole")
    moments = [seconds.uniform(0.0, 0.2), seconds.uniform(0.0, 0.2)]
    print("stopped after", moments)  # shown when the test fails

    runs.stop("cut", after=moments[0], by=signal.SIGKILL)
    _, killed = checkpoint.read(tmp_path / "cut.partial")
    assert 7 <= killed["step"] < 500

    errors = runs.stop("cut", "resume", after=moments[1], by=signal.SIGINT)
    assert "KeyboardInterrupt" in errors
    _, interrupted = checkpoint.read(tmp_path / "cut.partial")
    assert killed["step"] < interrupted["step"] < 500

    runs.finish("cut", "resume")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
    recipes = [(folder / "recipe.toml").read_text().splitlines() for folder in (whole, cut)]
    assert recipes[0][1:] == recipes[1][1:]  # the first line says how long it took
    assert runs.log("whole") == runs.log("cut")
    assert not list(tmp_path.glob("*.partial"))


def test_two_processes_reach_the_loss_of_one(tmp_path: Path) -> None:
    """Batches of 5 rows of 32: one process takes 3 of them, the other 2."""
    text = RECIPE.format(dropout=0.0, steps=12, batch_tokens=160, optimizer="adamw", log_every=1)
    runs = Runs(tmp_path, text)
    train(tmp_path / "recipe.toml", out=tmp_path / "one")
    runs.finish_two("two")
    one, two = runs.log("one"), runs.log("two")
    assert len(one) == len(two) == 12
    for alone, shared in zip(one, two, strict=True):
        assert shared["loss"] == pytest.approx(alone["loss"], abs=3e-5)  # the log has 5 digits
        assert shared["gradient_norm"] == pytest.approx(alone["gradient_norm"], abs=3e-4)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for name, tensor in weights[0].items():
        assert (weights[1][name] - tensor).abs().max() < 1e-4, name
    assert zoo.info(tmp_path / "two").data["txzoo"]["training"]["processes"] == 2
