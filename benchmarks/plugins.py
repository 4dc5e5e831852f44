"""What installed plugins cost at start-up, and how long it takes to list a thousand models.

    python benchmarks/plugins.py --rounds 7

Plugins as pip would install them are written to a folder on the path: 0, 10 and 100 of one
architecture each, then one with 1,000 model folders. Each command is a process of its own; rounds
take turns; medians in milliseconds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from zoo.training.report import hardware

FACE = """
from zoo import Architecture, hookimpl

@hookimpl
def txzoo_architectures():
    return [Architecture("bench-{number}", target="bench_{number}.model:Net", summary="Of many")]
"""
MODELS = """
from pathlib import Path
from zoo import hookimpl

@hookimpl
def txzoo_models():
    return Path(__file__).parent.glob("models/*/")
"""
CARD = """---
license: mit
library_name: txzoo
pipeline_tag: text-generation
datasets: [synthetic]
model-index:
- name: many-{number}
  results:
  - task: {{type: text-generation}}
    dataset: {{type: synthetic, name: synthetic, split: test}}
    metrics:
    - {{type: accuracy, name: accuracy, value: 0.9}}
txzoo:
  name: many-{number}
  summary: One of a thousand
  architecture: decoder
  task: synthetic
  parameters: {number}
  standard_error: {{test: {{accuracy: 0.01}}}}
---
# many-{number}
"""
LIST = "import zoo, sys; zoo.list_models(); assert 'torch' not in sys.modules"


def install(site: Path, name: str, face: str) -> Path:
    """What pip would leave of a plugin; gives its package."""
    package = site / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(face)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: txzoo>=0.1,<1\n"
    )
    (info / "entry_points.txt").write_text(f"[txzoo]\n{name} = {name}\n")
    return package


def many(site: Path, count: int) -> Path:
    for number in range(count):
        install(site, f"bench_{number}", FACE.format(number=number))
    site.mkdir(exist_ok=True)
    return site


def thousand(site: Path) -> Path:
    package = install(site, "many_models", MODELS)
    for number in range(1000):
        folder = package / "models" / f"many-{number}"
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(CARD.format(number=number))
        config = {"architecture": "decoder", "vocab_size": 10, "max_seq_len": 8}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").write_bytes(b"")  # listing does not look into it
    return site


def milliseconds(arguments: list[str], site: Path) -> float:
    env = {**os.environ, "PYTHONPATH": str(site)}
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=env, check=True, capture_output=True)
    return (time.perf_counter() - start) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        sites = {f"{n} plugins more": many(Path(folder, str(n)), n) for n in (0, 10, 100)}
        sites["1,000 models more"] = thousand(Path(folder, "models"))
        jobs = {"python": (["-c", "pass"], sites["0 plugins more"])}
        for label, site in sites.items():
            jobs[f"import zoo, {label}"] = (["-c", "import zoo"], site)
            jobs[f"zoo.list_models(), {label}"] = (["-c", LIST], site)
            jobs[f"txzoo list, {label}"] = (["-m", "zoo", "list"], site)
            jobs[f"txzoo list --json, {label}"] = (["-m", "zoo", "list", "--json"], site)
        times: dict[str, list[float]] = {name: [] for name in jobs}
        for number in range(rounds + 1):
            for name, job in jobs.items():
                taken = milliseconds(*job)
                if number:  # the first round warms the disk cache
                    times[name].append(taken)
    for name, values in times.items():
        print(f"{name:40s}{statistics.median(values):8.0f} ms")
    import torch

    print(f"medians of {rounds} rounds, {hardware(torch.device('cpu'))}")


if __name__ == "__main__":
    main()
