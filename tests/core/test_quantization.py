"""Quantised weights: held against NumPy, on every architecture, and through a folder."""

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import as_model
from safetensors.torch import load_file, save_file
from torch import nn

import zoo
from zoo import quantization
from zoo.card import Card
from zoo.cli import main
from zoo.errors import (
    ConfigError,
    DataNotFoundError,
    InputError,
    MissingExtraError,
    WeightsError,
    ZooError,
)
from zoo.evaluation import quantized as effects
from zoo.evaluation.quantized import effect
from zoo.export import check, export
from zoo.folder import WEIGHTS, FileRecord
from zoo.generation import GenerationOptions, generate
from zoo.model import Model
from zoo.nn import quantized, record_attention
from zoo.nn.quantized import (
    KINDS,
    DynamicInt8Matrix,
    Int4Matrix,
    Int8Matrix,
    QuantizedMatrix,
    kind_of,
)
from zoo.quantization import quantize
from zoo.registry import registry
from zoo.testing import architectures as kit
from zoo.testing.kit import Subject
from zoo.tuning import adapt, trained

SIZES = {"vocab_size": 130, "max_seq_len": 32, "d_model": 64, "n_layers": 2, "n_heads": 4}
SIZES |= {"d_ff": 96}
SHAPES = [(70, 64), (130, 96), (16, 4096), (33, 32)]
ALIBI = Path(__file__).parents[2] / "plugins" / "zoo_alibi" / "models" / "alibi-lm"


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without the kernels."""
    monkeypatch.setattr(quantized, "vectorized", lambda: False)


def rounded(numbers: np.ndarray) -> np.ndarray:
    """float32 numbers rounded to bfloat16, half to even: the upper 16 of 32 bits."""
    bits = np.ascontiguousarray(numbers, dtype=np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32)


def by_hand(weight: np.ndarray, kind: str) -> np.ndarray:
    """What a matrix without empty rows becomes, number by number."""
    if kind == "int4":
        groups = weight.reshape(len(weight), -1, 32)
        places = np.abs(groups).argmax(2)[..., None]
        scales = rounded(np.take_along_axis(groups, places, 2) / -8)
        codes = np.clip(np.rint(groups / scales), -8, 7)
        return (codes * scales).reshape(weight.shape).astype(np.float32)
    scales = rounded(np.abs(weight).max(1, keepdims=True) / 127)
    return (np.clip(np.rint(weight / scales), -127, 127) * scales).astype(np.float32)


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.3


def model_of(architecture: str = "decoder", noise: float = 0.1, **sizes: Any) -> Model:
    torch.manual_seed(0)
    module = zoo.create(architecture, **(SIZES | sizes)).eval()
    with torch.no_grad():  # a model that says something: small weights say the same of everything
        for parameter in module.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return as_model(module)


@pytest.fixture(scope="module")
def alibi() -> Model:
    return zoo.load("alibi-lm")


# ---------------------------------------------------------------- one matrix


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_those_of_the_formula(kind: str, shape: tuple[int, int]) -> None:
    weight = matrix(*shape)
    found = KINDS[kind].of(weight)
    assert found.shape == weight.shape and found.dtype == torch.float32
    np.testing.assert_array_equal(found.dequantized().numpy(), by_hand(weight.numpy(), kind))
    assert found.scales.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_codes_may_lie_anywhere_in_a_file(kind: str) -> None:
    """A kernel that loads from an odd place would end the process, so the place is looked at."""
    whole = KINDS[kind].of(matrix(96, 64))
    parts = {}
    for name, tensor in whole.parts("w").items():
        memory = torch.empty(tensor.numel() + 64, dtype=tensor.dtype)
        begin = next(n for n in range(64) if memory[n:].data_ptr() % 16 == 8)
        parts[name] = memory[begin : begin + tensor.numel()].view(tensor.shape).copy_(tensor)
        assert parts[name].data_ptr() % 16 == 8
    found = KINDS[kind].stored("w", parts, "a file")
    assert found.codes.data_ptr() % 64 == 0
    for rows in (1, 4, 7, 32):
        x = matrix(rows, 64)
        assert torch.equal(found.linear(x), whole.linear(x))


@pytest.mark.parametrize("kind", KINDS)
def test_no_number_is_farther_off_than_its_scale_allows(kind: str) -> None:
    weight = matrix(64, 128)
    off = (KINDS[kind].of(weight).dequantized() - weight).abs()
    if kind == "int4":  # one step of the scale at the end that has no code 8, half a step elsewhere
        largest = weight.unflatten(1, (-1, 32)).abs().amax(2)
        assert (off.unflatten(1, (-1, 32)) <= largest[..., None] / 8 * 1.01).all()
    else:
        assert (off <= weight.abs().amax(1, keepdim=True) / 127 * 0.51).all()


@pytest.mark.parametrize("kind", KINDS)
def test_empty_and_minute_rows(kind: str) -> None:
    weight = matrix(8, 64)
    weight[2] = 0
    weight[5] *= 1e-44
    found = KINDS[kind].of(weight)
    assert found.dequantized().isfinite().all()
    assert (found.dequantized()[2] == 0).all() and (found.dequantized()[5] == 0).all()
    out = F.linear(torch.ones(1, 64), found)
    assert out.isfinite().all() and out[0, 2] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 40, 200])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_linear_multiplies_by_those_numbers(
    kind: str, shape: tuple[int, int], rows: int, dtype: torch.dtype
) -> None:
    """Activations may be rounded to bfloat16, 8 bits of mantissa, and so may what comes out."""
    weight, bias = matrix(*shape), torch.linspace(-1, 1, shape[0]).to(dtype)
    x = matrix(rows, shape[1], seed=1).to(dtype)
    found = F.linear(x[None], KINDS[kind].of(weight.to(dtype)), bias)
    assert found.shape == (1, rows, shape[0]) and found.dtype == dtype
    given = weight.to(dtype).float().numpy()
    products = x.float().numpy().astype(np.float64) @ by_hand(given, kind).T.astype(np.float64)
    wanted = torch.from_numpy(products + bias.float().numpy())
    # each product is off by 2**-8 of itself at most; they add up like a random walk
    spread = np.sqrt((x.float().numpy() ** 2) @ (given.T**2)).max()
    assert (found[0].double() - wanted).abs().max() < 0.03 * max(spread, 1.0)


@pytest.mark.parametrize("shape", [(70, 64), (33, 50), (5, 33)])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_without_a_kernel_it_is_float32(kind: str, shape: tuple[int, int], plainly: None) -> None:
    if kind == "int4" and shape[1] % 32:
        return  # such a matrix gets 8 bits, see below
    weight, x = matrix(*shape), matrix(3, shape[1], seed=1)
    found = F.linear(x, KINDS[kind].of(weight))
    np.testing.assert_allclose(
        found.numpy(), x.numpy() @ by_hand(weight.numpy(), kind).T, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("columns", [33, 50])
def test_a_width_that_the_kernel_would_read_beyond(columns: int) -> None:
    weight, x = matrix(7, columns), matrix(2, columns, seed=1)
    found = F.linear(x, Int8Matrix.of(weight))
    np.testing.assert_allclose(
        found.numpy(), x.numpy() @ by_hand(weight.numpy(), "int8").T, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("columns", [33, 64])
@pytest.mark.parametrize("rows", [1, 5, 70])
def test_dynamic_multiplies_whole_numbers(rows: int, columns: int) -> None:
    weight, x = matrix(19, columns), matrix(rows, columns, seed=1)
    x[0] *= 100  # one token's size is no other token's matter
    scales = np.abs(x.numpy()).max(1, keepdims=True) / np.float32(127)
    codes = np.rint(x.numpy() / scales).astype(np.int64)
    weights = by_hand(weight.numpy(), "int8")
    wanted = codes * scales.astype(np.float64) @ weights.T.astype(np.float64)
    found = F.linear(x, DynamicInt8Matrix.of(weight), torch.ones(19))
    np.testing.assert_allclose(found.numpy(), wanted + 1, rtol=1e-3, atol=1e-4)


def test_a_token_that_is_all_0_gives_the_bias() -> None:
    found = F.linear(torch.zeros(2, 64), DynamicInt8Matrix.of(matrix(8, 64)), torch.ones(8))
    assert torch.equal(found, torch.ones(2, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_an_embedding_gives_rows(kind: str) -> None:
    found = KINDS[kind].of(matrix(50, 64))
    ids = torch.tensor([[3, 49], [0, 3]])
    assert torch.equal(F.embedding(ids, found), found.dequantized()[ids])
    layer = nn.Embedding(50, 64, padding_idx=0)
    layer.weight = nn.Parameter(found, requires_grad=False)
    assert torch.equal(layer(ids), found.dequantized()[ids])


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_else_is_asked_gets_the_numbers(kind: str) -> None:
    found, x = KINDS[kind].of(matrix(40, 64)), matrix(3, 64, seed=1)
    plain = found.dequantized()
    assert torch.equal(x @ found.T, x @ plain.T)
    assert torch.equal(found[:7] + 1, plain[:7] + 1)
    assert type(found * 2) is torch.Tensor
    assert repr(found) == f"{type(found).__name__}(40, 64)"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("made_in", [False, True])
def test_views_in_inference_mode_are_of_the_numbers(kind: str, made_in: bool) -> None:
    """As an encoder takes the first T rows of its table of positions."""
    with torch.inference_mode(made_in):
        found = nn.Parameter(KINDS[kind].of(matrix(40, 64)), requires_grad=False)
    with torch.inference_mode():
        plain = found.dequantized()
        assert torch.equal(found[:7], plain[:7])
        assert torch.equal(found.T + 1, plain.T + 1)
        assert torch.equal(found.view(20, 2, 64), plain.view(20, 2, 64))


def test_addmm_is_that_of_the_numbers() -> None:
    """As the `Conv1D` of transformers calls it."""
    found = Int8Matrix.of(matrix(64, 40))
    x, bias = matrix(3, 64, seed=1), torch.ones(40)
    assert torch.equal(torch.addmm(bias, x, found), torch.addmm(bias, x, found.dequantized()))


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_moves_stay_quantised(kind: str) -> None:
    found = KINDS[kind].of(matrix(40, 64))
    parameter = nn.Parameter(found, requires_grad=False)
    assert isinstance(parameter, nn.Parameter) and parameter.numel() == 40 * 64
    copied = copy.deepcopy(parameter)
    assert isinstance(copied, KINDS[kind]) and copied.codes is not parameter.codes
    assert torch.equal(copied.codes, found.codes)
    half = found.to(torch.bfloat16)
    assert isinstance(half, KINDS[kind]) and half.dtype == torch.bfloat16
    assert torch.equal(half.codes, found.codes)
    assert torch.equal(half.float().dequantized(), found.dequantized())
    far = found.to("meta")  # a device without numbers stands for any other
    assert isinstance(far, KINDS[kind]) and far.device == far.codes.device == torch.device("meta")
    assert F.linear(torch.ones(2, 64, device="meta"), far).shape == (2, 40)


def test_it_cannot_be_changed() -> None:
    found = Int8Matrix.of(matrix(40, 64))
    with pytest.raises(InputError, match=r"cannot be changed \(aten.mul_"):
        found.mul_(2)
    with pytest.raises(InputError, match="quantise it then"):
        nn.init.zeros_(nn.Parameter(found, requires_grad=False))
    with pytest.raises(InputError, match="cannot be changed"):
        torch.add(torch.ones(40, 64), 1, out=found)


@pytest.mark.parametrize("kind", KINDS)
def test_activations_of_other_sizes(kind: str) -> None:
    """A kernel would read beyond its weights."""
    found = KINDS[kind].of(matrix(40, 64))
    for width in (32, 128):
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            F.linear(torch.ones(2, width), found)
    assert F.linear(torch.ones(0, 5, 64), found).shape == (0, 5, 40)
    assert type(found.long()) is torch.Tensor and found.long().dtype == torch.int64


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_flows_to_the_input(kind: str) -> None:
    found, x = KINDS[kind].of(matrix(40, 64)), matrix(3, 64, seed=1).requires_grad_()
    F.linear(x, found).sum().backward()
    torch.testing.assert_close(x.grad, found.dequantized().sum(0).expand(3, 64))


# ---------------------------------------------------------------- a model


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_keeps_its_surface(alibi: Model, kind: str) -> None:
    small = zoo.quantize(alibi, kind)
    assert small.name == f"alibi-lm-{kind}" and kind_of(small.module) == kind
    assert kind_of(alibi.module) is None  # the one it was made of stays as it is
    assert small.tokenizer is alibi.tokenizer and small.config == alibi.config
    count = sum(parameter.numel() for parameter in small.module.parameters())
    assert count == sum(parameter.numel() for parameter in alibi.module.parameters())
    text = small("The museum was", max_new_tokens=5)
    assert text.startswith("The museum was") and len(text) > len("The museum was")
    pieces = small("The museum was", max_new_tokens=5, stream=True)
    assert "".join(pieces) == text
    both = small(["The museum was", "In"], max_new_tokens=5)
    assert len(both) == 2
    for layer in small.attention("The museum was"):
        torch.testing.assert_close(layer.sum(-1), torch.ones(layer.shape[:-1]))


def test_the_tied_head_is_quantised(alibi: Model) -> None:
    small = zoo.quantize(alibi, "int8")
    assert isinstance(small.module.token_embedding.weight, Int8Matrix)
    plain = {n for n, p in small.module.named_parameters() if not isinstance(p, QuantizedMatrix)}
    assert plain and not any(
        parameter.dim() == 2 for name, parameter in small.module.named_parameters() if name in plain
    )


def test_four_bits_leave_the_embedding_eight() -> None:
    small = quantize(model_of(), "int4").module
    assert isinstance(small.token_embedding.weight, Int8Matrix)
    assert isinstance(small.blocks[0].feed_forward.up.weight, Int4Matrix)
    untied = quantize(model_of(tie_embeddings=False), "int4").module
    assert isinstance(untied.head.weight, Int4Matrix)
    odd = quantize(model_of(d_ff=100), "int4").module  # no multiple of 32
    assert isinstance(odd.blocks[0].feed_forward.down.weight, Int8Matrix)


def test_a_parameter_that_stands_twice_is_quantised_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(100, 64)
            self.head = nn.Linear(64, 100, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(ids))

    model = Model(
        name="twice",
        module=Twice().eval(),
        config=None,
        tokenizer=None,
        pipeline="text-generation",
        card=None,
    )
    small = quantize(model, "int4").module
    assert small.head.weight is small.embedding.weight
    assert isinstance(small.head.weight, Int8Matrix)
    assert model.module.head.weight is model.module.embedding.weight
    ids = torch.tensor([[1, 2]])
    assert (small(ids) - model.module(ids)).abs().max() < 0.05 * model.module(ids).std()


CASES = [
    pytest.param(name, index, id=f"{name}-{index}")
    for name, entry in registry().architectures.items()
    for index in range(len(entry.tiny))
]


@pytest.mark.parametrize("name, index", CASES)
def test_any_architecture(
    name: str, index: int, monkeypatch: pytest.MonkeyPatch, plainly: None
) -> None:
    """A quantised module computes what the module computes with the rounded numbers in it."""
    monkeypatch.setattr(quantization, "LEAST", 64)
    entry = registry().architectures.get(name)
    found: Any = None  # what the kit knows of the plugin, which making a module does not ask
    subject = Subject("architecture", name, found, {}, entry, entry.tiny[index])
    try:
        module = kit.make(subject)
    except MissingExtraError as error:
        pytest.skip(str(error))
    model = Model(
        name=name, module=module, config=module.config, tokenizer=None, pipeline="x", card=None
    )
    small = quantize(model, "int8").module
    matrices = {n: p for n, p in small.named_parameters() if isinstance(p, Int8Matrix)}
    assert matrices
    given = kit.inputs(module, 2)
    before = kit.forward(module, given)
    after = kit.forward(small, given)
    for n, parameter in module.named_parameters():
        if n in matrices:
            hand = by_hand(parameter.detach().numpy(), "int8")
            np.testing.assert_array_equal(matrices[n].dequantized().numpy(), hand)
            parameter.data.copy_(torch.from_numpy(hand))
    wanted = kit.forward(module, given)
    assert (after - wanted).abs().max() < 1e-4 * max(float(wanted.std()), 1.0)
    assert not torch.equal(after, before)  # and rounding is not nothing
    with torch.inference_mode():  # as every pipeline calls it
        assert torch.equal(kit.forward(small, given), after)


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_give_what_the_plain_path_gives(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = quantize(model_of("rope-decoder", n_kv_heads=2), kind).module
    ids = torch.randint(130, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        fast = module(ids)
        monkeypatch.setattr(QuantizedMatrix, "has_kernel", False)
        monkeypatch.setattr(DynamicInt8Matrix, "has_kernel", False)
        plain = module(ids)
    # bfloat16 has 8 bits of mantissa; 8-bit activations are one in 127 of their largest
    assert (fast - plain).abs().max() < (0.2 if "dynamic" in kind else 0.05) * plain.std()


def test_with_a_cache_it_writes_what_it_writes_without(plainly: None) -> None:
    module = quantize(model_of("alibi-decoder", noise=0.5), "int8").module
    options = GenerationOptions(max_new_tokens=12)
    prompts = [[3, 5, 7], [2]]
    with_cache = generate(module, prompts, options).ids
    assert with_cache == generate(module, prompts, options, use_cache=False).ids
    assert len({token for row in with_cache for token in row}) > 3


def test_attention_is_recorded() -> None:
    module = quantize(model_of(), "int4").module
    with torch.no_grad(), record_attention() as layers:
        module(torch.tensor([[1, 2, 3]]))
    assert len(layers) == 2


def test_another_precision() -> None:
    small = quantize(model_of(), "int8").to("bfloat16")
    assert kind_of(small.module) == "int8"
    ids = torch.tensor([[1, 2, 3]])
    logits = small.module(ids)
    assert logits.dtype == torch.bfloat16
    float32 = quantize(model_of(), "int8").module(ids)
    assert (logits.float() - float32).abs().max() < 0.1 * float32.std()


def test_an_adapter_learns_on_quantised_weights() -> None:
    """As in QLoRA (Dettmers et al. 2023, arXiv:2305.14314): the base is only read."""
    small = quantize(model_of(), "int4")
    adapted = adapt(copy.deepcopy(small.module), "lora", rank=2)
    learns = trained(adapted)
    assert learns and not any(isinstance(p, QuantizedMatrix) for p in learns.values())
    adapted(torch.tensor([[1, 2, 3]])).logsumexp(-1).sum().backward()
    moved = [name for name, p in learns.items() if p.grad is not None and p.grad.abs().max() > 0]
    assert any("lora_B" in name for name in moved)


def test_what_cannot_be_quantised(tmp_path: Path) -> None:
    model = model_of()
    with pytest.raises(InputError, match="'int3'. There is: int8, int4, dynamic-int8"):
        quantize(model, "int3")
    with pytest.raises(InputError, match="ours-int8 has int8 weights already, and is not quan"):
        quantize(quantize(model), "int4")
    with pytest.raises(InputError, match="no matrix of 4096 numbers"):
        quantize(model_of(vocab_size=9, d_model=8, d_ff=8), "int8")
    with pytest.raises(ZooError, match="has no card yet"):
        quantize(model).save_pretrained(tmp_path / "out")
    model.adapter = "some"
    with pytest.raises(InputError, match=r"computes with an adapter: quantise what merge\(\)"):
        quantize(model)


# ---------------------------------------------------------------- a folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """alibi-lm as each kind, as `txzoo export` writes it."""
    place = tmp_path_factory.mktemp("quantized")
    return {
        kind: export("alibi-lm", place / kind, f"safetensors-{kind}") for kind in ("int8", "int4")
    } | {"dynamic-int8": zoo.quantize(zoo.load("alibi-lm"), "dynamic-int8").save_pretrained(place)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_loads_as_what_was_written(
    folders: dict[str, Path], alibi: Model, kind: str
) -> None:
    folder = folders[kind]
    model = zoo.load(folder)
    assert model.name == f"alibi-lm-{kind}" and kind_of(model.module) == kind
    ids = torch.arange(1, 40)[None]
    with torch.inference_mode():
        assert torch.equal(model.module(ids), zoo.quantize(alibi, kind).module(ids))
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization"] == kind
    assert zoo.verify(str(folder)).ok
    size = 4 * sum(parameter.numel() for parameter in alibi.module.parameters())  # in float32
    assert (folder / WEIGHTS).stat().st_size < (0.2 if kind == "int4" else 0.27) * size


def test_names_and_numbers_of_the_file(folders: dict[str, Path]) -> None:
    """Read with NumPy alone, the file gives the rounded numbers of the float one."""
    name = "blocks.0.feed_forward.up.weight"
    weight = load_file(ALIBI / WEIGHTS)[name].float().numpy()
    eight, four = (load_file(folders[kind] / WEIGHTS) for kind in ("int8", "int4"))
    codes, scales = eight[name].numpy(), eight[f"{name}_scale"].float().numpy()
    assert codes.dtype == np.int8
    np.testing.assert_array_equal(codes * scales[:, None], by_hand(weight, "int8"))
    packed, scales = four[f"{name}_packed"].numpy(), four[f"{name}_scale"].float().numpy()
    assert packed.dtype == np.uint8 and packed.shape == (512, 64) and scales.shape == (512, 4)
    codes = np.stack([packed & 15, packed >> 4], 2).reshape(512, 4, 32).astype(np.float32) - 8
    numbers = (codes * scales[..., None]).reshape(512, 128)
    np.testing.assert_array_equal(numbers, by_hand(weight, "int4"))
    assert name not in four and "token_embedding.weight_scale" in four


def test_the_card_claims_nothing_that_was_not_measured(folders: dict[str, Path]) -> None:
    card = zoo.info(folders["int8"])
    assert card.scores == [] and "standard_error" not in card.data["txzoo"]
    assert card.name == "alibi-lm-int8" and "int8 weights" in card.summary
    whole = zoo.info("alibi-lm")
    assert whole.files[WEIGHTS].sha256 in card.text and whole.scores
    assert (card.license, card.task) == (whole.license, whole.task)


def test_the_written_folder_is_held_against_the_model(alibi: Model, tmp_path: Path) -> None:
    folder = export(alibi, tmp_path / "out", "safetensors-int8")
    found = check(alibi, folder, "safetensors-int8", prompts=["The museum was built in"])
    assert found.ok and found.tokens == 64 and not found.misread
    assert 0 < found.difference < 0.2 * found.spread
    with pytest.raises(InputError, match="alibi-lm-int8 has int8 weights already, and is not exp"):
        export(folder, tmp_path / "twin", "transformers")
    assert not (tmp_path / "twin").exists()


def test_export_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "small"
    arguments = ["export", "alibi-lm", "--format", "safetensors-int4", "--out", str(folder)]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["compared"]["ok"] and told["compared"]["engine"].startswith("txzoo ")
    assert main(["run", str(folder), "The river", "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().out.startswith("The river")


Change = Callable[[dict[str, torch.Tensor], dict[str, Any]], None]
NORM = "norm.weight"
UP, TOKENS = "blocks.0.feed_forward.up.weight", "token_embedding.weight"


def damaged(source: Path, folder: Path, change: Change) -> Path:
    """A copy of a folder with changed tensors or configuration, and a card that agrees to it."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / WEIGHTS)
    config = json.loads((folder / "config.json").read_text())
    change(tensors, config)
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps(config))
    card = Card.read(folder)
    for name in (WEIGHTS, "config.json"):
        record = FileRecord.of(folder / name)
        card.data["txzoo"]["files"][name] = vars(record)
    card.write(folder)
    return folder


def drop(name: str) -> Change:
    def change(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        del tensors[name]

    return change


def put(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda tensors, config: tensors.update({name: make(tensors[name])})


def say(value: Any) -> Change:
    return lambda tensors, config: config.update({"quantization": value})


def silent(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    del config["quantization"]


def whole(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    tensors.clear()
    tensors.update(load_file(ALIBI / WEIGHTS))


def coded_norm(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    tensors[NORM] = torch.ones(128, 1, dtype=torch.int8)
    tensors[f"{NORM}_scale"] = torch.ones(128, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    "kind, change, error, words",
    [
        ("int8", drop(f"{UP}_scale"), WeightsError, f"{UP} is torch.int8"),
        ("int8", drop(UP), WeightsError, f"missing {UP}, unexpected {UP}_scale"),
        ("int8", put(f"{UP}_scale", lambda t: t[:-1]), WeightsError, "do not fit"),
        ("int8", put(f"{UP}_scale", lambda t: t.int()), WeightsError, "do not fit"),
        ("int8", put(f"{UP}_scale", lambda t: t.float() * 1e36), WeightsError, "do not fit"),
        ("int8", put(f"{UP}_scale", lambda t: t * torch.nan), WeightsError, "NaN or infinity"),
        ("int8", put(UP, lambda t: t[:, :0]), WeightsError, "this AlibiDecoder needs"),
        ("int8", put(UP, lambda t: t.float()), WeightsError, f"unexpected {UP}_scale"),
        ("int8", put(UP, lambda t: t[0]), WeightsError, "do not fit"),
        ("int8", put(TOKENS, lambda t: t[:9]), WeightsError, "do not fit"),
        ("int8", coded_norm, WeightsError, "norm.weight has shape (128, 1)"),
        ("int8", say("int3"), ConfigError, "int8, int4, dynamic-int8, got 'int3'"),
        ("int8", say(["int8"]), ConfigError, "got ['int8']"),
        ("int8", say(None), ConfigError, "got None"),
        ("int8", silent, WeightsError, "unexpected"),
        ("int8", whole, WeightsError, "no tensor is quantised, the configuration says int8"),
        ("int4", drop(f"{UP}_scale"), WeightsError, f"missing {UP}, unexpected {UP}_packed"),
        ("int4", put(f"{UP}_scale", lambda t: t[:, :-1]), WeightsError, "do not fit"),
        ("int4", put(f"{UP}_packed", lambda t: t[:, :-1]), WeightsError, "do not fit"),
        ("int4", put(f"{UP}_packed", lambda t: t.to(torch.int8)), WeightsError, "do not fit"),
        ("int4", put(f"{UP}_packed", lambda t: t.flatten()), WeightsError, "do not fit"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(
    folders: dict[str, Path],
    tmp_path: Path,
    kind: str,
    change: Change,
    error: type[ZooError],
    words: str,
) -> None:
    folder = damaged(folders[kind], tmp_path / "bad", change)
    with pytest.raises(error, match=re.escape(words)) as caught:
        zoo.load(folder)
    assert str(folder) in str(caught.value)


def test_eight_bits_in_a_folder_may_be_multiplied_dynamically(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = damaged(folders["int8"], tmp_path / "dynamic", say("dynamic-int8"))
    assert kind_of(zoo.load(folder).module) == "dynamic-int8"


# ---------------------------------------------------------------- before and after


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """No data set is at hand."""

    def evaluate(*_: Any, **__: Any) -> dict[str, float]:
        raise DataNotFoundError("the text is not here")

    monkeypatch.setattr(effects, "evaluate", evaluate)


def test_eight_bits_cost_a_bundled_model_less_than_one_percent(
    alibi: Model, no_data: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "OWN_TOKENS", 1024)
    found = effect(alibi, ["int8", "dynamic-int8", "int4"], tokens=4, rounds=1)
    assert [row.kind for row in found.rows] == ["float32", "int8", "dynamic-int8", "int4"]
    assert found.metric == "perplexity_per_token"
    assert "alibi-lm writes itself, since the text is not here" in found.text
    float32, int8, dynamic, int4 = found.rows
    assert found.change(float32) is None
    for row in (int8, dynamic):
        change = found.change(row)
        assert change is not None and abs(change) < 0.01
    four = found.change(int4)
    assert four is not None and 0 < four < 0.15
    assert float32.bytes == (ALIBI / WEIGHTS).stat().st_size  # 16 bits a number
    assert 0.5 < int8.bytes / float32.bytes < 0.52 and int4.bytes < 0.36 * float32.bytes
    assert all(row.speed and row.speed.unit == "tokens/s" for row in found.rows)
    # the perplexity of its own text is what zoo.evaluate's parts give for it, by hand
    (first, *_) = rows = effects._own_rows(alibi)
    assert sum(map(len, rows)) - len(rows) == 1024 and len(first) == 257
    nats = []
    for row in rows:
        ids = torch.tensor([row])
        with torch.inference_mode():
            chances = alibi.module(ids[:, :-1]).log_softmax(-1)
        nats.append(-chances[0].gather(1, ids[0, 1:, None]))
    wanted = torch.cat(nats).mean().exp().item()
    assert float32.score == pytest.approx(wanted, rel=1e-3)


def test_the_score_is_that_of_its_task(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "LEAST", 64)
    model = zoo.load(tiny_model)
    found = effect(model, ["int8"], limit=64, tokens=2, rounds=1)
    scores = zoo.evaluate(model, limit=64)
    name = next(iter(scores))
    assert (found.metric, found.rows[0].score) == (name, scores[name])
    assert found.text == "synthetic, test, the first 64"
    small = zoo.evaluate(zoo.quantize(model, "int8"), limit=64)
    assert found.rows[1].score == small[name]


def test_what_writes_nothing_and_has_no_data_has_no_score(no_data: None) -> None:
    model = zoo.load("speech-encoder")
    found = effect(model, ["int8"], rounds=1)
    assert found.rows[0].score is None and found.change(found.rows[1]) is None
    assert found.text == "nothing: the text is not here"
    assert found.rows[0].speed is not None and found.rows[0].speed.unit == "texts/s"


def test_what_is_not_timed_has_a_size_and_a_score() -> None:
    found = effect(zoo.load("tiny-captioner"), ["int8"], limit=2)
    assert [row.speed for row in found.rows] == [None, None]
    assert found.rows[1].bytes < 0.7 * found.rows[0].bytes
    assert found.metric == "exact_attributes" and found.text == "scene-captions, test, the first 2"


def test_the_table(
    no_data: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "OWN_TOKENS", 256)
    arguments = ["quantize", "alibi-lm", "--kinds", "int8, int4", "--tokens", "2", "--rounds", "1"]
    assert main(arguments) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "weights" and head.endswith("change")
    assert [row.split()[0] for row in rows[:3]] == ["float32", "int8", "int4"]
    assert "batch 1; measured on 256 tokens that alibi-lm writes itself" in rows[4]
    assert "thread" in rows[5] and "torch" in rows[5]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in told["rows"]] == ["float32", "int8", "int4"]
    assert told["rows"][1]["change"] == pytest.approx(
        told["rows"][1]["score"] / told["rows"][0]["score"] - 1
    )
    assert told["metric"] == "perplexity_per_token" and told["machine"]["torch"]


@pytest.mark.parametrize(
    "options, words",
    [
        (["--kinds", "int8,int3"], "Unknown quantisation 'int3'. There is: int8"),
        (["--kinds", ""], "Unknown quantisation ''"),
        (["--limit", "0"], "limit must be at least 1, got 0"),
        (["--batch", "-1"], "batch must be at least 1, got -1"),
        (["--tokens", "0"], "tokens must be at least 1, got 0"),
        (["--rounds", "0"], "rounds must be at least 1, got 0"),
    ],
)
def test_wrong_options_of_the_table(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", "alibi-lm", *options]) == 2
    assert words in capsys.readouterr().err
