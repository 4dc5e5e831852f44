"""`zoo.verify`: recompute everything that a card claims."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet

from zoo import __version__
from zoo.card import Card, Score
from zoo.errors import DataNotFoundError, MissingExtraError, ZooError
from zoo.evaluation.evaluate import evaluate
from zoo.folder import CONFIG, TOKENIZER, sha256
from zoo.loading import load, locate
from zoo.model import Model
from zoo.registry import registry


@dataclass(frozen=True)
class Check:
    """One claim of a card.

    Attributes:
        claim: what is claimed, in words.
        claimed: the card's value.
        found: the recomputed one; empty when it could not be.
        ok: True or False, or None when it could not be recomputed.
        note: why not, or how close.
    """

    claim: str
    claimed: str
    found: str
    ok: bool | None
    note: str = ""


@dataclass(frozen=True)
class Report:
    """All checks of a model; `ok` when none failed."""

    name: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed; those that could not be made do not count as failed."""
        return all(check.ok is not False for check in self.checks)

    def to_json(self) -> str:
        """The report as a JSON object."""
        checks = [asdict(check) for check in self.checks]
        return json.dumps({"name": self.name, "ok": self.ok, "checks": checks}, indent=2)


def verify(ref: str) -> Report:
    """Recompute a model's hashes, the versions it needs, its size and its scores.

    A score holds when it lies within one standard error of the claimed one. Data that are not at
    hand leave their scores unchecked, and say so.

    Raises:
        ZooError: the model cannot be found or loaded at all.
    """
    found = locate(ref)
    card, folder = found.card, found.folder
    checks = [*_files(card, folder), *_versions(card)]
    if all(check.ok for check in checks):
        model = load(ref)
        parameters = sum(p.numel() for p in model.module.parameters())
        claimed = card.parameters
        checks.append(Check("parameters", str(claimed), str(parameters), claimed == parameters))
        checks += [check for group in _together(card.scores) for check in _scores(model, group)]
    return Report(card.name, tuple(checks))


def _files(card: Card, folder: Path) -> Iterator[Check]:
    """The hash of each file that the card lists, and whether it lists what decides the results."""
    for name, record in card.files.items():
        digest = sha256(folder / name) if (folder / name).is_file() else "missing"
        yield Check(f"sha256 of {name}", record.sha256, digest, digest == record.sha256)
    for name in (CONFIG, TOKENIZER):
        # a commit of the Hub vouches for these too, by git's own hash
        if name not in card.files and card.hub is None and (folder / name).is_file():
            yield Check(f"sha256 of {name}", "not on the card", sha256(folder / name), False)


def _versions(card: Card) -> Iterator[Check]:
    """The versions of the distributions that the card asks for."""
    installed = {"txzoo": __version__} | {p.distribution: p.version for p in registry().plugins}
    for name, wanted in card.requires.items():
        version = installed.get(name, "missing")
        fits = version != "missing" and SpecifierSet(wanted).contains(version, prereleases=True)
        yield Check(f"version of {name}", wanted, version, fits)


def _together(scores: list[Score]) -> list[list[Score]]:
    """The scores that one measurement gives: of one split, read at one length."""
    groups: dict[tuple[str, int | None], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.split, score.context), []).append(score)
    return list(groups.values())


def _scores(model: Model, claimed: list[Score]) -> list[Check]:
    """Measure once, and hold each claimed score against it."""
    split, context = claimed[0].split, claimed[0].context
    try:
        found = evaluate(model, split=split, context=context)
    except (DataNotFoundError, MissingExtraError) as error:
        return [
            Check(f"{score.name} ({split})", f"{score.value:g}", "", None, str(error))
            for score in claimed
        ]
    except ZooError as error:  # no such task or split: then nobody can have measured it
        return [
            Check(f"{score.name} ({split})", f"{score.value:g}", "", False, str(error))
            for score in claimed
        ]
    checks = []
    for score in claimed:
        value = found.get(score.key, math.nan)
        bar = score.standard_error or 0.0
        ok = abs(value - score.value) <= bar
        note = f"{'matches' if ok else 'does not match'} within its error bar of {bar:g}"
        checks.append(
            Check(f"{score.name} ({split})", f"{score.value:g}", f"{value:.6g}", ok, note)
        )
    return checks
