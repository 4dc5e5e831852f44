"""What readers of foreign checkpoints share: every tensor is placed, or named in an error."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, MissingExtraError, WeightsError, ZooError
from zoo.folder import load_into
from zoo.nn import attend, attend_source

# how something was saved, or how it is to be run: neither changes what is computed, and some of
# it, such as a kernel from the Hub in place of attention, would run a stranger's code
NOT_READ = (
    "attn_implementation",
    "auto_map",
    "chunk_size_feed_forward",
    "custom_pipelines",
    "distributed_config",
    "dtype",
    "experts_implementation",
    "fusion_config",
    "kernel_config",
    "name_or_path",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "quantization_config",
    "reference_compile",
    "return_dict",
    "tf_legacy_loss",
    "torch_dtype",
    "torchscript",
    "tp_plan",
    "transformers_version",
    "use_bfloat16",
    "use_kernels",
    "use_return_dict",
)
DECODING = (  # how `transformers` is to decode, which older checkpoints say in config.json
    "bad_words_ids",
    "do_sample",
    "early_stopping",
    "forced_eos_token_id",
    "id2label",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beams",
    "num_labels",
    "prefix",
    "task_specific_params",
    "temperature",
    "top_k",
    "top_p",
    "use_cache",
)
MOST_SIZE = 1 << 20  # of any number in a configuration: its tables fit into memory
MOST_COUNT = 1 << 12  # of layers, heads, labels
JOINED = re.compile(r"(?<=\.)(qkv|kv)(?=\.|_proj\.)")  # in a name: q, k and v in one, or k and v
OURS = "txzoo"  # our attention's name in transformers


# Checkpoints of models that are written out


def load_renamed(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    change: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor,
    ignored: tuple[str, ...] = (),
) -> None:
    """Load a foreign checkpoint into a module.

    Args:
        module: where the weights go.
        tensors: the checkpoint, under its own names.
        names: our parameter names to the checkpoint's.
        change: called with our name and the tensor, returns it in our layout.
        ignored: endings of checkpoint names that may be left unused (buffers, tied copies).

    Raises:
        WeightsError: a tensor is missing, left over, or of another shape.
    """
    missing = sorted(theirs for theirs in names.values() if theirs not in tensors)
    unused = sorted(
        name for name in tensors if name not in set(names.values()) and not name.endswith(ignored)
    )
    if missing or unused:
        raise WeightsError(
            f"The checkpoint does not fit {type(module).__name__}: "
            f"missing {missing[:5] or 'nothing'}, left over {unused[:5] or 'nothing'}"
        )
    state = {ours: change(ours, tensors[theirs]) for ours, theirs in names.items()}
    own = module.state_dict()
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise WeightsError(
                f"{names[name]} is {tuple(tensor.shape)}, "
                f"{type(module).__name__}.{name} is {tuple(own[name].shape)}"
            )
    module.load_state_dict(state)


def parts(name: str) -> list[str]:
    """The tensors of a checkpoint that one of ours is made of, one below the other.

    Of `layer.qkv.weight` they are `layer.q.weight`, `layer.k.weight` and `layer.v.weight`, and of
    `layer.kv_proj.weight` the two of k and v; any other is itself.
    """
    found = JOINED.search(name)
    return [name] if found is None else [JOINED.sub(kind, name) for kind in found[0]]


def join(found: dict[str, Tensor], wanted: Iterable[str]) -> None:
    """Put the parts of each wanted tensor into one.

    Raises:
        WeightsError: parts are missing, or do not fit together.
    """
    for name in wanted:
        pieces = parts(name)
        if len(pieces) == 1:
            continue
        if missing := [piece for piece in pieces if piece not in found]:
            raise WeightsError(f"The checkpoint lacks {', '.join(missing)}")
        shapes = {piece: tuple(found[piece].shape) for piece in pieces}
        if len(set(shapes.values())) > 1:
            both = ", ".join(f"{piece} is {shape}" for piece, shape in shapes.items())
            raise WeightsError(f"{both}: they must be of one shape")
        found[name] = torch.cat([found.pop(piece) for piece in pieces])


def split(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Our tensors as a checkpoint has them; `names` as in `load_renamed`."""
    tensors = {}
    for ours, theirs in names.items():
        pieces = parts(theirs)
        for name, part in zip(pieces, state[ours].chunk(len(pieces)), strict=True):
            tensors[name] = part.contiguous()
    return tensors


def drop_copies(found: dict[str, Tensor], shared: str, copies: Iterable[str]) -> None:
    """Leave a matrix under one name; files hold it once, under any of its names, or several times.

    Raises:
        WeightsError: a copy is none.
    """
    for name in copies:
        if name in found:
            copy = found.pop(name)
            if not torch.equal(copy, found.setdefault(shared, copy)):
                raise WeightsError(f"{name} is not {shared}: they must be one matrix")


# Models that transformers computes


def library() -> Any:
    """The package `transformers`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("A model of the Hub that transformers computes", "hf") from error
    return transformers


def class_of(table: str, kind: str) -> Any:
    """The class of `transformers` for a model_type, in a table of its `modeling_auto`."""
    package = library()
    from transformers.models.auto import modeling_auto

    return getattr(package, getattr(modeling_auto, table)[kind])


def is_body(config: Mapping[str, Any], made: type, body: type) -> bool:
    """Whether a checkpoint is of a model's body alone, without the head that writes.

    Raises:
        ConfigError: its `architectures` names another class than these two.
    """
    kind = str((config.get("architectures") or [made.__name__])[0])
    if kind not in (made.__name__, body.__name__):
        raise ConfigError(f"{kind} is not read; read are {made.__name__} and {body.__name__}")
    return kind == body.__name__


@contextmanager
def building(what: str) -> Iterator[None]:
    """Raise `ConfigError` for whatever follows from values that nobody thought of."""
    try:
        yield
    except (ZooError, RuntimeError):
        raise
    except Exception as error:
        raise ConfigError(f"transformers builds no {what} of this: {error}") from error


def attention() -> str:
    """The name by which `transformers` knows our attention, whose weights can be recorded."""
    package = library()
    from transformers.masking_utils import sdpa_mask

    package.AttentionInterface.register(OURS, _attend)
    package.AttentionMaskInterface.register(OURS, sdpa_mask)
    return OURS


def _attend(
    part: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """`zoo.nn.attend` and `attend_source` as `transformers` calls it.

    Args:
        part: the layer that asks; with `reads_source=True` on it its keys are those of a source.
        q: queries (R, H, T, E).
        k: keys (R, H, S, E), or of a source (P, H, S, E).
        v: values, as the keys.
        mask: boolean, True = may attend, broadcasts to (R, H, T, S); of a source (P, 1, 1, S).
        scaling: factor on the scores.
        dropout: probability of dropping a weight.
        position_bias: of T5 (1, H, T, S), added to the scores; of a source it is all 0.

    Returns:
        The mixed values (R, T, H, E), and no weights.
    """
    if getattr(part, "reads_source", False):
        mixed = attend_source(q, k, v, mask, scale=scaling, dropout=dropout)
    else:
        if position_bias is not None and mask is not None:
            mask = position_bias.masked_fill(~mask, -math.inf)
        mixed = attend(q, k, v, mask, scale=scaling, dropout=dropout)
    return mixed.transpose(1, 2).contiguous(), None


def adopt(module: nn.Module, theirs: nn.Module) -> None:
    """Let a model's parts be those of ours, under their names in the checkpoint."""
    object.__setattr__(module, "theirs", theirs)  # beside torch's own list of parts
    module._modules, module._parameters = theirs._modules, theirs._parameters
    module._buffers = theirs._buffers


def load_theirs(
    module: nn.Module, found: dict[str, Tensor], aliases: Mapping[str, str], what: str
) -> None:
    """Load a checkpoint, whose names are ours, into a module.

    Args:
        module: where the weights go.
        found: the checkpoint.
        aliases: second names that tensors may have, and the first of each, as `untangle` says.
        what: the checkpoint's, for errors.

    Raises:
        WeightsError: a tensor is missing, left over or of another shape, or a copy is none.
    """
    for second, name in aliases.items():
        copied = found.pop(second, None)
        if copied is not None and not torch.equal(found.setdefault(name, copied), copied):
            raise WeightsError(f"{second} and {name} must be the same, and are not")
    load_into(module, found, f"The checkpoint of a {what}")


def check_checkpoint(config: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for weights that are quantized, and as `check_sizes`."""
    check_sizes(config)
    if config.get("quantization_config"):
        raise ConfigError("Its weights are quantized: only plain ones are read")


def check_sizes(values: Any, key: str = "transformers") -> None:
    """Raise `ConfigError` for what no JSON holds, and for numbers that would fill the memory."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            check_sizes(value, str(name))
    elif isinstance(values, list | tuple):
        for value in values:
            check_sizes(value, key)
    elif type(values) is int:
        counts = key.startswith(("num_", "n_")) or key == "inner_group_num"
        most = MOST_COUNT if counts else MOST_SIZE
        if abs(values) > most:
            raise ConfigError(f"transformers: {key}={values} is beyond {most}, the most there is")
    elif not isinstance(values, str | float | bool | None):
        raise ConfigError(f"transformers: {key}={values!r} is no plain value")


class Tied(nn.Module):
    """A linear layer on numbers that other parts hold, such as the token embeddings.

    It asks those parts each time: who exchanges or saves their numbers need not know of it.

    Args:
        layer: the layer that it replaces.
        sources: for "weight" or "bias", the part and the name of its parameter.
    """

    def __init__(self, layer: nn.Linear, sources: dict[str, tuple[nn.Module, str]]) -> None:
        super().__init__()
        self.sources = sources
        for name, parameter in layer.named_parameters(recurse=False):
            if name not in sources:
                self.register_parameter(name, parameter)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer computes."""
        return F.linear(x, self._number("weight"), self._number("bias"))

    def _number(self, name: str) -> Any:
        """The weight or the bias; None for a layer without one."""
        if name in self.sources:
            return getattr(*self.sources[name])
        return getattr(self, name, None)


def untangle(model: nn.Module) -> dict[str, str]:
    """Let each number be held by one part only; returns the second names, and the first of each."""
    first: dict[int, tuple[str, nn.Module, str]] = {}
    seconds: dict[str, dict[str, tuple[str, nn.Module, str]]] = {}
    # a table of embeddings before the layer that is tied to it, wherever the two stand
    for owner, part in sorted(model.named_modules(), key=lambda m: isinstance(m[1], nn.Linear)):
        for name, parameter in part.named_parameters(recurse=False):
            place = (f"{owner}.{name}", part, name)
            held = first.setdefault(id(parameter), place)
            if held is not place:
                seconds.setdefault(owner, {})[name] = held
    for owner, parameters in seconds.items():
        layer = model.get_submodule(owner)
        if not isinstance(layer, nn.Linear):
            raise ConfigError(f"{owner} shares its numbers and is no linear layer: not read")
        parent, _, name = owner.rpartition(".")
        sources = {key: (part, own) for key, (_, part, own) in parameters.items()}
        setattr(model.get_submodule(parent), name, Tied(layer, sources))
    return {
        f"{owner}.{name}": held[0]
        for owner, parameters in seconds.items()
        for name, held in parameters.items()
    }
