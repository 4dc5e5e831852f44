"""The card of a model: Hugging Face model-card front matter and prose, the only metadata there is.

The front matter holds the Hub's own keys and a `txzoo` block:

    license: cc-by-sa-4.0            # required
    pipeline_tag: text-generation    # required
    datasets: [wikitext]
    base_model: owner/name           # of one that was tuned, not trained from scratch
    model-index:                     # scores, in the Hub's format
    - name: alibi-lm
      results:
      - task: {type: text-generation}
        dataset: {name: WikiText-2, type: wikitext, split: test}
        metrics:
        - {type: perplexity, name: perplexity per word, value: 113.2}
        - {type: accuracy, name: accuracy at 512 tokens, value: 0.3, args: {context: 512}}
        # of BLEU and chrF args has `signature`, how it was counted, and `interval`, two numbers;
        # of text classification `baseline`, what TF-IDF reaches and its standard error
    txzoo:
      name: alibi-lm                 # the folder's name unless given
      summary: one line
      example: an input to try it with
      architecture: alibi-decoder    # required
      task: wikitext-2               # or, of labelled texts that no task brings:
      data: {name: my.csv, path: my.csv, sha256: digits, text_column: text, label_column: label}
      # or, of sentence pairs: {name, path, sha256, pairs: 1000, source_column: en, ...}
      # or, of conversations: {name, path, sha256, conversations: 1000}; of pairs of answers alike
      parameters: 3012345
      requires: {txzoo: ">=0.1,<1"}
      files: {model.safetensors: {sha256: 64 digits, bytes: 6291456}}
      hub: {repo: owner/name, revision: 40 digits of a commit}    # when the files live there
      base: {ref: alibi-lm, sha256: 64 digits}    # of the weights that an adapter belongs to
      standard_error: {test: {perplexity per word: 1.0}}
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from zoo.data import COUNTED
from zoo.errors import CONTROLS, CardError
from zoo.folder import (
    ADAPTER_WEIGHTS,
    CARD,
    MOST_TEXT,
    WEIGHTS,
    FileRecord,
    member,
    stays_inside,
)
from zoo.numbers import with_error

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is eight times faster
FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
SHA256 = re.compile(r"[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")
REPO = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")
DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")

Where = tuple[str | int, ...]


@dataclass(frozen=True)
class HubPointer:
    """Where a card's files live on the Hub.

    Attributes:
        repo: `"owner/name"`.
        revision: the pinned commit.
    """

    repo: str
    revision: str


@dataclass(frozen=True)
class Base:
    """The model that an adapter belongs to.

    Attributes:
        ref: how `zoo.load` finds it.
        sha256: of its weights.
    """

    ref: str
    sha256: str


@dataclass(frozen=True)
class Score:
    """One measured number.

    Attributes:
        metric: its kind in the Hub's words, such as `"perplexity"`.
        name: what exactly, in words: `"perplexity per word"`.
        value: the number.
        dataset: name of the data set.
        split: of the data set; empty when the card does not say.
        standard_error: of the number, or None.
        context: tokens read at once; None for what the model was trained on.
        signature: how it was counted, in the words of the library that counts it; empty for most.
        interval: the ends of its 95% interval, or None.
        baseline: what TF-IDF with logistic regression reaches on the same texts, and the standard
            error of that; None for what is no text classification.
    """

    metric: str
    name: str
    value: float
    dataset: str
    split: str
    standard_error: float | None = None
    context: int | None = None
    signature: str = ""
    interval: tuple[float, float] | None = None
    baseline: tuple[float, float] | None = None

    @property
    def key(self) -> str:
        """What `zoo.evaluate` calls it: `"perplexity_per_word"`."""
        return self.name.removesuffix(at_context(self.context)).replace(" ", "_")


@dataclass(frozen=True)
class Card:
    """A card: read it with `Card.read`, or build it from its parts and `write` it.

    Attributes:
        data: the front matter.
        text: the prose after it.
        path: its file: where it was read from, or where it belongs.
    """

    data: dict[str, Any]
    text: str
    path: Path = field(compare=False)

    @classmethod
    def read(cls, place: str | Path) -> "Card":
        """Read the card of a model folder, or a card file.

        Raises:
            CardError: there is none, or it does not hold what a card must; names file, line, field.
            FolderError: the folder's card is a link to a place outside.
        """
        path = Path(place)
        if path.is_dir():
            path = path / CARD
            if path.is_symlink():
                member(path.parent, CARD)  # refuses one that leaves the folder
        return cls.parse(read_text(path), path)

    @classmethod
    def parse(cls, text: str, path: Path) -> "Card":
        """The card that a text holds; `path` is for errors and for the default name.

        Raises:
            CardError: as in `read`.
        """
        source, prose = split_front_matter(text, path)
        data = parse_front_matter(source, path)
        _Check(data, source, path).run()
        return cls(data, prose, path)

    def dump(self) -> str:
        """The text of the card, front matter and prose."""
        front = yaml.dump(
            dict(self.data),
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=None,
            width=100,
        )
        return f"---\n{front}---\n{self.text}"

    def write(self, place: str | Path) -> Path:
        """Write it into an existing folder, or as a card file; returns the file's path.

        Raises:
            CardError: it lacks what a card must have; nothing is written then.
        """
        path = Path(place)
        path = path / CARD if path.is_dir() else path
        text = self.dump()
        Card.parse(text, path)
        beside = path.with_name(f".{path.name}.tmp")
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
        return path

    @property
    def folder(self) -> Path:
        """The folder it lies in."""
        return self.path.parent

    @property
    def name(self) -> str:
        """Name of the model; the folder's unless the card gives one."""
        return str(self._ours.get("name") or self.path.absolute().parent.name)

    @property
    def summary(self) -> str:
        """One line for listings."""
        return str(self._ours.get("summary") or "")

    @property
    def license(self) -> str:
        """Licence of the weights, in the Hub's spelling."""
        return str(self.data["license"])

    @property
    def pipeline(self) -> str:
        """Name of the pipeline the model is called through."""
        return str(self.data["pipeline_tag"])

    @property
    def datasets(self) -> list[str]:
        """The Hub's names of the data it was trained on."""
        return list(self.data.get("datasets") or ())

    @property
    def base_models(self) -> list[str]:
        """The Hub's names of the models it was made from; none for one trained from scratch."""
        base = self.data.get("base_model") or []
        return [base] if isinstance(base, str) else list(base)

    @property
    def architecture(self) -> str:
        """Name of the architecture."""
        return str(self._ours["architecture"])

    @property
    def task(self) -> str | None:
        """Name of the task it was trained on, None when the card does not say."""
        return self._ours.get("task")

    @property
    def parameters(self) -> int | None:
        """Number of parameters, None when the card does not say."""
        return self._ours.get("parameters")

    @property
    def example(self) -> str | None:
        """An input to try the model with, None when the card has none."""
        return self._ours.get("example")

    @property
    def training(self) -> dict[str, Any]:
        """Facts of the run that made it: steps, tokens, minutes, hardware ..."""
        return dict(self._ours.get("training") or {})

    @property
    def requires(self) -> dict[str, str]:
        """Distributions it needs and their versions, such as `{"txzoo": ">=0.1,<1"}`."""
        return dict(self._ours.get("requires") or {})

    @property
    def files(self) -> dict[str, FileRecord]:
        """The files it vouches for."""
        files = self._ours.get("files") or {}
        return {name: FileRecord(entry["sha256"], entry["bytes"]) for name, entry in files.items()}

    @property
    def hub(self) -> HubPointer | None:
        """Where its files live on the Hub, None when they lie beside the card."""
        pointer = self._ours.get("hub")
        return HubPointer(pointer["repo"], pointer["revision"]) if pointer else None

    @property
    def base(self) -> Base | None:
        """What it is an adapter of, None for a model that stands alone."""
        base = self._ours.get("base")
        return Base(base["ref"], base["sha256"]) if base else None

    @property
    def trained(self) -> bool:
        """Whether there are weights, here or on the Hub."""
        return WEIGHTS in self.files or ADAPTER_WEIGHTS in self.files

    @property
    def installed(self) -> bool:
        """Whether all weights are here: nothing of it is fetched from the Hub, its base neither."""
        base = self.base
        on_hub = self.hub is not None or (base is not None and base.ref.startswith("hf://"))
        return self.trained and not on_hub

    @property
    def scores(self) -> list[Score]:
        """Every number of `model-index`, in its order."""
        errors = self._ours.get("standard_error") or {}
        return [
            Score(
                metric["type"],
                name := metric.get("name") or metric["type"],
                float(metric["value"]),
                result["dataset"]["name"],
                split := result["dataset"].get("split") or "",
                errors.get(split, {}).get(name),
                (args := metric.get("args") or {}).get("context"),
                args.get("signature", ""),
                _two(args.get("interval")),
                _two(args.get("baseline")),
            )
            for model in self.data.get("model-index") or ()
            for result in model["results"]
            for metric in result["metrics"]
        ]

    def baselines(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """A column for a table of the scores, what TF-IDF reaches: its title, and a cell for each.

        Both are empty tuples where no score has one.
        """
        found = [score.baseline for score in self.scores]
        if not any(found):
            return (), [()] * len(found)
        return ("TF-IDF",), [(with_error(*each) if each else "",) for each in found]

    @property
    def _ours(self) -> Mapping[str, Any]:
        block: Mapping[str, Any] = self.data["txzoo"]
        return block


def _two(numbers: list[float] | None) -> tuple[float, float] | None:
    return None if numbers is None else (numbers[0], numbers[1])


class _Dumper(yaml.SafeDumper):
    """Writes a value that stands twice twice: aliases are refused when a card is read."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never use one."""
        return True


def at_context(context: int | None) -> str:
    """How a score's name ends when it was read at another length than the training one."""
    return "" if context is None else f" at {context} tokens"


def has_card(folder: Path) -> bool:
    """Whether a folder holds a card of ours; PEFT writes another kind."""
    path = folder / CARD
    return path.is_file() and "\ntxzoo:" in read_text(path)


def read_text(path: Path) -> str:
    """The text of a card file.

    Raises:
        CardError: there is no such file, it is none that holds text, or it is not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or a device would never end
            raise CardError(f"{path}: a card is a file")
        if path.stat().st_size > MOST_TEXT:
            raise CardError(f"{path}: larger than any card: {path.stat().st_size} bytes")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CardError(f"{path}: not UTF-8: {error}") from error
    except OSError as error:
        raise CardError(f"{path}: a model folder needs a card, {error.strerror}") from error


def split_front_matter(text: str, path: Path) -> tuple[str, str]:
    """The YAML source and the prose of a card.

    Raises:
        CardError: the text does not open with front matter.
    """
    match = FRONT_MATTER.match(text)
    if match is None:
        raise CardError(f"{path}:1: a card opens with front matter between two lines of ---")
    return match[1], text[match.end() :]


_DEEPEST = 50  # levels of nesting; cards have seven
_SAFE_OPENERS = 500  # a card without scores at ten lengths has fewer, and no stack is too small
# what PyYAML's constructors raise on tags whose value does not fit: !!int "", !!bool maybe, ...
_YAML_SURPRISES = (
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    OverflowError,
    RecursionError,
)


def parse_front_matter(source: str, path: Path) -> dict[str, Any]:
    """The values of front matter.

    Raises:
        CardError: it is not a YAML mapping, or has aliases or a nesting that can harm.
    """
    try:
        _refuse_bombs(source, path)
        data = yaml.load(source, LOADER)
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark.line + 2) if error.problem_mark else 1
        raise CardError(
            f"{path}:{line}: not valid YAML: {error.problem or error.context}"
        ) from error
    except (yaml.YAMLError, *_YAML_SURPRISES) as error:
        raise CardError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise CardError(f"{path}:1: the front matter must be a mapping of keys to values")
    return data


def _refuse_bombs(source: str, path: Path) -> None:
    """Raise for aliases, and for a nesting so deep that the C loader would overflow its stack."""
    openers = sum(map(source.count, "[{-?:"))  # each level of nesting takes one of them
    if "*" not in source and openers <= _SAFE_OPENERS:
        return
    depth = 0
    for event in yaml.parse(source, LOADER):
        line = event.start_mark.line + 2 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise CardError(
                f"{path}:{line}: not valid YAML for a card: an alias, *{event.anchor}: write it out"
            )
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise CardError(
                f"{path}:{line}: not valid YAML for a card: nested more than {_DEEPEST} deep"
            )


class _Check:
    """Holds front matter against what a card must be.

    Args:
        data: the front matter.
        source: its YAML, searched for line numbers when something is wrong.
        path: the card's.
    """

    def __init__(self, data: Mapping[str, Any], source: str, path: Path) -> None:
        self.data = data
        self.source = source
        self.path = path

    def run(self) -> None:
        """Raise `CardError` at the first field that is wrong."""
        self.value(("license",), str, required=True)
        self.value(("pipeline_tag",), str, required=True)
        self.strings(("datasets",))
        if isinstance(self.data.get("base_model"), list):
            self.strings(("base_model",))
        else:
            self.value(("base_model",), str)
        self.value(("txzoo",), dict, required=True)
        self.value(("txzoo", "architecture"), str, required=True)
        for key in ("name", "summary", "task", "example"):
            self.value(("txzoo", key), str)
        self.value(("txzoo", "training"), dict)
        if (self.value(("txzoo", "parameters"), int) or 0) < 0:
            self.fail(("txzoo", "parameters"), "must not be below 0")
        for name in self.value(("txzoo", "requires"), dict) or ():
            self.value(("txzoo", "requires", name), str, required=True)
            if not isinstance(name, str) or not DISTRIBUTION.fullmatch(name):
                self.fail(("txzoo", "requires"), f"{name!r} cannot be a distribution's name")
        self.files()
        self.hub()
        if self.value(("txzoo", "data"), dict) is not None:
            counts = {self.value(("txzoo", "data", kind), int) for kind in COUNTED}
            columns = () if counts != {None} else ("text_column", "label_column")
            for key in ("name", "path", "sha256", *columns):
                self.value(("txzoo", "data", key), str, required=True)
        if self.value(("txzoo", "base"), dict) is not None:
            self.value(("txzoo", "base", "ref"), str, required=True)
            digest = self.value(("txzoo", "base", "sha256"), str, required=True)
            if not SHA256.fullmatch(digest):
                self.fail(("txzoo", "base", "sha256"), "must be 64 lower-case hex digits")
        for split in self.value(("txzoo", "standard_error"), dict) or ():
            for name in self.value(("txzoo", "standard_error", split), dict, required=True):
                self.number(("txzoo", "standard_error", split, name))
        self.scores()

    def files(self) -> None:
        for name in self.value(("txzoo", "files"), dict) or ():
            where = ("txzoo", "files", name)
            if not isinstance(name, str) or not stays_inside(name):
                self.fail(where, "leaves the model folder")
            self.value(where, dict, required=True)
            digest = self.value((*where, "sha256"), str, required=True)
            if not SHA256.fullmatch(digest):
                self.fail((*where, "sha256"), f"must be 64 lower-case hex digits, got {digest!r}")
            if self.value((*where, "bytes"), int, required=True) < 0:
                self.fail((*where, "bytes"), "must not be below 0")

    def hub(self) -> None:
        if self.value(("txzoo", "hub"), dict) is None:
            return
        repo = self.value(("txzoo", "hub", "repo"), str, required=True)
        if not REPO.fullmatch(repo):
            self.fail(("txzoo", "hub", "repo"), f"must read owner/name, got {repo!r}")
        revision = self.value(("txzoo", "hub", "revision"), str, required=True)
        if not COMMIT.fullmatch(revision):
            self.fail(
                ("txzoo", "hub", "revision"),
                f"must be a commit of 40 lower-case hex digits, got {revision!r}",
            )
        if WEIGHTS not in (self.value(("txzoo", "files"), dict) or ()):
            self.fail(("txzoo", "files"), f"must give the sha256 of the Hub's {WEIGHTS}")

    def scores(self) -> None:
        for m, _ in enumerate(self.value(("model-index",), list) or ()):
            for r, _ in enumerate(self.value(("model-index", m, "results"), list, required=True)):
                where: Where = ("model-index", m, "results", r)
                self.value((*where, "dataset", "name"), str, required=True)
                self.value((*where, "dataset", "split"), str)
                metrics = self.value((*where, "metrics"), list, required=True)
                for i, _ in enumerate(metrics):
                    self.value((*where, "metrics", i, "type"), str, required=True)
                    self.value((*where, "metrics", i, "name"), str)
                    self.number((*where, "metrics", i, "value"))
                    self.args((*where, "metrics", i, "args"))

    def args(self, where: Where) -> None:
        if self.value(where, dict) is None:
            return
        context = self.value((*where, "context"), int)
        if context is not None and context < 1:
            self.fail((*where, "context"), f"must be at least 1, got {context}")
        self.value((*where, "signature"), str)
        for key in ("interval", "baseline"):
            numbers = self.value((*where, key), list)
            if numbers is not None and len(numbers) != 2:
                self.fail((*where, key), f"must be two numbers, got {len(numbers)}")
            for place, _ in enumerate(numbers or ()):
                self.number((*where, key, place))

    def strings(self, where: Where) -> None:
        for i, _ in enumerate(self.value(where, list) or ()):
            self.value((*where, i), str, required=True)

    def number(self, where: Where) -> None:
        value = self.value(where, (int, float), required=True)
        if not math.isfinite(value):
            self.fail(where, f"must be a finite number, got {value}")

    def value(self, where: Where, kind: type | tuple[type, ...], *, required: bool = False) -> Any:
        """The value at a path of keys, of the kind wanted; None when it may be missing and is."""
        value: Any = self.data
        for depth, key in enumerate(where):
            inside = isinstance(value, list if isinstance(key, int) else dict)
            if not inside:
                self.fail(where[:depth], "must be a mapping")
            value = value[key] if isinstance(key, int) else value.get(key)
        if value is None and not required:
            return None
        if value is None or value == "":
            self.fail(where, "is missing")
        if not isinstance(value, kind) or isinstance(value, bool):
            names = {str: "text", int: "a whole number", dict: "a mapping", list: "a list"}
            wanted = "a number" if isinstance(kind, tuple) else names[kind]
            self.fail(where, f"must be {wanted}, got {value!r:.80}")
        if isinstance(value, str) and CONTROLS.search(value):
            self.fail(where, f"holds a character that controls terminals: {value!r:.80}")
        return value

    def fail(self, where: Where, problem: str) -> NoReturn:
        field_name = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in where)
        raise CardError(f"{self.path}:{self.line(where)}: {field_name.lstrip('.')}: {problem}")

    def line(self, where: Where) -> int:
        """The line of the file that a path of keys stands on, or of its nearest parent."""
        node = yaml.compose(self.source, LOADER)
        line = 1
        for key in where:
            if isinstance(node, yaml.SequenceNode) and isinstance(key, int):
                node = node.value[key]
                line = node.start_mark.line + 2
                continue
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            match = [(k, v) for k, v in pairs if k.value == str(key)]
            if not match:
                return line
            line = match[-1][0].start_mark.line + 2
            node = match[-1][1]
        return line
