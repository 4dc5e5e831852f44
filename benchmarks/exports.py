"""The export table: each model in each format, opened in the engine that it is for.

    python benchmarks/exports.py
    python benchmarks/exports.py rope-lm vit-cifar10 --formats onnx gguf --save exports.json

Without names, all bundled models. Each folder is written by `zoo.export`, opened in the other
engine and held against the model by `zoo.export.check`'s own comparison: logits, and up to 64
greedy tokens after the card's example and three texts of the kind that the model was trained on. A
model that sees gets as many pictures of random pixels. Sizes are those of the weights' files, a
GGUF's with its tokenizer, beside `model.safetensors`.

A GGUF is read by llama.cpp, or where that is not installed by `transformers`, which has a reader of
its own; the table says by which. --short prints one line a model, not one for each of its formats.
--save keeps the figures after each model: as JSON, or as the Markdown that is printed.
"""

import argparse
import json
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

import zoo
from zoo.errors import ZooError
from zoo.export import export, format_of
from zoo.export.base import PROMPTS, Engine, Format, compare
from zoo.export.gguf import FILE, Gguf
from zoo.export.transformers import _Twin
from zoo.loading import locate
from zoo.model import Model
from zoo.training.report import hardware

FORMATS = ("transformers", "onnx", "onnx-int8", "gguf", "safetensors-int8")
REVIEWS = (
    "I loved every minute of it.",
    "A waste of two hours.",
    "The plot is thin, but it works.",
)
TEXTS = {  # by task
    "wikitext-2": ("The film was released in", "In the summer of 1914 , the", "She was born in"),
    "tinyshakespeare": ("JULIET:\nO Romeo,", "To be, or not to be", "Good morrow, my lord"),
    "speeches": ("Tonight I ask the Congress", "The economy is strong.", "Our schools need help."),
    "speeches-lm": ("Tonight I ask the Congress", "The economy is", "Our children and"),
    "synthetic": ("count 2 4 6", "fibonacci 2 5", "count 9 8 7"),
    "emotion": ("i am so angry with them", "i miss my old friends", "i was amazed by it"),
    "imdb": REVIEWS,
    "imdb-mlm": ("I <mask> every minute of it.", "A <mask> of two hours.", "The plot is <mask>."),
    "preferences": (
        "What is the opposite of hot?",
        "Name the capital of France.",
        "Name a colour.",
    ),
    "en-de": ("Two men are cooking.", "A girl in a red dress sings.", "The children play in snow."),
}
WEIGHTS = (".safetensors", ".onnx", ".data", ".gguf")  # ends of files that hold numbers


class ReadByTransformers(Gguf):
    """A GGUF in `transformers`' own reader, which takes it apart into a model of its own."""

    engine = "transformers"

    def open(self, folder: Path) -> Engine:
        return _Read(folder)

    def opened_by(self, folder: Path) -> str:
        return "transformers.AutoModelForCausalLM.from_pretrained(gguf_file=...)"


class _Read(_Twin):
    def __init__(self, folder: Path) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        config = AutoConfig.from_pretrained(folder, gguf_file=FILE)
        if config.model_type == "gpt2":
            config.n_positions = config.n_ctx  # it reads the table's length into this name only
        opened = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=FILE, config=config, dtype=torch.float32
        )
        self.model = opened.eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="names or folders; all bundled ones")
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=FORMATS)
    parser.add_argument("--short", action="store_true", help="one line for each model")
    parser.add_argument("--save", type=Path, action="append", default=[], metavar="FILE")
    options = parser.parse_args()
    if strange := [file for file in options.save if file.suffix not in (".json", ".md")]:
        parser.error(f"--save takes FILE.json or FILE.md, not {strange[0]}")
    torch.set_num_threads(1)
    if find_spec("transformers"):
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
    rows: list[dict[str, Any]] = []
    print("\n".join(head(options.formats, options.short)))
    for name in options.models or zoo.list_models(bundled=True):
        found = list(measured(name, options.formats))
        rows += found
        print("\n".join(lines(found, options.short)), flush=True)
        for file in options.save:
            save(file, rows, options.formats, options.short)
    print(f"\n{about()}")


def measured(name: str, formats: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each format of a model: what the comparison found, or why there is none."""
    model = zoo.load(name)
    weights = size_of(locate(name).folder)
    for format in formats:
        row: dict[str, Any] = {"model": model.name, "architecture": type(model.module).__name__}
        row |= {"format": format, "safetensors_bytes": weights}
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, "exported")
            try:
                export(name, folder, format)
                row["bytes"] = size_of(folder)
                how = opening(format)
                row["opened_by"] = how.opened_by(folder).partition("(")[0]
                found = compare(model, folder, how, texts_of(model))
                row |= {**asdict(found), "ok": found.ok}
            except ZooError as error:
                row["reason"] = str(error)
        yield row


def opening(format: str) -> Format:
    """What opens a format here."""
    if format == "gguf" and not find_spec("llama_cpp"):
        return ReadByTransformers()
    return format_of(format)


def texts_of(model: Model) -> tuple[str, ...]:
    """What a model is asked: its card's example, and three texts more."""
    card = model.card
    example, task = (None, None) if card is None else (card.example, card.task)
    return tuple(filter(None, (example, *TEXTS.get(task or "", PROMPTS))))


def size_of(folder: Path) -> int:
    """Bytes of the files of numbers in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in WEIGHTS)


def head(formats: Sequence[str], brief: bool) -> list[str]:
    """The first two lines of the table."""
    titles = ["model", "format", "opened by", "MB, of safetensors", "largest difference"]
    titles += ["largest logit", "equal"]
    if brief:
        titles = ["model", "MB", "largest logit", *(f"`{format}`" for format in formats)]
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]


def lines(rows: Sequence[dict[str, Any]], brief: bool) -> list[str]:
    """The lines of a model."""
    if not brief:
        return [line_of(row) for row in rows]
    first = rows[0]
    largest = next((f"{row['largest']:.1f}" for row in rows if "largest" in row), "–")
    start = f"| `{first['model']}` | {first['safetensors_bytes'] / 1e6:.1f} | {largest} |"
    return [f"{start} {' | '.join(map(cell, rows))} |"]


def cell(row: dict[str, Any]) -> str:
    """What came out of a format: megabytes, the largest difference, what is equal."""
    if "bytes" not in row:
        return "–"
    size = f"{row['bytes'] / 1e6:.1f}"
    return size if "reason" in row else f"{size}; {row['difference']:.1e}; {equal(row)}"


def line_of(row: dict[str, Any]) -> str:
    """A row of the table."""
    start = f"| `{row['model']}` | `{row['format']}` |"
    if "bytes" not in row:
        return f"{start} refused: {short(row)} | | | | |"
    sizes = f"{row['bytes'] / 1e6:.2f} of {row['safetensors_bytes'] / 1e6:.2f}"
    if "reason" in row:
        return f"{start} written, not compared: {short(row)} | {sizes} | | | |"
    by = f"`{row['opened_by']}`, {row['engine']}"
    return (
        f"{start} {by} | {sizes} | {row['difference']:.1e} | {row['largest']:.1f} | {equal(row)} |"
    )


def equal(row: dict[str, Any]) -> str:
    """Tokens or labels that are the same, and what is wrong."""
    found = f"{row['same']} of {row['tokens']} tokens" if row["tokens"] else "–"
    if row["labels"]:
        found = f"{row['agreed']} of {row['labels']} labels"
    if row["misread"]:
        found += f", {row['misread']} of {row['texts']} texts read otherwise"
    return found if row["ok"] else f"{found}, **not the same**"


def short(row: dict[str, Any]) -> str:
    """A reason up to the way out."""
    reason = row["reason"].removeprefix(f"{row['model']}: ")
    return reason.partition(": ")[0].partition(". ")[0]


def about() -> str:
    """On what, and with what."""
    names = ("transformers", "onnxruntime", "llama-cpp-python", "gguf", "safetensors")
    packages = {"llama-cpp-python": "llama_cpp"}
    found = [name for name in names if find_spec(packages.get(name, name))]
    versions = ", ".join(f"{name} {version(name)}" for name in ("txzoo", "torch", *found))
    return (
        f"{hardware(torch.device('cpu'))}; Python {platform.python_version()}, {versions}; seed 0 "
        "of pixels"
    )


def save(file: Path, rows: Sequence[dict[str, Any]], formats: Sequence[str], brief: bool) -> None:
    """Keep what was found so far."""
    if file.suffix == ".json":
        text = json.dumps({"about": about(), "rows": rows}, indent=1)
    else:
        models = [list(group) for _, group in groupby(rows, key=lambda row: row["model"])]
        table = [line for found in models for line in lines(found, brief)]
        text = "\n".join([*head(formats, brief), *table, "", about()])
    file.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
