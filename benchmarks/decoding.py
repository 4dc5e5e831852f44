"""Decoding speed of a model beside `transformers.generate` on its exported twin.

    python benchmarks/decoding.py alibi-lm rope-lm --tokens 200 --rounds 9

Each peer runs in a process of its own, with its own defaults, greedily and with its cache; the two
take turns (A B A B ...). A round in which a peer waited for a processor more than 3 % of the time
is left out; if that leaves none, the waiting is taken off each. Printed: tokens a second at the
median round, the ratio, whether both wrote the same tokens, and the machine.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAITED = 0.03  # share of a round that its main thread may wait for a processor
SCHEDULE = Path("/proc/self/schedstat")  # nanoseconds run and nanoseconds waited, on Linux
Write = Callable[[], list[list[int]]]


def zoo_peer(ref: str, prompts: list[list[int]], new: int) -> Write:
    """Our decoding."""
    import zoo
    from zoo.generation import GenerationOptions, generate

    module = zoo.load(ref).module
    options = GenerationOptions(max_new_tokens=new)
    return lambda: generate(module, prompts, options).ids


def transformers_peer(folder: str, prompts: list[list[int]], new: int) -> Write:
    """Theirs, on the exported twin."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor(prompts)
    way = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    return lambda: model.generate(ids, attention_mask=mask, **way)[:, ids.shape[1] :].tolist()


PEERS = {"zoo": zoo_peer, "transformers": transformers_peer}


def waited() -> int:
    """Nanoseconds that this thread stood ready without a processor; 0 where nobody counts."""
    return int(SCHEDULE.read_text().split()[1]) if SCHEDULE.exists() else 0


def work(peer: str, source: str, task: dict[str, Any]) -> None:
    """A peer's process: a line in, a round, a line out."""
    import torch

    if task["threads"]:
        torch.set_num_threads(task["threads"])
    write = PEERS[peer](source, task["prompts"], task["new"])
    write()  # warm
    print(json.dumps({"threads": torch.get_num_threads(), "ids": write()}), flush=True)
    for _ in sys.stdin:
        before, start = waited(), time.perf_counter()
        write()
        seconds = time.perf_counter() - start
        share = (waited() - before) / 1e9 / seconds
        print(json.dumps({"seconds": seconds, "waited": share}), flush=True)


def start(peer: str, source: str, task: dict[str, Any]) -> "subprocess.Popen[str]":
    """Start a peer's process."""
    command = [sys.executable, __file__, "--work", peer, source, json.dumps(task)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def answer(process: "subprocess.Popen[str]") -> Any:
    """The next line of a peer."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a peer ended with status {process.wait()}; its error stands above")
    return json.loads(line)


def compare(ref: str, batch: int, tokens: int, rounds: int, threads: int) -> None:
    """Let the two take turns on one model, and print a line."""
    import torch

    import zoo
    from zoo.export import export

    model = zoo.load(ref)
    limit: int = model.config.max_seq_len  # a twin may end there, whether ours does or not
    length = min(8, limit // 2)
    new = min(tokens, limit - length)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(model.config.vocab_size, (batch, length), generator=generator)
    task = {"prompts": prompts.tolist(), "new": new, "threads": threads}
    with tempfile.TemporaryDirectory() as temporary:
        twin = export(model, Path(temporary, "twin"))
        sources = {"zoo": ref, "transformers": str(twin)}
        processes = {peer: start(peer, source, task) for peer, source in sources.items()}
        first = {peer: answer(process) for peer, process in processes.items()}
        found: dict[str, list[dict[str, float]]] = {peer: [] for peer in PEERS}
        for _ in range(rounds):
            for peer, process in processes.items():
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
                found[peer].append(answer(process))
        for process in processes.values():
            process.communicate()
    speeds: dict[str, float] = {}
    kept: dict[str, str] = {}
    for peer, samples in found.items():
        fed = [sample for sample in samples if sample["waited"] <= WAITED]
        seconds = [sample["seconds"] for sample in fed] or [
            sample["seconds"] * (1 - sample["waited"]) for sample in samples
        ]
        speeds[peer] = batch * new / statistics.median(seconds)
        kept[peer] = f"{len(fed)}/{rounds}"
    same = "same tokens" if first["zoo"]["ids"] == first["transformers"]["ids"] else "OTHER TOKENS"
    distinct = len({token for row in first["zoo"]["ids"] for token in row})
    print(
        f"{model.name}, batch {batch}, {length} + {new} tokens, "
        f"{first['zoo']['threads']} threads: "
        f"zoo {speeds['zoo']:,.0f}/s, transformers {speeds['transformers']:,.0f}/s, "
        f"ratio {speeds['zoo'] / speeds['transformers']:.2f} "
        f"(undisturbed rounds {kept['zoo']} and {kept['transformers']}; "
        f"{same}, {distinct} distinct)",
        flush=True,
    )


def machine() -> str:
    """What this runs on, in a line."""
    import torch
    import transformers

    name = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        models = [line for line in cpus.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    return (
        f"{name}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}; "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="names or folders that zoo.load takes")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=200, help="to write in a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="PyTorch's own number unless given")
    arguments = parser.parse_args()
    print(machine())
    for ref in arguments.models:
        for batch in arguments.batch:
            compare(ref, batch, arguments.tokens, arguments.rounds, arguments.threads)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
    else:
        main()
