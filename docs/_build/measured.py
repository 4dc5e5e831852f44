"""What `benchmarks/table.py` and `benchmarks/serving.py` found, as Markdown: the newest of each row."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
LEAST = 3  # rounds, fewer of which say nothing
NOTHING = "Nothing has been measured on this code yet: the commands below do it.\n"


def kept(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The results of all days and machines, the last day first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return sorted(found, key=lambda results: str(results["date"]), reverse=True)


def markdown(days: Sequence[Mapping[str, Any]]) -> str:
    """A table for each row that was measured, as it was found the last time on a machine."""
    parts, shown = [], set()
    for results in days:
        machine = results["hardware"]
        rows = {name: row for name, row in results["rows"].items() if (machine, name) not in shown}
        shown |= {(machine, name) for name in rows}
        if rows:
            versions = ", ".join(f"{name} {n}" for name, n in results["versions"].items())
            parts.append(f"## {results['date']}\n")
            parts.append(f"{machine}, {results['processor']}; {versions}.\n")
        for row in rows.values():
            parts += [f"**{row['what'].capitalize()}**\n", "\n".join(table(row)) + "\n"]
            if row["left_out"]:
                reasons = (f"{name} ({reason})" for name, reason in row["left_out"].items())
                parts.append(f"Left out: {', '.join(reasons)}.\n")
    return "\n".join(parts) or NOTHING


def table(row: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a row's table."""
    peers = {name: counted(facts) for name, facts in row["peers"].items()}
    twin = peers.get("transformers", {}).get("value")
    columns: list[tuple[str, Any]] = [
        (row["unit"], lambda facts: number(facts.get("value"))),
        ("quartiles", quartiles),
    ]
    if twin:
        columns.append(("of transformers", lambda facts: ratio(row["unit"], facts, twin)))
    if any("first_ms" in facts for facts in peers.values()):
        columns.append(("first token, ms", lambda facts: number(facts.get("first_ms"))))
    if any("same" in facts for facts in peers.values()):
        columns.append(("tokens the same", same))
    if any("losses" in facts for facts in peers.values()):
        columns.append(("last loss", lambda facts: f"{facts['losses'][-1]:.4f}"))
    if any("wrong" in facts for facts in peers.values()):
        columns.append(("answers lost or other", lambda facts: str(facts.get("wrong", "–"))))
    if any("peak_bytes" in facts for facts in peers.values()):
        columns.append(("memory, MB", lambda facts: f"{facts.get('peak_bytes', 0) / 1e6:,.0f}"))
    yield line(["", *(title for title, _ in columns)])
    yield line(["---"] * (len(columns) + 1))
    for name, facts in peers.items():
        yield line([name, *(cell(facts) for _, cell in columns)])


def counted(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """What came of a peer, without the numbers of too few rounds."""
    if facts["rounds"] >= LEAST:
        return facts
    of_rounds = ("value", "low", "high", "first_ms")
    return {key: value for key, value in facts.items() if key not in of_rounds}


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def quartiles(facts: Mapping[str, Any]) -> str:
    if "low" not in facts:
        return f"starved in {facts['turns'] - facts['rounds']} of {facts['turns']} turns"
    return f"{number(facts['low'])} to {number(facts['high'])}, {facts['rounds']} rounds"


def ratio(unit: str, facts: Mapping[str, Any], twin: float) -> str:
    value = facts.get("value")
    if not value:
        return "–"
    return f"{twin / value if unit == 'ms' else value / twin:.2f}x"


def same(facts: Mapping[str, Any]) -> str:
    return "{} of {}".format(*facts["same"]) if "same" in facts else "–"
