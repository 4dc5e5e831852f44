"""Our own model folder with quantised weights, which `zoo.load` reads: smaller, and only data."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from zoo.export.base import Engine, Format, greedy
from zoo.loading import load
from zoo.model import Model
from zoo.quantization import quantize


class Quantized(Format):
    """The folder of what `zoo.quantize` gives.

    In `model.safetensors` a matrix NAME of 8 bits is NAME (I8) and NAME_scale (BF16, one a row);
    one of 4 bits is NAME_packed (U8, two to a byte) and NAME_scale (BF16, one for each 32 numbers
    of a row). All else is as in any folder of ours; `quantization` in `config.json` has the kind.
    """

    engine = "txzoo"
    pip = "txzoo"
    rounding = None
    kind: str

    def require(self, name: str, architecture: type) -> None:
        """It holds any architecture."""

    def write(self, model: Model, folder: Path) -> None:
        """Write the folder.

        Raises:
            InputError: as of `zoo.quantize`.
        """
        quantize(model, self.kind).save_pretrained(folder)

    def open(self, folder: Path) -> Engine:
        """Load it as anybody would."""
        return _Reloaded(folder)

    def opened_by(self, folder: Path) -> str:
        """The line of Python."""
        return f"zoo.load({str(folder)!r}) opens it"


class Int8(Quantized):
    """8 bits a number, a scale for each row."""

    kind = "int8"


class Int4(Quantized):
    """4 bits a number, a scale for each 32."""

    kind = "int4"


class DynamicInt8(Quantized):
    """As `Int8`, to be multiplied by activations of 8 bits."""

    kind = "dynamic-int8"


class _Reloaded:
    """A written folder, loaded."""

    def __init__(self, folder: Path) -> None:
        self.model = load(folder)

    def encode(self, text: str) -> list[int] | None:
        tokenizer = self.model.tokenizer
        return None if tokenizer is None else tokenizer.encode(text).ids

    @torch.inference_mode()
    def logits(self, *inputs: Tensor) -> Tensor:
        found: Tensor = self.model.module(*inputs)
        return found

    def greedy(self, ids: Sequence[int], new: int) -> list[int]:
        return greedy(self.model.module, list(ids), new)
