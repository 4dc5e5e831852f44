"""Training as separate processes: killed, interrupted, several at once, sharded, fewer."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
import zoo_synthetic.task
from safetensors.torch import load_file, save_file

import zoo
from zoo.errors import TrainingError
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

    def start_many(self, count: int, *arguments: str, **env: object) -> subprocess.Popen[str]:
        """Start the script in processes that share each batch, over gloo, as `torchrun` does."""
        launcher = f"-m torch.distributed.run --standalone --nproc_per_node {count}"
        return self.start(*arguments, launcher=launcher, ACCELERATE_USE_CPU="true", **env)

    def finish_many(self, count: int, *arguments: str, **env: object) -> None:
        """Run the script in so many processes to its end."""
        process = self.start_many(count, *arguments, **env)
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors

    def kill_one_of_many(self, count: int, name: str, **env: object) -> None:
        """Kill one process, not the main one, once there is a checkpoint; the others must end."""
        process = self.start_many(count, name, **env)
        file = self.folder / f"{name}.partial" / checkpoint.FILE
        while not file.exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        workers = [
            child
            for child in psutil.Process(process.pid).children()
            if child.environ().get("RANK") not in (None, "0")
        ]
        assert len(workers) == count - 1
        workers[-1].kill()
        process.communicate(timeout=120)
        assert process.returncode != 0
        assert not (self.folder / name).exists()

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
    assert [row["step"] for row in one] == [*range(1, 13), 12]  # the last is the epoch's
    alike(one, two, by=3e-5)  # the log has 5 digits
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for name, tensor in weights[0].items():
        assert (weights[1][name] - tensor).abs().max() < 1e-4, name
    assert zoo.info(tmp_path / "two").data["txzoo"]["training"]["processes"] == 2


def alike(one: list[dict[str, object]], other: list[dict[str, object]], by: float) -> None:
    """Two curves are the same but for rounding."""
    assert [row["step"] for row in one] == [row["step"] for row in other]
    for alone, shared in zip(one, other, strict=True):
        assert shared["loss"] == pytest.approx(alone["loss"], abs=by)
        assert shared.keys() == alone.keys()
        if "gradient_norm" in alone:  # not of an epoch
            assert shared["gradient_norm"] == pytest.approx(alone["gradient_norm"], abs=10 * by)


SHARDED = {"ACCELERATE_USE_FSDP": "true"}


def test_a_sharded_run_killed_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """Four processes share the weights; one is killed; two go on, and one alone does too.

    The four read their rows in two pieces each and keep no activations; Muon needs whole matrices.
    """
    text = RECIPE.format(dropout=0.0, steps=24, batch_tokens=512, optimizer="muon", log_every=1)
    runs = Runs(tmp_path, text)
    train(tmp_path / "recipe.toml", out=tmp_path / "whole")
    pieces = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": 2, "FSDP_ACTIVATION_CHECKPOINTING": "true"}
    runs.kill_one_of_many(4, "cut", **SHARDED, **pieces)
    partial = tmp_path / "cut.partial"
    _, state = checkpoint.read(partial)
    assert 7 <= state["step"] < 24
    assert len(list(partial.glob(checkpoint.SHARDS))) >= 3  # and the main one's
    shutil.copytree(partial, tmp_path / "alone.partial")

    runs.finish_many(2, "cut", "resume", **SHARDED)
    train(tmp_path / "recipe.toml", out=tmp_path / "alone", resume=True)
    for name in ("cut", "alone"):
        alike(runs.log("whole"), runs.log(name), by=2e-4)
        weights = [load_file(tmp_path / n / "model.safetensors") for n in ("whole", name)]
        for key, tensor in weights[0].items():
            assert (weights[1][key] - tensor).abs().max() < 2e-3, (name, key)
    assert zoo.info(tmp_path / "cut").data["txzoo"]["training"]["processes"] == 2


def test_a_run_of_two_killed_is_ended_by_one_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes with whole weights; the one that goes on takes what each had one by one."""
    text = RECIPE.format(dropout=0.0, steps=60, batch_tokens=160, optimizer="adamw", log_every=1)
    runs = Runs(tmp_path, text)
    train(tmp_path / "recipe.toml", out=tmp_path / "whole")
    runs.kill_one_of_many(2, "cut")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    train(tmp_path / "recipe.toml", out=tmp_path / "cut", resume=True)
    alike(runs.log("whole"), runs.log("cut"), by=2e-4)


def test_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    module = torch.nn.Linear(2, 3)
    checkpoint.save(tmp_path / "a", module, [], {"step": 1})
    tensors, _ = checkpoint.read(tmp_path / "a")
    assert set(tensors) == {"module.weight", "module.bias"} and len(tensors) == 2
    lost = "checkpoint-1-2-of-2.safetensors"
    facts = {"state": "{}", "first": "{}", "others": json.dumps([lost])}
    save_file({"module.bias": torch.zeros(3)}, tmp_path / "a" / checkpoint.FILE, metadata=facts)
    with pytest.raises(TrainingError, match=f"{lost} is damaged and cannot be resumed from"):
        checkpoint.read(tmp_path / "a")
    save_file({"module.bias": torch.ones(2)}, tmp_path / "a" / lost, metadata={"first": '{"x": 0}'})
    found, _ = checkpoint.read(tmp_path / "a")
    assert found["module.bias"].tolist() in ([0, 0, 0, 1, 1], [1, 1, 0, 0, 0])


def test_a_sharded_run_looks_at_validation_and_keeps_the_best(tmp_path: Path) -> None:
    """In bfloat16 where the machine computes in it; all processes measure together."""
    text = RECIPE.format(dropout=0.0, steps=12, batch_tokens=512, optimizer="adamw", log_every=1)
    text += 'evaluate_every = 4\nkeep = "best"\nprecision = "bfloat16"\n'
    runs = Runs(tmp_path, text)
    train(tmp_path / "recipe.toml", out=tmp_path / "one")
    runs.finish_many(2, "two", **SHARDED)
    found = {}
    for name in ("one", "two"):
        rows = [row["validation"] for row in runs.log(name) if "validation" in row]
        found[name] = [row["perplexity_per_token"] for row in rows]  # type: ignore[index]
    assert len(found["one"]) == 3
    assert found["two"] == pytest.approx(found["one"], rel=5e-3)
    assert zoo.info(tmp_path / "two").data["txzoo"]["training"]["kept"]["step"] in (4, 8, 12)
