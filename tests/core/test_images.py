"""Pictures that people give: every kind of file, and what is none."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.errors import InputError
from zoo.images import normalised, open_picture, pixels_of, squared

RED, BLUE = (200, 30, 10), (10, 20, 220)


class Small:
    """What `pixels_of` asks of a configuration."""

    image_size, n_channels = 4, 3
    image_mean, image_std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def halves(mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image.convert(mode)


def written(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def colours(image: Image.Image) -> tuple[Any, Any]:
    """What stands in the top left and top right corner."""
    assert image.mode == "RGB"
    return image.getpixel((0, 0)), image.getpixel((image.width - 1, 0))


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG"])
def test_formats(format: str, tmp_path: Path) -> None:
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    data = written(halves(), format, **options.get(format, {}))
    path = tmp_path / f"picture.{format.lower()}"
    path.write_bytes(data)
    for given in (data, path, str(path), Image.open(io.BytesIO(data)), np.asarray(halves())):
        left, right = colours(open_picture(given))
        assert np.abs(np.subtract(left, RED)).max() <= (6 if format == "JPEG" else 0)
        assert np.abs(np.subtract(right, BLUE)).max() <= (6 if format == "JPEG" else 0)


def test_cmyk() -> None:
    left, right = colours(open_picture(written(halves("CMYK"), "TIFF")))
    assert (left, right) == (RED, BLUE)  # Pillow's own conversion there and back


def test_a_palette() -> None:
    image = halves().quantize(4)
    assert colours(open_picture(written(image, "PNG"))) == (RED, BLUE)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_what_is_transparent_lies_on_white(mode: str) -> None:
    image = Image.new("RGBA", (6, 4), (*RED, 255))
    image.paste((*BLUE, 0), (3, 0, 6, 4))
    if mode == "P":
        image = image.quantize(4)
    assert colours(open_picture(written(image, "PNG"))) == (RED, (255, 255, 255))
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 51))  # a fifth of black on white
    assert open_picture(half).getpixel((0, 0)) == (204, 204, 204)


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits(mode: str) -> None:
    deep = np.array([[0, 0x80FF, 0xFFFF]], dtype=np.uint16)
    image = Image.fromarray(deep) if mode == "I;16" else Image.fromarray(deep.astype(np.int32))
    assert image.mode == mode
    found = np.asarray(open_picture(written(image, "PNG") if mode == "I;16" else image))
    assert found[0, :, 0].tolist() == [0, 0x80, 0xFF] and (found == found[..., :1]).all()


def test_exif_turns_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # what is stored has to be turned by 90 degrees to the right
    left_to_top = open_picture(written(halves(), "PNG", exif=exif))
    assert left_to_top.size == (4, 6)
    assert left_to_top.getpixel((0, 0)) == RED and left_to_top.getpixel((0, 5)) == BLUE


def test_of_an_animation_the_first_frame() -> None:
    first, second = Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4), BLUE)
    data = written(first, "GIF", save_all=True, append_images=[second])
    assert colours(open_picture(data)) == (RED, RED)


def test_arrays() -> None:
    array = np.asarray(halves())
    assert colours(open_picture(array / 255.0)) == (RED, BLUE)
    assert open_picture(array[..., 0]).getpixel((0, 0)) == (RED[0],) * 3
    for bad, message in (
        (array[..., :2], r"got \(4, 6, 2\)"),
        (np.full((2, 2), np.nan), "hold no NaN"),
        (np.full((2, 2), 1.5), "from 0 to 1"),
        (array.astype(np.int64), "uint8 or floats, got int64"),
        (np.empty((0, 4, 3), np.uint8), "no pixels"),
    ):
        with pytest.raises(InputError, match=message):
            open_picture(bad)


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("I am a text.")
    whole = written(
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "PNG"
    )
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name, message in (
        ("none.jpg", "There is no picture"),
        ("empty.jpg", "is empty: 0 bytes"),
        ("text.jpg", "none that Pillow can read"),
        ("cut.png", "is damaged"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            open_picture(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(InputError, match="There is no picture"):
        open_picture(tmp_path)  # a folder
    with pytest.raises(InputError, match="got int: 3"):
        open_picture(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [11_000, 30_000])  # Pillow warns of the one, refuses the other
def test_a_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    """Up to 900 million pixels in a file of a few kilobytes."""
    data = written(Image.new("1", (side, side)), "TIFF", compression="group4")
    assert len(data) < 1 << 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="more than 100,000,000"):
            open_picture(data)


def test_one_pixel() -> None:
    assert (
        squared(open_picture(written(Image.new("RGB", (1, 1), RED), "PNG")), 4).tolist()
        == [[list(RED)] * 4] * 4
    )


def test_pixels_are_normalised_channel_by_channel() -> None:
    found = pixels_of([Image.new("RGB", (9, 5), RED), halves()], Small)
    assert found.shape == (2, 3, 4, 4) and found.dtype == torch.float32
    wanted = [(200 / 255 - 0.5) / 0.2, (30 / 255 - 0.4) / 0.25, (10 / 255 - 0.3) / 0.5]
    assert found[0, :, 2, 1].tolist() == pytest.approx(wanted, abs=1e-6)


def test_one_channel_is_grey() -> None:
    class Grey(Small):
        n_channels, image_mean, image_std = 1, (0.0,), (1.0,)

    pixels = torch.from_numpy(np.array(halves(size=(4, 4)))).permute(2, 0, 1)[None]
    wanted = np.asarray(halves(size=(4, 4)).convert("L"))
    assert (normalised(pixels, Grey)[0, 0] * 255).round().tolist() == wanted.tolist()
