"""Quantised matrices: whole numbers of 8 or 4 bits, and scales.

One is a `torch.Tensor` that stands where the float matrix stood. `F.linear` and `F.embedding`
compute with its codes, whoever calls them: a linear layer, an embedding, or a decoder whose output
head is its embedding. Whatever else a module does with it is done with the matrix that the codes
stand for.

Sources:
    Dettmers et al. 2022, "LLM.int8()", arXiv:2208.07339, section 2: absmax quantisation, one scale
    for each row of the weights and, of activations (`dynamic-int8`), for each token.
    Gerganov et al., llama.cpp, Q4_0: 4 bits, one scale for each 32 numbers along the input.

Letters: N rows (outputs), K columns (inputs), M rows of activations, G = K / 32 groups.
"""

from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from zoo.errors import ConfigError, InputError, WeightsError

GROUP = 32  # numbers along the input that share a scale, of 4 bits
ALIGNMENT = 64  # bytes: what torch gives memory of its own
SCALE, PACKED = "_scale", "_packed"  # ends of names in a file

aten = torch.ops.aten


class QuantizedMatrix(Tensor):
    """A matrix (N, K) as codes and scales; its `dtype` is that of the numbers they stand for.

    It cannot be changed in place, and wants no gradient; one flows through it to its input.

    Attributes:
        kind: what `zoo.quantize` calls it.

    Args:
        codes: whole numbers, laid out as the subclass says.
        scales: bfloat16, which kernels take; codes are rounded for just these, so that their
            coarseness costs nothing.
        dtype: of the numbers.
    """

    kind: str
    codes: Tensor
    scales: Tensor

    @staticmethod
    def __new__(cls: Any, codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Any:
        """An empty shell of the matrix's shape, which `__init__` fills."""
        return Tensor._make_wrapper_subclass(
            cls, cls._shape(codes), dtype=dtype, device=codes.device
        )

    def __init__(self, codes: Tensor, scales: Tensor, dtype: torch.dtype) -> None:
        self.codes, self.scales = codes, scales

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """The matrix that comes nearest to a float one (N, K)."""
        raise NotImplementedError

    @classmethod
    def stored(cls, name: str, tensors: Mapping[str, Tensor], source: str | Path) -> Self:
        """The matrix that stands under a name in a file; float32.

        Raises:
            WeightsError: codes and scales do not fit each other.
        """
        raise NotImplementedError

    def parts(self, name: str) -> dict[str, Tensor]:
        """What stands for it in a file."""
        raise NotImplementedError

    def dequantized(self, dtype: torch.dtype | None = None) -> Tensor:
        """The numbers that it stands for (N, K), in its own precision unless given."""
        raise NotImplementedError

    def times(self, x: Tensor) -> Tensor:
        """Activations (M, K) times its transpose, (M, N), by what is fast here."""
        raise NotImplementedError

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Activations (..., K) times its transpose, plus a bias (N,): (..., N)."""
        differentiated = torch.is_grad_enabled() and x.requires_grad
        # the kernels trust whoever calls them with the width; other sizes are torch's to refuse
        fits = x.shape[-1] == self.shape[1] and x.numel() > 0
        if differentiated or not fits or not self.has_kernel:
            return F.linear(x, self.dequantized(x.dtype), bias)
        out = self.times(x.reshape(-1, x.shape[-1]))  # (M, N)
        out = out if bias is None else out + bias
        return out.to(x.dtype).view(*x.shape[:-1], self.shape[0])

    def rows(self, ids: Tensor) -> Tensor:
        """Its rows at ids of any shape: (..., K)."""
        return F.embedding(ids, self.dequantized())

    @property
    def has_kernel(self) -> bool:
        """Whether there is a fast way to multiply by it here."""
        # the kernels read beyond a row's end unless it is a multiple of what they read at once
        return self.device.type == "cpu" and self.shape[1] % GROUP == 0 and vectorized()

    @classmethod
    def _shape(cls, codes: Tensor) -> Sequence[int]:
        """(N, K) of the codes."""
        return codes.shape

    def _again(self, change: Any, dtype: torch.dtype | None = None) -> Self:
        """The same with a change made to codes and scales."""
        return type(self)(change(self.codes), change(self.scales), dtype or self.dtype)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{type(self).__name__}{tuple(self.shape)}"

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        """Its parts by name; torch asks when a module moves."""
        return ["codes", "scales"], self.dtype

    @classmethod
    def __tensor_unflatten__(cls, parts: Any, dtype: Any, size: Any, stride: Any) -> Self:
        """The inverse."""
        return cls(parts["codes"], parts["scales"], dtype)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Linear layers and embeddings; the rest goes on to `__torch_dispatch__`."""
        kwargs = kwargs or {}
        if func is F.linear:
            found = _linear(*args, **kwargs)
        elif func is F.embedding:
            found = _embedding(*args, **kwargs)
        else:
            found = NotImplemented
        if found is not NotImplemented:
            return found
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Copies and moves keep it quantised; all else gets the numbers that it stands for."""
        kwargs = kwargs or {}
        if func in (aten.detach.default, aten.alias.default):
            return args[0]._again(lambda part: part)
        if func is aten.clone.default:
            return args[0]._again(torch.clone)
        dtype, device = kwargs.get("dtype"), kwargs.get("device")
        if func is aten._to_copy.default and (dtype is None or dtype.is_floating_point):
            return args[0]._again(lambda part: part.to(device, copy=True), dtype)
        for place, argument in enumerate(func._schema.arguments):
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and isinstance(value, QuantizedMatrix):
                raise InputError(
                    f"Quantised weights cannot be changed ({func}): change or train the model as "
                    "it was before, and quantise it then"
                )
        # a view is counted with its base, this matrix, which an inference tensor cannot be
        with torch.inference_mode(torch.is_inference_mode_enabled() and not func.is_view):
            args, kwargs = tree_map(_plain, (args, kwargs))
            return func(*args, **kwargs)


def _aligned(codes: Tensor) -> Tensor:
    """Codes that begin where the kernels may load them: a file puts them anywhere.

    From elsewhere than a multiple of 16 bytes `torch._weight_int8pack_mm` ends the process, where
    there are 4 rows of activations or more.
    """
    return codes.clone() if codes.data_ptr() % ALIGNMENT else codes


class Int8Matrix(QuantizedMatrix):
    """8 bits a number, a scale for each row: codes (N, K) of int8 from -127 to 127, scales (N,)."""

    kind = "int8"

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """Round to the nearest code; the largest number of a row becomes 127 or -127."""
        numbers = weight.detach().float()
        scales = _nonzero(numbers.abs().amax(1) / 127).bfloat16()  # (N,)
        codes = (numbers / scales[:, None].float()).round_().clamp_(-127, 127).to(torch.int8)
        return cls(codes, scales, weight.dtype)

    @classmethod
    def stored(cls, name: str, tensors: Mapping[str, Tensor], source: str | Path) -> Self:
        """Codes under the matrix's own name, scales under `NAME_scale`."""
        codes, scales = tensors[name], tensors[name + SCALE]
        fits = codes.dtype == torch.int8 and codes.dim() == 2
        if not fits or scales.shape != codes.shape[:1] or scales.dtype != torch.bfloat16:
            raise _misfit(name, codes, scales, source)
        return cls(_aligned(codes), scales, torch.float32)

    def parts(self, name: str) -> dict[str, Tensor]:
        """The inverse of `stored`."""
        return {name: self.codes, name + SCALE: self.scales}

    def dequantized(self, dtype: torch.dtype | None = None) -> Tensor:
        """Each code times the scale of its row."""
        numbers = self.codes.float() * self.scales[:, None]  # float32, whatever scales are
        return numbers.to(dtype or self.dtype)

    def times(self, x: Tensor) -> Tensor:
        """A kernel for few rows; many are worth turning all codes into floats."""
        if len(x) <= 32:
            return torch._weight_int8pack_mm(x.bfloat16(), self.codes, self.scales)
        x = _multiplied(x)
        # codes are whole numbers up to 127, which bfloat16 has all of
        return F.linear(x, self.codes.to(x.dtype)).float().mul_(self.scales)

    def rows(self, ids: Tensor) -> Tensor:
        """Only the rows that are asked for are turned into floats."""
        codes = F.embedding(ids, self.codes).to(self.dtype)  # (..., K)
        return codes * F.embedding(ids, self.scales[:, None])


class DynamicInt8Matrix(Int8Matrix):
    """`Int8Matrix`, multiplied by activations of 8 bits: whole numbers are all that is multiplied.

    Each row of activations has a scale of its own, found as it comes.
    """

    kind = "dynamic-int8"

    @property
    def has_kernel(self) -> bool:
        """`torch._int_mm` takes any width, on any processor."""
        return self.device.type == "cpu"

    def times(self, x: Tensor) -> Tensor:
        """Whole numbers times whole numbers, then the scales of both."""
        most = x.abs().amax(-1, keepdim=True).float()  # (M, 1)
        scales = most.clamp_(min=torch.finfo(torch.bfloat16).tiny).div_(127)
        codes = (x / scales).round_().to(torch.int8)  # (M, K)
        sums = torch._int_mm(codes, self.codes.t())  # (M, N), int32
        return sums.float().mul_(scales).mul_(self.scales)


class Int4Matrix(QuantizedMatrix):
    """4 bits a number, a scale for each 32 along the input.

    A code q from 0 to 15 stands for (q - 8) * scale. Codes are (N, K / 2) of uint8: column 2i in
    the low half of byte i, column 2i + 1 in the high one; scales (N, G) may be negative.
    """

    kind = "int4"

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """Round to the nearest code; of each 32 the number farthest from 0 becomes code 0."""
        groups = weight.detach().float().reshape(len(weight), -1, GROUP)  # (N, G, 32)
        farthest = groups.gather(2, groups.abs().argmax(2, keepdim=True))  # (N, G, 1)
        scales = _nonzero(farthest / -8).bfloat16()
        codes = (groups / scales.float()).round_().add_(8).clamp_(0, 15).to(torch.uint8).flatten(1)
        return cls(codes[:, ::2] | codes[:, 1::2] << 4, scales[..., 0], weight.dtype)

    @classmethod
    def stored(cls, name: str, tensors: Mapping[str, Tensor], source: str | Path) -> Self:
        """Codes under `NAME_packed`, scales under `NAME_scale`."""
        codes, scales = tensors[name + PACKED], tensors[name + SCALE]
        fits = codes.dtype == torch.uint8 and codes.dim() == 2 and 2 * codes.shape[1] % GROUP == 0
        wanted = (len(codes), 2 * codes.shape[-1] // GROUP) if fits else None
        if scales.shape != wanted or scales.dtype != torch.bfloat16:
            raise _misfit(name, codes, scales, source)
        return cls(_aligned(codes), scales, torch.float32)

    def parts(self, name: str) -> dict[str, Tensor]:
        """The inverse of `stored`."""
        return {name + PACKED: self.codes, name + SCALE: self.scales}

    @classmethod
    def _shape(cls, codes: Tensor) -> Sequence[int]:
        return len(codes), 2 * codes.shape[1]

    def unpacked(self) -> Tensor:
        """The codes one by one, (N, K) of uint8."""
        return torch.stack([self.codes & 15, self.codes >> 4], dim=2).flatten(1)

    def dequantized(self, dtype: torch.dtype | None = None) -> Tensor:
        """Each code, less 8, times the scale of its group."""
        groups = self.unpacked().float().sub_(8).view(*self.scales.shape, GROUP)  # (N, G, 32)
        return groups.mul_(self.scales[..., None]).flatten(1).to(dtype or self.dtype)

    @cached_property
    def packed(self) -> tuple[Tensor, Tensor]:
        """Codes and scales as the kernel of this processor wants them, made at the first use."""
        spare = -len(self.codes) % 16  # it takes rows by sixteen
        codes = F.pad(self.unpacked(), (0, 0, 0, spare)).int()
        scales = F.pad(self.scales, (0, 0, 0, spare)).t()  # (G, N)
        both = torch.stack([scales, torch.zeros_like(scales)], dim=2)  # scale, and number of code 8
        return aten._convert_weight_to_int4pack_for_cpu(codes, 1), both.contiguous()

    def times(self, x: Tensor) -> Tensor:
        """As of `Int8Matrix`, but that codes cost more to turn into floats."""
        if len(x) > 128:
            x = _multiplied(x)
            return F.linear(x, self.dequantized(x.dtype))
        codes, scales = self.packed
        found: Tensor = aten._weight_int4pack_mm_for_cpu(x.bfloat16(), codes, GROUP, scales)
        return found[:, : len(self.codes)]


KINDS: dict[str, type[QuantizedMatrix]] = {
    matrix.kind: matrix for matrix in (Int8Matrix, Int4Matrix, DynamicInt8Matrix)
}


def kind_of(module: nn.Module) -> str | None:
    """How a module is quantised; None when it is not."""
    kinds = {p.kind for p in module.parameters() if isinstance(p, QuantizedMatrix)}
    return "int4" if "int4" in kinds else next(iter(kinds), None)


def to_stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name as a file holds them: of a quantised matrix its codes and its scales."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found |= tensor.parts(name) if isinstance(tensor, QuantizedMatrix) else {name: tensor}
    return found


def from_stored(
    tensors: Mapping[str, Tensor], kind: object, source: str | Path
) -> dict[str, Tensor]:
    """The inverse of `to_stored`.

    Args:
        tensors: of a file.
        kind: what its config.json says under `quantization`.
        source: the file, for errors.

    Raises:
        ConfigError: no such kind.
        WeightsError: codes and scales do not fit each other, or there are none.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"quantization is one of {', '.join(KINDS)}, got {kind!r:.60}")
    rows = DynamicInt8Matrix if kind == DynamicInt8Matrix.kind else Int8Matrix
    found = dict(tensors)
    for end in [name for name in tensors if name.endswith(SCALE)]:
        name = end.removesuffix(SCALE)
        if name + PACKED in tensors:
            found[name] = Int4Matrix.stored(name, tensors, source)
            del found[name + PACKED], found[end]
        elif name in tensors and tensors[name].dtype == torch.int8:
            found[name] = rows.stored(name, tensors, source)
            del found[end]
    if not any(isinstance(tensor, QuantizedMatrix) for tensor in found.values()):
        raise WeightsError(f"{source}: no tensor is quantised, the configuration says {kind}")
    return found


def place(
    module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path
) -> dict[str, Tensor]:
    """Put quantised matrices in the place of a module's weights, wherever such a weight stands.

    Args:
        module: has a weight of that shape under each name.
        tensors: by name; those that are not quantised are passed over.
        source: where they come from, for errors.

    Returns:
        The others.

    Raises:
        WeightsError: something quantised that is no weight.
    """
    weights = dict(module.named_parameters(remove_duplicate=False))
    new: dict[int, nn.Parameter] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, QuantizedMatrix):
            if name not in weights:
                raise WeightsError(f"{source}: {name} is quantised, and no weight of the module")
            new[id(weights[name])] = nn.Parameter(tensor, requires_grad=False)
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if id(parameter) in new:
                part._parameters[name] = new[id(parameter)]
    return {n: tensor for n, tensor in tensors.items() if not isinstance(tensor, QuantizedMatrix)}


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """`F.linear`, where it is the weight that is quantised."""
    if not isinstance(weight, QuantizedMatrix) or isinstance(x, QuantizedMatrix):
        return NotImplemented
    return weight.linear(x, bias)


def _embedding(
    ids: Any,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """`F.embedding`; `max_norm` changes the weights, which these do not allow."""
    if not isinstance(weight, QuantizedMatrix) or max_norm is not None:
        return NotImplemented
    return weight.rows(ids)


def _plain(value: Any) -> Any:
    return value.dequantized() if isinstance(value, QuantizedMatrix) else value


def _multiplied(x: Tensor) -> Tensor:
    """Activations in the precision that this processor multiplies matrices of many rows in."""
    fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return x.bfloat16() if fast else x.float()


def _nonzero(scales: Tensor) -> Tensor:
    """1 for the scale of numbers that are all 0, or so small that a scale of theirs would be."""
    return scales.where(scales.abs() > torch.finfo(torch.bfloat16).tiny, 1.0)


def _misfit(name: str, codes: Tensor, scales: Tensor, source: str | Path) -> WeightsError:
    return WeightsError(
        f"{source}: {name} has codes {codes.dtype} of shape {tuple(codes.shape)}, which its scales "
        f"{scales.dtype} of shape {tuple(scales.shape)} do not fit"
    )


@cache
def vectorized() -> bool:
    """Whether torch's kernels for few rows are fast on this processor; elsewhere they are loops."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX")
