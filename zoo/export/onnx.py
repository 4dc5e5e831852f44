"""ONNX, run by ONNX Runtime: one graph, of any batch and length, with the key/value cache.

The names of inputs and outputs are those of Hugging Face's Optimum: `input_ids`, `attention_mask`
(1 on tokens, 0 on padding, which stands on the left of a decoder's rows), `past_key_values.0.key`,
`present.0.key` and so on. A first call gives a past of no columns.

An encoder-decoder takes two graphs. What the target looks at in the source are keys and values of
each layer, which the encoder's graph gives: `present.0.encoder.key` and so on. The decoder's graph
takes them as `past_key_values.0.encoder.key`, besides `past_key_values.0.decoder.key` of the target
so far; a target has no padding.

Letters: B batch, T length, P columns of the past, S = P + T, G key/value heads, E d_head,
V vocabulary.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.errors import InputError, MissingExtraError
from zoo.export.base import (
    FACTS,
    Engine,
    Format,
    arguments,
    facts_of,
    greedy,
    is_wrapped,
    writes,
)
from zoo.export.transformers import write_tokenizer
from zoo.loading import MOST_REASON
from zoo.model import Model
from zoo.nn import Cache, EncoderDecoder, causal_mask, record_attention
from zoo.plugins import one_line

GRAPH = "model.onnx"
ENCODER, DECODER = "encoder_model.onnx", "decoder_model.onnx"  # the graphs of an encoder-decoder
MOST_INSIDE = 1 << 30  # bytes of weights in the file of the graph, which cannot hold 2 GiB
OPSET = 18


class Onnx(Format):
    """A graph that computes what the module computes."""

    name = "onnx"
    engine = "onnxruntime"
    pip = "'txzoo[onnx]'"

    def require(self, name: str, architecture: type) -> None:
        """A decoder, an encoder, an encoder-decoder of texts or a classifier of pictures."""
        kind = architecture.__name__
        taken = arguments(architecture)
        if taken[0] not in ("ids", "pixels", "source") or taken[:2] == ["pixels", "ids"]:
            raise InputError(
                f"The architecture of {name}, {kind}, takes {' and '.join(taken)}: as ONNX are "
                "written decoders, encoders, encoder-decoders of texts, and models that tell a "
                "picture's label"
            )
        if is_wrapped(architecture) and writes(architecture):
            raise InputError(
                f"transformers computes {name}, and how it masks and keeps what it has read is not "
                "written as ONNX: export it as transformers, of which Optimum makes a graph"
            )
        if not all(find_spec(package) for package in ("onnx", "onnxscript", "onnxruntime")):
            raise MissingExtraError("ONNX", "onnx")

    def write(self, model: Model, folder: Path) -> None:
        """Write the graphs and the tokenizer."""
        size = sum(weight.nbytes for weight in model.module.state_dict().values())
        for file, traced, example in _graphs(model.module):
            # attention written out: what the exporter makes of the fused one depends on the sizes
            with _quietly(model), _RealNumbers(), record_attention():
                program = torch.onnx.export(
                    traced,
                    tuple(example.values()),
                    dynamo=True,
                    dynamic_shapes=traced.dynamic,
                    input_names=traced.inputs,
                    output_names=traced.outputs,
                    opset_version=OPSET,
                    verbose=False,
                )
            assert program is not None  # `dynamo=True` gives one
            program.model.metadata_props[FACTS] = facts_of(model, self.name)
            program.save(folder / file, external_data=size > MOST_INSIDE)
        if model.tokenizer is not None:
            write_tokenizer(folder, model, model.tokenizer, getattr(model.module, "max_len", None))

    def opened_by(self, folder: Path) -> str:
        """The line of Python."""
        files = [folder / file for file in (GRAPH, ENCODER, DECODER) if (folder / file).exists()]
        sessions = " and ".join(f"onnxruntime.InferenceSession({str(file)!r})" for file in files)
        return f"{sessions} open{'s' if len(files) == 1 else ''} it"

    def open(self, folder: Path) -> Engine:
        """Open it on the processor."""
        if (folder / GRAPH).exists():
            return _Session(folder / GRAPH)
        from zoo.engines.onnx import opened

        return _Both(opened(folder).module)


class OnnxInt8(Onnx):
    """The same with 8-bit weights, and 8-bit activations that are scaled as they come."""

    name = "onnx-int8"
    rounding = None

    def write(self, model: Model, folder: Path) -> None:
        """Write the graphs, then their quantised forms in their places."""
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        super().write(model, folder)
        for graph in sorted(folder.glob("*.onnx")):
            program = onnx.load(graph)
            # the shapes that it knows: it turns matrices of `Gemm`, then finds theirs to be others
            del program.graph.value_info[:]
            for path in folder.glob(f"{graph.name}*"):
                path.unlink()
            with _quietly(model):
                quantize_dynamic(program, graph, per_channel=True, weight_type=QuantType.QInt8)


class _Past:
    """Keys and values as inputs and outputs of a graph: what `Cache` is to a decoder.

    Args:
        past: keys and values of each layer in turn, (B, G, P, E).
        padding: left padding columns of each row (B,).
        seen: of an encoder-decoder's source, likewise (B, G, source length, E).
    """

    length = 0  # a decoder adds T to it and holds that against its positions, as far as T goes

    def __init__(
        self, past: Sequence[Tensor], padding: Tensor, seen: Sequence[Tensor] = ()
    ) -> None:
        self.past, self.present, self.seen = past, list(past), seen
        self.padding = padding
        self.before = past[0].shape[2]

    def positions(self, T: int) -> Tensor:
        """As of `Cache`."""
        steps = torch.arange(self.before, self.before + T)[None]
        return (steps - self.padding[:, None]).clamp(min=0)

    def mask(self, T: int) -> Tensor:
        """As of `Cache`."""
        return causal_mask(T, self.before + T, self.padding)

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As of `Cache`."""
        k, v = (
            torch.cat([old, new], dim=2)
            for old, new in zip(self.past[2 * layer : 2 * layer + 2], (k, v), strict=True)
        )
        self.present[2 * layer : 2 * layer + 2] = k, v
        return k, v

    def source(self, layer: int, make: object) -> tuple[Tensor, Tensor]:
        """As of `SourceCache`."""
        return self.seen[2 * layer], self.seen[2 * layer + 1]

    def advance(self, T: int) -> None:
        """The columns are counted by whoever runs the graph."""


class _Seen:
    """What a target's first token asks of a source: keys and values, which it only collects."""

    length, padding = 0, None

    def __init__(self) -> None:
        self.pairs: list[Tensor] = []

    def positions(self, T: int) -> Tensor:
        """As of `Cache`."""
        return torch.arange(T)[None]

    def mask(self, T: int) -> None:
        """As of `Cache`."""

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As of `Cache`."""
        return k, v

    def source(
        self, layer: int, make: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """As of `SourceCache`."""
        pair = make()
        self.pairs += pair
        return pair

    def advance(self, T: int) -> None:
        """As of `Cache`."""


class _Traced(nn.Module):
    """A module as a graph sees it: tensors in, tensors out, each with a name.

    Attributes:
        inputs: names of what goes in.
        outputs: names of what comes out.
        dynamic: which axes of what goes in may have any size, and what that size is called.
    """

    inputs: list[str]
    outputs: list[str]
    dynamic: dict[str, Any]

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class _Decoder(_Traced):
    """`module(ids, cache)`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        layers = range(_Sizes(module).n_layers)
        past = [f"past_key_values.{i}.{part}" for i in layers for part in ("key", "value")]
        self.inputs = ["input_ids", "attention_mask", *past]
        present = [name.replace("past_key_values", "present") for name in past]
        self.outputs = ["logits", *present]
        self.dynamic = {
            "ids": {0: "batch", 1: "length"},
            "mask": {0: "batch", 1: "total_length"},
            "past": [{0: "batch", 2: "past_length"} for _ in past],
        }

    def forward(self, ids: Tensor, mask: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        kept = _Past(past, (1 - mask).sum(1))
        return (self.module(ids, kept), *kept.present)


class _Encoder(_Traced):
    """`module(ids, real)`."""

    inputs = ["input_ids", "attention_mask"]
    outputs = ["logits"]
    dynamic = {"ids": {0: "batch", 1: "length"}, "mask": {0: "batch", 1: "length"}}

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = self.module(ids, mask.bool())
        return found


class _Pictures(_Traced):
    """`module(pixels)`, of the size that it was trained on."""

    inputs = ["pixel_values"]
    outputs = ["logits"]
    dynamic = {"pixels": {0: "batch"}}

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.module(pixels)
        return found


class _Source(_Traced):
    """Of an encoder-decoder what reads the source: what each layer of the target looks at."""

    inputs = _Encoder.inputs
    dynamic = _Encoder.dynamic

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        layers = range(_Sizes(module).n_layers)
        self.outputs = [f"present.{i}.encoder.{part}" for i in layers for part in ("key", "value")]

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        module: Any = self.module
        real, seen = mask.bool(), _Seen()
        start = torch.full_like(ids[:, :1], module.config.start_id)
        module.decode(start, module.encode(ids, real), real, seen)
        return tuple(seen.pairs)


class _Target(_Traced):
    """Of an encoder-decoder what writes the target."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        layers = range(_Sizes(module).n_layers)
        own, seen = (
            [f"{{}}.{i}.{side}.{part}" for i in layers for part in ("key", "value")]
            for side in ("decoder", "encoder")
        )
        past = [name.format("past_key_values") for name in (*own, *seen)]
        self.inputs = ["input_ids", "encoder_attention_mask", *past]
        self.outputs = ["logits", *(name.format("present") for name in own)]
        self.dynamic = {
            "ids": {0: "batch", 1: "length"},
            "mask": {0: "batch", 1: "source_length"},
            "past": [{0: "batch", 2: "past_length"} for _ in own],
            "seen": [{0: "batch", 2: "source_length"} for _ in seen],
        }

    def forward(
        self, ids: Tensor, mask: Tensor, past: list[Tensor], seen: list[Tensor]
    ) -> tuple[Tensor, ...]:
        module: Any = self.module
        kept = _Past(past, torch.zeros_like(ids[:, 0]), seen)
        logits = module.decode(ids, None, mask.bool(), kept)
        return (logits, *kept.present)


def _graphs(module: nn.Module) -> list[tuple[str, _Traced, dict[str, Any]]]:
    """Files of graphs, the module as each sees it, and examples of what it is called with."""
    if not isinstance(module, EncoderDecoder):
        return [(GRAPH, *_traced(module))]
    B, T, P, S = 2, 3, 5, 7
    sizes = _Sizes(module)
    ids, mask = torch.ones(B, S, dtype=torch.long), torch.ones(B, S, dtype=torch.long)
    past, seen = (
        [torch.zeros(B, sizes.heads, columns, sizes.d_head) for _ in range(2 * sizes.n_layers)]
        for columns in (P, S)
    )
    source = {"ids": ids, "mask": mask}
    target = {"ids": torch.ones(B, T, dtype=torch.long), "mask": mask, "past": past, "seen": seen}
    return [(ENCODER, _Source(module), source), (DECODER, _Target(module), target)]


def _traced(module: nn.Module) -> tuple[_Traced, dict[str, Any]]:
    """The module as a graph sees it, and an example of what it is called with."""
    config: Any = module.config
    taken = arguments(type(module))
    B, T, P = 2, 3, 5  # sizes that are none of the module's own, and neither 0 nor 1
    if taken[0] == "pixels":
        side = config.image_size
        pixels = torch.zeros(B, getattr(config, "n_channels", 3), side, side)
        return _Pictures(module), {"pixels": pixels}
    ids, mask = torch.ones(B, T, dtype=torch.long), torch.ones(B, T, dtype=torch.long)
    if "cache" not in taken:
        return _Encoder(module), {"ids": ids, "mask": mask}
    sizes = _Sizes(module)
    past = [torch.zeros(B, sizes.heads, P, sizes.d_head) for _ in range(2 * sizes.n_layers)]
    mask = torch.ones(B, P + T, dtype=torch.long)
    return _Decoder(module), {"ids": ids, "mask": mask, "past": past}


class _Sizes:
    """How much a decoder keeps of each token."""

    def __init__(self, module: nn.Module) -> None:
        shape = Cache.of(module.config, batch=1, max_len=1).memory.shape
        self.n_layers, self.heads, self.d_head = shape[0], shape[3], shape[5]


class _Complex:
    """A tensor of complex numbers as two of real ones, which is all that ONNX has."""

    def __init__(self, real: Tensor, imaginary: Tensor) -> None:
        self.real, self.imaginary = real, imaginary

    def __mul__(self, other: "_Complex") -> "_Complex":
        a, b, c, d = self.real, self.imaginary, other.real, other.imaginary
        return _Complex(a * c - b * d, a * d + b * c)

    def __getitem__(self, index: Any) -> "_Complex":
        return _Complex(self.real[index], self.imaginary[index])

    @classmethod
    def __torch_function__(cls, *_: Any) -> Any:
        """Functions of torch take it, and leave it to `_RealNumbers`."""
        return NotImplemented


class _RealNumbers(TorchFunctionMode):
    """Write the complex numbers by which RoPE turns its pairs as real ones, while it is traced."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.polar:
            length, angle = args
            return _Complex(length * angle.cos(), length * angle.sin())
        if func is torch.view_as_complex:
            return _Complex(*args[0].unbind(-1))
        if func is torch.view_as_real:
            return torch.stack([args[0].real, args[0].imaginary], dim=-1)
        return func(*args, **(kwargs or {}))


@contextmanager
def _quietly(model: Model) -> Iterator[None]:
    """Leave aside what the exporter says on the way; what stops it is an error of ours.

    Raises:
        InputError: the graph cannot be made.
    """
    from torch.onnx import OnnxExporterError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        except OnnxExporterError as error:
            kind = type(model.module).__name__
            reason = one_line(error.__cause__ or error)[:MOST_REASON]
            raise InputError(
                f"{model.name}: no graph can be made of its architecture, {kind}: {reason}"
            ) from error
        finally:
            logging.disable(logging.NOTSET)


class _Both:
    """The two graphs of an encoder-decoder, opened by ONNX Runtime."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def encode(self, text: str) -> None:
        return None

    def logits(self, *inputs: Tensor) -> Tensor:
        found: Tensor = self.module(*inputs)
        return found

    def greedy(self, ids: Sequence[int], new: int) -> list[int]:
        return greedy(self.module, list(ids), new)


class _Session:
    """A graph, opened by ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self.session: Any = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.inputs = {given.name: given.shape for given in self.session.get_inputs()}

    def encode(self, text: str) -> None:
        return None

    def logits(self, *inputs: Tensor) -> Tensor:
        (given,) = inputs
        if given.is_floating_point():
            return torch.from_numpy(self.session.run(None, {"pixel_values": given.numpy()})[0])
        return self._run(given, self._empty(len(given)))[0]

    def greedy(self, ids: Sequence[int], new: int) -> list[int]:
        row, past = torch.tensor([list(ids)]), self._empty(1)
        written: list[int] = []
        while len(written) < new:
            logits, past = self._run(row, past)
            row = logits[:, -1:].argmax(-1)  # (1, 1)
            written.append(int(row))
        return written

    def _empty(self, batch: int) -> list[Any]:
        """A past of no columns."""
        import numpy as np

        shapes = [shape for name, shape in self.inputs.items() if name.startswith("past")]
        return [np.zeros((batch, shape[1], 0, shape[3]), dtype=np.float32) for shape in shapes]

    def _run(self, ids: Tensor, past: list[Any]) -> tuple[Tensor, list[Any]]:
        """Logits, and the past of the next call."""
        import numpy as np

        before = past[0].shape[2] if past else 0
        mask = np.ones((len(ids), before + ids.shape[1]), dtype=np.int64)
        given = dict(zip(self.inputs, [ids.numpy(), mask, *past], strict=True))
        found, *present = self.session.run(None, given)
        return torch.from_numpy(found), present
