"""What the kit found here last: kept in the cache, shown beside each plugin.

A record belongs to one state of a plugin's code; after an edit it is stale, and says so.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from zoo.hub import home
from zoo.plugins import Plugin
from zoo.testing.checks import KIT_VERSION
from zoo.testing.kit import Report


@dataclass(frozen=True)
class Record:
    """The last run of the kit over a plugin, on this machine.

    Attributes:
        kit: version of the kit.
        level: "quick" or "full".
        passed: how many checks passed.
        failed: numbers of those that failed, or passed against expectation.
        expected: numbers of those that failed as expected.
        version: of the plugin.
        txzoo: version of txzoo.
        date: day of the run, as 2026-01-31 (UTC).
        code: fingerprint of the plugin's Python files.
        stale: whether the code, the plugin's version or the kit's is another one now.
    """

    kit: int
    level: str
    passed: int
    failed: tuple[str, ...]
    expected: tuple[str, ...]
    version: str
    txzoo: str
    date: str
    code: str
    stale: bool = False

    def __str__(self) -> str:
        words = f"failed {', '.join(self.failed)}" if self.failed else f"passed {self.passed}"
        words += f" (kit {self.kit}, {self.level})"
        return f"{words}, stale" if self.stale else words


def save_record(plugin: Plugin, report: Report) -> Record:
    """Remember a report."""
    record = Record(
        kit=report.kit,
        level=report.level,
        passed=report.count("passed"),
        failed=_numbers(report, "failed") + _numbers(report, "unexpected pass"),
        expected=_numbers(report, "expected failure"),
        version=report.version,
        txzoo=report.txzoo,
        date=datetime.now(UTC).date().isoformat(),
        code=fingerprint(plugin),
    )
    path = _place(plugin)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
    os.replace(beside, path)
    return record


def last_record(plugin: Plugin) -> Record | None:
    """The last run over a plugin on this machine, None when there was none."""
    try:
        values = json.loads(_place(plugin).read_text(encoding="utf-8"))
        values |= {key: tuple(values[key]) for key in ("failed", "expected")}
        record = Record(**values)
    except (OSError, ValueError, KeyError, TypeError):  # none, or one of another txzoo
        return None
    now = (plugin.version, KIT_VERSION, fingerprint(plugin))
    return replace(record, stale=(record.version, record.kit, record.code) != now)


def fingerprint(plugin: Plugin) -> str:
    """Sixteen digits that change with any Python file of a plugin."""
    module = plugin.module.partition(":")[0].partition(".")[0]
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    face = Path(spec.origin)
    files = sorted(face.parent.rglob("*.py")) if face.name == "__init__.py" else [face]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(face.parent).as_posix().encode() + b"\0")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _place(plugin: Plugin) -> Path:
    return home() / "conformance" / f"{plugin.name.replace(':', '--')}.json"


def _numbers(report: Report, outcome: str) -> tuple[str, ...]:
    return tuple(sorted({r.number for r in report.results if r.outcome == outcome}))
