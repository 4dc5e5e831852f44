"""Recipes, optimisers, the loop and its checkpoints, in one process."""

import json
import math
import re
import resource
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo_synthetic.task
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import zoo
from zoo.errors import ConfigError, RecipeError, TrainingError, UnknownNameError
from zoo.numbers import rounded
from zoo.training import Recipe, TrainingSettings, checkpoint, train
from zoo.training.loop import Log, Run, build_optimizers, learning_rate_share
from zoo.training.muon import Muon, orthogonalise

RECIPE = """
architecture = "decoder"
task = "synthetic"
seed = 3

[tokenizer]
kind = "word"

[config]
max_seq_len = 32
d_model = 16
n_layers = 2
n_heads = 2
d_ff = 24
dropout = 0.1

[training]
steps = 12
batch_tokens = 256
learning_rate = 1e-2
warmup_steps = 2
log_every = 3
checkpoint_every = 5
storage = "float32"
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _few_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The synthetic task, with less text than it has."""
    lines = {"train": 40, "validation": 4, "test": 6}
    monkeypatch.setattr(zoo_synthetic.task, "LINES", lines)
    zoo_synthetic.task.generate.cache_clear()
    yield
    zoo_synthetic.task.generate.cache_clear()


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return Recipe.read(path)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The rows of a curve, without the clock."""
    rows = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def break_loss(monkeypatch: pytest.MonkeyPatch, at: dict[int, Any]) -> None:
    """At some calls of the task's loss, counted from 1, something else happens to it."""
    calls = 0
    original = zoo_synthetic.task.Synthetic.loss

    def loss(self: Any, module: nn.Module, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        value = original(self, module, batch)
        return at[calls](value) if calls in at else value

    monkeypatch.setattr(zoo_synthetic.task.Synthetic, "loss", loss)


def interrupt(_: Tensor) -> Tensor:
    raise KeyboardInterrupt


# recipes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 3", "sed = 3", r"recipe has no key 'sed'. Did you mean 'seed'\?"),
        ("steps = 12", "step = 12", r"\[training\] has no key 'step'. Did you mean 'steps'\?"),
        ("steps = 12", "", r"\[training\] lacks steps"),
        ('task = "synthetic"', "", "recipe lacks task"),
        ('task = "synthetic"', "task = 3", "recipe task must be a text, got 3"),
        ("seed = 3", "seed = -1", "seed must not be below 0, got -1"),
        ("seed = 3", 'seed = "x"', "seed must be a whole number, got 'x'"),
        ("seed = 3", "seed = 1\nsource = 'x'", "no key 'source'"),
        ("seed = 3", "seed = 1\nconfig = 3", "(?s)not a recipe"),  # config twice
        ("[config]", "[config2]", r"no key 'config2'. Did you mean 'config'\?"),
        ("[training]", "[[training]]", "recipe training must be a table"),
        ("steps = 12", "steps = 0", "steps must be above 0, got 0"),
        ("steps = 12", "steps = 1.5", "steps must be a whole number, got 1.5"),
        ("steps = 12", "steps = true", "steps must be a whole number, got True"),
        ("= 1e-2", "= -1", "learning_rate must be above 0, got -1"),
        ("= 1e-2", "= nan", "learning_rate must be above 0, got nan"),
        ("= 1e-2", "= '1'", "learning_rate must be a number, got '1'"),
        ("warmup_steps = 2", "warmup_steps = -1", "warmup_steps must be at least 0, got -1"),
        ("warmup_steps = 2", "weight_decay = nan", "weight_decay must be at least 0, got nan"),
        ("checkpoint_every = 5", "checkpoint_every = 0", "checkpoint_every must be above 0"),
        ("log_every = 3", "short_steps = 4", "belong together, got 4 and 0"),
        ("log_every = 3", "short_length = 4", "belong together, got 0 and 4"),
        ("log_every = 3", "short_length = -4", "short_length must be at least 0, got -4"),
        ("log_every = 3", "betas = [0.9]", r"betas must be two numbers .* got \[0.9\]"),
        ("log_every = 3", "betas = [0.9, 1.0]", r"betas must be two numbers .* got \[0.9, 1.0\]"),
        ("log_every = 3", "betas = ['a', 0.5]", r"betas must be two numbers"),
        ("log_every = 3", "betas = 0.9", "betas must be a list, got 0.9"),
        ("log_every = 3", 'optimizer = "sgd"', "optimizer must be adamw or muon, got 'sgd'"),
        ("log_every = 3", 'precision = "float16"', "precision must be float32 or bfloat16"),
        ('storage = "float32"', 'storage = "int8"', "storage must be float16 or bfloat16 or fl"),
        ("seed = 3", "seed = = 3", "is not a recipe"),
        ("seed = 3", "contexts = 512", "recipe contexts must be a list, got 512"),
        ("seed = 3", "contexts = [0]", "contexts must be whole numbers above 0"),
        ("seed = 3", "contexts = ['9']", "contexts must be whole numbers above 0"),
    ],
)
def test_bad_recipes_name_file_and_fault(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in RECIPE
    path = tmp_path / "bad.toml"
    path.write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(RecipeError, match=message) as caught:
        Recipe.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_binary_recipes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="none.toml is not a recipe"):
        Recipe.read(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="binary.toml is not a recipe"):
        Recipe.read(tmp_path / "binary.toml")


def test_recipes_go_round(recipe: Recipe) -> None:
    assert (recipe.name, recipe.seed, recipe.training.betas) == ("tiny", 3, (0.9, 0.98))
    inner = {"layers": 6, "a key = 1": {"kind": "x", "of": [1, 2]}, "none": {}}
    table = {"kind": 'a "b" \\c', "flags": [True, 1.5], "inner": inner}
    changed = recipe.with_changes(seed=0, tokenizer=table)
    values = tomllib.loads(changed.dump())
    again = Recipe.from_dict({"name": "tiny", **values}, source=recipe.source)
    assert again == changed
    assert recipe.seed == 3  # the original stays


def test_changes_find_their_table(recipe: Recipe) -> None:
    changed = recipe.with_changes(steps=7, d_model=32, seed=5, betas=[0.8, 0.9])
    assert (changed.training.steps, changed.config["d_model"], changed.seed) == (7, 32, 5)
    assert changed.training.betas == (0.8, 0.9)
    assert (changed.training.log_every, changed.config["n_layers"]) == (3, 2)
    with pytest.raises(RecipeError, match=r"no key 'stepz'. Did you mean 'steps'\?"):
        recipe.with_changes(stepz=3)
    with pytest.raises(RecipeError, match="steps must be above 0, got 0"):
        recipe.with_changes(steps=0)


def test_a_recipe_in_a_model_folder_is_named_by_it(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    assert Recipe.read(folder / "recipe.toml").name == "my-model"


# schedule and optimisers


def test_learning_rates_by_hand() -> None:
    settings = TrainingSettings(
        steps=12, batch_tokens=1, learning_rate=1.0, warmup_steps=4, final_learning_rate=0.1
    )
    shares = [learning_rate_share(step, settings) for step in range(12)]
    # up in four equal steps; then 0.1 + 0.45 (1 + cos(n pi / 8)), n = 1 ... 8
    expected = [0.25, 0.5, 0.75, 1.0, 0.965746, 0.868198, 0.722208, 0.55]
    expected += [0.377792, 0.231802, 0.134254, 0.1]
    assert shares == pytest.approx(expected, abs=1e-6)
    plain = TrainingSettings(steps=2, batch_tokens=1, learning_rate=1.0)
    assert [learning_rate_share(step, plain) for step in range(2)] == pytest.approx([0.5, 0.0])
    short = TrainingSettings(steps=2, batch_tokens=1, learning_rate=1.0, warmup_steps=4)
    assert [learning_rate_share(step, short) for step in range(2)] == [0.25, 0.5]


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (11, 5)])
def test_muon_is_torchs(shape: tuple[int, int]) -> None:
    """PyTorch's computes the iteration in bfloat16, which keeps 8 bits."""
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2}
    optimizers = [
        Muon([ours], **settings),
        torch.optim.Muon([theirs], **settings, nesterov=True, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(6):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        moved = (theirs.detach() - start).square().mean().sqrt()
        assert (ours - theirs).detach().square().mean().sqrt() < 0.02 * moved


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (11, 5)])
def test_orthogonalised_matrices_keep_their_directions(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    U, _, Vt = torch.linalg.svd(matrix, full_matrices=False)
    inner = U.T @ orthogonalise(matrix, steps=5) @ Vt.T
    torch.testing.assert_close(inner, inner.diag().diag(), rtol=0, atol=1e-9)
    assert (inner.diag() - 1).abs().max() < 0.35  # the coefficients trade exactness for speed
    update = Muon([parameter := nn.Parameter(torch.zeros(shape))], lr=1.0)
    parameter.grad = matrix.float()
    update.step()
    # a factor of 0.2 sqrt(larger side) makes the root mean square about 0.2, as AdamW's
    assert parameter.detach().square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)


def test_momentum_is_nesterovs() -> None:
    """Two steps by hand on a 1 x 1 matrix, whose orthogonalised form is a fixed number."""
    parameter = nn.Parameter(torch.zeros(1, 1))
    optimizer = Muon([parameter], lr=1.0, momentum=0.5)
    parameter.grad = torch.full((1, 1), 4.0)
    optimizer.step()
    unit = -parameter.item()
    parameter.grad = torch.full((1, 1), -2.0)
    optimizer.step()
    # running 0.5 * 4 = 2, then 0.5 * 2 - 0.5 * 2 = 0; update half of -2 and half of 0: below 0
    assert optimizer.state[parameter]["momentum_buffer"].item() == 0
    assert parameter.item() == pytest.approx(0.0, abs=1e-6)
    assert unit == pytest.approx(0.2, rel=0.35)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("architecture", ["decoder", "alibi-decoder", "relative-decoder"])
def test_each_parameter_has_one_optimiser(optimizer: str, architecture: str) -> None:
    sizes = {"max_seq_len": 8, "d_model": 8, "n_layers": 1, "n_heads": 2, "d_ff": 8}
    module = zoo.create(architecture, vocab_size=9, tie_embeddings=False, **sizes)
    settings = TrainingSettings(
        steps=1,
        batch_tokens=1,
        learning_rate=0.5,
        embedding_learning_rate=0.25,
        weight_decay=0.1,
        optimizer=optimizer,
    )
    groups = [group for o in build_optimizers(module, settings) for group in o.param_groups]
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    held = [names[id(p)] for group in groups for p in group["params"]]
    assert sorted(held) == sorted(names.values())
    (inner,) = [group for group in groups if group["lr"] == 0.5]
    (rest,) = [group for group in groups if group["lr"] == 0.25]
    assert (inner["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    inside = {names[id(p)] for p in inner["params"]}
    assert inside == {n for n in held if n.startswith("blocks.") and n.endswith("weight")} - {
        n for n in held if "norm" in n
    }


# the loop


def test_a_run_learns_and_leaves_a_whole_folder(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "tiny"
    model = train(recipe.with_changes(steps=60, evaluate_every=20), out=out, d_ff=20)
    assert model.config.d_ff == 20
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "recipe.toml",
        "tokenizer.json",
        "training.jsonl",
    ]
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]
    rows = read_log(out)
    losses = [row["loss"] for row in rows if "gradient_norm" in row]
    assert len(losses) == 20
    assert losses[-1] < 0.85 * losses[0]
    assert [row["step"] for row in rows if "validation" in row] == [20, 40]
    epochs = [row for row in rows if "epoch" in row]
    per_epoch = epochs[0]["step"]
    ends = [*range(per_epoch, 60, per_epoch), 60]  # the last one may have been left unfinished
    assert [row["step"] for row in epochs] == ends
    assert [row["epoch"] for row in epochs] == list(range(1, len(ends) + 1))
    left = 60 % per_epoch
    assert [row.get("share") for row in epochs[-2:]] == [None, round(left / per_epoch, 3)]
    read = [end - start for start, end in zip([0, *ends], ends, strict=False)]  # steps of each
    whole = sum(row["loss"] * steps for row, steps in zip(epochs, read, strict=True)) / 60
    assert whole == pytest.approx(sum(losses) / len(losses), abs=1e-4)  # every step counts once
    for row in epochs:
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]), rel=1e-4)
    assert f"epoch {len(ends)}, ended at {left / per_epoch:.0%}: loss" in capsys.readouterr().err
    card = zoo.info(out)
    assert (card.architecture, card.task, card.name) == ("decoder", "synthetic", "tiny")
    assert card.data["txzoo"]["training"]["steps"] == 60
    assert card.data["txzoo"]["training"]["tokens"] == 60 * 256
    assert zoo.verify(str(out)).ok
    assert Recipe.read(out / "recipe.toml").training.steps == 60


def test_a_finished_model_is_measured_at_the_recipes_contexts(
    recipe: Recipe, tmp_path: Path
) -> None:
    out = tmp_path / "tiny"
    train(recipe.with_changes(contexts=[4, 8]), out=out)
    scores = {score.name: score for score in zoo.info(out).scores}
    names = ["accuracy", "accuracy at 4 tokens", "accuracy at 8 tokens"]
    assert set(names) <= set(scores)
    for context in (4, 8):
        found = zoo.evaluate(out, context=context)
        score = scores[f"accuracy at {context} tokens"]
        assert score.context == context
        assert score.value == pytest.approx(found["accuracy"], abs=found["accuracy_stderr"] / 10)
        assert score.standard_error == pytest.approx(found["accuracy_stderr"], rel=0.06)
    checks = {check.claim: check for check in zoo.verify(str(out)).checks}
    assert checks["accuracy at 4 tokens (test)"].ok and checks["accuracy at 8 tokens (test)"].ok
    card = zoo.info(out)
    for metric in card.data["model-index"][0]["results"][0]["metrics"]:
        if metric["name"] == "accuracy at 4 tokens":
            metric["value"] = 0.999
    card.write(out)
    failed = [check.claim for check in zoo.verify(str(out)).checks if not check.ok]
    assert failed == ["accuracy at 4 tokens (test)"]


def test_same_seed_same_weights(recipe: Recipe, tmp_path: Path) -> None:
    folders = {"a": 3, "b": 3, "c": 4}
    for name, seed in folders.items():
        train(recipe, out=tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in folders)
    assert a == b
    assert a != c


def test_short_pieces_come_first(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many tokens a step, in more and shorter rows."""
    shapes: list[tuple[int, ...]] = []
    original = zoo_synthetic.task.Synthetic.loss

    def loss(self: Any, module: nn.Module, batch: Any) -> Tensor:
        shapes.append(tuple(batch["ids"].shape))
        return original(self, module, batch)

    monkeypatch.setattr(zoo_synthetic.task.Synthetic, "loss", loss)
    staged = recipe.with_changes(short_steps=7, short_length=8)
    model = train(staged, out=tmp_path / "whole")
    assert shapes == [(32, 8)] * 7 + [(8, 32)] * 5
    task = zoo_synthetic.task.Synthetic()
    short, long = (
        task.batches(model.tokenizer, length=n, batch_tokens=256, seed=3).per_epoch for n in (8, 32)
    )
    assert model.card is not None
    passed = model.card.data["txzoo"]["training"]["epochs"]
    assert passed == pytest.approx(7 / short + 5 / long, abs=0.005)
    epochs = [row for row in read_log(tmp_path / "whole") if "epoch" in row]
    assert [row["epoch"] for row in epochs if "share" not in row] == list(range(1, int(passed) + 1))
    assert epochs[-1].get("share", 0) == pytest.approx(passed % 1, abs=0.01)
    with pytest.raises(RecipeError, match="short_length=32 is not shorter than max_seq_len=32"):
        train(recipe.with_changes(short_steps=7, short_length=32), out=tmp_path / "none")


@pytest.mark.parametrize(
    "changes",
    [{"optimizer": "adamw"}, {"optimizer": "muon"}, {"short_steps": 7, "short_length": 8}],
)
def test_an_interrupted_run_goes_on_as_if_never_stopped(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    recipe = recipe.with_changes(**changes, steps=23)  # past the end of an epoch
    train(recipe, out=tmp_path / "whole")
    for last in (9, 9):  # steps 1 ... 8, then 6 ... 13, of which 5 and 10 are kept
        break_loss(monkeypatch, {last: interrupt})
        with pytest.raises(KeyboardInterrupt):
            train(recipe, out=tmp_path / "cut", resume=(tmp_path / "cut.partial").exists())
        monkeypatch.undo()
        monkeypatch.setattr(zoo_synthetic.task, "LINES", {"train": 40, "validation": 4, "test": 6})
    tensors, state = checkpoint.read(tmp_path / "cut.partial")
    assert state["step"] == 10
    assert not (tmp_path / "cut").exists()
    train(recipe, out=tmp_path / "cut", resume=True)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
    plans = [(folder / "recipe.toml").read_text("utf-8") for folder in (whole, cut)]
    plans = [re.sub(r"^# expect: [\d.]+ min", "", plan) for plan in plans]  # the clock's part
    assert plans[0] == plans[1] and plans[0].startswith(" on ")
    assert read_log(whole) == read_log(cut)
    assert not (tmp_path / "cut.partial").exists()


def test_steps_that_are_not_finite_are_skipped_and_counted(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BadGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * math.inf

    break_loss(monkeypatch, {3: lambda x: x * math.nan, 4: BadGradient.apply, 7: lambda x: x / 0})
    moved: list[bool] = []
    original = Run.one_step

    def one_step(self: Run) -> tuple[float, float] | None:
        weights = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        result = original(self)
        assert all(p.grad is None for p in self.module.parameters())
        moved.append(any(not torch.equal(p, weights[n]) for n, p in self.module.named_parameters()))
        return result

    monkeypatch.setattr(Run, "one_step", one_step)
    model = train(recipe, out=tmp_path / "out", final_learning_rate=0.1)
    assert moved == [step not in (3, 4, 7) for step in range(1, 13)]
    rows = read_log(tmp_path / "out")
    skipped = [(row["step"], row["skipped"]) for row in rows if "skipped" in row]
    assert skipped == [(3, 1), (4, 2), (7, 3)]
    assert model.card.data["txzoo"]["training"]["skipped_steps"] == 3
    assert all(p.isfinite().all() for p in model.module.parameters())
    assert all(math.isfinite(row["loss"]) for row in rows if "loss" in row)


def test_a_run_without_any_finite_loss_says_so(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_loss(monkeypatch, {call: lambda x: x * math.nan for call in range(1, 13)})
    with pytest.raises(TrainingError, match=r"none of the 12 steps .* learning rate \(now 0.01\)"):
        train(recipe, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_gradients_are_clipped(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(recipe.with_changes(clip=1e-3), tmp_path, Accelerator())
    seen: list[float] = []
    step = run.wrapped_optimizers[0].step

    def spy() -> None:
        squares = [p.grad.square().sum().item() for p in run.module.parameters()]
        seen.append(math.sqrt(sum(squares)))
        step()

    run.wrapped_optimizers[0].step = spy
    result = run.one_step()
    assert result is not None
    assert result[1] > 0.01  # what is logged is the norm before
    assert seen == [pytest.approx(1e-3, rel=1e-3)]


def test_learning_rates_reach_the_optimisers(recipe: Recipe, tmp_path: Path) -> None:
    changed = recipe.with_changes(optimizer="muon", embedding_learning_rate=4e-3)
    run = Run(changed, tmp_path, Accelerator())
    assert run._set_learning_rates() == pytest.approx(5e-3)  # half of the warm-up of two steps
    rates = [group["lr"] for optimizer in run.optimizers for group in optimizer.param_groups]
    assert rates == pytest.approx([5e-3, 2e-3])
    run.step = 11
    assert run._set_learning_rates() == pytest.approx(0.0)


# checkpoints and folders


def stopped_run(recipe: Recipe, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run stopped after step 8, with a checkpoint of step 5; returns its unfinished folder."""
    with monkeypatch.context() as patch:
        break_loss(patch, {9: interrupt})
        with pytest.raises(KeyboardInterrupt):
            train(recipe, out=out)
    return out.with_name(out.name + ".partial")


def test_damaged_checkpoints_are_named(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    file = stopped_run(recipe, out, monkeypatch) / checkpoint.FILE
    whole = file.read_bytes()
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    damaged = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello, checkpoint" * 9}
    for content in damaged.values():
        file.write_bytes(content)
        with pytest.raises(TrainingError, match=f"{file} is damaged.*--overwrite"):
            train(recipe, out=out, resume=True)
    for metadata in (None, {"other": "x"}, {"state": "{"}):
        save_file(tensors, file, metadata=metadata)
        with pytest.raises(TrainingError, match=f"{file} is damaged"):
            train(recipe, out=out, resume=True)
    file.unlink()
    with pytest.raises(TrainingError, match="holds no checkpoint: train without --resume"):
        train(recipe, out=out, resume=True)


def test_a_checkpoint_of_another_recipe_is_refused(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_run(recipe, tmp_path / "out", monkeypatch)
    for change in ({"steps": 99}, {"d_model": 32}, {"optimizer": "muon"}):
        with pytest.raises(TrainingError, match="begun with another recipe: resume with the same"):
            train(recipe, out=tmp_path / "out", resume=True, **change)


def test_folders_that_are_taken(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    partial = stopped_run(recipe, out, monkeypatch)
    with pytest.raises(TrainingError, match="holds an unfinished run: go on with --resume, or thr"):
        train(recipe, out=out)
    assert (partial / checkpoint.FILE).is_file()
    train(recipe, out=out, overwrite=True)
    with pytest.raises(TrainingError, match="out exists: choose another folder, or replace it"):
        train(recipe, out=out)
    before = (out / "model.safetensors").read_bytes()
    train(recipe, out=out, overwrite=True, seed=9)
    assert (out / "model.safetensors").read_bytes() != before


def test_bad_names_and_sizes_are_found_before_training(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="decoder"):
        train(recipe, out=tmp_path / "a", architecture="decodr")
    with pytest.raises(UnknownNameError, match="synthetic"):
        train(recipe, out=tmp_path / "b", task="sinthetic")
    with pytest.raises(ConfigError, match="multiple"):
        train(recipe, out=tmp_path / "c", n_heads=3)
    with pytest.raises(TrainingError, match="lower batch_tokens or max_seq_len"):
        train(recipe, out=tmp_path / "d", batch_tokens=10**6)
    with pytest.raises(RecipeError, match="kind must be one of character, word, byte-pair"):
        train(recipe, out=tmp_path / "e", tokenizer={"kind": "words"})
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


def test_a_run_stopped_before_its_first_checkpoint_is_begun_anew(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_loss(patch, {2: interrupt})
        with pytest.raises(KeyboardInterrupt):
            train(recipe, out=tmp_path / "out")
    with pytest.raises(TrainingError, match="holds no checkpoint: train without --resume"):
        train(recipe, out=tmp_path / "out", resume=True)
    train(recipe, out=tmp_path / "out")


def test_a_full_disk_leaves_the_last_checkpoint(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system refuses to write past a limit, as it does on a full disk."""
    out = tmp_path / "out"
    train(recipe, out=tmp_path / "whole")
    partial = stopped_run(recipe, out, monkeypatch)
    before = (partial / checkpoint.FILE).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"(?i)stopped: .*file too large.*--resume"):
            train(recipe, out=out, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (partial / checkpoint.FILE).read_bytes() == before
    train(recipe, out=out, resume=True)
    weights = [tmp_path / name / "model.safetensors" for name in ("whole", "out")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_log_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "training.jsonl"
    rows = [{"step": step, "loss": step / 2} for step in (2, 4, 6, 8)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text + '{"step": 9, "lo')  # cut off by the kill
    with Log(path, 6, enabled=True) as log:
        log.write(step=7, loss=1.0)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 4, 6, 7]
    with Log(path, 0, enabled=True):  # a new run
        pass
    assert path.read_text() == ""
    with Log(tmp_path / "other.jsonl", 0, enabled=False) as log:
        log.write(step=1)
    assert [p.name for p in tmp_path.iterdir()] == ["training.jsonl"]


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (113.456, 1.234, (113.5, 1.2)),
        (0.937123, 0.00123, (0.9371, 0.0012)),
        (1234.5, 123.4, (1230, 120)),
        (5.5, 0.0, (5.5, 0.0)),
        (1.0, math.nan, (1.0, math.nan)),
        (math.inf, math.inf, (math.inf, math.inf)),
    ],
)
def test_scores_keep_two_digits_of_their_error(
    value: float, error: float, expected: tuple[float, float]
) -> None:
    assert rounded(value, error) == pytest.approx(expected, nan_ok=True)


def test_trainings_of_one_process_have_each_its_precision(recipe: Recipe, tmp_path: Path) -> None:
    for number, precision in enumerate(("float32", "bfloat16", "float32")):
        train(recipe.with_changes(precision=precision, steps=3), out=tmp_path / str(number))
    first, other, again = (read_log(tmp_path / str(number)) for number in range(3))
    assert first == again
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert first != other
