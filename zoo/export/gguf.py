"""GGUF, run by llama.cpp and all that is built on it: one file with weights and tokenizer.

llama.cpp computes a few architectures, written into it one by one. Three are twins of ours, by way
of `transformers`: GPT-2, Llama and BLOOM. Its tokenizers too are few; the byte-level byte pairs of
GPT-2 are one.

Two things in it are less than float32 even then: GELU is looked up in a table of half precision,
and keys and values are kept in half precision unless it is told otherwise.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import InputError, MissingExtraError
from zoo.export.base import FACTS, Engine, Format, arguments, facts_of, is_wrapped
from zoo.export.transformers import Transformers, converted
from zoo.folder import CONFIG, TOKENIZER, read_config
from zoo.model import Model
from zoo.tokenization import END_OF_TEXT, PIECES, UNKNOWN

FILE = "model.gguf"
TOKENIZER_KEY = "tokenizer.huggingface.json"  # for tokenizer.json as a whole
TWINS = ("gpt2", "llama", "bloom")  # as both projects call them
PLAIN = {  # all that llama.cpp computes of what a GPT-2 may be
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}
NO_TEXT = "ÿ"  # how byte-level vocabularies spell the byte 255, which no text in UTF-8 has


class Gguf(Format):
    """One file in float32."""

    name = "gguf"
    engine = "llama-cpp-python"
    pip = "llama-cpp-python"
    rounding = 2e-2  # GELU by its table

    def require(self, name: str, architecture: type) -> None:
        """A decoder that has a twin in llama.cpp."""
        if "cache" not in arguments(architecture) or not hasattr(architecture, "to_transformers"):
            raise InputError(
                f"llama.cpp does not compute the architecture of {name}, {architecture.__name__}: "
                "a GGUF holds a decoder that is a GPT-2, a Llama or a BLOOM. ONNX takes others"
            )
        if not find_spec("gguf"):
            raise MissingExtraError("GGUF", "gguf")

    def look(self, name: str, architecture: type, source: Path) -> None:
        """A tokenizer of byte-level byte pairs; what the counterpart in `transformers` computes."""
        Transformers().look(name, architecture, source)
        if (source / TOKENIZER).is_file():
            require_tokenizer(name, json.loads((source / TOKENIZER).read_text(encoding="utf-8")))
        config = read_config(source) if (source / CONFIG).is_file() else {}
        if is_wrapped(architecture):
            require_twin(name, config.get("transformers", config).get("model_type"))
        if config.get("model_type") == "gpt2":
            require_plain(name, config)

    def write(self, model: Model, folder: Path) -> None:
        """Write the file.

        Raises:
            InputError: llama.cpp computes the architecture otherwise, or has no such tokenizer.
        """
        import gguf

        config, tensors = converted(model)
        kind = config["model_type"]
        require_twin(model.name, kind)
        if kind == "gpt2":
            require_plain(model.name, config)
        sizes = _SIZES[kind](config)
        tokens, kinds, merges = vocabulary(model, sizes["vocab_size"])

        architecture = gguf.MODEL_ARCH[kind.upper()]
        writer = gguf.GGUFWriter(folder / FILE, gguf.MODEL_ARCH_NAMES[architecture])
        writer.add_name(model.name)
        writer.add_string(FACTS, facts_of(model, self.name))
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        for key, value in sizes.items():
            getattr(writer, f"add_{key}")(value)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
        writer.add_token_merges(merges)
        # without an end of its own llama.cpp takes token 11
        end = END_OF_TEXT if END_OF_TEXT in tokens else NO_TEXT
        writer.add_eos_token_id(tokens.index(end))
        writer.add_bos_token_id(tokens.index(end))
        writer.add_add_bos_token(False)
        assert model.tokenizer is not None  # or it would have no vocabulary
        writer.add_string(TOKENIZER_KEY, model.tokenizer.to_str())
        if (template := model.template) is not None:
            writer.add_chat_template(template.source)
        names = gguf.get_tensor_name_map(architecture, sizes["block_count"])
        for theirs, tensor in tensors.items():
            # of GPT-2's names it knows those with the prefix, of BLOOM's those without
            found = (
                names.get_name(known, try_suffixes=(".weight", ".bias"))
                for known in (theirs, theirs.removeprefix("transformer."))
            )
            name = next(filter(None, found))  # the three twins' names are all known
            changed = _changed(theirs, tensor, config).detach().to("cpu", torch.float32)
            writer.add_tensor(name, changed.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def opened_by(self, folder: Path) -> str:
        """The line of Python."""
        return f"llama_cpp.Llama({str(folder / FILE)!r}) opens it"

    def open(self, folder: Path) -> Engine:
        """Open it on the processor, keys and values in float32."""
        return _Llama(folder / FILE)


def require_twin(name: str, kind: object) -> None:
    """Raise `InputError` for a `model_type` that llama.cpp has no twin of."""
    if kind not in TWINS:
        raise InputError(
            f"{name} is of the model_type {kind!r}, and a GGUF is written of {', '.join(TWINS)} "
            "only. ONNX takes others"
        )


def require_plain(name: str, config: Mapping[str, Any]) -> None:
    """Raise `InputError` for a GPT-2 that llama.cpp computes otherwise."""
    for key, value in PLAIN.items():
        if config.get(key, value) != value:
            raise InputError(
                f"{name} is a GPT-2 with {key}={config[key]!r}; llama.cpp computes {value!r} only"
            )


def require_tokenizer(name: str, told: Mapping[str, Any]) -> None:
    """Raise `InputError` for a tokenizer, as its file says, that llama.cpp does not have."""
    if (reason := _unlike_gpt2(told)) is not None:
        raise InputError(
            f"{name}: {reason}; of byte-level byte pairs alone llama.cpp has the like. ONNX takes "
            "any tokenizer"
        )


def _gpt2(config: dict[str, Any]) -> dict[str, Any]:
    """What a GGUF says of a GPT-2."""
    return {
        "vocab_size": config["vocab_size"],
        "context_length": config["n_positions"],
        "embedding_length": config["n_embd"],
        "feed_forward_length": config["n_inner"],
        "block_count": config["n_layer"],
        "head_count": config["n_head"],
        "layer_norm_eps": config["layer_norm_epsilon"],
    }


def _llama(config: dict[str, Any]) -> dict[str, Any]:
    """What a GGUF says of a Llama."""
    return {
        "vocab_size": config["vocab_size"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "block_count": config["num_hidden_layers"],
        "head_count": config["num_attention_heads"],
        "head_count_kv": config["num_key_value_heads"],
        "rope_dimension_count": config["head_dim"],
        "rope_freq_base": config["rope_theta"],
        "layer_norm_rms_eps": config["rms_norm_eps"],
    }


def _bloom(config: dict[str, Any]) -> dict[str, Any]:
    """What a GGUF says of a BLOOM."""
    return {
        "vocab_size": config["vocab_size"],
        "context_length": config["seq_length"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": 4 * config["hidden_size"],
        "block_count": config["n_layer"],
        "head_count": config["n_head"],
        "head_count_kv": config["n_head"],
        "layer_norm_eps": config["layer_norm_epsilon"],
    }


_SIZES = {"gpt2": _gpt2, "llama": _llama, "bloom": _bloom}


def _changed(name: str, tensor: Tensor, config: dict[str, Any]) -> Tensor:
    """A tensor of `transformers` as llama.cpp wants it: (out, in); q, k and v one by one."""
    if config["model_type"] == "gpt2" and ".h." in name and tensor.dim() == 2:
        return tensor.T
    if ".query_key_value." in name:  # BLOOM's rows stand head by head: (H, 3, E, ...)
        H = config["n_head"]
        heads = tensor.view(H, 3, config["hidden_size"] // H, *tensor.shape[1:])
        return heads.transpose(0, 1).reshape(tensor.shape)
    if name.endswith((".q_proj.weight", ".k_proj.weight")):  # its pairs are neighbours, as ours
        heads = tensor.view(-1, 2, config["head_dim"] // 2, tensor.shape[1])
        return heads.transpose(1, 2).reshape(tensor.shape)
    return tensor


def vocabulary(model: Model, size: int) -> tuple[list[str], list[int], list[str]]:
    """A tokenizer as GGUF writes it.

    llama.cpp splits a text as GPT-2 does before it joins byte pairs. Our own tokenizers split it
    a little finer, at each sign of white space and after each apostrophe. No merge was learned
    across such a border, so that the same tokens come of both, but for one case: GPT-2 takes the
    first letters of a word that follows an apostrophe for an ending ('s, 't, 're), also in 'to.

    Args:
        model: has the tokenizer.
        size: of the vocabulary, which may be larger than the tokenizer's.

    Returns:
        The tokens, what kind each is, and the merges.

    Raises:
        InputError: it is of another kind, which llama.cpp does not have.
    """
    from gguf import TokenType

    if model.tokenizer is None:
        raise InputError(f"{model.name} has no tokenizer, and a GGUF cannot do without")
    told = json.loads(model.tokenizer.to_str())
    require_tokenizer(model.name, told)
    added = {entry["id"]: entry for entry in told["added_tokens"]}
    spelled = {id: token for token, id in model.tokenizer.get_vocab().items()}
    tokens, kinds = [], []
    for id in range(size):
        token, kind = spelled.get(id, f"[unused {id}]"), TokenType.NORMAL
        if id not in spelled:
            kind = TokenType.UNUSED
        elif id in added:
            kind = TokenType.CONTROL if added[id]["special"] else TokenType.USER_DEFINED
        elif token in (UNKNOWN, f"Ġ{UNKNOWN}"):  # one piece in our tokenizers, whatever is in it
            token, kind = token.replace("Ġ", " "), TokenType.USER_DEFINED
        tokens.append(token)
        kinds.append(int(kind))
    merges = [
        " ".join(pair) if isinstance(pair, list) else pair for pair in told["model"]["merges"]
    ]
    return tokens, kinds, merges


def _unlike_gpt2(told: Mapping[str, Any]) -> str | None:
    """Why a tokenizer does not give the tokens that llama.cpp's for GPT-2 gives, if it does not."""
    kind = told["model"]["type"]
    if kind != "BPE":
        return f"its tokenizer is of the kind {kind}"
    parts = told["pre_tokenizer"] or {}
    steps = parts.get("pretokenizers", [parts])
    last = steps[-1] if steps[-1].get("type") == "ByteLevel" else {"add_prefix_space": True}
    own = [step.get("pattern", {}).get("Regex") for step in steps[:-1]] == [PIECES]
    if last["add_prefix_space"] or (last.get("use_regex") if own else len(steps) > 1):
        return "its tokenizer splits texts in a way of its own"
    if told["normalizer"] is not None:
        return "its tokenizer changes texts before it splits them"
    if (told["post_processor"] or {}).get("type", "ByteLevel") != "ByteLevel":
        return "its tokenizer adds tokens to each text"
    return None


class _Llama:
    """A GGUF, opened by llama.cpp."""

    def __init__(self, path: Path) -> None:
        import llama_cpp

        full = llama_cpp.GGML_TYPE_F32
        self.model = llama_cpp.Llama(
            str(path), n_ctx=0, logits_all=True, type_k=full, type_v=full, verbose=False
        )

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.model.tokenize(text.encode(), add_bos=False, special=False)
        return ids

    def logits(self, *inputs: Tensor) -> Tensor:
        (ids,) = inputs[0].tolist()
        self.model.reset()
        self.model.eval(ids)
        return torch.from_numpy(self.model.scores[None, : len(ids)].copy())

    def greedy(self, ids: Sequence[int], new: int) -> list[int]:
        self.model.reset()
        row, written = list(ids), list[int]()
        while len(written) < new:
            self.model.eval(row)
            row = [int(self.model.scores[self.model.n_tokens - 1].argmax())]
            written += row
        return written
