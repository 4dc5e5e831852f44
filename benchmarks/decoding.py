"""Decoding speed of a model beside `transformers.generate` on its exported twin.

    python benchmarks/decoding.py alibi-lm rope-lm --tokens 200 --rounds 9
    python benchmarks/decoding.py seq2seq-en-de --batch 1 32 --beams 1 4 --tokens 40
    python benchmarks/decoding.py seq2seq-en-de --batch 1 32 --beams 1 4 --texts sentences.txt

Each peer runs in a process of its own, with its own defaults, greedily or by beams and with its
cache, and writes the same number of tokens, whatever they are; with --texts an encoder-decoder
reads the lines of a file, in batches in their order, and each answer ends where it ends, after
--tokens at the latest. The two take turns (A B A B ...). A round in which a peer waited for a
processor more than 3 % of the time is left out; if that leaves none, the waiting is taken off each.
Printed: tokens a second at the median round, the ratio, whether both wrote the same tokens, and the
machine.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turns import Peer, Round, processor, serve, take_turns

Write = Callable[[], list[list[int]]]


def zoo_peer(
    ref: str, batches: list[list[list[int]]], new: int, beams: int, end: int | None
) -> Write:
    """Our decoding; for an encoder-decoder the prompts are sources, read each time anew.

    Args:
        ref: of the model.
        batches: the prompts of each.
        new: tokens to write.
        beams: 1 for greedy.
        end: the token that ends an answer; None to write all.
    """
    import zoo
    from zoo.generation import GenerationOptions, generate
    from zoo.nn import EncoderDecoder
    from zoo.pipelines.text2text import Given

    module = zoo.load(ref).module
    options = GenerationOptions(max_new_tokens=new, num_beams=beams)
    if not isinstance(module, EncoderDecoder):
        return lambda: [
            row for prompts in batches for row in generate(module, prompts, options).ids
        ]

    def write() -> list[list[int]]:
        found = []
        for prompts in batches:
            given = Given(module, prompts)
            found += generate(given, given.prompts, options, end_id=end).ids
        return found

    return write


def transformers_peer(
    folder: str, batches: list[list[list[int]]], new: int, beams: int, end: int | None
) -> Write:
    """Theirs, on the exported twin; arguments as those of `zoo_peer`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    both = AutoConfig.from_pretrained(folder).is_encoder_decoder
    kind = AutoModelForSeq2SeqLM if both else AutoModelForCausalLM
    model = kind.from_pretrained(folder).eval()
    way: dict[str, Any] = {"max_new_tokens": new, "num_beams": beams, "do_sample": False}
    # without an end nothing ends before its time
    way |= {"eos_token_id": end} if both else {"min_new_tokens": new, "pad_token_id": 0}

    def write() -> list[list[int]]:
        found = []
        for prompts in batches:
            longest = max(map(len, prompts))
            real = torch.tensor([[1] * len(p) + [0] * (longest - len(p)) for p in prompts])
            pad = model.config.pad_token_id or 0
            ids = torch.tensor([p + [pad] * (longest - len(p)) for p in prompts])
            rows = model.generate(ids, attention_mask=real, **way)
            rows = rows[:, 1 if both else longest :].tolist()
            found += [row[: row.index(end)] if end in row else row for row in rows]
        return found

    return write


PEERS = {"zoo": zoo_peer, "transformers": transformers_peer}


def work(peer: str, source: str, task: dict[str, Any]) -> tuple[dict[str, Any], Round]:
    """What a peer's process says first, and what a round of it is."""
    import torch

    if task["threads"]:
        torch.set_num_threads(task["threads"])
    write = PEERS[peer](source, task["batches"], task["new"], task["beams"], task["end"])
    write()  # warm

    def once() -> None:
        write()

    return {"threads": torch.get_num_threads(), "ids": write()}, once


def start(peer: str, source: str, task: dict[str, Any]) -> Peer:
    """Start a peer's process."""
    made = Peer([sys.executable, __file__, "--work", peer, source, json.dumps(task)])
    if made.facts is None:
        raise SystemExit("a peer ended; its error stands above")
    return made


def compare(
    ref: str,
    batch: int,
    tokens: int,
    rounds: int,
    threads: int,
    beams: int,
    texts: list[str] | None = None,
) -> None:
    """Let the two take turns on one model, and print a line."""
    import torch

    import zoo
    from zoo.export import export
    from zoo.nn import EncoderDecoder

    model = zoo.load(ref)
    limit: int = model.config.max_seq_len  # a twin may end there, whether ours does or not
    both = isinstance(model.module, EncoderDecoder)
    length = min(20 if both else 8, limit // 2)
    new = min(tokens, limit - 1 if both else limit - length)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(2, model.config.vocab_size, (batch, length), generator=generator)
    batches, end, what = [prompts.tolist()], None, f"{length} + {new} tokens"
    if texts is not None:
        if not both or model.tokenizer is None:
            raise SystemExit(f"--texts are for encoder-decoders with a tokenizer; {ref} is none")
        ids = [encoding.ids for encoding in model.tokenizer.encode_batch_fast(texts)]
        batches = [ids[start : start + batch] for start in range(0, len(ids), batch)]
        end, what = model.config.end_id, f"{len(texts)} texts"
    task = {"batches": batches, "new": new, "threads": threads, "beams": beams, "end": end}
    with tempfile.TemporaryDirectory() as temporary:
        twin = export(model, Path(temporary, "twin"))
        sources = {"zoo": ref, "transformers": str(twin)}
        peers = {peer: start(peer, source, task) for peer, source in sources.items()}
        first: dict[str, Any] = {name: peer.facts for name, peer in peers.items()}
        take_turns(peers, rounds, rounds)
    written = sum(map(len, first["zoo"]["ids"])) + len(texts or ())  # ends are written too
    speeds: dict[str, float] = {}
    kept: dict[str, str] = {}
    for name, peer in peers.items():
        seconds = [sample["seconds"] for sample in peer.fed] or [
            sample["seconds"] * (1 - sample["waited"]) for sample in peer.samples
        ]
        speeds[name] = written / statistics.median(seconds)
        kept[name] = f"{len(peer.fed)}/{rounds}"
    same = "same tokens" if first["zoo"]["ids"] == first["transformers"]["ids"] else "OTHER TOKENS"
    distinct = len({token for row in first["zoo"]["ids"] for token in row})
    print(
        f"{model.name}, batch {batch}, beams {beams}, {what}, "
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

    return (
        f"{processor()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}; "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="names or folders that zoo.load takes")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--beams", type=int, nargs="+", default=[1])
    parser.add_argument("--tokens", type=int, default=200, help="to write in a round")
    parser.add_argument("--texts", type=Path, help="a text in each line, to read instead")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="PyTorch's own number unless given")
    arguments = parser.parse_args()
    texts = arguments.texts and arguments.texts.read_text(encoding="utf-8").splitlines()
    print(machine())
    for ref in arguments.models:
        for batch in arguments.batch:
            for beams in arguments.beams:
                compare(
                    ref,
                    batch,
                    arguments.tokens,
                    arguments.rounds,
                    arguments.threads,
                    beams,
                    texts,
                )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        serve(lambda: work(sys.argv[2], sys.argv[3], json.loads(sys.argv[4])))
    else:
        main()
