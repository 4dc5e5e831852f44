"""The folder that `transformers` opens, and whatever reads its folders: vLLM, TGI, PEFT."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from safetensors.torch import save_file
from torch import Tensor

from zoo.errors import ConfigError, InputError
from zoo.export.base import Engine, Format, writes
from zoo.folder import CONFIG, QUANTIZATION, TOKENIZER, WEIGHTS, read_config
from zoo.loading import GENERATION, PREPROCESSOR, build
from zoo.model import Model
from zoo.registry import registry
from zoo.tokenization import END_OF_TEXT

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_CONFIG = "tokenizer_config.json"
DECODING = (  # what says how to write, in a config.json, and again in a generation_config.json
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)


class Transformers(Format):
    """Config, weights and tokenizer of the model's counterpart in `transformers`."""

    engine = "transformers"
    pip = "'txzoo[hf]'"

    def require(self, name: str, architecture: type) -> None:
        """`transformers` itself is not needed to write it."""
        made = getattr(architecture, "to_transformers", None)
        if made is None or made.__annotations__.get("return") is NoReturn:
            refuse(name, architecture)

    def look(self, name: str, architecture: type, source: Path) -> None:
        """Sizes that the counterpart can have, by a module without memory."""
        config = read_config(source) if (source / CONFIG).is_file() else {}
        if "architecture" not in config:  # of theirs: it has been read, so it can be written
            return
        values = {key: config[key] for key in config if key not in ("architecture", QUANTIZATION)}
        with torch.device("meta"):
            counterpart(name, build(architecture, values))

    def write(self, model: Model, folder: Path) -> None:
        """Write the files.

        Raises:
            ConfigError: sizes that the counterpart cannot have.
        """
        config, tensors = converted(model)
        tokenizer = model.tokenizer
        end_id = None if tokenizer is None else tokenizer.token_to_id(END_OF_TEXT)
        # the counterparts' own defaults for these are ids of other vocabularies; an architecture
        # that has such tokens in its config says which
        config = {"bos_token_id": None, "eos_token_id": end_id, "pad_token_id": None} | config
        dtype = next(model.module.parameters()).dtype
        config["dtype"] = str(dtype).removeprefix("torch.")
        pictures = config.pop("preprocessor", None)
        if pictures is not None:
            write_json(folder / PREPROCESSOR, pictures)
        write_json(folder / CONFIG, config)
        if writes(type(model.module)):
            decoding = {key: config[key] for key in DECODING if key in config}
            write_json(folder / GENERATION, decoding)

        # a copy of each, since safetensors takes no two that share memory
        copies = {
            name: tensor.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        save_file(copies, folder / WEIGHTS, metadata={"format": "pt"})
        if tokenizer is not None:
            # GPT-2's table of positions ends, the others go on
            write_tokenizer(folder, model, tokenizer, config.get("n_positions"))

    def opened_by(self, folder: Path) -> str:
        """The line of Python."""
        return f"transformers.{_kind(folder)}.from_pretrained({str(folder)!r}) opens it"

    def open(self, folder: Path) -> Engine:
        """Open it with the class that its `config.json` names."""
        return _Twin(folder)


class _Twin:
    """An exported folder, opened by `transformers`."""

    def __init__(self, folder: Path) -> None:
        import transformers

        bars = transformers.utils.logging  # what else it says stays
        shown = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()
        try:
            model = getattr(transformers, _kind(folder)).from_pretrained(folder)
        finally:
            if shown:
                bars.enable_progress_bar()
        self.model: Any = model.eval()
        told = (folder / TOKENIZER).exists()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder) if told else None

    def encode(self, text: str) -> list[int] | None:
        if self.tokenizer is None:
            return None
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    @torch.inference_mode()
    def logits(self, *inputs: Tensor) -> Tensor:
        names = ("input_ids", "decoder_input_ids")
        if inputs[0].is_floating_point():
            names = ("pixel_values", "")
        found = self.model(**dict(zip(names, inputs, strict=False)))
        logits: Tensor = found.logits
        return logits

    def greedy(self, ids: Sequence[int], new: int) -> list[int]:
        from transformers import GenerationConfig

        row_of_ids = torch.tensor([list(ids)])
        own = self.model.generation_config
        # what it does not say here, `generate` would take from the folder, such as an end
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=new,
            pad_token_id=own.pad_token_id or 0,
            decoder_start_token_id=own.decoder_start_token_id,
            forced_bos_token_id=own.forced_bos_token_id,
        )
        written = self.model.generate(row_of_ids, attention_mask=torch.ones_like(row_of_ids))
        row: list[int] = written[0].tolist()
        return row[-new:]


def _kind(folder: Path) -> str:
    """The class that reads a folder."""
    kind: str = read_config(folder)["architectures"][0]
    return kind


def converted(model: Model) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and tensors of the model's counterpart in `transformers`.

    Raises:
        InputError: it has none.
        ConfigError: it has none of these sizes.
    """
    return counterpart(model.name, model.module)


def counterpart(name: str, module: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """As `converted`, of the module of a model."""
    if not hasattr(module, "to_transformers"):
        refuse(name, type(module))
    try:
        config, tensors = module.to_transformers()
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    return config, tensors


def refuse(name: str, architecture: type) -> NoReturn:
    """Raise for an architecture that `transformers` does not have."""
    others = [key for key, entry in registry().architectures.items() if entry.model_types]
    raise InputError(
        f"{name} is of {architecture.__name__}, and transformers has no model that computes the "
        f"same: export a model of {' or '.join(others)}, or share this one as its own model folder "
        "(save_pretrained), which zoo.load reads anywhere"
    )


def write_tokenizer(
    folder: Path, model: Model, tokenizer: "Tokenizer", longest: int | None
) -> None:
    """Write a tokenizer as `AutoTokenizer.from_pretrained` reads it.

    Args:
        folder: where to.
        model: has the template, where it writes conversations.
        tokenizer: its own.
        longest: tokens that a text may have, None for any number.
    """
    (folder / TOKENIZER).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    if longest is not None:
        settings["model_max_length"] = longest
    if tokenizer.token_to_id(END_OF_TEXT) is not None:
        settings["eos_token"] = END_OF_TEXT
    if (template := model.template) is not None:
        settings |= {**template.tokens, "chat_template": template.source}
    write_json(folder / TOKENIZER_CONFIG, settings)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON that people can read."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
