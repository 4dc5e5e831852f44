"""Pictures that people give, as pixels that models read. Pillow decodes them, and is asked late.

Letters: B batch, C channels, S pixels a side.
"""

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zoo.errors import InputError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    Picture = str | Path | bytes | Image.Image | npt.NDArray[Any]

MOST_BYTES = 1 << 29  # of a file
MOST_PIXELS = 100_000_000  # of a picture; a camera has fewer, an archive bomb has more
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # modes whose numbers go up to 65,535


def open_picture(picture: "Picture") -> "Image.Image":
    """A picture in red, green and blue, as a person sees it.

    It is turned as its EXIF data say; what is transparent is laid on white; of 16 bits a colour the
    upper 8 are kept; of an animation the first frame is.

    Args:
        picture: a path, the bytes of a file, a Pillow image, or an array (height, width),
            (height, width, 3) or (height, width, 4) of uint8, or of floats from 0 to 1.

    Raises:
        InputError: there is no such file, it is no picture or a damaged one, or it has more than
            100 million pixels, which are counted before any is decoded.
    """
    from PIL import Image, ImageOps

    what = _called(picture)
    if isinstance(picture, np.ndarray):
        picture = _of_array(picture)
    if isinstance(picture, Image.Image):
        found = picture
    else:
        found = _opened(picture, what)
    width, height = found.size
    if not width or not height:
        raise InputError(f"{what} has no pixels: {width} x {height}")
    if width * height > MOST_PIXELS:
        raise InputError(
            f"{what} has {width} x {height} pixels, more than {MOST_PIXELS:,}: make it smaller"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata that nobody asks for
            found.load()
            found = ImageOps.exif_transpose(found)
            return _in_colour(found)
    except Exception as error:  # every format's decoder has errors of its own
        raise InputError(f"{what} is damaged: {error}") from error


def _called(picture: Any) -> str:
    if isinstance(picture, str | Path):
        return f"The picture {str(picture)!r}"
    return "The picture"


def _opened(picture: Any, what: str) -> "Image.Image":
    """A file's header read, nothing decoded."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(picture, str | Path):
        if not os.path.isfile(picture):
            raise InputError(f"There is no picture {str(picture)!r}: give the path of a file")
        if os.path.getsize(picture) > MOST_BYTES:
            raise InputError(f"{what} has {os.path.getsize(picture):,} bytes: it is no picture")
        data = Path(picture).read_bytes()
    elif isinstance(picture, bytes):
        data = picture
    else:
        raise InputError(
            "A picture is a path, bytes, a Pillow image or an array, "
            f"got {type(picture).__name__}: {picture!r:.80}"
        )
    if not data:
        raise InputError(f"{what} is empty: 0 bytes")
    try:
        with warnings.catch_warnings():  # of many pixels: they are counted by the caller
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise InputError(f"{what} has more than {MOST_PIXELS:,} pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{what} is none that Pillow can read, such as JPEG or PNG") from error
    except Exception as error:
        raise InputError(f"{what} cannot be read: {error}") from error


def _of_array(array: npt.NDArray[Any]) -> "Image.Image":
    from PIL import Image

    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise InputError(
            "An array of a picture is (height, width), (height, width, 3) or (height, width, 4), "
            f"got {array.shape}"
        )
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise InputError("An array of floats must lie from 0 to 1, and hold no NaN")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(f"An array of a picture holds uint8 or floats, got {array.dtype}")
    return Image.fromarray(array)


def _in_colour(image: "Image.Image") -> "Image.Image":
    """Any mode as RGB."""
    from PIL import Image

    if image.mode in DEEP:
        deep = np.asarray(image).astype(np.int64)
        shift = 8 if deep.max() > 255 or image.mode != "I" else 0
        return Image.fromarray((deep >> shift).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(np.asarray(image).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        seen = image.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        return Image.alpha_composite(white, seen).convert("RGB")
    return image.convert("RGB")


def squared(image: "Image.Image", size: int, resample: str = "bilinear") -> npt.NDArray[np.uint8]:
    """A picture at S x S, (S, S, 3): both sides are brought to S, bilinearly, as ViT's are.

    Args:
        image: a picture.
        size: S.
        resample: "bilinear", or "bicubic", as BLIP's are.
    """
    from PIL.Image import Resampling

    if image.size != (size, size):
        image = image.resize((size, size), Resampling[resample.upper()])
    return np.asarray(image)


def pixels_of(pictures: Sequence["Picture"], config: Any) -> "Tensor":
    """Pictures as a model reads them.

    Args:
        pictures: as `open_picture` takes them.
        config: with `image_size`, `n_channels`, `image_mean` and `image_std`, perhaps `resample`.

    Returns:
        Normalised pixels (B, C, S, S).

    Raises:
        InputError: as in `open_picture`.
    """
    import torch

    size, resample = config.image_size, getattr(config, "resample", "bilinear")
    found = [squared(open_picture(picture), size, resample) for picture in pictures]
    return normalised(torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2), config)


def normalised(pixels: "Tensor", config: Any) -> "Tensor":
    """Pixels (B, 3, S, S) of uint8 as numbers around 0 (B, C, S, S); one channel is their grey."""
    import torch

    values = pixels.float() / 255
    if config.n_channels == 1:  # ITU-R 601-2, as Pillow's
        grey = torch.tensor([0.299, 0.587, 0.114], device=values.device).view(1, 3, 1, 1)
        values = (values * grey).sum(1, keepdim=True)
    mean, std = (
        torch.tensor(numbers, device=values.device).view(1, -1, 1, 1)
        for numbers in (config.image_mean, config.image_std)
    )
    return (values - mean) / std
