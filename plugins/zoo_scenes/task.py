"""Scenes and their captions, to be brought together. What is held out is said in `scenes`."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from zoo.tasks.contrastive import PHOTO_TEMPLATES, Contrastive, Source, Templated
from zoo_scenes import scenes

SCENE_TEMPLATES = (
    "a {}",
    "a small {}",
    "a large {}",
    "a drawing of a {}",
    "a picture of a {}",
    "there is a {}",
    "I see a {}",
    "you can see a {}",
    "there is a large {} in the middle",
)


class Scenes:
    """The scenes of a split, drawn when they are asked for."""

    names: tuple[str, ...] = scenes.LABELS
    templates: tuple[str, ...] = SCENE_TEMPLATES
    size = 32
    moves = False  # captions say where things are

    def __init__(self, split: str) -> None:
        self.split = split

    @cached_property
    def labels(self) -> Sequence[int]:
        """The place in `names` of what each scene shows (N,)."""
        place_of = {name: place for place, name in enumerate(self.names)}
        return [place_of[scenes.scene(self.split, n).label] for n in range(len(self))]

    def __len__(self) -> int:
        return scenes.SPLITS[self.split]

    def __call__(self, places: Sequence[int], size: int) -> Tensor:
        """Pictures as uint8 (B, 3, S, S)."""
        drawn = np.stack([scenes.picture(self.split, place, size) for place in places])
        return torch.from_numpy(drawn).permute(0, 3, 1, 2)

    def caption(self, place: int, draw: int) -> str:
        """A caption in words that are drawn."""
        return scenes.captions(self.split, place, [draw])[0]


class SceneContrastive(Contrastive):
    """Drawings alone; "test" shows held-out pairs of colour and shape, "test_seen" the others."""

    splits = ("train", "validation", "test", "test_seen")
    test_splits = ("test", "test_seen")

    def sources(self, split: str) -> Mapping[str, Source]:
        """The scenes of a split."""
        return {"scenes": Scenes(split)}


class SceneCifarContrastive(SceneContrastive):
    """Drawings, and as many photographs in each batch; both test splits have CIFAR-10's test."""

    def sources(self, split: str) -> Mapping[str, Source]:
        """The scenes of a split, and CIFAR-10's pictures of it."""
        photographs = Templated("cifar10", split.removesuffix("_seen"), PHOTO_TEMPLATES)
        return {"scenes": Scenes(split), "cifar10": photographs}
