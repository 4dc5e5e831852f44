"""`zoo.compare`: several models, or the ways of a study, side by side."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.charts import lines, scatter, svg
from zoo.errors import InputError, MissingExtraError
from zoo.evaluation.baseline import MOST_TEXTS, tfidf_baseline
from zoo.evaluation.cells import Cell, Workers, run_cells
from zoo.evaluation.evaluate import evaluate
from zoo.evaluation.study import Study, find_study, run_study
from zoo.loading import info, load
from zoo.model import Model, weights_hash
from zoo.numbers import lower_is_better, short_bytes, short_count, with_error
from zoo.registry import registry, resolve
from zoo.tasks import TextClassification

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TFIDF = "TF-IDF, logistic regression"


@dataclass(frozen=True)
class Table:
    """What a comparison found.

    Attributes:
        title: what is compared, on what.
        columns: their titles; the first holds names.
        rows: a text for each column, best first.
        records: the same with plain numbers, for programs.
        study: the study it was made of, None for models.
        baseline: what TF-IDF with logistic regression reaches by the headline, and its standard
            error; None for what is no text classification. It stands in the last row.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    records: tuple[dict[str, Any], ...]
    study: Study | None = None
    baseline: tuple[float, float] | None = None

    def to_markdown(self) -> str:
        """A Markdown table."""
        head = [self.columns, ["---"] * len(self.columns)]
        return "\n".join(f"| {' | '.join(row)} |" for row in [*head, *self.rows]) + "\n"

    def to_json(self) -> str:
        """The records as a JSON list."""
        return json.dumps(self.records, indent=2) + "\n"

    def to_dataframe(self) -> Any:
        """The records as a pandas DataFrame.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas  # type: ignore[import-untyped]
        except ImportError as error:
            raise MissingExtraError("A DataFrame", "hf") from error
        return pandas.DataFrame(list(self.records))

    def figure(self) -> "Figure":
        """The headline against the parameters, with error bars: trained ones in a study.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        of = "trained_parameters" if self.study is not None else "parameters"
        metric = self.columns[1]
        points = {
            record["name"]: (record[of], record["score"], record["standard_error"])
            for record in self.records
        }
        level = None if self.baseline is None else (TFIDF, self.baseline[0])
        return scatter(points, x=of.replace("_", " "), y=metric, level=level)

    def curves(self) -> "Figure":
        """The training loss of the first seed of each way.

        Raises:
            InputError: there are no curves, for nothing was trained.
            MissingExtraError: matplotlib is not installed.
        """
        if self.study is None:
            raise InputError("Models are compared as they are: only a study has curves")
        found = {name: runs[0].curve for name, (_, _, runs) in self.study.means().items()}
        return lines(found, x="step", y="training loss (nats)", points=False)

    def save(self, path: str | Path) -> Path:
        """Write the table: as text by `.md` or `.json`, drawn by `.png`, `.svg` or `.pdf`.

        Raises:
            InputError: another ending.
        """
        path = Path(path)
        if path.suffix == ".md":
            path.write_text(self.to_markdown(), encoding="utf-8")
        elif path.suffix == ".json":
            path.write_text(self.to_json(), encoding="utf-8")
        elif path.suffix == ".svg":
            path.write_text(svg(self.figure(), self.title), encoding="utf-8")
        elif path.suffix in (".png", ".pdf"):
            self.figure().savefig(path, dpi=150, facecolor="white")
        else:
            raise InputError(f"{path}: a table is saved as .md, .json, .svg, .png or .pdf")
        return path


def compare(
    models: Sequence[str | Path | Model] | str | Path | Study,
    task: str | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    context: int | None = None,
    out: str | Path | None = None,
    base: str | None = None,
    methods: Sequence[str] = (),
    workers: Workers = 1,
    tell: Callable[[str], None] = print,
) -> Table:
    """Compare models by measuring them, or ways of adapting by training them.

    Args:
        models: models, or what `zoo.load` takes; or one study, its name or the file of its plan.
        task: what models are measured on; the one on the first model's card if None.
        split: of the task.
        limit: as in `zoo.evaluate`.
        context: as in `zoo.evaluate`.
        out: a folder that keeps what is found, so that what was stopped goes on: of a study, its
            runs, and None shows what is published; of models, their scores.
        base: of a study: where its base lies, if not where the plan says.
        methods: of a study: only these.
        workers: runs or models at a time, each in a process of its own, or "ray" for as many as a
            cluster has room for, see `zoo.evaluation.cells`. Models are measured in this process
            with 1 and without `out`.
        tell: is given a line for each run of a study, or model in a process of its own.

    Raises:
        InputError: no model, or a study that has no outcome yet and no `out`.
        ZooError: as in `zoo.evaluate`, and as in `zoo.train` for a study.
    """
    if isinstance(models, (str, Path, Study)):
        study = models if isinstance(models, Study) else find_study(models)
        if out is not None:
            study = run_study(study, out, base=base, methods=methods, workers=workers, tell=tell)
        elif not study.runs:
            raise InputError(
                f"The study {study.name} has no outcome yet: give out=, a folder to run it in"
            )
        return _of_study(study)
    if not models:
        raise InputError("There is nothing to compare: give one model at least")
    if out is not None or workers != 1:
        given = {"split": split, "limit": limit, "context": context}
        return _in_processes(models, task, given, out, workers, tell)
    found = [each if isinstance(each, Model) else load(each) for each in models]
    name = task or (found[0].card.task if found[0].card is not None else None)
    if name is None:
        raise InputError(f"{found[0].name} has no card that names a task: give task=")
    metrics = registry().tasks.get(name).metrics
    measured = [
        {
            "name": model.name,
            "parameters": sum(parameter.numel() for parameter in model.module.parameters()),
            "scores": evaluate(model, name, split=split, limit=limit, context=context),
        }
        for model in found
    ]
    return _of_models(measured, name, split, metrics, limit)


def _in_processes(
    models: Sequence[str | Path | Model],
    task: str | None,
    options: Mapping[str, Any],
    out: str | Path | None,
    workers: Workers,
    tell: Callable[[str], None],
) -> Table:
    """Measure models, each in a process of its own; `out` keeps what was found before."""
    refs = []
    for each in models:
        if isinstance(each, Model):
            raise InputError(
                f"{each.name} is a loaded model, which other processes cannot measure: give its "
                "name or folder, or leave out workers and out"
            )
        refs.append(str(each))
    cards = [info(ref) for ref in refs]
    name = task or cards[0].task
    if name is None:
        raise InputError(f"{cards[0].name} has no card that names a task: give task=")
    metrics = registry().tasks.get(name).metrics
    with tempfile.TemporaryDirectory() as other:
        folder = Path(other if out is None else out)
        folder.mkdir(parents=True, exist_ok=True)
        cells = []
        for ref, card in zip(refs, cards, strict=True):
            # what a score depends on is in the file's name: another question has another file
            asked = {"weights": weights_hash(card), "task": name, "options": dict(options)}
            digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
            done = folder / f"{card.name}-{digest}.json"
            job = json.dumps({**asked, "ref": ref, "done": str(done)})
            cells.append(Cell(card.name, [run_cells.__module__, job], done))
        for _ in run_cells(cells, workers=workers, tell=tell):
            pass
        found = [json.loads(cell.done.read_text(encoding="utf-8")) for cell in cells]
    return _of_models(found, name, str(options["split"]), metrics, options["limit"])


def _of_models(
    measured: Sequence[Mapping[str, Any]],
    task: str,
    split: str,
    metrics: Sequence[str],
    limit: int | None,
) -> Table:
    first = metrics[0]
    records: list[dict[str, Any]] = [
        {
            "name": one["name"],
            "score": one["scores"][first],
            "standard_error": one["scores"].get(f"{first}_stderr"),
            "parameters": one["parameters"],
            "scores": one["scores"],
        }
        for one in measured
    ]
    records.sort(key=lambda record: record["score"], reverse=not lower_is_better(first))
    rows = tuple(
        (
            record["name"],
            *(
                with_error(record["scores"][name], record["scores"].get(f"{name}_stderr"))
                for name in metrics
            ),
            short_count(record["parameters"]),
        )
        for record in records
    )
    titles = tuple(name.replace("_", " ") for name in metrics)
    columns = ("model", *titles, "parameters")
    reached = _tfidf(task, split, limit)
    if reached is None:
        return Table(f"{task}, {split}", columns, rows, tuple(records))
    scores = (with_error(reached[name], reached[f"{name}_stderr"]) for name in metrics)
    baseline = (reached[first], reached[f"{first}_stderr"])
    return Table(
        f"{task}, {split}",
        columns,
        (*rows, (TFIDF, *scores, short_count(int(reached["features"])))),
        tuple(records),
        baseline=baseline,
    )


def _tfidf(task: str, split: str, limit: int | None) -> Mapping[str, float] | None:
    """The scores of the baseline, of text classification where scikit-learn is installed."""
    found = resolve(registry().tasks.get(task).target)()
    if not isinstance(found, TextClassification) or "train" not in found.splits:
        return None
    try:
        return tfidf_baseline(found, split=split, limit=limit, texts=MOST_TEXTS)
    except (InputError, MissingExtraError):
        return None


def _of_study(study: Study) -> Table:
    rows: list[tuple[str, ...]] = []
    records = []
    for name, (mean, error, runs) in study.means().items():
        middle = sorted(runs, key=lambda run: run.minutes)[len(runs) // 2]
        memory = [run.memory for run in runs if run.memory]
        record = {
            "name": name,
            "score": mean,
            "standard_error": error,
            "seeds": [run.seed for run in runs],
            "trained_parameters": middle.trained,
            "parameters": middle.parameters,
            "minutes": middle.minutes,
            "memory": max(memory, default=None),
            "bytes": middle.bytes,
        }
        records.append(record)
        rows.append(
            (
                name,
                with_error(mean, error),
                str(len(runs)),
                short_count(middle.trained),
                f"{middle.trained / middle.parameters:.2%}",
                f"{middle.minutes:g}",
                short_bytes(max(memory)) if memory else "",
                short_bytes(middle.bytes),
            )
        )
    metric = study.metric.replace("_", " ")
    columns = ("method", metric, "seeds", "trained", "share", "minutes", "memory", "file")
    title = f"{study.name}: {study.subject} on {study.plan['task']}"
    if baseline := study.facts.get("baseline"):
        baseline = (baseline[0], baseline[1])
        rows.append((TFIDF, with_error(*baseline), *[""] * 6))
    return Table(title, columns, tuple(rows), tuple(records), study, baseline)
