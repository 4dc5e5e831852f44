"""A recipe: the TOML file that says how a model is trained, and so what it is."""

import dataclasses
import json
import math
import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

from zoo.data import PAIRED
from zoo.errors import RecipeError, UnknownNameError
from zoo.loading import info
from zoo.registry import registry, resolve

OPTIMIZERS = ("adamw", "muon")
BARE = re.compile(r"[A-Za-z0-9_-]+")  # a key of TOML that needs no quotes
STORAGE = ("float16", "bfloat16", "float32")
KEEP = ("last", "best")
# how a change is called, and its key in [data]
DATA = {
    "data": "path",
    "text_column": "text_column",
    "label_column": "label_column",
    "source_column": "source_column",
    "target_column": "target_column",
    "test_data": "test_path",
    "license": "license",
}
OWN = (*PAIRED, "text-classification")  # pipelines that [data] can be for
TARGETS = {"path": "target_path", "test_path": "test_target_path"}  # of sentence pairs in two files
# what TOML gives for a field, and what it is called; everything else is a table
KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
    tuple[float, float]: ((list, tuple), "a list"),
    tuple[int, ...]: ((list, tuple), "a list"),
}


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The [training] table.

    Attributes:
        steps: optimiser steps.
        batch_tokens: tokens a step, over all processes.
        learning_rate: peak, of the matrices inside the blocks with Muon, of everything with AdamW.
        embedding_learning_rate: peak of all that Muon does not take, `learning_rate` if 0.
        optimizer: "adamw", or "muon" for the matrices with AdamW for the rest.
        warmup_steps: linear rise at the start.
        short_steps: how many of the steps, the first ones, read texts in pieces of `short_length`
            tokens, and so more of them (Press et al. 2021, "Shortformer", arXiv:2012.15832,
            section 4); 0 for none.
        short_length: tokens of such a piece.
        final_learning_rate: share of the peak that the cosine ends at.
        weight_decay: decoupled; on matrices only.
        betas: AdamW's running averages.
        clip: largest gradient norm, all parameters together.
        log_every: steps between lines of the log.
        evaluate_every: steps between looks at the validation split; 0 for the end only.
        checkpoint_every: steps between checkpoints.
        precision: "float32"; "bfloat16" where the machine computes in it, else float32.
        storage: type of the weights on disk.
        keep: which weights the finished model has: "last", or "best" for those of the look at the
            validation split, one of them after the last step, with the best first metric.
    """

    steps: int
    batch_tokens: int
    learning_rate: float
    embedding_learning_rate: float = 0.0
    optimizer: str = "adamw"
    warmup_steps: int = 0
    short_steps: int = 0
    short_length: int = 0
    final_learning_rate: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    log_every: int = 10
    evaluate_every: int = 0
    checkpoint_every: int = 500
    precision: str = "float32"
    storage: str = "float16"
    keep: str = "last"

    def __post_init__(self) -> None:
        above = ("steps", "batch_tokens", "learning_rate", "clip", "log_every", "checkpoint_every")
        rates = ("embedding_learning_rate", "final_learning_rate", "weight_decay")
        counts = ("warmup_steps", "evaluate_every", "short_steps", "short_length")
        for name in (*above, *rates, *counts):
            value, least = getattr(self, name), "above" if name in above else "at least"
            if not (value > 0 or (value == 0 and name not in above)):  # NaN is neither
                raise RecipeError(f"[training] {name} must be {least} 0, got {value}")
        if bool(self.short_steps) != bool(self.short_length):
            raise RecipeError(
                "[training] short_steps and short_length belong together, got "
                f"{self.short_steps} and {self.short_length}"
            )
        numbers = [beta for beta in self.betas if type(beta) in (int, float) and 0 <= beta < 1]
        if len(self.betas) != 2 or len(numbers) != 2:
            raise RecipeError(
                f"[training] betas must be two numbers from 0 to below 1, got {list(self.betas)}"
            )
        choices = {
            "optimizer": OPTIMIZERS,
            "storage": STORAGE,
            "precision": ("float32", "bfloat16"),
            "keep": KEEP,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise RecipeError(
                    f"[training] {name} must be {' or '.join(allowed)}, got {getattr(self, name)!r}"
                )
        if self.keep == "best" and not self.evaluate_every:
            raise RecipeError("[training] keep = 'best' needs an evaluate_every above 0")


@dataclass(frozen=True, kw_only=True)
class EmbeddingSettings:
    """The [embeddings] table: whose embeddings a new model begins with.

    Attributes:
        source: `"hf://owner/name@revision"`, a folder, or a safetensors file.
        token: name of the tensor of token embeddings; GPT-2's and BERT's names unless given.
        position: name of that of positions; empty to begin with positions of our own.
        frozen_epochs: how long they stay as they are.
        learning_rate: their peak afterwards; that of our own embeddings if 0.
    """

    source: str
    token: str = ""
    position: str = ""
    frozen_epochs: float = 0.0
    learning_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("frozen_epochs", "learning_rate"):
            if not (value := getattr(self, name)) >= 0:  # NaN is not either
                raise RecipeError(f"[embeddings] {name} must be at least 0, got {value}")
        if not math.isfinite(self.learning_rate):
            raise RecipeError(
                f"[embeddings] learning_rate must be finite, got {self.learning_rate}"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """architecture + task + sizes + optimiser + seed = a trained model.

    Attributes:
        name: of the model it makes.
        architecture: registered name.
        task: registered name; empty with `data`.
        seed: of the weights, the data order and dropout.
        tokenizer: settings of the task's tokenizer; empty where there is none.
        config: of the architecture, without `vocab_size`, which the tokenizer gives.
        training: sizes of the run.
        base: reference of the trained model that is adapted; empty to train from scratch.
        tuning: `method`, the name of a way of adapting, and its options; empty likewise.
        contexts: tokens read at once at which the finished model is measured too, besides the
            length it was trained on.
        data: the user's own instead of a task: `path`, and where wanted `test_path` and `license`;
            of labelled texts `text_column` and `label_column`; of sentence pairs `source_column`
            and `target_column`, or `target_path` and `test_target_path`, and `pipeline`, which is
            that of the architecture unless given; see `zoo.tasks.own_data`.
        embeddings: whose a new model begins with, see `EmbeddingSettings`; empty for none.
        objective: what the task is told: its own names, see its `objective`.
        source: the file it was read from.
    """

    name: str
    architecture: str
    task: str = ""
    training: TrainingSettings
    seed: int = 1
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""
    tuning: Mapping[str, Any] = field(default_factory=dict)
    contexts: tuple[int, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    embeddings: Mapping[str, Any] = field(default_factory=dict)
    objective: Mapping[str, Any] = field(default_factory=dict)
    source: Path | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a recipe file; a file `recipe.toml` is named by its folder.

        Raises:
            RecipeError: not there, not TOML, an unknown or missing key, a value out of range.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:  # TOML and UTF-8 errors are values
            raise RecipeError(f"{path} is not a recipe: {error}") from error
        name = path.absolute().parent.name if path.name == "recipe.toml" else path.stem
        if isinstance(values.get("data"), dict):
            values["data"] = _beside(values["data"], path.parent, *TARGETS, *TARGETS.values())
        for key in ("embeddings", "tokenizer"):
            if isinstance(values.get(key), dict):
                values[key] = _beside(values[key], path.parent, "source")
        try:
            return cls.from_dict({"name": name} | values, source=path)
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: Path | None = None) -> Self:
        """Check and build a recipe from plain values.

        One that adapts a base takes architecture, sizes and tokenizer from it.
        """
        if values.get("base") and "architecture" not in values:
            values = {"architecture": info(values["base"]).architecture, **values}
        _check_values("recipe", cls, values)
        if values.get("seed", 0) < 0:
            raise RecipeError(f"recipe seed must not be below 0, got {values['seed']}")
        contexts = tuple(values.get("contexts", ()))
        if any(type(context) is not int or context < 1 for context in contexts):
            raise RecipeError(f"recipe contexts must be whole numbers above 0, got {contexts}")
        _check_tuning(values)
        settings: dict[str, Any] = dict(values["training"])
        _check_values("[training]", TrainingSettings, settings)
        _check_data(values, settings)
        values = {**values, "embeddings": _embeddings(values)}
        if "betas" in settings:
            settings["betas"] = tuple(settings["betas"])
        parts = {"training": TrainingSettings(**settings), "contexts": contexts, "source": source}
        return cls(**{**values, **parts})

    def with_changes(self, **changes: Any) -> Self:
        """A copy with other values; a key is one of the recipe, of [training], or of [config].

        With a `tuning`, which may be the name of a method alone, further keys are its options, but
        for those that the recipe has in its [config]; what else shall be other in the base's
        configuration stands in a `config` of its own. `data`, the
        path of labelled texts or sentence pairs, or two paths, sources and targets, takes the place
        of the task; names of columns, `test_data` and `license` go with it. Keys of `embeddings` go
        into the table that is there; an empty `source` takes the table away, and leaves its
        tokenizer where [tokenizer] takes that of the source.
        """
        changes = self._with_data(changes)
        if isinstance(changes.get("tuning"), str):
            changes["tuning"] = {"method": changes["tuning"]}
        tuning: dict[str, Any] = dict(changes.get("tuning", self.tuning))
        top = {f.name for f in dataclasses.fields(self)} - {"training", "config", "source"}
        inner = {f.name for f in dataclasses.fields(TrainingSettings)}
        parts: dict[str, dict[str, Any]] = {"top": {}, "training": {}, "config": {}}
        for key, value in changes.items():
            if key == "config":
                continue
            part = "top" if key in top else "training" if key in inner else "config"
            if part == "config" and tuning and not (self.tuning and key in self.config):
                tuning[key] = value
                continue
            if part == "config" and key not in self.config:
                _check_keys("recipe", {key: value}, [*top, *inner, *self.config])
            parts[part][key] = value
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)} | parts["top"]
        source = values.pop("source")
        if tuning:
            if "base" in changes and "architecture" not in changes:
                del values["architecture"]  # it is the base's
            kept = self.config if self.tuning else {}  # a new base decides all but what is given
            config = {**changes.get("config", kept), **parts["config"]}
            values |= {"tuning": tuning, "config": config, "tokenizer": {}}
            values["embeddings"] = changes.get("embeddings", {})  # a base has its own
            return self.from_dict({**values, "training": _settings(self, parts)}, source=source)
        values["config"] = {**self.config, **changes.get("config", {}), **parts["config"]}
        if isinstance(given := values["embeddings"], Mapping):
            values["embeddings"] = {**self.embeddings, **given}
            if not values["embeddings"].get("source"):
                values["tokenizer"] = _with_source(values["tokenizer"], self.embeddings)
        values["training"] = _settings(self, parts)
        return self.from_dict(values, source=source)

    def _with_data(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Changes of which those in `DATA` have become the [data] table."""
        rest = {key: value for key, value in changes.items() if key not in DATA}
        given = {DATA[k]: v for k, v in changes.items() if k in DATA and v is not None}
        table = given.pop("path", None)
        new = dict(table) if isinstance(table, Mapping) else _paths("path", table)
        given |= _paths("test_path", given.pop("test_path", None))
        if not given and not new:
            return rest
        if not (new or self.data):
            key = next(key for key in changes if key in DATA)
            paired = key in ("source_column", "target_column")
            whose = "sentence pairs" if paired else "labelled texts"
            raise RecipeError(f"{key} belongs to {whose}: give their file, --data or data=")
        old = {**self.data}
        if "test_path" in given:
            old.pop("test_target_path", None)
        if new and (pipeline := self._paired()):
            new.setdefault("pipeline", pipeline)
        new = {**(new or old), **given}
        for key in (*TARGETS, *TARGETS.values()):
            if isinstance(new.get(key), os.PathLike):
                new[key] = os.fspath(new[key])
        if not self.data:
            tuning = rest.get("tuning", self.tuning)
            method = tuning.get("method") if isinstance(tuning, Mapping) else tuning
            stem = re.sub(r"[^a-z0-9]+", "-", Path(str(new.get("path"))).name.split(".")[0].lower())
            words = (stem.strip("-") or "texts", self.architecture, method)
            rest.setdefault("name", "-".join(word for word in words if word))
            rest.setdefault("evaluate_every", 0)  # there is no split to look at
            rest.setdefault("contexts", ())
            rest.setdefault("objective", self._shared_objective())
        return {**rest, "data": new, "task": ""}

    def _shared_objective(self) -> Mapping[str, Any]:
        """Of [objective] what tasks of this kind know, not what this one alone does.

        Nor what is so without saying it: the data may be of another kind.
        """
        with suppress(UnknownNameError):
            usual: dict[str, Any] = {}
            for kind in reversed(
                type(resolve(registry().tasks.get(self.task).target)()).__mro__[1:]
            ):
                usual |= vars(kind).get("objective", {})
            given = self.objective.items()
            return {key: value for key, value in given if key in usual and value != usual[key]}
        return self.objective

    def _paired(self) -> str:
        """The pipeline that own data are for where they are pairs; empty where they are not."""
        if self.data:
            return str(self.data.get("pipeline", ""))
        with suppress(UnknownNameError):  # of a plugin that is not here: then it is not needed
            pipeline = registry().tasks.get(self.task).pipeline
            return pipeline if pipeline in PAIRED else ""
        return ""

    def dump(self) -> str:
        """The recipe as TOML, defaults written out."""
        head = {k: getattr(self, k) for k in ("architecture", "task", "seed")}
        head = {key: value for key, value in head.items() if value != ""}
        head |= {"base": self.base} if self.base else {}
        head |= {"contexts": self.contexts} if self.contexts else {}
        tables = {"data": self.data, "tokenizer": self.tokenizer, "config": self.config}
        tables |= {"embeddings": self.embeddings, "tuning": self.tuning}
        tables |= {"objective": self.objective}
        lines = [f"{k} = {_toml(v)}" for k, v in head.items()]
        training = dataclasses.asdict(self.training)
        if self.training.keep == KEEP[0]:  # left out, so that runs begun without the key go on
            del training["keep"]
        for title, table in {**tables, "training": training}.items():
            if table:
                lines += ["", f"[{title}]", *(f"{k} = {_toml(v)}" for k, v in table.items())]
        return "\n".join(lines) + "\n"


def _paths(key: str, given: Any) -> dict[str, Any]:
    """One path, or those of sources and of targets, as [data] has them."""
    files = [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
    if len(files) > 2:
        what = "data" if key == "path" else "test_data"
        raise RecipeError(f"{what} is one file, or two, sources and targets; got {len(files)}")
    return dict(zip((key, TARGETS[key]), files, strict=False))


def _settings(recipe: Recipe, parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The [training] table of a recipe, with other values."""
    return {**dataclasses.asdict(recipe.training), **parts["training"]}


def _check_tuning(values: Mapping[str, Any]) -> None:
    """Hold `base` and [tuning] against each other: both or neither, and a method."""
    base, tuning = values.get("base", ""), values.get("tuning", {})
    if bool(base) != bool(tuning):
        there, lacks = ("base", "a [tuning] table") if base else ("[tuning]", "a base")
        raise RecipeError(f"recipe has {there} and lacks {lacks}: to adapt a model takes both")
    if tuning and not isinstance(tuning.get("method"), str):
        raise RecipeError(f"[tuning] lacks method, such as 'lora'; it has {dict(tuning)}")
    if tuning and values.get("tokenizer"):
        raise RecipeError("recipe has [tokenizer] and a base, which decides that: leave it out")


def _check_data(values: Mapping[str, Any], training: Mapping[str, Any]) -> None:
    """Hold the task and [data] against each other, and look at the keys of [data]."""
    task, data = values.get("task"), values.get("data")
    if not task and not data:
        raise RecipeError("recipe lacks task")
    if not data:
        return
    if task:
        raise RecipeError(f"recipe has the task {task!r} and [data]: leave one of them out")
    _check_keys("[data]", data, [*DATA.values(), *TARGETS.values(), "pipeline"])
    if "path" not in data:
        raise RecipeError(
            "[data] lacks path, a file of labelled texts, pairs or conversations, or a folder of "
            "labelled pictures"
        )
    for key, value in data.items():
        if not isinstance(value, str) or not value:
            raise RecipeError(f"[data] {key} must be a text, got {value!r}")
    if data.get("pipeline", OWN[0]) not in OWN:
        raise RecipeError(f"[data] pipeline must be {', '.join(OWN)}, got {data['pipeline']!r}")
    if training.get("evaluate_every"):
        raise RecipeError("[training] evaluate_every must be 0: [data] has no validation split")


def _embeddings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The [embeddings] table, checked; empty with an empty source."""
    table = dict(values.get("embeddings") or {})
    if not table:
        return {}
    _check_values("[embeddings]", EmbeddingSettings, table, source=True)
    EmbeddingSettings(**table)
    if values.get("base") and table["source"]:
        raise RecipeError("recipe has [embeddings] and a base, which has its own: leave one out")
    return table if table["source"] else {}


def _with_source(tokenizer: Any, embeddings: Mapping[str, Any]) -> Any:
    """The [tokenizer] table, with the source that it had from [embeddings]."""
    if not embeddings or not isinstance(tokenizer, Mapping) or tokenizer.get("kind") != "source":
        return tokenizer
    return {"source": embeddings["source"], **tokenizer}


def _beside(table: Mapping[str, Any], folder: Path, *keys: str) -> dict[str, Any]:
    """A table of a file in a folder: what lies there is found from anywhere."""
    found = dict(table)
    for key in keys:
        path = table.get(key)
        if not isinstance(path, str) or not path or os.path.exists(path):
            continue
        if (folder / path).exists():
            found[key] = os.path.relpath(folder / path)
    return found


def _check_values(where: str, kind: type, values: Mapping[str, Any], source: bool = False) -> None:
    """Hold plain values against the fields of a dataclass: names, kinds, none missing."""
    fields = {f.name: f for f in dataclasses.fields(kind) if source or f.name != "source"}
    _check_keys(where, values, list(fields))
    for name, known in fields.items():
        if name in values:
            kinds, words = KINDS.get(known.type, ((dict,), "a table"))
            if type(values[name]) not in kinds:
                raise RecipeError(f"{where} {name} must be {words}, got {values[name]!r}")
        elif known.default is MISSING and known.default_factory is MISSING:
            raise RecipeError(f"{where} lacks {name}")


def _check_keys(where: str, values: Mapping[str, Any], known: list[str]) -> None:
    for key in values:
        if key not in known:
            close = get_close_matches(key, known, n=1)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise RecipeError(f"{where} has no key {key!r}.{guess} Keys: {', '.join(known)}")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, Mapping):
        pairs = (f"{k if BARE.fullmatch(k) else _toml(k)} = {_toml(v)}" for k, v in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
