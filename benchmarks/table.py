"""Every row of the benchmark table, each beside its peers, into one file of results.

    python benchmarks/table.py --quick
    python benchmarks/table.py --peer litgpt=LITGPT/bin/python --rows decode-small-1 train
    python benchmarks/table.py --list

Each peer runs in a process of its own with its defaults (tiny models on one thread, on which all of
them are fastest); peers take turns, and a round in which one waited for a processor more than 3 %
of the time does not count. litgpt and x-transformers run in Pythons of their own, given with
--peer; what is not given or not installed is left out, and said so. Tokens are held against those
of `transformers` on the exported twin; litgpt and x-transformers have weights of their own.

Rows go into benchmarks/results/HARDWARE-DATE.json as they come; a row that is there is not measured
again unless it is named with --again. The docs draw each row from the newest file that has it.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from peers import ENGINES, STARTS, model_of
from turns import Peer, processor, spread, take_turns

import zoo
from zoo.export import export
from zoo.training.report import hardware

HERE = Path(__file__).parent
SHAPES = {
    "tiny": {"d_model": 64, "n_heads": 2, "n_layers": 4, "vocab_size": 5755, "max_seq_len": 512},
    "small": {"d_model": 256, "n_heads": 8, "n_layers": 6, "vocab_size": 8192, "max_seq_len": 512},
    "gpt2": {
        "d_model": 768,
        "n_heads": 12,
        "n_layers": 12,
        "vocab_size": 50257,
        "max_seq_len": 1024,
    },
}
NEW = {"tiny": 200, "small": 100, "gpt2": 32}  # tokens that a round writes
# architecture, sizes of its own, and how wide its layers are if not as those of the others
POSITIONS: dict[str, tuple[str, dict[str, Any], dict[str, float]]] = {
    "learned": ("decoder", {}, {}),
    "sinusoidal": ("decoder", {"positions": "sinusoidal"}, {"gain": 5.0}),
    "ALiBi": ("alibi-decoder", {}, {"gain": 5.0}),
    # three matrices in place of two, each two thirds as wide
    "RoPE": ("rope-decoder", {"d_ff": 680}, {}),
    "relative": ("relative-decoder", {}, {}),
}
TWINLESS = "relative"  # the positions that no model of transformers has
OTHERS = ("litgpt", "x-transformers")  # in Pythons of their own
PLAIN = ("zoo", *ENGINES, "transformers", *OTHERS)
ALL = (
    "zoo",
    "zoo bfloat16",
    "zoo int8",
    *ENGINES,
    "transformers",
    "transformers medium",
    "transformers bfloat16",
    *OTHERS,
)
FAILED = "it ended with an error"
TWIN = ", transformers"  # behind a peer's name: what its tokens are held against
LEAST = 3  # rounds, fewer of which say nothing
STARTED = "alibi-lm"  # the model whose first token a cold process writes


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        what: in words.
        unit: "tokens/s", more is better; or "ms", less is.
        spec: what its peers are told.
        peers: their names, with what each is told besides.
        quick: whether --quick measures it.
    """

    what: str
    unit: str
    spec: dict[str, Any]
    peers: dict[str, dict[str, Any]]
    quick: bool = True


def sizes_of(shape: str, architecture: str, **more: Any) -> dict[str, Any]:
    sizes = {**SHAPES[shape], "d_ff": 4 * SHAPES[shape]["d_model"], **more}
    return {**sizes, "n_kv_heads": sizes["n_heads"]} if architecture == "rope-decoder" else sizes


def told(peers: tuple[str, ...], **more: Any) -> dict[str, dict[str, Any]]:
    return {peer: {"peer": peer, **more} for peer in peers}


def all_rows() -> dict[str, Row]:
    """Every row by its name."""
    rows: dict[str, Row] = {}
    for shape in SHAPES:
        for batch in (1, 8):
            spec = {
                "kind": "decode",
                "shape": shape,
                "architecture": "decoder",
                "sizes": sizes_of(shape, "decoder"),
                "batch": batch,
                "prompt": 8,
                "new": NEW[shape],
                "threads": 1 if shape == "tiny" else 0,
            }
            what = f"decoding, {shape}, batch {batch}, {NEW[shape]} tokens after 8"
            peers = told(PLAIN if shape == "tiny" else ALL)
            rows[f"decode-{shape}-{batch}"] = Row(what, "tokens/s", spec, peers, shape != "gpt2")
    positions = {
        f"{name}{twin}": {
            "peer": peer,
            "architecture": architecture,
            "sizes": sizes_of("small", architecture, **more),
            **width,
        }
        for name, (architecture, more, width) in POSITIONS.items()
        for peer, twin in (("zoo", ""), ("transformers", TWIN))
        if not (twin and name == TWINLESS)
    }
    spec = {**rows["decode-small-1"].spec}
    rows["positions"] = Row("decoding, small, batch 1, by positions", "tokens/s", spec, positions)
    for length in (128, 512, 2048, 8192):
        spec = {
            "kind": "context",
            "shape": "small",
            "architecture": "rope-decoder",
            "sizes": sizes_of("small", "rope-decoder", max_seq_len=8192 + 64),
            "batch": 1,
            "prompt": length,
            "new": 33,
            "threads": 0,
        }
        what = f"decoding, small with RoPE, 32 tokens after {length:,}"
        peers = told(PLAIN)
        rows[f"context-{length}"] = Row(what, "tokens/s", spec, peers, length <= 512)
    for shape in ("small", "gpt2"):
        spec = {**rows[f"decode-{shape}-1"].spec, "kind": "load"}
        what = f"loading, {shape}, from the folder that transformers reads"
        rows[f"load-{shape}"] = Row(
            what, "ms", spec, told(("zoo", *ENGINES, "transformers")), shape != "gpt2"
        )
    spec = {"kind": "start", "threads": 0, "model": STARTED}
    what = f"a cold process, to its end; of models: to the first token of {STARTED}"
    rows["start"] = Row(what, "ms", spec, told(tuple(STARTS)))
    for shape, (count, length) in {"small": (16, 128), "tiny": (16, 32)}.items():
        for precision in ("float32", "bfloat16"):
            spec = {
                "kind": "train",
                "shape": shape,
                "architecture": "decoder",
                "sizes": sizes_of(shape, "decoder"),
                "rows": count,
                "length": length,
                "steps": 3 if shape == "small" else 10,
                "threads": 0,
            }
            names = ["zoo", "transformers", *OTHERS]
            if precision == "float32":
                names.insert(2, "transformers medium")
            peers = {
                name: {"peer": f"{name} bfloat16" if precision == "bfloat16" else name}
                for name in names
            }
            what = f"training, {shape}, batch {count} x {length}, {precision}"
            rows[f"train-{shape}-{precision}"] = Row(what, "tokens/s", spec, peers)
    return rows


class Twins:
    """A row's model in the formats that its peers read, each written once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[tuple[str, str], str] = {}

    def of(self, spec: dict[str, Any], format: str) -> str:
        """The folder of one."""
        model = [spec["architecture"], spec["sizes"], spec.get("gain")]
        key = json.dumps(model, sort_keys=True), format
        if key not in self.made:
            print(f"  ({format} is written)", flush=True)
            target = self.folder / str(len(self.made))
            self.made[key] = str(export(model_of(spec), target, format))
        return self.made[key]

    def needed(self, spec: dict[str, Any]) -> dict[str, str]:
        """What a peer reads."""
        folders = {"temporary": str(self.folder)}
        peer, kind = spec["peer"], spec["kind"]
        if kind == "start":
            if peer == "transformers":
                key = STARTED, "transformers"
                if key not in self.made:
                    self.made[key] = str(export(STARTED, self.folder / "started"))
                folders["twin"] = self.made[key]
        elif peer in ENGINES:
            engine = ENGINES[peer]
            folders[engine] = self.of(spec, {"llama.cpp": "gguf"}.get(engine, engine))
        elif kind != "train" and (peer.startswith("transformers") or kind == "load"):
            folders["transformers"] = self.of(spec, "transformers")
        return folders


def missing(peer: str, pythons: dict[str, str]) -> str | None:
    """Why a peer is left out, if it is."""
    name = peer.split(" ")[0]
    if name in OTHERS and name not in pythons:
        return f"no --peer {name}=PYTHON"
    packages = {"zoo llama.cpp": "llama_cpp", "transformers": "transformers"}
    package = packages.get(peer, packages.get(name, "onnxruntime" if "onnx" in peer else "torch"))
    if not find_spec(package):
        return f"{package} is not installed"
    if peer == "zoo int8" and not hasattr(zoo, "quantize"):
        return "there is no zoo.quantize"
    return None


def measure(
    row: Row, rounds: int, wanted: list[str], pythons: dict[str, str], twins: Twins
) -> dict[str, Any]:
    """Let the peers of a row take turns."""
    left_out: dict[str, str] = {}
    peers: dict[str, Peer] = {}
    specs: dict[str, dict[str, Any]] = {}
    for label, more in row.peers.items():
        if wanted and label not in wanted:
            continue
        spec = {**row.spec, **more}
        if (reason := missing(spec["peer"], pythons)) is not None:
            left_out[label] = reason
            continue
        spec["folders"] = twins.needed(spec)
        python = pythons.get(spec["peer"].split(" ")[0], sys.executable)
        peer = Peer([python, str(HERE / "peers.py"), json.dumps(spec)])
        if peer.facts is None:
            left_out[label] = FAILED
            peer.end()
            continue
        peers[label], specs[label] = peer, spec
    take_turns(peers, rounds, 3 * rounds)
    found = {label: numbers(row, specs[label], peer, peers) for label, peer in peers.items()}
    return {"what": row.what, "unit": row.unit, "peers": found, "left_out": left_out}


def numbers(row: Row, spec: dict[str, Any], peer: Peer, peers: dict[str, Peer]) -> dict[str, Any]:
    """What came of a peer."""
    assert peer.facts is not None
    values = [value_of(row, spec, sample["seconds"]) for sample in peer.fed]
    found: dict[str, Any] = {"rounds": len(values), "turns": len(peer.samples)}
    if len(values) >= LEAST:
        found["value"], found["low"], found["high"] = (rounded(v) for v in spread(values))
        if "first" in peer.fed[0]:
            found["first_ms"] = rounded(spread([1000 * s["first"] for s in peer.fed])[0])
    if peer.samples:
        found["threads"] = peer.facts["threads"]
        if peak := max(sample["peak_bytes"] for sample in peer.samples):
            found["peak_bytes"] = peak
        if "loss" in peer.samples[0]:
            found["losses"] = [round(sample["loss"], 5) for sample in peer.samples]
    label = next(name for name, other in peers.items() if other is peer)
    twin = peers.get(f"{label}{TWIN}", peers.get("transformers"))
    ids, theirs = peer.facts.get("ids"), twin and twin.facts and twin.facts.get("ids")
    if ids and theirs and twin is not peer:
        pairs = [zip(a, b, strict=True) for a, b in zip(ids, theirs, strict=True)]
        alike = (sum(1 for _ in takewhile(lambda p: p[0] == p[1], pair)) for pair in pairs)
        found["same"] = [sum(alike), sum(map(len, theirs))]
    if ids:
        found["distinct"] = len({token for line in ids for token in line})
    return found


def value_of(row: Row, spec: dict[str, Any], seconds: float) -> float:
    """A round in the row's unit."""
    if row.unit == "ms":
        return 1000 * seconds
    if spec["kind"] == "train":
        return float(spec["steps"] * spec["rows"] * spec["length"] / seconds)
    written = spec["new"] - 1 if spec["kind"] == "context" else spec["new"]
    return float(spec["batch"] * written / seconds)


def rounded(value: float) -> float:
    """To four digits, which is more than is known."""
    return float(f"{value:.4g}")


def versions(pythons: dict[str, str]) -> dict[str, str]:
    """What takes part."""
    found = {"python": platform.python_version()}
    for name in ("txzoo", "torch", "transformers", "onnxruntime", "llama-cpp-python"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    for name, python in pythons.items():
        code = f"from importlib.metadata import version as v; print(v({name!r}), v('torch'))"
        ran = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
        own, torch_version = ran.stdout.split()
        found[name] = own
        if torch_version != found["torch"]:
            found[f"{name}'s torch"] = torch_version
    return found


def file_of(folder: Path) -> Path:
    """Where today's results of this machine go."""
    slug = re.sub(r"[^a-z0-9]+", "-", hardware(torch.device("cpu")).lower()).strip("-")
    return folder / f"{slug}-{date.today().isoformat()}.json"


def read(path: Path) -> dict[str, Any]:
    """The results so far."""
    if not path.exists():
        return {"rows": {}}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def stamp(results: dict[str, Any], pythons: dict[str, str]) -> dict[str, Any]:
    """Results with what they are of."""
    return {
        "date": date.today().isoformat(),
        "hardware": hardware(torch.device("cpu")),
        "processor": processor(),
        "versions": results.get("versions", {}) | versions(pythons),
        "rows": results["rows"],
    }


def write(path: Path, results: dict[str, Any]) -> None:
    """All of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A row in words."""
    twin = found["peers"].get("transformers", {}).get("value")
    yield f"{found['what']} ({found['unit']})"
    for label, facts in found["peers"].items():
        if "value" not in facts:
            starved = f"starved in {facts['turns'] - facts['rounds']} of {facts['turns']} turns"
            yield f"  {label:24s} {starved}: measure it again"
            continue
        parts = [f"  {label:24s}{facts['value']:>10,g}  ({facts['low']:,g} to {facts['high']:,g})"]
        if twin:
            ratio = twin / facts["value"] if found["unit"] == "ms" else facts["value"] / twin
            parts.append(f"{ratio:.2f}x")
        if "first_ms" in facts:
            parts.append(f"first token after {facts['first_ms']:,g} ms")
        if "same" in facts:
            parts.append(f"{facts['same'][0]} of {facts['same'][1]} tokens the same")
        if "wrong" in facts:
            parts.append(f"{facts['wrong']} answers lost or other")
        if "losses" in facts:
            parts.append(f"loss {facts['losses'][-1]}")
        if "peak_bytes" in facts:
            parts.append(f"{facts['peak_bytes'] / 1e6:,.0f} MB")
        yield ", ".join(parts)
    for label, reason in found["left_out"].items():
        yield f"  {label:24s} left out: {reason}"


def is_done(found: dict[str, Any] | None) -> bool:
    """Whether every peer of a row has a number, of rounds enough, and none failed."""
    if found is None or FAILED in found["left_out"].values():
        return False
    return all(facts["rounds"] >= LEAST for facts in found["peers"].values())


def main() -> None:
    rows = all_rows()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=[], help="names, or how they begin; all")
    parser.add_argument("--peers", nargs="+", default=[], metavar="NAME", help="only these")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--rounds", type=int, default=9, help=f"at least {LEAST}")
    parser.add_argument("--quick", action="store_true", help="3 rounds, without the largest")
    parser.add_argument("--again", action="store_true", help="measure what is there already")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="FOLDER")
    parser.add_argument("--list", action="store_true", help="name the rows, and end")
    options = parser.parse_args()
    chosen = {
        name: row
        for name, row in rows.items()
        if (not options.rows or name.startswith(tuple(options.rows)))
        and (row.quick or not options.quick)
    }
    if options.list:
        print("\n".join(f"{name:24s}{row.what}" for name, row in rows.items()))
        return
    if not chosen:
        parser.error(f"no row is called {' or '.join(options.rows)}: see --list")
    pythons = dict(pair.partition("=")[::2] for pair in options.peer)
    if strange := [name for name in pythons if name not in OTHERS]:
        parser.error(f"--peer is for {' and '.join(OTHERS)}, not {strange[0]}")
    if options.rounds < LEAST:
        parser.error(f"--rounds must be at least {LEAST}, got {options.rounds}")
    path = file_of(options.results)
    results = stamp(read(path), pythons)
    rounds = 3 if options.quick else options.rounds
    with tempfile.TemporaryDirectory() as temporary:
        twins = Twins(Path(temporary))
        for name, row in chosen.items():
            if not options.again and is_done(results["rows"].get(name)):
                print(f"{name} is in {path} already")
                continue
            found = measure(row, rounds, options.peers, pythons, twins)
            results["rows"][name] = found
            write(path, results)
            print("\n".join(lines(found)), flush=True)
    print(path)


if __name__ == "__main__":
    main()
