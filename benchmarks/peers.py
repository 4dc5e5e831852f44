"""What `table.py` lets take turns: each a process of its own, perhaps of another Python.

    PYTHON benchmarks/peers.py '{"peer": "transformers", "kind": "decode", ...}'

A peer is used as its documentation says, with its defaults. Nothing here is imported before it is
needed, since the other Pythons have no txzoo.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from turns import Round, serve

Spec = dict[str, Any]
WIDE = 1.5  # standard deviation of weights, times the root of what they add up
ENGINES = {"zoo onnx": "onnx", "zoo onnx-int8": "onnx-int8", "zoo llama.cpp": "llama.cpp"}


# the model


def build(spec: Spec) -> Any:
    """Our module with random weights that are as wide as trained ones, always the same.

    Without learned positions a token writes itself for ever, unless what the layers add outweighs
    it: `gain` is how wide their matrices are, the table of tokens stays as it is.
    """
    import zoo

    torch.manual_seed(0)
    module = zoo.create(spec["architecture"], **spec["sizes"]).eval().requires_grad_(False)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            of_tokens = len(parameter) == spec["sizes"]["vocab_size"]
            gain = WIDE if of_tokens else spec.get("gain", WIDE)
            torch.nn.init.normal_(parameter, std=gain * parameter.shape[-1] ** -0.5)
    return module


def model_of(spec: Spec) -> Any:
    """It as a model with a tokenizer, which some formats cannot do without."""
    from zoo.model import Model
    from zoo.tokenization import build_tokenizer

    module = build(spec)
    return Model(
        name=f"{spec['architecture']}-{spec['shape']}",
        module=module,
        config=module.config,
        tokenizer=build_tokenizer("A text.\n" * 9, {"kind": "byte-pair", "vocab_size": 260}),
        pipeline="text-generation",
        card=None,
    )


def prompts_of(spec: Spec) -> list[list[int]]:
    """Random tokens, always the same."""
    chance = torch.Generator().manual_seed(0)
    size = spec["sizes"]["vocab_size"]
    rows: list[list[int]] = torch.randint(
        2, size, (spec["batch"], spec["prompt"]), generator=chance
    ).tolist()
    return rows


def zoo_module(spec: Spec) -> Any:
    """What computes: our own module, or an engine's, or a quantised one."""
    import zoo

    peer = spec["peer"]
    if peer in ENGINES:
        return zoo.load(spec["folders"][ENGINES[peer]], engine=ENGINES[peer]).module
    if peer == "zoo":
        return build(spec)
    if peer == "zoo bfloat16":
        return build(spec).to(torch.bfloat16)
    kind = peer.removeprefix("zoo ")
    return zoo.quantize(model_of(spec), kind).module  # type: ignore[attr-defined]


# writing


# what writes `new` tokens, and the module that it calls once for the prompt and once for each token
Writer = tuple[Callable[[int], Any], Any]


def zoo_writes(spec: Spec) -> Writer:
    from zoo.generation import GenerationOptions, generate

    module, prompts = zoo_module(spec), prompts_of(spec)
    return lambda new: generate(module, prompts, GenerationOptions(max_new_tokens=new)).ids, module


def transformers_model(spec: Spec) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    if spec["peer"].endswith("medium"):
        torch.set_float32_matmul_precision("medium")
    dtype = torch.bfloat16 if spec["peer"].endswith("bfloat16") else torch.float32
    return AutoModelForCausalLM.from_pretrained(spec["folders"]["transformers"], dtype=dtype)


def transformers_writes(spec: Spec) -> Writer:
    model, ids = transformers_model(spec).eval(), torch.tensor(prompts_of(spec))
    real = torch.ones_like(ids)

    def write(new: int) -> Any:
        way = {"max_new_tokens": new, "min_new_tokens": new, "pad_token_id": 0}
        written = model.generate(ids, attention_mask=real, do_sample=False, **way)
        return written[:, spec["prompt"] :].tolist()

    return write, model


def litgpt_model(spec: Spec) -> Any:
    """Its own of the same sizes: rotary positions, since it has no learned ones."""
    from litgpt.config import Config
    from litgpt.model import GPT

    s = spec["sizes"]
    torch.manual_seed(0)
    config = Config(
        block_size=s["max_seq_len"],
        n_layer=s["n_layers"],
        n_head=s["n_heads"],
        n_embd=s["d_model"],
        intermediate_size=s["d_ff"],
        vocab_size=s["vocab_size"],
        padded_vocab_size=s["vocab_size"],
        rotary_percentage=1.0,
        parallel_residual=False,
    )
    return GPT(config)


def litgpt_writes(spec: Spec) -> Writer:
    from litgpt.generate.base import batched_generate_fn, generate

    model, ids = litgpt_model(spec).eval().requires_grad_(False), torch.tensor(prompts_of(spec))
    model.max_seq_length = spec["prompt"] + spec["new"]
    model.set_kv_cache(batch_size=spec["batch"])

    def write(new: int) -> None:
        length = spec["prompt"] + new
        if spec["batch"] == 1:
            generate(model, ids[0], length, temperature=0.0)
        else:
            way = {"sample_args": {"temperature": 0.0}, "include_prompt": False}
            for _ in batched_generate_fn(model, ids, length, include_eos=True, **way):
                pass

    return torch.inference_mode()(write), model


def x_transformers_model(spec: Spec) -> Any:
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

    s = spec["sizes"]
    torch.manual_seed(0)
    layers = Decoder(dim=s["d_model"], depth=s["n_layers"], heads=s["n_heads"], attn_flash=True)
    return AutoregressiveWrapper(
        TransformerWrapper(
            num_tokens=s["vocab_size"], max_seq_len=s["max_seq_len"], attn_layers=layers
        )
    )


def x_transformers_writes(spec: Spec) -> Writer:
    model, ids = x_transformers_model(spec).eval(), torch.tensor(prompts_of(spec))

    def write(new: int) -> None:
        model.generate(ids, new, temperature=0.0, cache_kv=True)

    return torch.inference_mode()(write), model.net


WRITERS: dict[str, Any] = {
    "zoo": zoo_writes,
    "transformers": transformers_writes,
    "litgpt": litgpt_writes,
    "x-transformers": x_transformers_writes,
}


def decode(spec: Spec) -> tuple[dict[str, Any], Round]:
    """Write `new` tokens after `prompt` ones; the ids, where the weights are those of the twin."""
    write, _ = WRITERS[spec["peer"].split(" ")[0]](spec)
    ids = write(spec["new"])
    write(spec["new"])  # warm

    def work() -> None:
        write(spec["new"])

    return {"ids": ids, "threads": torch.get_num_threads()}, work


def context(spec: Spec) -> tuple[dict[str, Any], Round]:
    """Read a long prompt, and write after it, in one call.

    `first` is the time to the end of the pass that gives the first token's scores, and `seconds`
    is that from there to the end of the pass that gives the last one's: so many passes count as
    there are tokens but the first, and nothing of the prompt.
    """
    write, module = WRITERS[spec["peer"].split(" ")[0]](spec)
    passes: list[float] = []
    module.register_forward_hook(lambda *_: passes.append(time.perf_counter()))
    ids = write(spec["new"])

    def work() -> dict[str, Any]:
        passes.clear()
        start = time.perf_counter()
        write(spec["new"])
        first, last = passes[-spec["new"]], passes[-1]
        return {"first": first - start, "seconds": last - first}

    return {"ids": ids, "threads": torch.get_num_threads()}, work


# loading


def load(spec: Spec) -> tuple[dict[str, Any], Round]:
    """Open a model that lies on the disk, again and again."""

    def work() -> None:
        if spec["peer"] == "transformers":
            transformers_model(spec)
        elif spec["peer"] in ENGINES:
            zoo_module(spec)
        else:
            import zoo

            zoo.load(spec["folders"]["transformers"])

    work()
    return {"threads": torch.get_num_threads()}, work


# training


RECIPE = """
architecture = "decoder"
task = "synthetic"
[tokenizer]
kind = "word"
[config]
vocab_size = {vocab_size}
max_seq_len = {length}
d_model = {d_model}
n_layers = {n_layers}
n_heads = {n_heads}
d_ff = {d_ff}
[training]
steps = 100000
batch_tokens = {tokens}
learning_rate = 1e-3
weight_decay = 0.01
betas = [0.9, 0.98]
precision = "{precision}"
"""


def recipe_of(spec: Spec, folder: Path) -> Any:
    """Sizes of the row, on a task that draws its own data."""
    from zoo.training.recipe import Recipe

    low = spec["peer"].endswith("bfloat16")
    facts = {
        "length": spec["length"],
        "tokens": spec["rows"] * spec["length"],
        "precision": "bfloat16" if low else "float32",
    }
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(**spec["sizes"], **facts), encoding="utf-8")
    return Recipe.read(path)


def run_of(spec: Spec) -> Any:
    """The run that `txzoo train` would begin."""
    import tempfile

    from accelerate import Accelerator

    from zoo.training.loop import Run
    from zoo.training.memory import keep_freed_memory

    if spec["peer"].startswith("zoo"):  # of the process, so that others keep their defaults
        keep_freed_memory()
    folder = Path(tempfile.mkdtemp(dir=spec["folders"]["temporary"]))
    recipe = recipe_of(spec, folder)
    precision = "bf16" if recipe.training.precision == "bfloat16" else "no"
    return Run(recipe, folder, Accelerator(cpu=True, mixed_precision=precision))


def zoo_trains(spec: Spec) -> Any:
    run = run_of(spec)

    def step() -> float:
        found = run.one_step()
        run.step += 1
        return float(found[0])

    return step


def others_train(spec: Spec) -> Any:
    """A plain loop with AdamW on the first weights of ours, or on weights of their own."""
    import torch.nn.functional as F

    name, low = spec["peer"].split(" ")[0], spec["peer"].endswith("bfloat16")
    # x-transformers wants a position for the last target too
    s = {**spec["sizes"], "max_seq_len": spec["length"] + 1}
    own = {**spec, "sizes": s}
    if name == "transformers":
        model, batches = twin_of_run(spec)
    else:
        model = (litgpt_model if name == "litgpt" else x_transformers_model)(own)
        chance = torch.Generator().manual_seed(0)
        shape = (spec["rows"], spec["length"] + 1)
        drawn = torch.randint(s["vocab_size"], shape, generator=chance)

        def batches(step: int) -> Any:
            return {"ids": drawn[:, :-1], "targets": drawn[:, 1:]}

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    done = 0

    def step() -> float:
        nonlocal done
        batch = batches(done)
        done += 1
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            if name == "x-transformers":
                loss = model(torch.cat([batch["ids"], batch["targets"][:, -1:]], dim=1))
            else:
                found = model(batch["ids"])
                logits = found.logits if name == "transformers" else found
                loss = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def twin_of_run(spec: Spec) -> Any:
    """The model that a run of ours begins with, in `transformers`, and the run's batches."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from zoo.export import export
    from zoo.model import Model

    logging.disable_progress_bar()
    if spec["peer"].endswith("medium"):
        torch.set_float32_matmul_precision("medium")
    run = run_of(spec)
    model = Model(
        name="run",
        module=run.module,
        config=run.config,
        tokenizer=None,
        pipeline="text-generation",
        card=None,
    )
    folder = export(model, run.folder / "twin")
    return AutoModelForCausalLM.from_pretrained(folder), run.batches


def train(spec: Spec) -> tuple[dict[str, Any], Round]:
    """Some steps of training; the loss of the last one."""
    step = zoo_trains(spec) if spec["peer"].startswith("zoo") else others_train(spec)
    step()  # warm

    def work() -> dict[str, Any]:
        losses = [step() for _ in range(spec["steps"])]
        return {"loss": losses[-1]}

    return {"threads": torch.get_num_threads()}, work


# start-up

TAIL = "\nprint('', open('/proc/self/schedstat').read().split()[1])"
TWIN = """
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({folder!r})
told = AutoTokenizer.from_pretrained({folder!r})("The river", return_tensors="pt")
model.generate(told["input_ids"], attention_mask=told["attention_mask"], max_new_tokens=1)
"""
OURS = """
import zoo
model = zoo.load({name!r}{more})
next(model('The river', stream=True, return_full_text=False))
"""
LISTED = "import sys; from zoo.cli import main; sys.argv = ['txzoo', 'list']; main()"
STARTS = {
    "python": "pass",
    "import zoo": "import zoo",
    "txzoo list": LISTED,
    "import torch": "import torch",
    "zoo": OURS,
    "zoo onnx": OURS,
    "transformers": TWIN,
}


def begin(spec: Spec) -> tuple[dict[str, Any], Round]:
    """A new process, from nothing to its end."""
    import subprocess

    peer = spec["peer"]
    more = f", engine={ENGINES[peer]!r}" if peer in ENGINES else ""
    code = STARTS[peer]
    if peer in ("zoo", "zoo onnx", "transformers"):
        code = code.format(name=spec["model"], more=more, folder=spec["folders"].get("twin"))

    def work() -> dict[str, Any]:
        start = time.perf_counter()
        ran = subprocess.run(
            [sys.executable, "-c", code + TAIL], check=True, capture_output=True, text=True
        )
        seconds = time.perf_counter() - start
        waited = int(ran.stdout.split()[-1]) / 1e9 / seconds
        return {"seconds": seconds, "waited": waited, "peak_bytes": 0}  # another process's

    work()  # the first one warms the disk cache
    return {"threads": torch.get_num_threads()}, work


KINDS = {"decode": decode, "context": context, "load": load, "train": train, "start": begin}


def main() -> None:
    spec = json.loads(sys.argv[1])
    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    serve(lambda: KINDS[spec["kind"]](spec))


if __name__ == "__main__":
    main()
