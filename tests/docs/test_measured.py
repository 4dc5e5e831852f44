"""The benchmark page: each row as it was found the last time."""

import json
from pathlib import Path
from typing import Any

from measured import NOTHING, kept, markdown


def results(date: str, value: float, *names: str, hardware: str = "a CPU") -> dict[str, Any]:
    peer = {"value": value, "low": value, "high": value, "rounds": 5, "turns": 5}
    rows = {
        name: {"what": f"writing {name}", "unit": "tokens/s", "peers": {"zoo": peer}}
        | {"left_out": {"litgpt": "not given"}}
        for name in names
    }
    versions = {"torch": "2.14"}
    return dict(date=date, hardware=hardware, processor="X", versions=versions, rows=rows)


def test_each_row_is_of_the_newest_day(tmp_path: Path) -> None:
    days = [
        results("2026-01-02", 222, "a", "b"),
        results("2026-01-03", 333, "b"),
        results("2026-01-01", 111, "a", "c"),
        results("2026-01-01", 444, "a", hardware="another"),
    ]
    for n, day in enumerate(days):
        (tmp_path / f"{n}.json").write_text(json.dumps(day), encoding="utf-8")
    text = markdown(kept(tmp_path))
    lines = [line for line in text.splitlines() if line.startswith(("##", "**", "| zoo"))]
    seen = [line.split("|")[2].strip() if line[0] == "|" else line for line in lines]
    assert seen[:8] == [
        *("## 2026-01-03", "**Writing b**", "333"),
        *("## 2026-01-02", "**Writing a**", "222"),
        *("## 2026-01-01",),
        seen[7],
    ]
    assert sorted(seen[6:]) == sorted(
        ["## 2026-01-01", "**Writing c**", "111", "## 2026-01-01", "**Writing a**", "444"]
    )


def test_nothing_says_so(tmp_path: Path) -> None:
    assert markdown(kept(tmp_path)) == NOTHING
