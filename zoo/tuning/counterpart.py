"""LoRA and (IA)3 in the names of the module's counterpart in `transformers`, which PEFT adapts.

What `to_transformers` of an architecture does to its weights, it does to row numbers in their
place; from them is read which rows of which matrix of ours a matrix of the counterpart is. Rows of
a product are products of rows: where W has the rows of W_q, W_k and W_v, a LoRA on it is three,
(B A)[rows] = B[rows] A, and (IA)3's factors are cut as the rows are. The other way three LoRAs are
one of three times the rank, their A below each other and their B along a diagonal; of one rank,
where their A is the same.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import WeightsError, ZooError

METHODS = ("lora", "ia3")  # what is learned of them are rows or columns
LOW, HIGH, FACTORS = ".lora_A.weight", ".lora_B.weight", ".ia3_l"
LEARNED = (LOW, HIGH, FACTORS)


@dataclass(frozen=True)
class Place:
    """Where a tensor of the counterpart stands in ours.

    Attributes:
        name: of our tensor.
        rows: which of its rows, in the counterpart's order.
        turned: the counterpart has them as columns.
    """

    name: str
    rows: Tensor
    turned: bool = False


def places(module: nn.Module) -> dict[str, Place]:
    """The tensors of the module's counterpart, by name, as far as they are rows of ours.

    Empty for a module that has no counterpart in `transformers`.

    Raises:
        ZooError: a counterpart of such sizes there is not.
    """
    parameters = dict(module.named_parameters())
    theirs = getattr(module, "theirs", None)
    if theirs is not None:  # transformers computes it: other names for the same tensors
        ours = {id(parameter): name for name, parameter in parameters.items()}
        return {
            name: Place(ours[id(parameter)], torch.arange(len(parameter)))
            for name, parameter in theirs.named_parameters()
            if parameter.dim() in (1, 2)
        }
    write: Any = getattr(type(module), "to_transformers", None)
    if write is None:
        return {}
    memo: dict[int, Any] = {id(buffer): buffer for buffer in module.buffers()}
    owners: list[str] = []  # of each number
    starts: dict[str, int] = {}
    for name, parameter in parameters.items():
        if not parameter.dim():
            continue
        starts[name] = len(owners)
        rows = torch.arange(len(owners), len(owners) + len(parameter), dtype=torch.int32)
        owners += [name] * len(parameter)
        numbers = rows.view(-1, *[1] * (parameter.dim() - 1)).expand(parameter.shape)
        memo[id(parameter)] = nn.Parameter(numbers, requires_grad=False)
    _, tensors = write(copy.deepcopy(module, memo))
    found = {}
    for theirs, tensor in tensors.items():
        if tensor.dtype != torch.int32 or tensor.dim() not in (1, 2):
            continue  # numbers that were computed with, or of another shape
        turned = tensor.dim() == 2 and not torch.equal(tensor, tensor[:, :1].expand_as(tensor))
        rows = (tensor[0] if turned else tensor.view(len(tensor), -1)[:, 0]).long()
        name = owners[rows[0]]
        shape = (len(rows), *parameters[name].shape[1:])
        expected = rows.view(-1, *[1] * (len(shape) - 1)).expand(shape)
        same = (tensor.T if turned else tensor).equal(expected.int())  # filled up with zeros
        if same and all(owners[row] == name for row in rows.tolist()):
            found[theirs] = Place(name, rows - starts[name], turned)
    return found


class Names:
    """The names of a module's tensors in its counterpart.

    Attributes:
        places: as of the function; empty where it raises.
        turned: whether matrices of the counterpart's blocks are (in, out), as GPT-2's.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.reason = "there is none"
        try:
            self.places = places(module)
        except ZooError as error:
            self.places, self.reason = {}, str(error)
        self.turned = any(place.turned for place in self.places.values())
        self.shapes = {name: p.shape for name, p in module.named_parameters()}
        self.parts: dict[str, dict[str, Place]] = {}  # of each tensor of ours
        for theirs, place in self.places.items():
            self.parts.setdefault(place.name, {})[theirs] = place

    def has(self, names: Iterable[str]) -> bool:
        """Whether each row of each tensor, or of the layer beside which one stands, has a name."""
        return all(self._is_whole(_beside(name), self.parts) for name in names)

    def _is_whole(self, name: str, parts: Mapping[str, Mapping[str, Place]]) -> bool:
        rows = [row for place in parts.get(name, {}).values() for row in place.rows.tolist()]
        return name in parts and sorted(rows) == list(range(self.shapes[name][0]))

    def layers(self, ours: Iterable[str]) -> list[str]:
        """The counterpart's linear layers that some of ours are."""
        return [_owner(theirs) for layer in ours for theirs in self.parts[f"{layer}.weight"]]

    def theirs(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What was learned, as the counterpart's; `has` must be true of the names."""
        found = {}
        for name, tensor in tensors.items():
            end = next((end for end in LEARNED if name.endswith(end)), "")
            by_rows = end == HIGH or (end == FACTORS and not _on_inputs(tensor))
            for theirs, place in self.parts[_beside(name)].items():
                new = (_owner(theirs) + end) if end else theirs
                cut = tensor[place.rows] if by_rows or not end else tensor
                found[new] = (cut.T if place.turned and not end else cut).clone()
        return found

    def ours(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse; LoRAs are widened with zeros to the largest rank among them.

        Raises:
            WeightsError: a tensor that the counterpart has not, that is missing, or that ours
                cannot hold.
        """
        kind = type(self.module).__name__
        layers: dict[str, dict[str, dict[str, Tensor]]] = {}  # by ours, theirs, and its end
        whole: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            end = next((end for end in LEARNED if name.endswith(end)), "")
            place = self.places.get(_beside(name))
            if place is None:
                why = "" if self.places else f": {self.reason}"
                raise WeightsError(
                    f"{kind} has no {name.removesuffix(end)}, and neither has its counterpart in "
                    f"transformers{why}"
                )
            if end:
                parts = layers.setdefault(place.name, {})
                parts.setdefault(name.removesuffix(end), {})[end] = tensor
            else:
                whole.setdefault(place.name, {})[name] = tensor
        found = {}
        for name, pieces in whole.items():
            found[name] = self._put_together(name, pieces)
        for name, parts in layers.items():
            height, layer = self.shapes[name][0], _owner(name)
            rows = {own: self.places[f"{own}.weight"].rows for own in parts}
            if all(FACTORS in part for part in parts.values()):
                factors = {own: part[FACTORS] for own, part in parts.items()}
                found[layer + FACTORS] = self._factors(name, factors, rows)
                continue
            for own, part in parts.items():
                if missing := {LOW, HIGH} - part.keys():
                    raise WeightsError(f"missing {own}{missing.pop()}")
                high = part[HIGH].shape
                if high != (len(rows[own]), len(part[LOW])):
                    raise WeightsError(
                        f"{own}{HIGH} has shape {tuple(high)}, here it is "
                        f"{(len(rows[own]), len(part[LOW]))}"
                    )
            pairs = [(rows[own], part[LOW], part[HIGH]) for own, part in parts.items()]
            found[layer + LOW], found[layer + HIGH] = _one_lora(pairs, height)
        rank = max((len(t) for name, t in found.items() if name.endswith(LOW)), default=0)
        return {name: _widened(name, tensor, rank) for name, tensor in found.items()}

    def _put_together(self, name: str, pieces: Mapping[str, Tensor]) -> Tensor:
        """A tensor of ours from all of its rows."""
        if missing := self.parts[name].keys() - pieces.keys():
            raise WeightsError(f"missing {', '.join(sorted(missing))}")
        parts = []
        for theirs, tensor in pieces.items():
            place = self.places[theirs]
            tensor = tensor.T if place.turned else tensor
            if tensor.shape[:1] != place.rows.shape:
                raise WeightsError(
                    f"{theirs} has shape {tuple(tensor.shape)}, here it has {len(place.rows)} rows"
                )
            parts.append(tensor)
        order = torch.cat([self.places[theirs].rows for theirs in pieces]).argsort()
        return torch.cat(parts)[order].contiguous()

    def _factors(
        self, name: str, factors: Mapping[str, Tensor], rows: Mapping[str, Tensor]
    ) -> Tensor:
        """(IA)3's factors of a matrix from those of its parts; where there are none they are 1."""
        first = next(iter(factors.values()))
        if any(_on_inputs(each) for each in factors.values()):
            if len(factors) < len(self.parts[name]) or not all(
                torch.equal(each, first) for each in factors.values()
            ):
                raise WeightsError(
                    f"factors on the inputs of {', '.join(factors)}: these are one matrix here, "
                    "whose inputs have one factor each"
                )
            return first
        whole = torch.ones(self.shapes[name][0], 1, dtype=first.dtype)
        for own, each in factors.items():
            if each.shape != (len(rows[own]), 1):
                raise WeightsError(
                    f"{own}{FACTORS} has shape {tuple(each.shape)}, here it is "
                    f"{(len(rows[own]), 1)}"
                )
            whole[rows[own]] = each
        return whole


def _one_lora(pairs: list[tuple[Tensor, Tensor, Tensor]], height: int) -> tuple[Tensor, Tensor]:
    """One pair of thin matrices that does what several do, each to some rows.

    Args:
        pairs: rows, A (r, K) and B (rows, r) of each.
        height: rows of the matrix.
    """
    lows: list[Tensor] = []
    for _, low, _ in pairs:
        if not any(torch.equal(low, other) for other in lows):
            lows.append(low)
    rank = len(pairs[0][1])
    whole = torch.zeros(height, rank * len(lows), dtype=pairs[0][2].dtype)
    for rows, low, high in pairs:
        at = rank * next(i for i, other in enumerate(lows) if torch.equal(low, other))
        whole[rows, at : at + rank] = high
    if len({low.shape for low in lows}) > 1:
        raise WeightsError(f"LoRAs of one matrix have shapes {[tuple(low.shape) for low in lows]}")
    return torch.cat(lows), whole


def _widened(name: str, tensor: Tensor, rank: int) -> Tensor:
    """A LoRA's matrix with zeros up to a rank; any other is itself."""
    if name.endswith(LOW):
        return F.pad(tensor, (0, 0, 0, rank - len(tensor)))
    return F.pad(tensor, (0, rank - tensor.shape[1])) if name.endswith(HIGH) else tensor


def _beside(name: str) -> str:
    """The weight beside which something learned stands; of anything else its own name."""
    for end in LEARNED:
        if name.endswith(end):
            return f"{name.removesuffix(end)}.weight"
    return name


def _owner(name: str) -> str:
    """The part that a tensor belongs to."""
    return name.rpartition(".")[0]


def _on_inputs(factors: Tensor) -> bool:
    """Whether (IA)3's factors are those of inputs (1, K), not of outputs (M, 1)."""
    return factors.shape[0] == 1 != factors.shape[-1]
