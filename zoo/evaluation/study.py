"""A study: one model trained, or one base adapted, in several ways, several seeds, one budget.

It is planned by a TOML file: the keys of a recipe, `seeds`, and a table `[methods.NAME]` for each
way. That holds whatever is other than in the recipe: keys of [training], the learning rate above
all, and tables such as `embeddings` or `config`; where there is a base, the method's options too.
Beside the plan `STUDY.toml` lies its outcome `STUDY.json`, from which documentation and
gallery draw.

Each run has a process of its own, so that its peak memory can be told, and a folder that is kept:
a study that was stopped goes on with the runs that are left.
"""

import json
import math
import os
import statistics
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from zoo.card import Card
from zoo.charts import losses, read_curve
from zoo.errors import RecipeError, UnknownNameError
from zoo.evaluation.cells import Cell, Workers, check_workers, claimed, run_cells
from zoo.folder import ADAPTER_WEIGHTS, WEIGHTS
from zoo.numbers import lower_is_better
from zoo.registry import registry
from zoo.training import checkpoint
from zoo.training.recipe import Recipe, TrainingSettings

RUN = "run.json"  # what is kept of a run, in its folder
POINTS = 60  # of a curve, at most
TRAINING = {field.name for field in fields(TrainingSettings)}
OWN = ("summary", "seeds", "methods")  # keys of a plan that a recipe has not
TABLES = ("tokenizer", "config", "embeddings", "objective")  # of a recipe, that a way may change


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        name: of the way in the plan.
        method: name of the tuning; empty without a base.
        seed: of the run.
        scores: metric, and `metric_stderr`, on the first test split.
        trained: how many numbers learned.
        parameters: how many there are.
        minutes: of training.
        memory: most bytes that the process had at once; None where the system does not tell.
        bytes: size of the weights that were written.
        curve: (step, training loss).
    """

    name: str
    method: str
    seed: int
    scores: Mapping[str, float]
    trained: int
    parameters: int
    minutes: float
    memory: int | None
    bytes: int
    curve: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Study:
    """A plan and what came of it.

    Attributes:
        name: of the plan's file.
        summary: what is asked, in a line.
        plan: the recipe that the runs share.
        methods: name to what the runs of this way differ in.
        seeds: of the runs of each way.
        source: the plan's file.
        runs: what is done.
        facts: the architecture, the base with its hash, hardware and versions; of text
            classification `baseline`, what TF-IDF reaches by the headline and its standard error.
    """

    name: str
    summary: str
    plan: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    source: Path
    runs: Sequence[Run] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """What every way begins with: the base, or the architecture."""
        known = {**self.plan, **self.facts}
        return str(known.get("base") or known["architecture"])

    @property
    def metric(self) -> str:
        """The headline."""
        return registry().tasks.get(self.plan["task"]).metrics[0]

    def recipe(self, name: str, seed: int) -> Recipe:
        """The recipe of one run.

        Raises:
            RecipeError: it asks for something impossible.
        """
        way, values = dict(self.methods[name]), {**self.plan, "seed": seed}
        training = {key: way.pop(key) for key in list(way) if key in TRAINING}
        values["training"] = {**values["training"], **training}
        for key in [key for key in way if key in TABLES]:
            values[key] = {**values.get(key, {}), **way.pop(key)}
        if "base" in values:
            values["tuning"] = {"method": way.pop("method", name), **way}
        elif way:
            raise RecipeError(
                f"{self.source}: {next(iter(way))} of {name} is no key of [training] and none of "
                f"{', '.join(TABLES)}; ways of adapting need a base"
            )
        return Recipe.from_dict({"name": f"{self.name}-{name}-{seed}", **values})

    def means(self) -> dict[str, tuple[float, float, list[Run]]]:
        """For each way the mean of the headline, its standard error and the runs; best first.

        The error is that of the mean over seeds; of a single run it is that of the test set.
        """
        found = {}
        for name in self.methods:
            runs = [run for run in self.runs if run.name == name]
            if not runs:
                continue
            values = [run.scores[self.metric] for run in runs]
            error = runs[0].scores.get(f"{self.metric}_stderr", math.nan)
            if len(values) > 1:
                error = statistics.stdev(values) / math.sqrt(len(values))
            found[name] = (statistics.fmean(values), error, runs)
        sign = 1 if lower_is_better(self.metric) else -1
        return dict(sorted(found.items(), key=lambda item: sign * item[1][0]))

    def to_json(self) -> str:
        """The outcome as a JSON object."""
        runs = [vars(run) for run in self.runs]
        return json.dumps({"study": self.name, **self.facts, "runs": runs}, indent=1) + "\n"


def find_study(ref: str | Path) -> Study:
    """A study by name or by the file of its plan, with its outcome where there is one.

    Raises:
        UnknownNameError: no task has a study of that name.
        RecipeError: the plan does not parse or asks for something impossible.
    """
    path = Path(ref)
    if path.suffix != ".toml":
        known = studies()
        if str(ref) not in known:
            raise UnknownNameError("study", str(ref), known)
        path = known[str(ref)]
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not a study: {error}") from error
    methods, seeds = values.get("methods"), values.get("seeds", [1])
    if not isinstance(methods, dict) or not methods:
        raise RecipeError(f"{path}: a study has a table [methods.NAME] for each way it compares")
    if not isinstance(seeds, list) or any(type(seed) is not int or seed < 0 for seed in seeds):
        raise RecipeError(f"{path}: seeds must be whole numbers from 0 on, got {seeds!r}")
    for key in ("task", "training"):
        if key not in values:
            raise RecipeError(f"{path} lacks {key}")
    if not {"base", "architecture"} & values.keys():
        raise RecipeError(f"{path} lacks a base to adapt, or an architecture to train")
    plan = {key: value for key, value in values.items() if key not in OWN}
    summary = str(values.get("summary", ""))
    study = Study(path.stem, summary, plan, methods, tuple(seeds), path)
    outcome = path.with_suffix(".json")
    return _with_outcome(study, outcome) if outcome.is_file() else study


def studies() -> dict[str, Path]:
    """Name to plan of every study that a task brings."""
    entries = (entry for _, entry in registry().tasks.items())
    return {Path(path).stem: Path(path) for entry in entries for path in entry.studies}


def run_study(
    study: Study,
    out: str | Path,
    *,
    base: str | None = None,
    methods: Sequence[str] = (),
    workers: Workers = 1,
    tell: Callable[[str], None] = print,
) -> Study:
    """Do the runs of a study that are not done yet.

    Args:
        study: what is asked.
        out: a folder for the runs; the outcome is written to `STUDY.json` in it after each one.
        base: where the base lies, if not where the plan says.
        methods: only these ways.
        workers: runs at a time, or "ray"; see `zoo.evaluation.cells`.
        tell: is given a line for each run.

    Returns:
        The study with its runs.

    Raises:
        UnknownNameError: a way that the plan has not.
        RecipeError: a run in `out` was made by another plan, or from other weights.
        TrainingError: a run failed; what is done is kept.
    """
    for name in methods:
        if name not in study.methods:
            raise UnknownNameError(f"method of {study.name}", name, study.methods)
    if base is not None:
        if "base" not in study.plan:
            raise RecipeError(f"{study.name} trains from the start, it has no base")
        study = Study(**{**vars(study), "plan": {**study.plan, "base": base}})
    wanted = list(methods) or list(study.methods)
    plans = [(name, seed) for seed in study.seeds for name in wanted]
    for name, seed in plans:  # before an hour has passed: whatever is wrong in the plan
        study.recipe(name, seed)
    check_workers(workers)
    out = Path(out)
    _check_runs(study, out)
    out.mkdir(parents=True, exist_ok=True)
    cells = [_cell(study.recipe(name, seed), out / f"{name}-{seed}") for name, seed in plans]
    for _ in run_cells(cells, workers=workers, tell=tell):
        _write_outcome(_gathered(study, out), out)
    study = _gathered(study, out)
    _write_outcome(study, out)
    return study


def _check_runs(study: Study, out: Path) -> None:
    """Refuse to put runs of another plan, or from other weights, beside new ones."""
    from zoo.loading import info
    from zoo.model import weights_hash

    done = [(name, seed) for name in study.methods for seed in study.seeds]
    done = [(name, seed) for name, seed in done if (out / f"{name}-{seed}" / RUN).is_file()]
    base = study.plan.get("base")
    begins = weights_hash(info(base)) if done and base else ""
    for name, seed in done:
        folder = out / f"{name}-{seed}"
        facts = json.loads((folder / RUN).read_text(encoding="utf-8"))["facts"]
        what = ""
        if facts.get("base_sha256", "") != begins:
            what = f"began with other weights of {facts['base']} than there are now"
        elif _plan_of(folder).read_text(encoding="utf-8") != study.recipe(name, seed).dump():
            what = f"follows another plan than {study.name} is now: see {_plan_of(folder)}"
        if what:
            raise RecipeError(f"{folder} {what}. Give another out=, or delete it to have it anew")


def _plan_of(folder: Path) -> Path:
    """Where the recipe of a run lies."""
    return folder.with_name(f"{folder.name}.toml")


def _cell(recipe: Recipe, folder: Path) -> Cell:
    """One run, in another process."""
    plan = _plan_of(folder)
    if not (folder / RUN).is_file():
        _replace(plan, recipe.dump())
    return Cell(folder.name, [__spec__.name, str(plan), str(folder)], folder / RUN)


def _write_outcome(study: Study, out: Path) -> None:
    _replace(out / f"{study.name}.json", study.to_json())


def _replace(path: Path, text: str) -> None:
    """Write a file that others may be reading, or writing too."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def _gathered(study: Study, out: Path) -> Study:
    """The study with all runs that lie in a folder."""
    runs, facts = [], dict(study.facts)
    for name in study.methods:
        for seed in study.seeds:
            path = out / f"{name}-{seed}" / RUN
            if path.is_file():
                found = json.loads(path.read_text(encoding="utf-8"))
                facts |= found["facts"]
                runs.append(Run(name=name, **found["run"]))
    return Study(**{**vars(study), "runs": tuple(runs), "facts": facts})


def _with_outcome(study: Study, path: Path) -> Study:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        runs = tuple(Run(**run) for run in found.pop("runs"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{path} is not the outcome of a study: {error}") from error
    found.pop("study", None)
    return Study(**{**vars(study), "runs": runs, "facts": found})


# ---- what runs in the other process ----


def main(arguments: Sequence[str]) -> int:
    """Train `RECIPE` into `FOLDER`, and write what is kept of it."""
    from zoo.errors import ZooError

    plan, folder = map(Path, arguments)
    try:
        with claimed(folder) as mine:
            if mine and not (folder / RUN).is_file():
                _train(Recipe.read(plan), folder)
    except ZooError as error:
        print(f"txzoo: {error}", file=sys.stderr)
        return 1
    return 0


def _train(recipe: Recipe, folder: Path) -> None:
    import torch

    from zoo import __version__
    from zoo.training.loop import train

    begun = folder.with_name(f"{folder.name}.partial") / checkpoint.FILE
    resume = begun.is_file()
    model = train(recipe, out=folder, resume=resume, overwrite=not resume)
    card = Card.read(folder)
    weights = next(folder / name for name in (WEIGHTS, ADAPTER_WEIGHTS) if (folder / name).exists())
    first = card.scores[0].split
    scores = {score.key: score.value for score in card.scores if score.split == first}
    errors = {
        f"{score.key}_stderr": score.standard_error
        for score in card.scores
        if score.split == first and score.standard_error is not None
    }
    curve = losses(read_curve(folder))
    groups = card.training.get("parameter_groups", ())
    held = sum(group["numbers"] for group in groups if group["frozen_epochs"] == "all")
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    run = {
        "method": recipe.tuning.get("method", ""),
        "seed": recipe.seed,
        "scores": {**scores, **errors},
        "trained": card.training.get("trained_parameters", parameters - held),
        "parameters": parameters,
        "minutes": card.training["minutes"],
        "memory": peak_memory(),
        "bytes": weights.stat().st_size,
        "curve": curve[:: max(1, math.ceil(len(curve) / POINTS))],
    }
    facts = {
        "task": recipe.task,
        "split": first,
        "architecture": recipe.architecture,
        **_base_of(recipe),
        **({} if card.scores[0].baseline is None else {"baseline": card.scores[0].baseline}),
        "hardware": card.training["hardware"],
        "torch": str(torch.__version__),
        "txzoo": __version__,
    }
    text = json.dumps({"run": run, "facts": facts}, indent=1)
    (folder / RUN).write_text(text + "\n", encoding="utf-8")


def _base_of(recipe: Recipe) -> dict[str, str]:
    from zoo.loading import info
    from zoo.model import weights_hash

    if not recipe.base:
        return {}
    base = info(recipe.base)
    return {"base": base.name, "base_sha256": weights_hash(base)}


def peak_memory() -> int | None:
    """The most bytes of memory that this process had; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
