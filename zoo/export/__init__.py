"""A model in other projects' layouts. So far one: the folder that `transformers` opens."""

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import FolderError, InputError
from zoo.folder import CONFIG, TOKENIZER, WEIGHTS
from zoo.loading import PREPROCESSOR, load
from zoo.model import Model
from zoo.registry import registry
from zoo.tokenization import END_OF_TEXT

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = ("transformers",)
TOKENIZER_CONFIG = "tokenizer_config.json"


def export(model: Model | str | Path, folder: str | Path, format: str = "transformers") -> Path:
    """Write a model as a folder that another project opens without any code of ours.

    For `transformers` that is `from_pretrained(folder)` of the class that its `config.json` names
    (for a decoder `AutoModelForCausalLM` finds it) and, for a model with a tokenizer,
    `AutoTokenizer.from_pretrained(folder)`. The folder appears as a whole or not at all;
    `transformers` itself is not needed to write it.

    Args:
        model: a model, or what `zoo.load` takes.
        folder: where it shall be; nothing may be there yet.
        format: one of `FORMATS`.

    Returns:
        The folder.

    Raises:
        InputError: an unknown format, or an architecture that has no counterpart there.
        ConfigError: sizes that the counterpart cannot have.
        FolderError: something is at `folder` already.
    """
    if format not in FORMATS:
        raise InputError(f"Unknown export format {format!r}. There is: {', '.join(FORMATS)}")
    folder = Path(folder)
    if os.path.lexists(folder):
        raise FolderError(f"{folder} exists: choose another folder, or remove it first")
    if not isinstance(model, Model):
        model = load(model)
    config, tensors = _converted(model)

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        beside = Path(temporary, folder.name)
        beside.mkdir()
        _write(beside, model, config, tensors)
        beside.rename(folder)
    return folder


def _converted(model: Model) -> "tuple[dict[str, Any], dict[str, Tensor]]":
    """The config and tensors of the model's counterpart in `transformers`."""
    module: Any = model.module
    if not hasattr(module, "to_transformers"):
        name = type(module).__name__ if model.card is None else model.card.architecture
        others = [key for key, entry in registry().architectures.items() if entry.model_types]
        raise InputError(
            f"{model.name} is a {name}, and transformers has no model that computes the same: "
            f"export a model of {' or '.join(others)}, or share this one as its own model folder "
            "(save_pretrained), which zoo.load reads anywhere"
        )
    config, tensors = module.to_transformers()
    return config, tensors


def _write(
    folder: Path, model: Model, config: dict[str, Any], tensors: "dict[str, Tensor]"
) -> None:
    """Write the files."""
    import torch
    from safetensors.torch import save_file

    tokenizer = model.tokenizer
    end_id = None if tokenizer is None else tokenizer.token_to_id(END_OF_TEXT)
    # the counterparts' own defaults for these are ids of other vocabularies; an architecture that
    # has such tokens in its config says which
    config = {"bos_token_id": None, "eos_token_id": end_id, "pad_token_id": None} | config
    dtype = next(model.module.parameters()).dtype
    config["dtype"] = str(dtype).removeprefix("torch.")
    pictures = config.pop("preprocessor", None)
    if pictures is not None:
        text = json.dumps(pictures, indent=2) + "\n"
        (folder / PREPROCESSOR).write_text(text, encoding="utf-8")
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    # a copy of each, since safetensors takes no two that share memory
    copies = {
        name: tensor.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    save_file(copies, folder / WEIGHTS, metadata={"format": "pt"})

    if tokenizer is not None:
        tokenizer.save(str(folder / TOKENIZER))
        settings: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
        }
        if "n_positions" in config:  # GPT-2's table of positions ends, the others go on
            settings["model_max_length"] = config["n_positions"]
        if end_id is not None:
            settings["eos_token"] = END_OF_TEXT
        if (template := model.template) is not None:
            settings |= {**template.tokens, "chat_template": template.source}
        (folder / TOKENIZER_CONFIG).write_text(
            json.dumps(settings, indent=2) + "\n", encoding="utf-8"
        )
