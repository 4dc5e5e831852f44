"""The Vision Transformer against transformers, both ways; its positions and pixels too."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from zoo_vit.compact import CompactConfig, CompactTransformer
from zoo_vit.model import ViT, ViTConfig, sinusoids

import zoo
from zoo.errors import ConfigError, InputError, WeightsError
from zoo.export import export
from zoo.images import pixels_of
from zoo.model import Model
from zoo.tuning.heads import refit

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")
CLOSE = {"rtol": 1e-5, "atol": 2e-5}
SIZES: dict[str, Any] = {
    "image_size": 20,
    "patch_size": 4,
    "hidden_size": 15,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "intermediate_size": 22,
    "num_labels": 4,
    "layer_norm_eps": 3e-4,
}
LABELS = ("cat", "dog", "none")


def wide(module: torch.nn.Module) -> Any:
    """Random weights large enough that every part shows."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def pixels(height: int = 20, width: int = 20, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(2, channels, height, width, generator=generator)


def theirs_of(**changes: Any) -> Any:
    config = transformers.ViTConfig(**{**SIZES, **changes})
    return wide(transformers.ViTForImageClassification(config))


def model_of(module: Any) -> Model:
    return Model(
        name="tiny",
        module=module,
        config=module.config,
        tokenizer=None,
        pipeline="image-classification",
        card=None,
    )


@pytest.mark.parametrize("channels", [1, 3])
@torch.no_grad()
def test_a_checkpoint_loads_and_computes_the_same(channels: int, tmp_path: Path) -> None:
    theirs = theirs_of(num_channels=channels)
    theirs.save_pretrained(tmp_path)
    model = zoo.load(str(tmp_path))
    given = pixels(channels=channels)
    torch.testing.assert_close(model.module(given), theirs(given).logits, **CLOSE)
    assert model.pipeline == "image-classification"
    assert model.config.labels == tuple(theirs.config.id2label.values())


@pytest.mark.parametrize("size", [(28, 20), (12, 36), (8, 8)])
@torch.no_grad()
def test_positions_are_interpolated_as_theirs(size: tuple[int, int], tmp_path: Path) -> None:
    theirs = theirs_of()
    theirs.save_pretrained(tmp_path)
    ours = zoo.load(str(tmp_path)).module
    found = theirs(pixels(*size), interpolate_pos_encoding=True).logits
    torch.testing.assert_close(ours(pixels(*size)), found, **CLOSE)


@pytest.mark.parametrize("size", [12, 28, 80])
def test_adapted_to_another_size_it_keeps_its_places(size: int, tmp_path: Path) -> None:
    theirs = theirs_of()
    theirs.save_pretrained(tmp_path)
    module, fresh = refit(zoo.load(str(tmp_path)).module, {"image_size": size})
    assert fresh == [] and module.config.image_size == size
    with torch.no_grad():
        found = theirs(pixels(size, size), interpolate_pos_encoding=True).logits
        torch.testing.assert_close(module(pixels(size, size)), found, **CLOSE)
    assert module.positions.weight.shape == ((size // 4) ** 2 + 1, 15)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 84}, "image_size=84: the trained model has 20, it cannot grow beyond 80"),
        ({"image_size": 80, "patch_size": 1}, "6401 positions: the trained model can have 416"),
        ({"n_layers": 4}, "n_layers=4: the trained model has 3, it cannot grow"),
        ({"pooling": "mean"}, "asks for other weights than the trained model has: positions"),
    ],
)
def test_what_it_cannot_be_adapted_to(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    theirs_of().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=words):
        refit(zoo.load(str(tmp_path)).module, changes)


@torch.no_grad()
def test_ours_opens_there_with_its_pixels(tmp_path: Path) -> None:
    config = ViTConfig(
        image_size=20,
        patch_size=4,
        d_model=15,
        n_layers=2,
        n_heads=3,
        d_ff=22,
        labels=LABELS,
        image_mean=(0.4, 0.5, 0.6),
        image_std=(0.2, 0.3, 0.4),
    )
    ours = wide(ViT(config))
    export(model_of(ours), tmp_path / "out")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(theirs(pixels()).logits, ours(pixels()), **CLOSE)
    assert tuple(theirs.config.id2label.values()) == LABELS
    again = zoo.load(str(tmp_path / "out"))
    assert again.config == config

    # through their processor and through ours
    for backend in ("pil", "torchvision"):
        processor = transformers.AutoImageProcessor.from_pretrained(
            tmp_path / "out", backend=backend
        )
        wanted = processor(photograph(), return_tensors="pt")["pixel_values"]
        # torchvision's own resizing rounds otherwise than Pillow's: by one of 255 levels
        level = 1.01 / 255 / 0.2 if backend == "torchvision" else 1e-5
        torch.testing.assert_close(pixels_of([photograph()], config), wanted, rtol=0, atol=level)


def photograph() -> Image.Image:
    """Of other sides than the model's."""
    generator = np.random.default_rng(1)
    return Image.fromarray(generator.integers(0, 256, (47, 33, 3), dtype=np.uint8))


def with_processor(folder: Path, **settings: Any) -> Any:
    """A checkpoint beside its processor, which is given back."""
    theirs_of().save_pretrained(folder)
    kind = transformers.models.vit.ViTImageProcessorPil
    processor = kind(**{"size": {"height": 20, "width": 20}, **settings})
    processor.save_pretrained(folder)
    return processor


@pytest.mark.parametrize("settings", [{}, {"do_normalize": False}, {"image_mean": [0.1, 0.2, 0.3]}])
def test_pixels_are_those_of_the_checkpoints_processor(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    processor = with_processor(tmp_path, **settings)
    wanted = processor(photograph(), return_tensors="pt")["pixel_values"]
    ours = zoo.load(str(tmp_path)).config
    torch.testing.assert_close(pixels_of([photograph()], ours), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"resample": 3}, "resample=3"),
        ({"do_center_crop": True, "crop_size": {"height": 20, "width": 20}}, "do_center_crop=True"),
        ({"size": {"shortest_edge": 20}}, "shortest_edge"),
        ({"size": {"height": 24, "width": 24}}, "'height': 24"),
        ({"do_resize": False}, "do_resize=False"),
        ({"do_rescale": False}, "do_rescale=False"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor=0.0078"),
    ],
)
def test_pictures_that_it_would_read_otherwise(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with_processor(tmp_path, **settings)
    with pytest.raises(ConfigError, match=f"{words}.*brought to 20 x 20, bilinearly"):
        zoo.load(str(tmp_path))


def test_processors_of_other_models_are_not_read(tmp_path: Path) -> None:
    theirs_of().save_pretrained(tmp_path)
    told = {"feature_extractor_type": "DeiTFeatureExtractor", "size": 20}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="DeiTFeatureExtractor"):
        zoo.load(str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text('{"size": 20, "resample": 2}')
    assert zoo.load(str(tmp_path)).config.image_size == 20  # as older ones are written


def test_checkpoints_that_it_does_not_read(tmp_path: Path) -> None:
    theirs = theirs_of()
    theirs.save_pretrained(tmp_path)
    tensors = {name: t for name, t in theirs.state_dict().items()}
    values = {**theirs.config.to_dict(), "architectures": ["ViTForImageClassification"]}
    with pytest.raises(WeightsError, match="lacks vit.encoder.layer.0"):
        ViT.from_transformers(values, tensors)  # these names are of the class, not of the file
    for change, message in (
        ({"hidden_act": "relu"}, "activation 'relu'"),
        ({"qkv_bias": False}, "without biases"),
        ({"architectures": ["ViTMAEModel"]}, "ViTMAEModel is not read"),
    ):
        with pytest.raises(ConfigError, match=message):
            ViT.from_transformers({**values, **change}, tensors)


def test_what_transformers_has_not_is_said() -> None:
    config = ViTConfig(
        image_size=8,
        patch_size=4,
        d_model=8,
        n_layers=1,
        n_heads=2,
        d_ff=8,
        labels=LABELS,
        pooling="mean",
    )
    with pytest.raises(ConfigError, match="class token and learned positions"):
        ViT(config).to_transformers()


def test_sinusoids_by_hand() -> None:
    """Row 1, column 2 of 3 x 4 places, width 8: two rates, 1 and 1/100."""
    found = sinusoids(3, 4, 8)[1 * 4 + 2].tolist()
    across = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]
    down = [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]
    assert found == pytest.approx([*across, *down], abs=1e-6)


@torch.no_grad()
def test_the_compact_one_by_layers_of_torch() -> None:
    """Stem, blocks and pooling as Hassani et al. write them, of PyTorch's own layers."""
    config = CompactConfig(
        image_size=16,
        d_model=12,
        n_layers=2,
        n_heads=3,
        d_ff=20,
        labels=LABELS,
        n_convolutions=2,
        stem_width=5,
    )
    ours: Any = wide(CompactTransformer(config))
    nn = torch.nn
    stem = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(5, 12, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    )
    stem[0].weight.copy_(ours.stem.convolutions[0].weight)
    stem[3].weight.copy_(ours.stem.convolutions[1].weight)
    x = stem(pixels(16, 16)).flatten(2).transpose(1, 2) + ours.positions.weight
    for block in ours.blocks:
        layer = nn.TransformerEncoderLayer(
            12,
            3,
            20,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
            layer_norm_eps=1e-6,
        ).eval()
        layer.self_attn.in_proj_weight.copy_(block.attention.qkv.weight)
        layer.self_attn.in_proj_bias.copy_(block.attention.qkv.bias)
        for theirs, own in (
            (layer.self_attn.out_proj, block.attention.out),
            (layer.linear1, block.up),
            (layer.linear2, block.down),
            (layer.norm1, block.norm_1),
            (layer.norm2, block.norm_2),
        ):
            theirs.weight.copy_(own.weight)
            theirs.bias.copy_(own.bias)
        x = layer(x)
    x = nn.functional.layer_norm(x, (12,), ours.norm.weight, ours.norm.bias, 1e-6)
    weights = torch.softmax(ours.pooling(x), dim=1)
    pooled = torch.matmul(weights.transpose(-1, -2), x).squeeze(-2)
    torch.testing.assert_close(ours(pixels(16, 16)), ours.head(pooled), **CLOSE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("one",)}, "two labels or more"),
        ({"labels": "cat"}, "list of names"),
        ({"patch_size": 3}, "image_size=16 must be a multiple of patch_size=3"),
        ({"pooling": "last"}, "pooling must be one of"),
        ({"positions": "none"}, "positions must be one of"),
        ({"positions": "sinusoidal", "d_model": 6}, "in fours"),
        ({"image_mean": (0.5,)}, "image_mean has 1 numbers"),
        ({"image_std": (0.5, 0.0, 0.5)}, "image_std must be above 0"),
    ],
)
def test_sizes_that_cannot_be(change: dict[str, Any], message: str) -> None:
    values = {"image_size": 16, "patch_size": 4, "d_model": 8, "n_layers": 1, "n_heads": 2}
    values |= {"d_ff": 8, "labels": LABELS}
    with pytest.raises(ConfigError, match=message):
        ViTConfig.from_dict({**values, **change})


def test_pixels_that_it_cannot_read() -> None:
    config = ViTConfig(
        image_size=8, patch_size=4, d_model=8, n_layers=1, n_heads=2, d_ff=8, labels=LABELS
    )
    module = ViT(config)
    for given, message in (
        (pixels(8, 8, 1), r"\(B, 3, height, width\), got \(2, 1, 8, 8\)"),
        (pixels(8, 10), "8 x 10 pixels cannot be cut into squares of 4"),
        (pixels(8, 8)[0], r"got \(3, 8, 8\)"),
    ):
        with pytest.raises(InputError, match=message):
            module(given)
