"""Adapters on disk, in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

PEFT names a tensor "base_model.model." and then as in the module, and what stands before the text
"prompt_embeddings". The module is that of `transformers` where it has the same model and the
method is LoRA or (IA)3 (`zoo.tuning.counterpart`), else ours; both are read. What PEFT has no
method for is written alike, with `peft_type` "TXZOO" and the name of our method; PEFT refuses it by
that.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.card import Card
from zoo.errors import ConfigError, FolderError, WeightsError
from zoo.folder import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MOST_TEXT,
    FileRecord,
    member,
    read_weights,
)
from zoo.hub import parse_address
from zoo.nn import EncoderDecoder
from zoo.tuning import adapt, share, trained
from zoo.tuning.counterpart import LEARNED, Names
from zoo.tuning.counterpart import METHODS as COUNTED
from zoo.tuning.heads import head_part, refit
from zoo.tuning.ia3 import Ia3Linear
from zoo.tuning.lora import LoraLinear
from zoo.tuning.prefix import takes_cache

PREFIX = "base_model.model."
PROMPT = "prompt_embeddings"
OURS = "TXZOO"
CHANGES = "txzoo"  # a key that PEFT passes over
MOST_SIZE = 1 << 16  # of an option; real ones are below a model's width
METHODS = {
    "LORA": "lora",
    "IA3": "ia3",
    "PREFIX_TUNING": "prefix-tuning",
    "PROMPT_TUNING": "prompt-tuning",
}
TASKS = {  # PEFT's task_type, our head and our pipeline
    "SEQ_CLS": ("classification", "text-classification"),
    "TOKEN_CLS": ("token-classification", "token-classification"),
}
LAYERS = ("target_modules", "feedforward_modules")  # keys that name them
LAST = ("classifier.weight", "classifier.out_proj.weight", "score.weight")  # a row for each label
# keys of PEFT that change what is computed, with the values that we compute
PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "use_dora": (False,),
    "use_rslora": (False,),
    "lora_bias": (False,),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "use_qalora": (False,),
    "alora_invocation_tokens": (None,),
    "prefix_projection": (False,),
}


@dataclass(frozen=True)
class Adapter:
    """What was learned beside, or in place of, the weights of a base.

    Attributes:
        method: name of the tuning.
        options: of it.
        tensors: what was learned, by parameter name.
        source: the folder it was read from.
        card: its card, None for a folder of PEFT's.
        base: what PEFT's file calls its base, an address where it pins a revision; empty when it
            does not say.
        config: values of the base's configuration that are others, its head above all.
        whole: the parts whose every tensor is among these.
        peft: whether its file is of a kind that PEFT reads.
        task: PEFT's `task_type`; empty when it does not say.
        pipeline: how the model is called with it, where its head is another than the base's and no
            card says so; else empty.
    """

    method: str
    options: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    source: Path
    card: Card | None = None
    base: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    whole: tuple[str, ...] = ()
    peft: bool = False
    task: str = ""
    pipeline: str = ""


def write(
    folder: Path,
    module: nn.Module,
    method: str,
    options: Mapping[str, Any],
    names: list[str],
    *,
    base: str,
    changes: Mapping[str, Any] | None = None,
    fresh: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
) -> dict[str, FileRecord]:
    """Write the two files of an adapter.

    Args:
        folder: there already.
        module: the adapted one.
        method: name of the tuning.
        options: of it.
        names: of the parameters that were trained.
        base: reference of the base, for PEFT's `base_model_name_or_path` and `revision`.
        changes: values of the base's configuration that are others.
        fresh: the parts that the base lacks.
        dtype: precision on disk.

    Returns:
        The record of each file, for the card.
    """
    parameters = dict(module.named_parameters())
    tensors = {name: parameters[name].detach().to("cpu", dtype).contiguous() for name in names}
    return _write(
        folder, module, method, options, tensors, base=base, changes=changes or {}, fresh=fresh
    )


def rewrite(folder: Path, module: nn.Module, adapter: Adapter) -> dict[str, FileRecord]:
    """Write the two files of an adapter that was read, as `write` does; module: with it."""
    return _write(
        folder,
        module,
        adapter.method,
        adapter.options,
        adapter.tensors,
        base=adapter.base,
        changes=adapter.config,
        fresh=adapter.whole,
    )


def _write(
    folder: Path,
    module: nn.Module,
    method: str,
    options: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    base: str,
    changes: Mapping[str, Any],
    fresh: Sequence[str],
) -> dict[str, FileRecord]:
    config = {**_config(module, method, options), "base_model_name_or_path": base}
    if base.startswith("hf://"):
        config["base_model_name_or_path"], config["revision"] = parse_address(base)
    config |= {"inference_mode": True}
    if method in COUNTED and (theirs := Names(module)).has(tensors):
        tensors = theirs.theirs(tensors)
        for key in LAYERS:
            if key in config:
                config[key] = theirs.layers(config[key])
        config["fan_in_fan_out"] = theirs.turned
        fresh = _outermost(name for name in tensors if not name.endswith(LEARNED))
    if fresh:
        config["modules_to_save"] = list(fresh)
    if changes:
        config[CHANGES] = dict(changes)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / ADAPTER_CONFIG).write_text(text, encoding="utf-8")
    tensors = {name if name == PROMPT else PREFIX + name: t for name, t in tensors.items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    return {name: FileRecord.of(folder / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}


def _outermost(names: Iterable[str]) -> list[str]:
    """The parts that tensors belong to, without those inside another."""
    parts = dict.fromkeys(name.rpartition(".")[0] for name in names)
    return [part for part in parts if not any(part.startswith(f"{other}.") for other in parts)]


def _config(module: nn.Module, method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What PEFT's `adapter_config.json` says of a method, or what ours does."""
    parts = dict(module.named_modules())
    if method == "lora":
        layers = {name: p for name, p in parts.items() if isinstance(p, LoraLinear)}
        one = next(iter(layers.values()))
        rank = one.lora_A.out_features
        return {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": options.get("alpha", one.scale * rank),
            "lora_dropout": one.lora_dropout.p,
            "target_modules": list(layers),
        }
    if method == "ia3":
        factors = {name: p for name, p in parts.items() if isinstance(p, Ia3Linear)}
        return {
            "peft_type": "IA3",
            "target_modules": list(factors),
            "feedforward_modules": [name for name, p in factors.items() if p.on_inputs],
        }
    prefix = method == "prefix-tuning"
    if (prefix or method == "prompt-tuning") and not _unlike_pefts(module, method):
        numbers: Tensor = module.get_parameter(PROMPT)
        config: Any = module.config
        heads = getattr(config, "n_kv_heads", None) or getattr(config, "n_heads", None)
        layers_ = getattr(config, "n_layers", None)  # PEFT asks the model where we do not say
        sizes = {"num_layers": layers_, "num_attention_heads": heads}
        return {
            "peft_type": "PREFIX_TUNING" if prefix else "PROMPT_TUNING",
            "task_type": _task_type(module),
            "num_virtual_tokens": len(numbers),
            "num_transformer_submodules": 1,
            "token_dim": numbers.shape[1] // (2 * config.n_layers) if prefix else numbers.shape[1],
            **{key: value for key, value in sizes.items() if value is not None},
        }
    return {"peft_type": OURS, "tuning": method, "options": dict(options)}


def _task_type(module: nn.Module) -> str:
    """What PEFT calls the way in which a module is called."""
    if isinstance(module, EncoderDecoder):
        return "SEQ_2_SEQ_LM"
    # PEFT looks for the head itself in the files of its kinds for heads
    return "CAUSAL_LM" if takes_cache(module) else "FEATURE_EXTRACTION"


def _unlike_pefts(module: nn.Module, method: str) -> str:
    """What PEFT does otherwise with such a module's prefix or prompt; empty where nothing."""
    if method == "prompt-tuning":
        scales = (
            getattr(p, "embed_scale", 1)
            for p in module.modules()
            if not isinstance(p, nn.Embedding)
        )
        if isinstance(module, EncoderDecoder) and any(scale != 1 for scale in scales):
            return (
                "multiplies embeddings by a factor: PEFT leaves it away before a source, so it "
                "would load and compute something else"
            )
        return ""
    if isinstance(module, EncoderDecoder):
        return (
            "reads a prefix in every attention: PEFT has one for the target's to itself alone, so "
            "it would load and compute something else"
        )
    if hasattr(getattr(module, "config", None), "rope_theta"):
        return (
            "turns keys by their position: PEFT keeps them in another order of coordinates, so it "
            "would load and compute something else"
        )
    if not takes_cache(module):
        return (
            "is an encoder: PEFT moves its text up by as many positions as the prefix has, so it "
            "would load and compute something else"
        )
    return ""


def read(folder: Path, card: Card | None = None) -> Adapter:
    """Read an adapter's files, ours or PEFT's.

    Args:
        folder: where they lie.
        card: of it, where it is ours.

    Raises:
        FolderError: a file is missing or does not parse.
        WeightsError: the weights are damaged.
        ConfigError: a method or an option that txzoo does not have.
    """
    path = member(folder, ADAPTER_CONFIG)
    config = _read_config(path)
    found = read_weights(member(folder, ADAPTER_WEIGHTS))
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in found.items()}
    if config.get("peft_type") == "PROMPT_TUNING" and PROMPT in tensors:
        tensors[PROMPT] = _prompt_read(config, tensors[PROMPT], path)
    base = str(config.get("base_model_name_or_path") or "")
    if revision := config.get("revision"):
        base = f"hf://{base}@{revision}"
    method, options = _method(config, tensors, path)
    changes = config.get(CHANGES) or {}
    if not isinstance(changes, dict):
        raise ConfigError(f"{path}: {CHANGES} must be a table, got {changes!r}")
    whole = config.get("modules_to_save") or []
    if not isinstance(whole, list):
        raise ConfigError(f"{path}: modules_to_save must be a list of names, got {whole!r}")
    # PEFT names parts of heads that some models have; those meant are those whose tensors are here
    here = tuple(str(part) for part in whole if any(n.startswith(f"{part}.") for n in tensors))
    peft = config.get("peft_type") != OURS
    task = str(config.get("task_type") or "")
    return Adapter(method, options, tensors, folder, card, base, changes, here, peft, task)


def _read_config(path: Path) -> dict[str, Any]:
    if (size := path.stat().st_size) > MOST_TEXT:
        raise FolderError(f"{path} has {size} bytes, a configuration has at most {MOST_TEXT}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise FolderError(f"{path}: must hold a JSON object, not {type(config).__name__}")
    return config


def _method(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path
) -> tuple[str, dict[str, Any]]:
    """Our method and its options; which layers it changes is what its tensors say."""
    kind = config.get("peft_type")
    if kind == OURS:
        options = config.get("options")
        if not isinstance(config.get("tuning"), str) or not isinstance(options, dict):
            raise ConfigError(f"{path} lacks the name or the options of its tuning")
        for key, value in options.items():
            if type(value) is int and value > MOST_SIZE:  # would fill the memory before it fails
                raise ConfigError(f"{path}: {key}={value} is beyond {MOST_SIZE}, the most there is")
        return config["tuning"], options
    if kind not in METHODS:
        raise ConfigError(f"{path}: peft_type {kind!r} is not read; read are {', '.join(METHODS)}")
    for key, values in PLAIN.items():
        if key in config and config[key] not in values:
            raise ConfigError(f"{path}: {key}={config[key]!r} is not read, only {values[0]!r}")
    if kind == "LORA":
        ranks = {len(tensor) for name, tensor in tensors.items() if ".lora_A." in name}
        if ranks != {config.get("r", 8)}:
            raise WeightsError(f"{path} says r={config.get('r', 8)!r}, the tensors have {ranks}")
        return "lora", {
            "rank": config.get("r", 8),
            "alpha": config.get("lora_alpha", 8),
            "dropout": config.get("lora_dropout", 0.0),
            "target_modules": sorted({n.rsplit(".lora_", 1)[0] for n in tensors if ".lora_" in n}),
        }
    if kind == "IA3":
        factors = {n: tensor for n, tensor in tensors.items() if n.endswith(".ia3_l")}
        shapes = {n.removesuffix(".ia3_l"): tensor.shape for n, tensor in factors.items()}
        inputs = [name for name, shape in shapes.items() if shape[0] == 1 != shape[-1]]
        return "ia3", {"target_modules": list(shapes), "feedforward_modules": inputs}
    if PROMPT not in tensors:
        raise WeightsError(f"{path.parent / ADAPTER_WEIGHTS} holds no {PROMPT}")
    return METHODS[kind], {"num_virtual_tokens": len(tensors[PROMPT])}


def fit(base: nn.Module, adapter: Adapter) -> Adapter:
    """An adapter in the names of a module, and with the head that its file shows.

    Raises:
        WeightsError: it does not fit: neither the module nor its counterpart in `transformers` has
            such parts.
    """
    if not adapter.peft or adapter.method not in COUNTED:
        return adapter
    adapter = _with_head(base, adapter)
    parts = dict(base.named_modules())
    if all(name in parts for name in adapter.options["target_modules"]):
        return adapter
    with _for(base, adapter), torch.random.fork_rng(devices=[]):
        module, _ = refit(share(base), adapter.config)
        tensors = Names(module).ours(adapter.tensors)
    config: dict[str, Any] = {"peft_type": adapter.method.upper()}
    if adapter.method == "lora":
        options = adapter.options
        rank = next(len(tensor) for name, tensor in tensors.items() if ".lora_A." in name)
        alpha = options["alpha"]
        if type(alpha) in (int, float):  # else it is refused where it is used
            alpha *= rank // options["rank"]
        config |= {"r": rank, "lora_alpha": alpha, "lora_dropout": options["dropout"]}
    method, options = _method(config, tensors, adapter.source / ADAPTER_CONFIG)
    saved = [name for name in tensors if not name.endswith(LEARNED)]
    whole = tuple(dict.fromkeys(head_part(module, name) or name for name in saved))
    return replace(adapter, method=method, options=options, tensors=tensors, whole=whole)


def _with_head(base: nn.Module, adapter: Adapter) -> Adapter:
    """With the head in its `config` that PEFT's `task_type` and the labels' tensor are of."""
    head, pipeline = TASKS.get(adapter.task, ("", ""))
    count = next((len(adapter.tensors[name]) for name in LAST if name in adapter.tensors), 0)
    config: Any = getattr(base, "config", None)
    if not (head and count and hasattr(config, "labels")) or adapter.config:
        return adapter
    if (config.head, len(config.labels)) == (head, count):
        return adapter
    changes = {"head": head, "labels": [f"LABEL_{index}" for index in range(count)]}
    return replace(adapter, config=changes, pipeline=pipeline)


@contextmanager
def _for(base: nn.Module, adapter: Adapter) -> Iterator[None]:
    """Raise `WeightsError` for an adapter that is for another module."""
    try:
        yield
    # a part that it lacks is an AttributeError
    except (ConfigError, WeightsError, AttributeError) as error:
        raise WeightsError(
            f"{adapter.source} is not for this {type(base).__name__}: {error}"
        ) from error


def _prompt_read(config: Mapping[str, Any], prompt: Tensor, path: Path) -> Tensor:
    """The rows of a prompt that are read.

    For two texts PEFT learns as many for the target too, behind them, and reads those of the source
    alone.
    """
    length = config.get("num_virtual_tokens", len(prompt))
    if type(length) is not int or not 1 <= length <= len(prompt):
        raise WeightsError(
            f"{path} says num_virtual_tokens={length!r}, {PROMPT} has {len(prompt)} rows"
        )
    return prompt[:length]


def apply(base: nn.Module, adapter: Adapter) -> nn.Module:
    """A module that computes with an adapter, on the base's own memory; the base stays as it is.

    Raises:
        WeightsError: the adapter does not fit the module; names the tensor and the shapes.
    """
    source = adapter.source
    if adapter.method in ("prefix-tuning", "prompt-tuning") and adapter.peft:
        what = adapter.method.removesuffix("-tuning")
        if unlike := _unlike_pefts(base, adapter.method):
            raise ConfigError(
                f"{source} holds a {what} that PEFT wrote, and {type(base).__name__} {unlike}. "
                f"Train the {what} here"
            )
    adapter = fit(base, adapter)
    # what it starts from is overwritten below
    with _for(base, adapter), torch.random.fork_rng(devices=[]):
        module, fresh = refit(share(base), adapter.config)
        if left_out := [name for name in fresh if name not in adapter.whole]:
            raise ConfigError(f"modules_to_save lacks {', '.join(left_out)}")
        if other := [name for name in adapter.whole if head_part(module, name) != name]:
            raise ConfigError(f"modules_to_save names {', '.join(other)}, which is no head")
        module = adapt(module, adapter.method, **adapter.options, fresh=adapter.whole)
    learned = trained(module)
    missing, left = learned.keys() - adapter.tensors.keys(), adapter.tensors.keys() - learned.keys()
    if missing or left:
        raise WeightsError(
            f"{source} is not for this {type(base).__name__}: "
            f"missing {', '.join(sorted(missing)[:3]) or 'nothing'}, "
            f"unexpected {', '.join(sorted(left)[:3]) or 'nothing'}"
        )
    for name, parameter in learned.items():
        tensor = adapter.tensors[name]
        if tensor.shape != parameter.shape:
            raise WeightsError(
                f"{source} is not for this {type(base).__name__}: {name} has shape "
                f"{tuple(tensor.shape)}, here it is {tuple(parameter.shape)}"
            )
        parameter.data = tensor.to(parameter)  # not copied in: the memory may be the base's
    return module.eval().requires_grad_(False)
