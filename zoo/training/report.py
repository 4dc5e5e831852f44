"""What a finished run writes on its card."""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from zoo.card import Card, at_context
from zoo.data import COUNTED
from zoo.errors import InputError, MissingExtraError
from zoo.evaluation.baseline import baseline_of
from zoo.evaluation.evaluate import choose, evaluate
from zoo.folder import CARD, RECIPE, FileRecord
from zoo.hookspecs import Architecture, Task
from zoo.loading import load
from zoo.model import Model, weights_hash
from zoo.numbers import plural, rounded, with_error
from zoo.tasks import TextClassification
from zoo.training.recipe import Recipe

EXPECT = "# expect:"
PROSE = """\
# {name}

{summary}.

## How to use it

```python
import zoo

model = zoo.load("{name}")
```

## How it was trained

By `recipe.toml` beside this card: `txzoo train {name} --out runs/{name}`. The curve is in
`training.jsonl`.
"""


ON_A_FILE = """\
# {name}

{summary}.

## How to use it

```python
import zoo

model = zoo.load("./{name}")  # where this folder lies
print({call})
```

## How it was trained

By `recipe.toml` beside this card: `txzoo train recipe.toml --out {name}`. The curve is in
`training.jsonl`.
"""
BESIDE = """\
The base is loaded too, and what was learned stands beside it; `load_adapter` puts it on a base that
is loaded already."""
ALONE = "All weights are in this folder; the base is what they began as."
# a licence that asks for no more than to be named with what is made of it
PERMISSIVE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "odc-by")
LICENSE = ("license", "license_name", "license_link")
# counts of what was left out of a split's scores
NOT_MEASURED = ("skipped_tokens", "left_out", "exact_match_left_out")
CALLS = {
    "image-classification": 'model("picture.png"), model(["two.png", "pictures.jpg"], top_k=3)'
}
TEXT_CALL = 'model("A text."), model(["Two.", "Texts."])'
ADAPTED = """\
# {name}

{summary}.

## How to use it

```python
import zoo

model = zoo.load("./{name}")  # where this folder lies
```

{what}

## How it was trained

By `recipe.toml` beside this card: `txzoo train recipe.toml --out {name}`. The curve is in
`training.jsonl`.
"""


def new_card(
    recipe: Recipe,
    folder: Path,
    files: Mapping[str, FileRecord],
    *,
    architecture: Architecture,
    task: Task,
    distributions: Mapping[str, str],
    parameters: int,
    training: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    base: Card | None = None,
) -> Card:
    """The card of a run, still without scores.

    Licence, summary, further front matter and prose are kept from a card beside the recipe, where
    there is one; so a retrained model keeps what people wrote about it.

    Args:
        recipe: what was trained.
        folder: where the card will lie.
        files: hash and size of each file.
        architecture: its entry.
        task: its entry.
        distributions: what the model needs installed, with the versions that trained it.
        parameters: how many numbers were learned.
        training: facts of the run.
        data: facts of the user's own data that stand for a task, see `zoo.tasks.own_data`.
        base: the card of what was adapted, if anything was.
    """
    old = _written(recipe, data or {}, base)
    front: dict[str, Any] = {
        "license": task.license,
        "library_name": "txzoo",
        "pipeline_tag": task.pipeline,
        "tags": ["txzoo", architecture.name],
    }
    if data is None or "/" in data["name"]:  # the Hub knows a data set of its own, and no file
        front["datasets"] = [task.name]
    front |= {} if old is None else dict(old.data)
    front.pop("model-index", None)
    if recipe.data.get("license"):
        front["license"] = task.license
    own = task.pipeline.replace("-", " ").capitalize()
    what = architecture.summary if data is None else own
    summary = f"{what}, trained on {task.name}" if old is None else old.summary
    front["txzoo"] = {
        "name": recipe.name,
        "summary": summary,
        **({} if old is None or old.example is None else {"example": old.example}),
        "architecture": architecture.name,
        **({"task": task.name} if data is None else {"data": dict(data)}),
        "parameters": parameters,
        "requires": {name: _range(version) for name, version in distributions.items()},
        "files": {n: {"sha256": r.sha256, "bytes": r.bytes} for n, r in files.items()},
        "training": dict(training),
    }
    prose = PROSE if data is None else ON_A_FILE + about(data, task.license)
    call = CALLS.get(task.pipeline, TEXT_CALL)
    words = {"name": recipe.name, "summary": summary, "call": call}
    text = prose.format(**words) if old is None else old.text
    return Card(data=front, text=text, path=folder / CARD)


def _written(recipe: Recipe, data: Mapping[str, Any], base: Card | None) -> Card | None:
    """What people wrote beside a recipe of the model that is trained; None where nothing is."""
    beside = recipe.source.parent / CARD if recipe.source is not None else None
    old = Card.read(beside) if beside is not None and beside.is_file() else None
    if old is None or _without_paths(data_of(old)) != _without_paths(data):
        return None  # it speaks of other texts
    if not data and old.task != recipe.task:
        return None  # and of another task
    # the recipe may be the base's own, with another tuning
    return None if base is not None and (old.name == base.name or not old.base_models) else old


def data_of(card: Card) -> dict[str, Any]:
    """What a card says of the user's own data that stand for a task; empty where there is one."""
    return dict(card.data["txzoo"].get("data") or {})


def _without_paths(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if not key.endswith("path")}


def about(data: Mapping[str, Any], license: str) -> str:
    """The part of a card that says what it was trained on; braces are doubled, for `format`."""
    what = next(kind for kind in (*COUNTED, "texts") if kind in data)

    def one(name: str, digest: str, count: int) -> str:
        safe = name.replace("`", "'")
        return f"{count:,} {what} of `{safe}`,\nsha256 `{digest}`"

    if what == "characters":
        where = f"`{data['name']}`, read as a stream"
        words = f"\n## Data\n\n{where}; its first {data[what]:,} characters have\nsha256 "
        words += f"`{data['sha256']}`"
        measured = "and were held out for the scores"
        if "test_name" in data:
            measured = f"measured on `{data['test_name']}`"
        words += f"; {measured}.\n"
        return f"{words}Licence of the data: {license}.\n".replace("{", "{{").replace("}", "}}")
    words = f"\n## Data\n\n{one(data['name'], data['sha256'], data[what])}"
    if "held_out" in data:
        words += f";\n{data['held_out']:,} of them were held out for the scores.\n"
    else:
        test = one(data["test_name"], data["test_sha256"], data[f"test_{what}"])
        words += f";\nmeasured on {test}.\n"
    return f"{words}Licence of the data: {license}.\n".replace("{", "{{").replace("}", "}}")


def adapted(card: Card, recipe: Recipe, base: Model, *, learned: int, alone: bool) -> Card:
    """The card of an adapted model: whose it is, and what it adds.

    Args:
        card: as `new_card` makes it.
        recipe: what was trained.
        base: what was adapted.
        learned: how many numbers were trained.
        alone: whether all of its weights are in its folder.
    """
    assert base.card is not None  # a loaded model has one
    method, name = recipe.tuning["method"], base.card.name
    data = data_of(card)
    ours = dict(card.data["txzoo"])
    ours["training"] = {**ours["training"], "tuning": method, "trained_parameters": learned}
    if not alone:
        ours["base"] = {"ref": recipe.base, "sha256": weights_hash(base.card)}
    if _written(recipe, data, base.card) is not None:
        return Card(data={**card.data, "txzoo": ours}, text=card.text, path=card.path)
    ours["summary"] = f"{name} adapted to {data.get('name') or recipe.task} by {method}"
    on_hub = recipe.base.startswith("hf://")
    of = recipe.base.removeprefix("hf://").partition("@")[0] if on_hub else name
    front = {**card.data, "base_model": of, "txzoo": ours}
    if card.license in PERMISSIVE:  # of the data; the base may ask for more
        front |= {key: base.card.data[key] for key in LICENSE if key in base.card.data}
    what = ALONE if alone else BESIDE
    prose = ADAPTED + about(data, front["license"]) if data else ADAPTED
    text = prose.format(name=recipe.name, summary=ours["summary"], what=what)
    return Card(data=front, text=text, path=card.path)


def measure(folder: Path, task: Task, splits: Sequence[str], contexts: Sequence[int] = ()) -> None:
    """Measure a model folder, put the scores on its card and the expectation on its recipe.

    Args:
        folder: a complete one; its weights are measured as they are stored.
        task: what is measured.
        splits: of the task.
        contexts: tokens read at once, besides the length it was trained on.
    """
    card = Card.read(folder)
    model = load(str(folder.absolute()))
    results = {
        (split, context): evaluate(model, split=split, context=context)
        for split in splits
        for context in (None, *contexts)
    }
    chosen = {split: choose(model, None, split)[1] for split in splits}
    counted = {split: one.signatures(split) for split, one in chosen.items()}
    beside = {
        split: _baseline(model, split)
        for split, one in chosen.items()
        if isinstance(one, TextClassification)
    }
    add_scores(card, task, results, counted, beside)
    facts = card.data["txzoo"].setdefault("training", {})
    for key in NOT_MEASURED:
        counts = {s: v[key] for (s, c), v in results.items() if key in v and c is None}
        if counts:
            facts[key] = {**facts.get(key, {}), **counts}
    recipe = folder / RECIPE
    lines = recipe.read_text(encoding="utf-8").splitlines(keepends=True)
    rest = [line for line in lines if not line.startswith(EXPECT)]
    recipe.write_text("".join([expectation(card), *rest]), encoding="utf-8")
    card.data["txzoo"]["files"][RECIPE] = asdict(FileRecord.of(recipe))
    card.write(folder)


def _baseline(model: Model, split: str) -> Mapping[str, float]:
    """What TF-IDF reaches; nothing without scikit-learn, or of texts without a word in common."""
    try:
        return baseline_of(model, split=split)
    except (InputError, MissingExtraError):
        return {}


def add_scores(
    card: Card,
    task: Task,
    results: Mapping[tuple[str, int | None], Mapping[str, float]],
    signatures: Mapping[str, Mapping[str, str]],
    baselines: Mapping[str, Mapping[str, float]],
) -> None:
    """Put measured scores on a card, with no more digits than their standard errors support.

    Args:
        card: changed in place.
        task: what was measured.
        results: what `zoo.evaluate` returns, by split and context; the context is None for the
            length that the model was trained on, for others only the first metric is kept.
        signatures: what `signatures` of the task returns, by split.
        baselines: what `zoo.evaluation.baseline.baseline_of` returns, by split, where it was asked.
    """
    metrics: dict[str, list[dict[str, Any]]] = {split: [] for split, _ in results}
    errors: dict[str, dict[str, float]] = {split: {} for split, _ in results}
    for (split, context), values in results.items():
        for name in task.metrics if context is None else task.metrics[:1]:
            if math.isnan(values[name]):  # nothing was left to measure
                continue
            words = name.replace("_", " ") + at_context(context)
            value, error = rounded(values[name], values[f"{name}_stderr"])
            kind = "perplexity" if name.startswith("perplexity") else name
            args: dict[str, Any] = {} if context is None else {"context": context}
            if name in signatures[split]:
                args["signature"] = signatures[split][name]
            ends = [values.get(f"{name}_{end}", math.nan) for end in ("low", "high")]
            if all(map(math.isfinite, ends)):
                args["interval"] = [rounded(end, values[f"{name}_stderr"])[0] for end in ends]
            reached = baselines.get(split, {})
            if context is None and name in reached:
                args["baseline"] = list(rounded(reached[name], reached[f"{name}_stderr"]))
            one = {"type": kind, "name": words, "value": value, **({"args": args} if args else {})}
            metrics[split].append(one)
            errors[split][words] = error
    entries = [
        {
            "task": {"type": task.pipeline},
            "dataset": {"name": task.name, "type": task.name, "split": split},
            "metrics": measured,
        }
        for split, measured in metrics.items()
    ]
    card.data["model-index"] = [{"name": card.name, "results": entries}]
    card.data["txzoo"]["standard_error"] = errors


def expectation(card: Card) -> str:
    """What a recipe costs and gives, as the comment that stands at the top of it."""
    facts, score = card.training, card.scores[0]
    number = with_error(score.value, score.standard_error)
    cost = f"{facts['minutes']:.3g} min on {facts['hardware']}"
    return f"{EXPECT} {cost}; {score.name} {number} on {score.dataset} {score.split}\n"


def hardware(device: torch.device) -> str:
    """What a run ran on, for people: device, processor features that matter, threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{platform.machine()} CPU ({capability}), "
        f"{plural(torch.get_num_threads(), 'thread')} of {plural(os.cpu_count() or 1, 'core')}"
    )


def _range(version: str) -> str:
    """The versions that a model trained with this one is loaded by: up to the next major."""
    release = version.split("+")[0]
    return f">={release},<{int(release.split('.')[0]) + 1}"
