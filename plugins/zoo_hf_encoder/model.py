"""An encoder of the Hub, computed by `transformers`: any of those that this zoo does not write out.

Source: `transformers` (Wolf et al. 2020, arXiv:1910.03771) and the papers that its documentation
names for each `model_type`; RoBERTa's is Liu et al. 2019, arXiv:1907.11692.

The idea: the parts of a model of `transformers` become the parts of this module, under their own
names. Tunings therefore find the layers that PEFT finds, and PEFT's adapters fit. What is added is
the zoo's way of calling an encoder, a configuration of plain values, and checks: of a repository
only its JSON and its safetensors are read, nothing in it runs, and no weight is left random.

Differences: where `transformers` lets its attention be replaced (not in DeBERTa and MPNet) it is
ours, which computes the same and shows its weights.

Letters: B batch, T length, D width, H heads, E width of a head, V vocabulary, L labels, N tokens
that are asked for.
"""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo import Config
from zoo.convert import (
    NOT_READ,
    adopt,
    attention,
    building,
    check_checkpoint,
    check_sizes,
    class_of,
    library,
    load_theirs,
    untangle,
)
from zoo.errors import ConfigError, ContextLengthError, InputError
from zoo_hf_encoder import MODEL_TYPES
from zoo_hf_encoder.tokenizer import read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HEADS = {  # ours, the end of the class's name in transformers, and its table of such classes
    "none": ("Model", "MODEL_MAPPING_NAMES"),
    "classification": (
        "ForSequenceClassification",
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    ),
    "token-classification": (
        "ForTokenClassification",
        "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    ),
    "masked-language": ("ForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING_NAMES"),
}
OWN = ("vocab_size", "pad_token_id", "id2label", "label2id", "num_labels", "architectures")
BUFFERS = ("position_ids", "token_type_ids")  # ends of names: stored by older versions


@dataclass(frozen=True, kw_only=True)
class HfEncoderConfig(Config):
    """Sizes, the head, and what else `transformers` wants to know.

    Attributes:
        vocab_size: V.
        max_seq_len: T at most; RoBERTa's own count is higher by the positions that it leaves free.
        transformers: its configuration as JSON, `model_type` at least, without what stands here.
        head: what is given, see `HfEncoder.forward`.
        labels: names of the labels.
        pad_id: the token that stands for padding.
        pooler: whether `head="none"` gives what the checkpoint's own pooling layer makes, in place
            of a mean; other heads have none of it.
    """

    vocab_size: int
    max_seq_len: int
    transformers: dict[str, Any]
    head: str = "none"
    labels: tuple[str, ...] = ()
    pad_id: int = 0
    pooler: bool = False

    def __post_init__(self) -> None:
        self.require_positive("vocab_size")
        if not 0 <= self.pad_id < self.vocab_size:
            raise ConfigError(f"pad_id={self.pad_id} is none of {self.vocab_size} tokens")
        self.require_positive("max_seq_len")
        if isinstance(self.labels, str) or not all(isinstance(name, str) for name in self.labels):
            raise ConfigError(f"labels must be a list of names, got {self.labels!r}")
        object.__setattr__(self, "labels", tuple(self.labels))  # JSON has lists
        if self.head not in HEADS:
            raise ConfigError(f"head must be one of {', '.join(HEADS)}, got {self.head!r}")
        if self.head.endswith("classification") and len(set(self.labels)) < 2:
            raise ConfigError(f"A head for {self.head} needs two labels or more: {self.labels}")
        object.__setattr__(self, "pooler", self.pooler and self.head == "none")
        if not isinstance(self.transformers, dict):
            raise ConfigError(f"transformers must be a table, got {self.transformers!r}")
        object.__setattr__(self, "transformers", copy.deepcopy(self.transformers))
        for key in self.transformers:
            if key in OWN or key in NOT_READ or key.startswith("_"):
                raise ConfigError(f"transformers: {key!r} is not read there")
        check_sizes(self.transformers)
        kind = self.transformers.get("model_type")
        if kind not in MODEL_TYPES:
            known = ", ".join(MODEL_TYPES)
            raise ConfigError(f"transformers: model_type must be one of {known}, got {kind!r}")
        if self.transformers.get("is_decoder") or self.transformers.get("is_encoder_decoder"):
            raise ConfigError("This checkpoint is a decoder: only encoders are read")
        least = self.max_seq_len + first_position(kind, self.pad_id)
        positions = self.transformers.setdefault("max_position_embeddings", least)
        if type(positions) is not int or positions < least:
            raise ConfigError(
                f"max_seq_len={self.max_seq_len} takes {least} positions, "
                f"max_position_embeddings={positions!r} has fewer"
            )

    def settings(self) -> dict[str, Any]:
        """The whole configuration for `transformers`, as JSON."""
        values = {
            **copy.deepcopy(self.transformers),
            "vocab_size": self.vocab_size,
            "pad_token_id": self.pad_id,
        }
        if self.labels:
            values["id2label"] = {str(index): name for index, name in enumerate(self.labels)}
            values["label2id"] = {name: index for index, name in enumerate(self.labels)}
        return values


def first_position(kind: str, pad_id: int) -> int:
    """How many rows of the table of positions stand before the first token's."""
    if kind == "mpnet":
        return 2  # whatever its padding is
    return pad_id + 1 if kind in ("camembert", "roberta", "xlm-roberta") else 0


class HfEncoder(nn.Module):
    """Token ids to what the head gives.

    Raises:
        MissingExtraError: `transformers` is not installed.
        ConfigError: it cannot build such a model.
    """

    config_class = HfEncoderConfig
    theirs: Any

    def __init__(self, config: HfEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.max_len = config.max_seq_len
        settings = config.settings()
        kind = settings.pop("model_type")
        made, options = class_of(HEADS[config.head][1], kind), {}
        if "add_pooling_layer" in inspect.signature(made).parameters:
            options["add_pooling_layer"] = config.pooler
        elif config.pooler:
            raise ConfigError(f"{made.__name__} has no pooling layer: pooler must be False")
        if "id2label" in settings:  # in JSON keys are texts
            settings["id2label"] = dict(enumerate(config.labels))
        with building(made.__name__):
            their_config = library().CONFIG_MAPPING[kind](**settings)
            if made._supports_attention_backend:
                their_config._attn_implementation = attention()
            theirs = made(their_config, **options)
        self.aliases = untangle(theirs)
        self.body = str(theirs.base_model_prefix)  # the name of all that is no head
        if config.head == "none":
            object.__setattr__(self, "theirs", theirs)  # beside torch's own list of parts
            self.add_module(self.body, theirs)
        else:
            adopt(self, theirs)
        self.takes = set(inspect.signature(theirs.forward).parameters)

    def hidden(
        self, ids: Tensor, real: Tensor | None = None, segments: Tensor | None = None
    ) -> Tensor:
        """The vector of each token.

        Args:
            ids: token ids (B, T).
            real: True where a token is no padding (B, T); all but `pad_id` unless given.
            segments: which of two texts a token belongs to (B, T); all the first unless given.

        Returns:
            Vectors (B, T, D); those of padding mean nothing.

        Raises:
            ContextLengthError: more tokens than there are positions.
            InputError: a second segment for a model that knows only one.
        """
        inputs = self.inputs(ids, real, segments)
        vectors: Tensor = self.theirs.base_model(**inputs).last_hidden_state
        return vectors

    def forward(
        self,
        ids: Tensor,
        real: Tensor | None = None,
        segments: Tensor | None = None,
        where: Tensor | None = None,
    ) -> Tensor:
        """What the head gives.

        Args:
            ids: as in `hidden`.
            real: as in `hidden`.
            segments: as in `hidden`.
            where: at which tokens a masked-language head is asked (B, T); at all unless given.

        Returns:
            By `head`: "classification" logits (B, L), "token-classification" (B, T, L),
            "masked-language" (B, T, V), or (N, V) for the N tokens `where`; "none" a vector for
            each text (B, D), the mean of its tokens' or what the checkpoint's pooling layer makes.
        """
        inputs = self.inputs(ids, real, segments)
        if self.config.head == "none":
            output = self.theirs(**inputs)
            if self.config.pooler:
                return output.pooler_output  # type: ignore[no-any-return]
            weights = inputs["attention_mask"].unsqueeze(-1).to(output[0].dtype)  # (B, T, 1)
            return (output[0] * weights).sum(1) / weights.sum(1)  # type: ignore[no-any-return]
        if where is None or self.config.head != "masked-language":
            return self.theirs(**inputs).logits  # type: ignore[no-any-return]

        def only(body: nn.Module, args: Any, output: Any) -> Any:
            output["last_hidden_state"] = output["last_hidden_state"][where]  # (N, D)
            return output

        # the head reads each token alone; all of V for all of T would be much more than all else
        handle = self.theirs.base_model.register_forward_hook(only)
        try:
            return self.theirs(**inputs).logits  # type: ignore[no-any-return]
        finally:
            handle.remove()

    def inputs(self, ids: Tensor, real: Tensor | None, segments: Tensor | None) -> dict[str, Any]:
        """What `transformers` is called with; arguments and errors as in `hidden`."""
        T = ids.shape[1]
        if T > self.max_len:
            raise ContextLengthError(
                f"The text has {T} tokens, this model has {self.max_len} positions: cut it"
            )
        real = ids != self.config.pad_id if real is None else real
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids) * real}
        if segments is not None:
            kinds = getattr(self.theirs.config, "type_vocab_size", 1)
            if "token_type_ids" in self.takes and kinds > 1:
                inputs["token_type_ids"] = segments
            elif segments.any():
                name = type(self.theirs).__name__
                raise InputError(f"{name} knows no second segment: give one text, or no segments")
        return {**inputs, "return_dict": True}

    def head_part(self, name: str) -> str | None:
        """The part behind the body that a parameter belongs to, None for one of the body's own."""
        first, _, rest = name.partition(".")
        if first != self.body:
            return first
        return f"{first}.pooler" if rest.split(".")[0] == "pooler" else None

    @classmethod
    def from_transformers(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> "HfEncoder":
        """A checkpoint, with the head that its `architectures` names.

        Of one that was only trained beforehand (`...ForPreTraining`, or no class named) the head is
        left aside. Every other tensor is used, but for pooling layers that the head does not read.

        Raises:
            MissingExtraError: `transformers` is not installed.
            ConfigError: another head, or values that cannot be.
            WeightsError: a tensor is missing, left over or of another shape; names it.
        """
        check_checkpoint(config)
        head, body_only = head_of(config)
        made = class_of(HEADS[head][1], config["model_type"])
        prefix = f"{made.base_model_prefix}."
        found = {new_name(name): tensor for name, tensor in tensors.items()}
        if body_only and any(name.startswith(prefix) for name in found):
            found = {name: t for name, t in found.items() if name.startswith(prefix)}
        if head == "none":  # its own checkpoints leave out the prefix that all others carry
            found = {prefix + name.removeprefix(prefix): tensor for name, tensor in found.items()}
        pools = head == "none" and "add_pooling_layer" in inspect.signature(made).parameters
        pooler = pools and any(name.startswith(f"{prefix}pooler.") for name in found)

        module = cls(read_config(config, head, pooler))
        own = module.state_dict().keys()
        aside = () if head == "none" else (f"{prefix}pooler.",)
        found = {
            name: tensor
            for name, tensor in found.items()
            if name in own or not (name.startswith(aside) or name.endswith(BUFFERS))
        }
        load_theirs(module, found, module.aliases, made.__name__)
        return module

    @staticmethod
    def read_tokenizer(folder: Path, config: Mapping[str, Any]) -> "Tokenizer | None":
        """The tokenizer of a checkpoint without `tokenizer.json`; None where nothing makes one."""
        return read_tokenizer(library(), folder, config["model_type"])

    def to_transformers(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The same model as a checkpoint: `config.json` and tensors."""
        settings = {"architectures": [type(self.theirs).__name__], **self.config.settings()}
        return settings, dict((self.theirs if self.config.head == "none" else self).state_dict())


def head_of(config: Mapping[str, Any]) -> tuple[str, bool]:
    """Our name for the head of a checkpoint, and whether one that it has is left aside.

    Raises:
        ConfigError: a head that is not read.
    """
    kinds = config.get("architectures") or [""]
    name = str(kinds[0]) if isinstance(kinds, list) else str(kinds)
    if not name or name.endswith("ForPreTraining"):
        return "none", True
    for head in HEADS:
        if name == class_of(HEADS[head][1], config["model_type"]).__name__:
            break
    else:
        ends = ", ".join(f"...{end}" for end, _ in HEADS.values())
        raise ConfigError(f"{name} is not read; read are {ends}")
    problem = config.get("problem_type")
    if head == "classification" and problem not in (None, "single_label_classification"):
        raise ConfigError(f"problem_type {problem!r} is not read: one label of several is given")
    return head, False


def read_config(config: Mapping[str, Any], head: str, pooler: bool) -> HfEncoderConfig:
    """Our configuration from the JSON of a checkpoint; what it lacks has `transformers`' values."""
    kind = config["model_type"]
    kept = {
        key: value
        for key, value in config.items()
        if not (key in OWN or key in NOT_READ or key.startswith("_"))
    }
    labels = config.get("id2label") or {
        str(index): f"LABEL_{index}" for index in range(config.get("num_labels", 2))
    }
    usual = library().CONFIG_MAPPING[kind]()
    given = {**{key: getattr(usual, key) for key in OWN[:2]}, **config}
    pad_id = given["pad_token_id"] or 0
    positions = kept.setdefault("max_position_embeddings", usual.max_position_embeddings)
    return HfEncoderConfig(
        vocab_size=given["vocab_size"],
        max_seq_len=positions - first_position(kind, pad_id),
        transformers=kept,
        head=head,
        labels=tuple(labels[key] for key in sorted(labels, key=int))
        if head.endswith("classification")
        else (),
        pad_id=pad_id,
        pooler=pooler,
    )


def new_name(name: str) -> str:
    """A tensor's name as it is today: norms had a `gamma` and a `beta` once."""
    if name.endswith(("LayerNorm.gamma", "LayerNorm.beta")):
        return name.replace(".gamma", ".weight").replace(".beta", ".bias")
    return name
