"""What the views of pictures share: where one is given, and what is laid over it."""

import base64
import io
from collections.abc import Callable, Mapping
from functools import partial
from html import escape
from typing import Any

import gradio as gr
import matplotlib
import numpy as np
from PIL import Image

from zoo.drawings import DRAWN, SIDE, drawing
from zoo.errors import InputError
from zoo.images import open_picture, squared
from zoo.registry import resolve
from zoo_gallery import markup
from zoo_gallery.state import Gallery

EACH = 3  # drawings of each split of a task
SHOWN = 256  # pixels a side of a picture with something laid over it
DRAWINGS: Mapping[str, Callable[[], Image.Image]] = {
    name.capitalize(): partial(drawing, name) for name in DRAWN
}
LEAST_SPREAD = 0.2
COVER = 0.6  # how much of a pixel's colour is the map's


def picture_input(examples: Mapping[str, Callable[[], Image.Image]] = DRAWINGS) -> gr.Image:
    """A picture to upload, to take or to paste, and below it some to begin with.

    Args:
        examples: what makes each of them, by its name.
    """
    first = next(iter(examples))
    picture = gr.Image(
        examples[first](),
        label="Picture",
        type="filepath",
        image_mode=None,
        format="png",
        sources=["upload", "webcam", "clipboard"],
        height=300,
        buttons=[],
        alt_text="The picture that is read",
    )
    decoded = picture.preprocess

    def path_of(payload: Any) -> Any:
        # what a program sent inside its request becomes a file first
        return payload.path if payload is not None and payload.path else decoded(payload)

    # Gradio would decode it before zoo can say what is wrong with it. Not a class of one's own:
    # for each Gradio writes a file beside its source.
    picture.preprocess = path_of
    names = gr.Radio(list(examples), value=first, label="Drawings")
    names.input(
        lambda name: examples[name](), names, picture, queue=False, api_visibility="private"
    )
    return picture


def drawn_by(gallery: Gallery, name: str) -> Mapping[str, Callable[[], Image.Image]]:
    """Some pictures of a task that draws its own, of each split that is measured; else nothing."""
    if name not in gallery.registry.tasks.names():
        return {}
    task = resolve(gallery.registry.tasks.get(name).target)()
    if not getattr(task, "drawn", False):
        return {}
    return {
        f"{split.replace('_', ' ')} {place + 1}": partial(task.drawing, split, place, SIDE)
        for split in task.test_splits
        for place in range(EACH)
    }


def require(picture: str | None) -> str:
    """The path of a picture that was given.

    Raises:
        InputError: none was.
    """
    if picture is None:
        raise InputError("There is no picture: upload one, take one, or choose a drawing")
    return picture


def laid_over(picture: Any, weights: Any, caption: str, size: int = SHOWN) -> str:
    """A picture as it is read, both sides alike, with a map over it: bright is much, dark little.

    Args:
        picture: as `zoo.images.open_picture` takes it.
        weights: (rows, columns) of numbers from 0 on, drawn from the least to the greatest; where
            these differ by less than `LEAST_SPREAD` of the mean, in the middle of the colours.
        caption: says what they are.
        size: pixels a side.
    """
    image = squared(open_picture(picture), size) / 255
    values = np.asarray(weights, dtype=float)
    spread = max(np.ptp(values), LEAST_SPREAD * values.mean()) or 1.0
    values = 0.5 + (values - (values.max() + values.min()) / 2) / spread
    colours = (matplotlib.colormaps["inferno"](values)[..., :3] * 255).astype(np.uint8)
    patches = Image.fromarray(colours).resize((size, size), Image.Resampling.NEAREST)
    mixed = (1 - COVER) * image + COVER * np.asarray(patches) / 255
    pixels = Image.fromarray((mixed * 255).round().astype(np.uint8))
    return figure(pixels, f"{caption}, laid over it", caption)


def figure(image: Image.Image, says: str, caption: str) -> str:
    """A picture inside the page.

    Args:
        image: the picture.
        says: what stands for it where it cannot be seen.
        caption: below it.
    """
    file = io.BytesIO()
    image.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    width, height = image.size
    return (
        f'<figure class="zoo-seen"><img src="data:image/png;base64,{data}" '
        f'alt="{escape(says)}" width="{width}" height="{height}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def numbers(weights: Any, caption: str) -> str:
    """The numbers of a map (rows, columns), in percent of all, as a table."""
    rows = np.asarray(weights, dtype=float)
    titles = ["Row", *(str(place) for place in range(1, rows.shape[1] + 1))]
    shares = 100 * rows / rows.sum()
    cells = [[str(n), *(f"{share:.2f}" for share in row)] for n, row in enumerate(shares, start=1)]
    return markup.table(caption, titles, cells)


def ends(weights: Any) -> str:
    """How far a map goes, in words."""
    shares = 100 * np.asarray(weights, dtype=float) / np.sum(weights)
    return (
        f"A dark patch counts little, {shares.min():.2f} % at least, a bright one much, "
        f"{shares.max():.2f} % at most; if all counted alike, {100 / shares.size:.2f} %."
    )
