"""Scenes: the same under a number, nothing of what is held out, captions that say what is there."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from zoo_scenes import scenes
from zoo_scenes.task import SceneCifarContrastive, SceneContrastive, Scenes

from zoo.errors import TrainingError
from zoo.tasks.contrastive import symmetric_loss
from zoo.testing.tasks import PictureConfig


def test_a_scene_follows_from_its_number() -> None:
    one, again = scenes.picture("train", 7), scenes.picture("train", 7)
    assert one.shape == (32, 32, 3) and one.dtype == np.uint8
    assert np.array_equal(one, again)
    assert not np.array_equal(one, scenes.picture("train", 8))
    assert not np.array_equal(one, scenes.picture("validation", 7))
    first, other = scenes.captions("train", 7, [0, 1])
    assert [first, other] == scenes.captions("train", 7, [0, 1])
    assert len(set(scenes.captions("train", 7, range(20)))) > 5
    assert scenes.picture("train", 7, 48).shape == (48, 48, 3)


def test_held_out_pairs_stand_in_their_split_alone() -> None:
    assert len(set(scenes.UNSEEN)) == 8 and ("red", "triangle") in scenes.UNSEEN
    assert {colour for colour, _ in scenes.UNSEEN} == set(scenes.COLOURS)
    assert {shape for _, shape in scenes.UNSEEN} == set(scenes.SHAPES)
    pairs = {split: [scenes.scene(split, n) for n in range(1500)] for split in scenes.SPLITS}
    for split, found in pairs.items():
        kinds = {(scene.colour, scene.shape) for scene in found}
        wanted = 8 if split == "test" else 56
        assert len(kinds) == wanted, split
        assert (kinds == set(scenes.UNSEEN)) == (split == "test")
        assert all(scene.unseen == (split == "test") for scene in found)


def test_captions_say_what_is_there() -> None:
    said = set()
    for number in range(400):
        truth = asdict(scenes.scene("train", number))
        assert scenes.described(scenes.scene("train", number).caption) == truth
        for caption in scenes.captions("train", number, [0, 1]):
            found = scenes.described(caption)
            assert {"colour", "shape", "count"} <= found.keys(), caption
            assert found.items() <= truth.items(), caption
            said |= found.keys()
    assert said == {"colour", "shape", "size", "count", "place"}


@pytest.mark.parametrize("count", ["one", "two", "three"])
def test_the_drawing_shows_colour_size_and_place(count: str) -> None:
    """Counted in pixels near the colour, not by the code that draws."""

    def painted(**changes: str) -> np.ndarray:
        usual = {"colour": "red", "shape": "circle", "size": "large", "count": count}
        place = {"place": "left" if count == "one" else "row"}
        scene = scenes.Scene(**{**usual, **place, **changes})
        pixels = scenes.draw(scene, np.random.default_rng(3), 64).astype(int)
        wanted = np.array(scenes.COLOURS[scene.colour])
        found: np.ndarray = np.abs(pixels - wanted).sum(-1) < 60
        return found

    large, small = painted(), painted(size="small")
    assert large.sum() > 1.4 * small.sum() > 0
    assert not painted(colour="blue")[:1].any()
    if count == "one":
        assert large[:, :32].sum() > 3 * large[:, 32:].sum()
        right = painted(place="right")
        assert right[:, 32:].sum() > 3 * right[:, :32].sum()
    else:
        columns = large.any(0)
        runs = int((np.diff(columns.astype(int)) == 1).sum()) + int(columns[0])
        assert runs == scenes.COUNTS.index(count) + 1


def test_the_symmetric_loss_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    rows = [np.log(np.exp(2) + 1) - 2, np.log(2 * np.e) - 1]
    columns = [np.log(np.exp(2) + np.e) - 2, np.log(1 + np.e) - 1]
    assert symmetric_loss(logits).item() == pytest.approx(np.mean(rows) / 2 + np.mean(columns) / 2)


def test_labels_are_of_the_pictures() -> None:
    source = Scenes("test")
    task = SceneContrastive()
    assert list(task.sources("test_seen")) == ["scenes"]
    for place in (0, 5):
        assert source.names[source.labels[place]] == scenes.scene("test", place).label
    pixels = source([3, 4], 32)
    assert pixels.shape == (2, 3, 32, 32)
    drawn = scenes.picture("test", 4)
    assert np.array_equal(pixels[1].permute(1, 2, 0).numpy(), drawn)


def test_photographs_stand_beside_scenes_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a batch each; the captions of photographs are templates with their own label."""
    import zoo_cifar.task as cifar

    count = 40
    pixels = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1).expand(-1, 32, 32, 3)
    stored = cifar.Stored(pixels.contiguous(), [n % 10 for n in range(count)])
    monkeypatch.setattr(cifar, "read", lambda split: stored)
    monkeypatch.setattr(cifar, "HELD_OUT", 1)
    task = SceneCifarContrastive()
    photographs = task.sources("test")["cifar10"]
    label = photographs.names[photographs.labels[7]]
    said = {photographs.caption(7, draw) for draw in range(30)}
    assert said == {one.replace("{}", label) for one in photographs.templates}
    tokenizer = task.build_tokenizer({"kind": "word"})
    assert {"automobile", "triangle", "photo"} <= tokenizer.get_vocab().keys()
    task.model_config = PictureConfig(image_size=32)
    batches = task.batches(tokenizer, length=16, batch_tokens=12 * 16, seed=1)
    batch = batches(0)
    assert batch["pixels"].shape == (12, 3, 32, 32) and batch["ids"].shape == (12, 16)
    texts = [tokenizer.decode(row.tolist()) for row in batch["ids"]]
    assert [any(name in text for name in cifar.LABELS) for text in texts] == [False] * 6 + [
        True
    ] * 6
    for text in texts[:6]:
        assert scenes.described(text).keys() >= {"colour", "shape"}
    assert torch.equal(batches(0)["pixels"], batch["pixels"])
    assert not torch.equal(batches(1)["pixels"], batch["pixels"])
    with pytest.raises(TrainingError, match="the smallest has 30"):
        task.batches(tokenizer, length=16, batch_tokens=80 * 16, seed=1)
