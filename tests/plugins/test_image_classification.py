"""From a folder of pictures to a trained classifier: the task, the pipeline, the command."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo_cifar.task
from PIL import Image

import zoo
from zoo.attention import seen
from zoo.cli import main
from zoo.errors import DataNotFoundError, InputError, RecipeError, TrainingError
from zoo.tasks.image_classification import PictureBatches, cut_mixed, moved

RECIPE = """
architecture = "{architecture}"
task = "cifar10"
[config]
image_size = 8
d_model = 16
n_layers = 1
n_heads = 2
d_ff = 16
{more}
[training]
steps = 120
batch_tokens = {tokens}
learning_rate = 5e-3
log_every = 10
evaluate_every = 60
"""
KINDS = {"vit": ("patch_size = 4", 5), "cct": ("", 16)}  # and tokens of a picture


def picture(label: int, number: int) -> Image.Image:
    """32 x 32 pixels of noise, of a colour that tells the label."""
    generator = np.random.default_rng([label, number])
    colour = np.array([25 * label, 250 - 25 * label, 120 * (label % 2)])
    noise = generator.integers(-20, 21, (32, 32, 3))
    return Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8))


def archive(folder: Path, count: int) -> Path:
    """CIFAR-10 as it is published in folders, with `count` training pictures of each label."""
    path = folder / zoo_cifar.task.FILE
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as file:
        for split, number in (("train", count), ("test", 4)):
            for label, name in enumerate(zoo_cifar.task.LABELS):
                for index in range(number):
                    data = io.BytesIO()
                    picture(label, index + 1000 * (split == "test")).save(data, "PNG")
                    entry = tarfile.TarInfo(f"cifar10/{split}/{name}/{index:04}.png")
                    entry.size = len(data.getvalue())
                    file.addfile(entry, io.BytesIO(data.getvalue()))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("data"), 8)


@pytest.fixture(autouse=True)
def _small(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXZOO_DATA", str(data))
    monkeypatch.setattr(zoo_cifar.task, "HELD_OUT", 2)
    zoo_cifar.task.read.cache_clear()
    torch.set_num_threads(1)


def recipe_of(architecture: str) -> str:
    more, tokens = KINDS[architecture]
    return RECIPE.format(architecture=architecture, more=more, tokens=20 * tokens)


@pytest.fixture(scope="module", params=KINDS)
def trained(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model folder; the environment is that of `_small`."""
    folder = tmp_path_factory.mktemp("models")
    recipe = folder / "tiny.toml"
    recipe.write_text(recipe_of(request.param))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TXZOO_DATA", str(data))
        patch.setattr(zoo_cifar.task, "HELD_OUT", 2)
        zoo.train(recipe, out=folder / "tiny")
    return folder / "tiny"


def test_it_learns_and_its_card_says_so(trained: Path) -> None:
    card = zoo.info(trained)
    assert card.pipeline == "image-classification" and card.task == "cifar10"
    accuracy = {score.metric: score.value for score in card.scores}["accuracy"]
    assert accuracy > 0.8  # chance is 0.1
    assert zoo.evaluate(trained)["accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert not (trained / "tokenizer.json").exists()
    lines = [json.loads(line) for line in (trained / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "validation" in line] == [60]


def test_the_pipeline(trained: Path, tmp_path: Path) -> None:
    model = zoo.load(trained)
    truck = picture(9, 77)
    truck.save(tmp_path / "truck.png")
    answer = model(truck)
    assert answer["label"] == "truck" and answer["score"] == model(tmp_path / "truck.png")["score"]
    every = model(truck, top_k=None)
    assert {entry["label"] for entry in every} == set(zoo_cifar.task.LABELS)
    assert sum(entry["score"] for entry in every) == pytest.approx(1)
    last = model([truck] * 70, top_k=2)[69]  # more than a batch
    assert [entry["label"] for entry in last] == [entry["label"] for entry in every[:2]]
    assert last[0]["score"] == pytest.approx(every[0]["score"], abs=1e-5)
    assert model([]) == []
    for options, message in (({"top_k": 0}, "from 1 on"), ({"beams": 2}, "no option 'beams'")):
        with pytest.raises(InputError, match=message):
            model(truck, **options)


def test_attention_of_a_picture(trained: Path) -> None:
    maps = zoo.load(trained).attention(picture(3, 3))
    tokens = 5 if zoo.info(trained).architecture == "vit" else 16  # 2 x 2 and a class token; 4 x 4
    assert [tuple(layer.shape) for layer in maps] == [(2, tokens, tokens)]
    torch.testing.assert_close(maps[0].sum(-1), torch.ones(2, tokens))


def test_what_counts_of_a_picture(trained: Path, tmp_path: Path) -> None:
    """By the formula with NumPy, and as a drawing."""
    model = zoo.load(trained)
    maps = [layer.mean(0).numpy() for layer in model.attention(picture(3, 3))]
    T = len(maps[0])
    through = np.eye(T)
    for layer in maps:
        through = (0.5 * layer + 0.5 * np.eye(T)) @ through
    side = {5: 2, 16: 4}[T]
    wanted = through[0, 1:] if T == 5 else through.mean(0)
    found = seen(model, picture(3, 3))
    assert found.shape == (side, side)
    np.testing.assert_allclose(found.flatten(), wanted / wanted.sum(), rtol=1e-5)
    picture(3, 3).save(tmp_path / "cat.png")
    for name in ("map.png", "map.svg"):
        command = ["attention", str(trained), str(tmp_path / "cat.png"), "--out"]
        assert main([*command, str(tmp_path / name)]) == 0
    with Image.open(tmp_path / "map.png") as drawn:
        assert drawn.width > 300
    assert "<svg" in (tmp_path / "map.svg").read_text()
    assert main([*command, str(tmp_path / "map.txt")]) == 2


def test_the_command(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    picture(0, 5).save(tmp_path / "plane.png")
    assert main(["run", str(trained), str(tmp_path / "plane.png"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["result"]
    assert found[0]["label"] == "airplane" and len(found) == 10
    assert main(["run", str(trained), str(tmp_path / "none.png")]) == 2
    assert "There is no picture" in capsys.readouterr().err
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "plane.png").read_bytes()))
    )
    assert main(["run", str(trained), "--top-k", "1"]) == 0
    assert "airplane" in capsys.readouterr().out


def test_tuned_for_other_labels_the_body_is_kept(trained: Path, monkeypatch: Any) -> None:
    from zoo.tuning.heads import refit

    module, fresh = refit(zoo.load(trained).module, {"labels": ["yes", "no"]})
    assert fresh == ["head"] and module.get_parameter("head.weight").shape == (2, 16)
    own = zoo.load(trained).module.get_parameter("blocks.0.up.weight")
    assert torch.equal(module.get_parameter("blocks.0.up.weight"), own)


def test_the_splits_share_no_picture() -> None:
    task = zoo_cifar.task.Cifar10()
    found = {split: task.pictures(split) for split in task.splits}
    assert [len(pictures.labels) for pictures in found.values()] == [60, 20, 40]
    rows = [picture.numpy().tobytes() for p in found.values() for picture in p.pixels]
    assert len(set(rows)) == len(rows)
    assert torch.equal(found["validation"].pixels[0], torch.from_numpy(np.array(picture(0, 6))))


class Ramp:
    """Two pictures of one channel's ramp, so that a place in a picture shows in its value."""

    labels = (0, 1, 0)

    def __call__(self, places: Any, size: int) -> torch.Tensor:
        ramp = torch.arange(1, size * size + 1, dtype=torch.uint8).view(size, size)
        return ramp.expand(len(list(places)), 3, size, size)


def test_pictures_are_moved_and_mirrored() -> None:
    size, rows = 8, 400
    pixels = Ramp()(range(rows), size)
    found = moved(pixels, [0, 1], flips=True)
    assert torch.equal(found, moved(pixels, [0, 1], flips=True))
    assert not torch.equal(found, moved(pixels, [0, 2], flips=True))
    wanted = set()
    padded = np.pad(pixels[0, 0].numpy(), 1)
    for down in range(3):
        for across in range(3):
            crop = padded[down : down + size, across : across + size]
            wanted |= {crop.tobytes(), np.ascontiguousarray(crop[:, ::-1]).tobytes()}
    assert {picture[0].numpy().tobytes() for picture in found} == wanted
    upright = moved(pixels, [0, 1], flips=False)
    assert len({picture[0].numpy().tobytes() for picture in upright}) == 9


def test_batches_are_a_function_of_the_step(trained: Path) -> None:
    config = zoo.load(trained).config
    pictures = zoo_cifar.task.Cifar10().pictures("train")
    batches = PictureBatches(pictures, config, rows=20, seed=3, flips=True)
    again = PictureBatches(pictures, config, rows=20, seed=3, flips=True)
    assert batches.per_epoch == 3
    later = batches(4)
    assert all(torch.equal(later[key], again(4)[key]) for key in later)
    counts = torch.cat([batches(step)["targets"] for step in range(3)]).bincount()
    assert counts.tolist() == [6] * 10  # an epoch has every picture once


def test_a_piece_of_another_picture_is_mixed_in() -> None:
    S, B = 16, 6
    pixels = torch.arange(B, dtype=torch.uint8)[:, None, None, None].expand(B, 3, S, S)
    shares = []
    for seed in range(200):
        mixed, order, share = cut_mixed(pixels, np.random.default_rng(seed))
        assert sorted(order.tolist()) == list(range(B))
        assert torch.equal(mixed[:, 0], mixed[:, 2])
        for own, other, found in zip(range(B), order.tolist(), mixed[:, 0], strict=True):
            if own == other:
                assert (found == own).all()
                continue
            rows, columns = (found != own).nonzero().unbind(1)
            assert len(rows) == round((1 - share) * S**2)
            if len(rows):  # all of them, and none but these, are the other's
                piece = found[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
                assert piece.numel() == len(rows) and (piece == other).all()
        shares.append(share)
    # r is 1/2 in the mean, and a piece that stands out of the picture is smaller
    assert 0.5 < np.mean(shares) < 0.75
    assert min(shares) < 0.2 and max(shares) > 0.95


def test_some_batches_are_mixed(trained: Path) -> None:
    config = zoo.load(trained).config
    pictures = zoo_cifar.task.Cifar10().pictures("train")
    batches = PictureBatches(pictures, config, rows=20, seed=3, flips=True, cutmix=0.4)
    plain = PictureBatches(pictures, config, rows=20, seed=3, flips=True)
    mixed = [step for step in range(200) if "others" in batches(step)]
    assert 55 < len(mixed) < 105  # 80, and three and a half standard deviations
    step = mixed[0]
    assert torch.equal(batches(step)["targets"], plain(step)["targets"])
    assert torch.equal(batches(step)["pixels"], batches(step)["pixels"])
    assert not torch.equal(batches(step)["pixels"], plain(step)["pixels"])
    assert not set(plain(step)) & {"others", "share"}


def test_the_loss_of_mixed_pictures_and_smooth_labels() -> None:
    task = zoo_cifar.task.Cifar10()
    task.set_objective({"label_smoothing": 0.2, "cutmix": 1})
    logits = torch.randn(5, 10)
    targets, others = torch.arange(5), torch.tensor([4, 1, 9, 0, 2])
    share = torch.tensor([0.3, 0.9, 1.0, 0.0, 0.5])
    batch = {"pixels": torch.zeros(5), "targets": targets}
    one = torch.nn.functional.one_hot
    wanted = 0.8 * one(targets, 10) + 0.02
    log = logits.log_softmax(-1)
    module: Any = lambda _: logits  # noqa: E731
    expected = -(wanted * log).sum(-1).mean()
    torch.testing.assert_close(task.loss(module, batch), expected)
    both = share[:, None] * one(targets, 10) + (1 - share)[:, None] * one(others, 10)
    expected = -((0.8 * both + 0.02) * log).sum(-1).mean()
    torch.testing.assert_close(
        task.loss(module, {**batch, "others": others, "share": share}), expected
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label_smoothing": 1}, r"label_smoothing must be from 0 to below 1, got 1"),
        ({"label_smoothing": -0.1}, r"label_smoothing must be from 0 to below 1"),
        ({"cutmix": 1.5}, r"cutmix must be from 0 to 1, got 1.5"),
        ({"cutmix": float("nan")}, r"cutmix must be from 0 to 1, got nan"),
        ({"mixup": 0.2}, r"no key 'mixup' for this task. Keys: label_smoothing, cutmix"),
    ],
)
def test_an_objective_out_of_range(values: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        zoo_cifar.task.Cifar10().set_objective(values)


def test_it_trains_with_both(data: Path, tmp_path: Path) -> None:
    text = recipe_of("cct").replace(
        "[training]", "[objective]\nlabel_smoothing = 0.1\ncutmix = 0.5\n\n[training]", 1
    )
    (tmp_path / "r.toml").write_text(text)
    model = zoo.train(tmp_path / "r.toml", out=tmp_path / "out")
    assert "cutmix = 0.5" in (tmp_path / "out" / "recipe.toml").read_text()
    assert model.card.training["skipped_steps"] == 0


def test_what_cannot_be_trained(trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    config = zoo.load(trained).config
    with pytest.raises(TrainingError, match="3 pictures are too few for a batch of 4"):
        PictureBatches(Ramp(), config, rows=4, seed=0, flips=True)
    one = Ramp()
    one.labels = (1, 1, 1)  # type: ignore[misc]
    with pytest.raises(TrainingError, match="all 3 pictures have one label"):
        PictureBatches(one, config, rows=2, seed=0, flips=True)
    (tmp_path / "r.toml").write_text(recipe_of("vit") + '[tokenizer]\nkind = "word"\n')
    with pytest.raises(RecipeError, match=r"\[tokenizer\] is for texts, cifar10 has none"):
        zoo.train(tmp_path / "r.toml", out=tmp_path / "out")
    with pytest.raises(InputError, match="airplane, .*; the task has cat, dog"):
        task = zoo_cifar.task.Cifar10()
        monkeypatch.setattr(task, "labels", ("cat", "dog"), raising=False)
        task.evaluate(zoo.load(trained), "test")


def test_an_archive_of_something_else(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / zoo_cifar.task.FILE
    path.parent.mkdir()
    with tarfile.open(path, "w:gz"):
        pass
    monkeypatch.setenv("TXZOO_DATA", str(tmp_path))
    with pytest.raises(DataNotFoundError, match="holds no pictures below cifar10/test/"):
        zoo_cifar.task.Cifar10().pictures("test")
