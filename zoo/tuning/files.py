"""Adapters on disk, in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

PEFT names a tensor "base_model.model." and then as in the module, and what stands before the text
"prompt_embeddings". What PEFT has no method for is written alike, with `peft_type` "TXZOO" and the
name of our method; PEFT refuses it by that.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from zoo.tuning import adapt, share, trained
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
        base: what PEFT's file calls its base; empty when it does not say.
        config: values of the base's configuration that are others, its head above all.
        whole: the parts whose every tensor is among these.
    """

    method: str
    options: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    source: Path
    card: Card | None = None
    base: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    whole: tuple[str, ...] = ()


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
        base: reference of the base, for PEFT's `base_model_name_or_path`.
        changes: values of the base's configuration that are others.
        fresh: the parts that the base lacks.
        dtype: precision on disk.

    Returns:
        The record of each file, for the card.
    """
    config = {**_config(module, method, options), "base_model_name_or_path": base}
    config |= {"inference_mode": True}
    if fresh:
        config["modules_to_save"] = list(fresh)
    if changes:
        config[CHANGES] = dict(changes)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / ADAPTER_CONFIG).write_text(text, encoding="utf-8")
    parameters = dict(module.named_parameters())
    tensors = {
        name if name == PROMPT else PREFIX + name: parameters[name]
        .detach()
        .to("cpu", dtype)
        .contiguous()
        for name in names
    }
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    return {name: FileRecord.of(folder / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}


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
    if method in ("prefix-tuning", "prompt-tuning"):
        numbers: Tensor = module.get_parameter(PROMPT)
        config: Any = module.config
        heads, layers_ = getattr(config, "n_kv_heads", config.n_heads), config.n_layers
        width = numbers.shape[1] // (2 * layers_) if method == "prefix-tuning" else None
        return {
            "peft_type": "PREFIX_TUNING" if method == "prefix-tuning" else "PROMPT_TUNING",
            "task_type": "CAUSAL_LM",
            "num_virtual_tokens": len(numbers),
            "num_layers": layers_,
            "num_attention_heads": heads,
            "num_transformer_submodules": 1,
            "token_dim": width or numbers.shape[1],
        }
    return {"peft_type": OURS, "tuning": method, "options": dict(options)}


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
    base = str(config.get("base_model_name_or_path") or "")
    method, options = _method(config, tensors, path)
    changes = config.get(CHANGES) or {}
    if not isinstance(changes, dict):
        raise ConfigError(f"{path}: {CHANGES} must be a table, got {changes!r}")
    whole = config.get("modules_to_save") or []
    if not isinstance(whole, list):
        raise ConfigError(f"{path}: modules_to_save must be a list of names, got {whole!r}")
    # PEFT names parts of heads that some models have; those meant are those whose tensors are here
    here = tuple(str(part) for part in whole if any(n.startswith(f"{part}.") for n in tensors))
    return Adapter(method, options, tensors, folder, card, base, changes, here)


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


def apply(base: nn.Module, adapter: Adapter) -> nn.Module:
    """A module that computes with an adapter, on the base's own memory; the base stays as it is.

    Raises:
        WeightsError: the adapter does not fit the module; names the tensor and the shapes.
    """
    source = adapter.source
    config: Any = getattr(base, "config", None)
    if adapter.method == "prefix-tuning" and adapter.card is None and hasattr(config, "rope_theta"):
        raise ConfigError(
            f"{source} holds a prefix without a card of ours, and {type(base).__name__} turns keys "
            "by their position: PEFT keeps them in another order of coordinates, so it would load "
            "and compute something else. Train the prefix here"
        )
    if adapter.method == "prefix-tuning" and adapter.card is None and not takes_cache(base):
        raise ConfigError(
            f"{source} holds a prefix without a card of ours, and {type(base).__name__} is an "
            "encoder: PEFT moves its text up by as many positions as the prefix has, so it would "
            "load and compute something else. Train the prefix here"
        )
    try:
        with torch.random.fork_rng(devices=[]):  # what it starts from is overwritten below
            module, fresh = refit(share(base), adapter.config)
            if left_out := [name for name in fresh if name not in adapter.whole]:
                raise ConfigError(f"modules_to_save lacks {', '.join(left_out)}")
            if other := [name for name in adapter.whole if head_part(module, name) != name]:
                raise ConfigError(f"modules_to_save names {', '.join(other)}, which is no head")
            module = adapt(module, adapter.method, **adapter.options, fresh=adapter.whole)
    except (ConfigError, AttributeError) as error:  # a part that it lacks is an AttributeError
        raise WeightsError(f"{source} is not for this {type(base).__name__}: {error}") from error
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
