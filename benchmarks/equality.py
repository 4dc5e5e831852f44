"""How equal our modules are to `transformers`, and our tunings to `peft`: the largest differences.

    python benchmarks/equality.py
    python benchmarks/equality.py --minilm FOLDER

In float32, on one thread: BERT of random weights (deviation 0.1, so that every part shows) and
all-MiniLM-L6-v2, on texts of several lengths; GPT-2, ViT, Marian and T5 of such weights; then each
tuning on the same BERT with labels, PEFT's on `transformers`' own class and ours on `encoder`, with
the same random numbers in what learns. A LoRA's q, k and v have the same A on PEFT's side, as our
one matrix has; gradients of A are summed over them, as those of a shared matrix are.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import Tensor, nn

import zoo
from zoo.nn import reordered
from zoo.tuning import adapt, trained
from zoo.tuning.counterpart import Names
from zoo.tuning.files import write

SIZES = {  # of a small BERT
    "vocab_size": 1000,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "num_labels": 3,
    "attention_probs_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0,
}
VOCAB = SIZES["vocab_size"]
T5 = {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 4, "num_heads": 4}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {  # a class of transformers, its sizes
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": 128}),
    "vit": (
        "ViTForImageClassification",
        {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 8,
        },
    ),
    "seq2seq": (
        "MarianMTModel",
        {
            "d_model": 128,
            **{f"{part}_layers": 4 for part in ("encoder", "decoder")},
            **{f"{part}_attention_heads": 4 for part in ("encoder", "decoder")},
            **{f"{part}_ffn_dim": 512 for part in ("encoder", "decoder")},
            "scale_embedding": True,
            "activation_function": "relu",
            "pad_token_id": 0,
            "eos_token_id": 1,
            "decoder_start_token_id": 0,
            "forced_eos_token_id": None,
        },
    ),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5, gated": (
        "T5ForConditionalGeneration",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
}
HEADS = ("", "ForSequenceClassification", "ForTokenClassification", "ForMaskedLM")
ROWS, LENGTH = 8, 64
TUNINGS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 8, "alpha": 16},
    "ia3": {},
    "prompt-tuning": {"num_virtual_tokens": 8},
    "prefix-tuning": {"num_virtual_tokens": 8},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minilm", type=Path, help="folder of all-MiniLM-L6-v2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print("| `encoder` and | largest output | largest difference |\n|---|---|---|")
    for head in HEADS:
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = random_pair(f"AutoModel{head}", folder)
        row(f"`Bert{head or 'Model'}`, random", *both(ours, theirs))
    if options.minilm is not None:
        kind = transformers.AutoModel  # whose own choice is the file's float16
        theirs = kind.from_pretrained(options.minilm, dtype=torch.float32).eval()
        ours = zoo.load(options.minilm).module
        row("`BertModel`, all-MiniLM-L6-v2, each token", *both(ours, theirs, "last_hidden_state"))
        row("the same, its pooling layer", *both(ours, theirs))
        with reordered(ours):  # as a call of the model does
            found = both(ours, theirs, "last_hidden_state")
        row("the same, each token, with products by oneDNN", *found)
    print("\n| architecture and | largest output | largest difference |\n|---|---|---|")
    for name, (kind, sizes) in OTHERS.items():
        with tempfile.TemporaryDirectory() as folder:
            row(f"`{name}` and `{kind}`, random", *other(kind, sizes, folder))
    print("\n| tuning, against PEFT | outputs | gradients | largest gradient |\n|---|---|---|---|")
    for method in TUNINGS:
        with tempfile.TemporaryDirectory() as folder:
            tuned(method, Path(folder))
    versions = f"transformers {transformers.__version__}, peft {peft.__version__}"
    print(f"\ntorch {torch.__version__}, {versions}, {ROWS} texts of up to {LENGTH} tokens")


def random_pair(kind: str, folder: str) -> tuple[nn.Module, nn.Module]:
    """Ours and theirs of one random checkpoint."""
    torch.manual_seed(1)
    config = transformers.BertConfig(**SIZES)
    theirs = getattr(transformers, kind).from_config(config).eval()
    for name, parameter in theirs.named_parameters():
        nn.init.normal_(parameter, mean=float(name.endswith("LayerNorm.weight")), std=0.1)
    theirs.save_pretrained(folder)
    return zoo.load(folder).module, theirs


@torch.no_grad()
def other(kind: str, sizes: dict[str, Any], folder: str) -> tuple[Tensor, Tensor]:
    """What ours and theirs of one random checkpoint give for one batch, padding left out."""
    torch.manual_seed(1)
    made = getattr(transformers, kind)
    words = {} if "image_size" in sizes else {"vocab_size": VOCAB}
    theirs = made(made.config_class(**sizes, **words)).eval()
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:  # a table of sines stays one
            norm = parameter.dim() == 1 and name.endswith("weight")
            nn.init.normal_(parameter, mean=float(norm), std=0.1)
    theirs.save_pretrained(folder)
    ours = zoo.load(folder).module
    ids, real = batch(VOCAB)
    if "image_size" in sizes:
        pixels = torch.randn(ROWS, 3, sizes["image_size"], sizes["image_size"])
        return ours(pixels), theirs(pixels).logits
    if kind == "GPT2LMHeadModel":
        return ours(ids)[real], theirs(input_ids=ids).logits[real]
    targets = ids.flip(1)
    given = {"input_ids": ids, "attention_mask": real.long(), "decoder_input_ids": targets}
    return ours(ids, targets, real), theirs(**given).logits


def batch(vocab_size: int) -> tuple[Tensor, Tensor]:
    """Token ids, and where they are no padding."""
    torch.manual_seed(2)
    ids = torch.randint(1, vocab_size, (ROWS, LENGTH))
    lengths = torch.linspace(LENGTH, 1, ROWS).long()
    return ids, torch.arange(LENGTH) < lengths[:, None]


@torch.no_grad()
def both(ours: Any, theirs: Any, part: str = "") -> tuple[Tensor, Tensor]:
    """What the two give for one batch, at tokens that are no padding."""
    ids, real = batch(ours.config.vocab_size)
    expected = theirs(input_ids=ids, attention_mask=real.long())
    if part:
        return ours.hidden(ids, real)[real], expected[part][real]
    found, wanted = ours(ids, real), expected.get("logits", expected.get("pooler_output"))
    return (found[real], wanted[real]) if found.dim() == 3 else (found, wanted)


def row(what: str, found: Tensor, expected: Tensor) -> None:
    print(f"| {what} | {expected.abs().max():.2f} | {difference(found, expected):.1e} |")


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest absolute one."""
    return float((found - expected).detach().abs().max())


def tuned(method: str, folder: Path) -> None:
    """One line: a tuning of ours and PEFT's on the same checkpoint."""
    ours, theirs = random_pair("AutoModelForSequenceClassification", str(folder / "base"))
    if method == "prefix-tuning":  # PEFT's text begins where its prefix ends
        places = theirs.get_parameter("bert.embeddings.position_embeddings.weight")
        places.data.copy_(places.data.roll(8, 0))
    options = TUNINGS[method]
    ours = adapt(ours, method, **options).eval()
    torch.manual_seed(3)
    for parameter in trained(ours).values():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    learned = trained(ours)
    if method in ("lora", "ia3"):
        (folder / "adapter").mkdir()
        write(folder / "adapter", ours, method, options, list(learned), base="")
        theirs = peft.PeftModel.from_pretrained(theirs, folder / "adapter", is_trainable=True)
    else:
        made = peft.PromptTuningConfig if method == "prompt-tuning" else peft.PrefixTuningConfig
        theirs = peft.get_peft_model(theirs, made(task_type="SEQ_CLS", **options))
        theirs.prompt_encoder["default"].embedding.weight.data.copy_(ours.prompt_embeddings)
    theirs.eval()
    ids, real = batch(SIZES["vocab_size"])
    found = ours(ids, real)
    expected = theirs(input_ids=ids, attention_mask=real.long()).logits
    weight = torch.randn_like(found)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    off, most = 0.0, 0.0
    for name, parameter in learned.items():
        gradient = theirs_of(name, ours, theirs)
        off = max(off, difference(parameter.grad, gradient))
        most = max(most, float(gradient.abs().max()))
    apart = difference(found, expected)
    print(f"| `{method}` | {apart:.1e} | {off:.1e} | {most:.2f} |", flush=True)


def theirs_of(name: str, ours: nn.Module, theirs: Any) -> Tensor:
    """The gradient of PEFT's for a parameter of ours."""
    if name == "prompt_embeddings":
        return theirs.prompt_encoder["default"].embedding.weight.grad
    layer, _, kind = name.partition(".lora_")
    layer, kind = (layer, f"lora_{kind}") if kind else (name.removesuffix(".ia3_l"), "ia3_l")
    kind = kind.replace(".weight", ".default.weight") if "lora" in kind else "ia3_l.default"
    names, parts = Names(ours), []
    for other, place in names.parts[f"{layer}.weight"].items():
        full = f"base_model.model.{other.removesuffix('.weight')}.{kind}"
        parts.append((place.rows[0], theirs.get_parameter(full).grad))
    parts.sort(key=lambda pair: pair[0])
    gradients = [gradient for _, gradient in parts]
    return sum(gradients[1:], gradients[0]) if "lora_A" in kind else torch.cat(gradients)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
