"""Scenes to be put into words: a task of captions. What is held out is said in `scenes`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from zoo.tasks.captioning import Captioning
from zoo_scenes import scenes
from zoo_scenes.task import Scenes

REFERENCES = 6  # captions of a scene that BLEU compares with, the plainest among them


class Told(Scenes):
    """The scenes of a split, and what there is to be said of each."""

    def references(self, place: int) -> Sequence[str]:
        """The plain caption, and drawn ones."""
        drawn = scenes.captions(self.split, place, range(REFERENCES - 1))
        return [scenes.scene(self.split, place).caption, *drawn]

    def attributes(self, place: int) -> Mapping[str, str]:
        """Colour, shape, size, count and place."""
        return asdict(scenes.scene(self.split, place))


class SceneCaptions(Captioning):
    """Scenes in words; "test" shows held-out pairs of colour and shape, "test_seen" the others."""

    splits = ("train", "validation", "test", "test_seen")
    test_splits = ("test", "test_seen")
    drawn = True
    attributes = ("colour", "shape", "size", "count", "place")

    def pictures(self, split: str) -> Told:
        """The scenes of a split."""
        return Told(split)

    def described(self, caption: str) -> Mapping[str, str]:
        """What a caption says, in the scenes' own words."""
        return scenes.described(caption)
