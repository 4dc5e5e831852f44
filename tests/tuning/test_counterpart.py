"""LoRA and (IA)3 of every architecture through a file, whatever names it is written under."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from models import as_model
from torch import nn

from zoo.registry import registry
from zoo.testing.architectures import make
from zoo.tuning import adapt, share, trained
from zoo.tuning.counterpart import Names, places
from zoo.tuning.files import read, write

ALL = [
    pytest.param(SimpleNamespace(thing=entry, values=values), id=f"{name}-{number}")
    for name, entry in registry().architectures.items()
    for number, values in enumerate(entry.tiny)
]


@pytest.mark.parametrize("method", ["lora", "ia3"])
@pytest.mark.parametrize("tiny", ALL)
def test_what_is_written_is_read_bit_by_bit(tiny: Any, method: str, tmp_path: Path) -> None:
    base = make(tiny)
    ours = adapt(share(base), method).eval()
    for parameter in trained(ours).values():
        parameter.data.normal_()
    write(tmp_path, ours, method, {}, list(trained(ours)), base="somewhere")
    again = as_model(base).load_adapter(tmp_path).module
    for name, parameter in trained(ours).items():
        assert torch.equal(again.get_parameter(name), parameter), name


class Fused(nn.Module):
    """Three matrices as one, whose counterpart has them apart, turned, and one upside down."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 6)
        self.scale = nn.Parameter(torch.ones(()))

    def to_transformers(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        state = self.state_dict()
        q, k, v = state["qkv.weight"].chunk(3)
        tensors = {"q.weight": q.flip(0), "k.weight": k.T.contiguous(), "v.weight": v}
        doubled = {"qkv.bias": 2.0 * state["qkv.bias"], "wide": nn.functional.pad(v, (0, 2))}
        return {}, tensors | doubled


def test_rows_are_found_where_the_counterpart_has_them() -> None:
    found = places(Fused())
    rows = {name: place.rows.tolist() for name, place in found.items()}
    assert rows == {"q.weight": [1, 0], "k.weight": [2, 3], "v.weight": [4, 5]}
    assert [place.turned for place in found.values()] == [False, True, False]
    names = Names(Fused())
    assert names.has(["qkv.lora_A.weight", "qkv.ia3_l"])
    assert not names.has(["qkv.bias"])  # a number that is computed is no number of ours


def test_different_loras_of_one_matrix_are_one_of_their_ranks_together() -> None:
    module = Fused()
    low, high = torch.randn(2, 1, 4), torch.randn(2, 2, 1)
    tensors = {
        "q.lora_A.weight": low[0],
        "q.lora_B.weight": high[0],
        "v.lora_A.weight": low[1],
        "v.lora_B.weight": high[1],
    }
    found = Names(module).ours(tensors)
    change = found["qkv.lora_B.weight"] @ found["qkv.lora_A.weight"]  # (6, 4)
    expected = torch.cat([(high[0] @ low[0]).flip(0), torch.zeros(2, 4), high[1] @ low[1]])
    torch.testing.assert_close(change, expected)
    assert found["qkv.lora_A.weight"].shape == (2, 4)


def test_peft_is_told_the_repository_and_the_commit(tmp_path: Path) -> None:
    """`AutoPeftModel` fetches the base by these two."""
    peft = pytest.importorskip("peft", reason="needs txzoo[hf]")
    module = adapt(make(ALL[0].values[0]), "lora", rank=2)
    address = f"hf://owner/name@{'a' * 40}"
    write(tmp_path, module, "lora", {}, list(trained(module)), base=address)
    config = peft.PeftConfig.from_pretrained(str(tmp_path))
    assert (config.base_model_name_or_path, config.revision) == ("owner/name", "a" * 40)
    assert read(tmp_path).base == address
