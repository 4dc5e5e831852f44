"""CIFAR-10 (Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images").

As published there is no validation split; here the last 250 training pictures of each label, in the
order of their names, are one.

Letters: N pictures, S pixels a side.
"""

import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.data import from_hub, local_file
from zoo.errors import DataNotFoundError
from zoo.images import squared
from zoo.tasks import ImageClassification
from zoo.tasks.contrastive import PHOTO_TEMPLATES, Contrastive, Source, Templated

FILE = "cifar10/cifar10_jpg_full.tar.gz"
REVISION = "0b2714987fa478483af9968de7c934580d0bb9a2"
LABELS = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
HELD_OUT = 250  # of each label


@dataclass(frozen=True)
class Stored:
    """Pictures in memory.

    Attributes:
        pixels: uint8 (N, S, S, 3).
        labels: places in `LABELS` (N,).
    """

    pixels: Tensor
    labels: Sequence[int]

    def __call__(self, places: Sequence[int], size: int) -> Tensor:
        """Pictures as uint8 (B, 3, size, size)."""
        found = self.pixels[list(places)]
        if size != found.shape[1]:
            pictures = [squared(Image.fromarray(picture.numpy()), size) for picture in found]
            found = torch.from_numpy(np.stack(pictures))
        return found.permute(0, 3, 1, 2)


class Cifar10(ImageClassification):
    """Ten things, 5,000 pictures of each to learn from and 1,000 to be measured on."""

    labels = LABELS

    def pictures(self, split: str) -> Stored:
        """The pictures of a split, label by label."""
        if split == "test":
            return read("test")
        whole = read("train")
        labels = np.asarray(whole.labels)
        places = []
        for label in range(len(LABELS)):
            own = np.flatnonzero(labels == label)
            places.append(own[-HELD_OUT:] if split == "validation" else own[:-HELD_OUT])
        kept = np.concatenate(places)
        return Stored(whole.pixels[torch.from_numpy(kept)], labels[kept].tolist())


class Cifar10ZeroShot(Contrastive):
    """The ten things in words; what is learned from has templates with the label as captions."""

    def sources(self, split: str) -> Mapping[str, Source]:
        """The pictures of a split."""
        return {"cifar10": Templated("cifar10", split, PHOTO_TEMPLATES)}


@cache
def read(split: str) -> Stored:
    """All pictures of "train" or "test", from `TXZOO_DATA` or the Hub, label by label."""
    path = local_file(FILE)
    rows = _of_archive(path, split) if path is not None else _of_hub(split)
    rows.sort(key=lambda row: row[:2])
    pixels = torch.from_numpy(np.stack([row[2] for row in rows]))
    return Stored(pixels, [row[0] for row in rows])


def _of_archive(path: Path, split: str) -> list[tuple[int, str, np.ndarray]]:
    """Label, name and pixels of each picture below `cifar10/SPLIT/LABEL/`."""
    rows = []
    with tarfile.open(path) as archive:
        for member in archive:
            parts = member.name.split("/")
            if not member.isfile() or parts[:2] != ["cifar10", split]:
                continue
            data = archive.extractfile(member)
            if len(parts) != 4 or parts[2] not in LABELS or data is None:
                raise DataNotFoundError(f"{path}: {member.name} is not a picture of CIFAR-10")
            rows.append(
                (LABELS.index(parts[2]), parts[3], _pixels(Image.open(io.BytesIO(data.read()))))
            )
    if not rows:
        raise DataNotFoundError(f"{path} holds no pictures below cifar10/{split}/")
    return rows


def _of_hub(split: str) -> list[tuple[int, str, np.ndarray]]:
    found = from_hub("uoft-cs/cifar10", split=split, revision=REVISION)
    return [(row["label"], f"{place:05}", _pixels(row["img"])) for place, row in enumerate(found)]


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))
