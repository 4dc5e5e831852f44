"""A user's own folders of pictures: read, refused with a reason, trained on, measured."""

import importlib.util
import json
import shlex
import shutil
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.cli import main
from zoo.errors import DataNotFoundError, InputError, RecipeError, UnknownNameError
from zoo.evaluation import errors
from zoo.tasks import picture_folder
from zoo.tasks.picture_folder import WHOLE, PictureFolder, open_pictures, read_pictures

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "your-own-pictures.md"
COLOURS = {"blue": (20, 30, 200), "green": (20, 180, 40), "red": (210, 20, 30)}
RECIPE = """
architecture = "vit"
task = "cifar10"
[config]
image_size = 8
patch_size = 4
d_model = 16
n_layers = 1
n_heads = 2
d_ff = 16
[training]
steps = 60
batch_tokens = 50
learning_rate = 5e-3
evaluate_every = 20
"""


def draw(folder: Path, counts: dict[str, int], first: int = 0) -> Path:
    """Noisy pictures of a colour, below FOLDER/colour/, each another one."""
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for number in range(first, first + count):
            generator = np.random.default_rng([number, *COLOURS[label]])
            noise = generator.integers(-20, 21, (12, 16, 3))
            pixels = (np.array(COLOURS[label]) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("data") / "paints", dict.fromkeys(COLOURS, 10))


@pytest.fixture(scope="module")
def trained(album: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "tiny.toml").write_text(RECIPE)
    zoo.train(folder / "tiny.toml", data=str(album), out=folder / "mine")
    return folder / "mine"


def test_a_fifth_of_each_label_is_held_out_by_what_the_pictures_show(
    album: Path, tmp_path: Path
) -> None:
    task = open_pictures({"path": str(album)}, seed=3)
    assert task.labels == ("blue", "green", "red") and task.splits == ("train", "test")
    train, test = task.pictures("train"), task.pictures("test")
    assert Counter(test.labels) == {0: 2, 1: 2, 2: 2} and Counter(train.labels) == {
        0: 8,
        1: 8,
        2: 8,
    }
    assert set(train.names) | set(test.names) == {
        f"{c}/{n}.png" for c in COLOURS for n in range(10)
    }
    other = shutil.copytree(album, tmp_path / "other")
    for number, file in enumerate(sorted(other.glob("*/*.png"))):
        file.rename(file.with_name(f"x{number}.png"))
    again = open_pictures({"path": str(other)}, seed=3)
    assert set(again.pictures("test").digests) == set(test.digests)
    assert set(open_pictures({"path": str(album)}, seed=4).pictures("test").digests) != set(
        test.digests
    )


def test_pixels_are_those_of_the_pipeline(album: Path) -> None:
    """Pillow's own bilinear reduction of each file, whichever order they are asked for."""
    pictures = open_pictures({"path": str(album)}, seed=1).pictures("train")
    for _ in range(2):  # decoded, then kept
        found = pictures([5, 0], 8)
        for place, pixels in zip((5, 0), found, strict=True):
            image = Image.open(album / pictures.names[place])
            expected = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR))
            assert (pixels.permute(1, 2, 0).numpy() == expected).all()
    assert pictures([0], 4).shape == (1, 3, 4, 4)


def test_what_does_not_fit_into_memory_is_decoded_again(
    album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_folder, "MOST_KEPT", 2 * 8 * 8 * 3)
    decoded = []
    monkeypatch.setattr(
        picture_folder,
        "open_picture",
        lambda file, usual=picture_folder.open_picture: decoded.append(file) or usual(file),
    )
    pictures = open_pictures({"path": str(album)}, seed=1).pictures("train")
    decoded.clear()  # those that were looked at to see whether they are pictures
    first = pictures(range(4), 8)
    assert torch.equal(pictures(range(4), 8), first)
    assert [file.name for file in decoded[4:]] == [file.name for file in decoded[2:4]]


def test_splits_of_a_folder_are_kept(tmp_path: Path) -> None:
    draw(tmp_path / "train", {"red": 3, "blue": 4})
    draw(tmp_path / "val", {"red": 1}, first=10)
    draw(tmp_path / "test", {"blue": 2}, first=20)
    task = open_pictures({"path": str(tmp_path)}, seed=1)
    assert task.splits == ("train", "validation", "test")
    assert task.labels == ("blue", "red")
    assert [len(task.pictures(split).labels) for split in task.splits] == [7, 1, 2]
    assert task.names("validation") == ["red/10.png"]
    (tmp_path / "extra" / "red").mkdir(parents=True)
    with pytest.raises(InputError, match="extra, test, train and val|extra, test, train, val"):
        read_pictures(str(tmp_path))


def test_folders_called_as_splits_may_be_labels(tmp_path: Path) -> None:
    draw(tmp_path, {"red": 2})
    (tmp_path / "red").rename(tmp_path / "train")  # the thing on rails
    draw(tmp_path, {"blue": 2})
    assert set(read_pictures(str(tmp_path))[WHOLE].labels) == {"blue", "train"}


def test_files_that_are_no_pictures_are_counted_and_named(tmp_path: Path) -> None:
    draw(tmp_path / "paints", {"red": 3, "blue": 3})
    (tmp_path / "paints" / "red" / "notes.txt").write_text("nice")
    whole = (tmp_path / "paints" / "red" / "1.png").read_bytes()
    (tmp_path / "paints" / "red" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "paints" / "red" / ".DS_Store").write_bytes(b"\0")
    inner = tmp_path / "paints" / "blue" / "deeper"
    inner.mkdir()
    (tmp_path / "paints" / "blue" / "2.png").rename(inner / "2.png")
    with pytest.warns(UserWarning, match=r"paints: 2 of its files .*: red/cut.png, red/notes.txt"):
        found = read_pictures(str(tmp_path / "paints"))[WHOLE]
    assert found.names == ["blue/0.png", "blue/1.png", "blue/deeper/2.png"] + [
        f"red/{n}.png" for n in range(3)
    ]


def test_what_is_wrong_in_a_folder_is_said(tmp_path: Path) -> None:
    def refused(match: str, error: type[Exception] = InputError) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(error, match=match):
                open_pictures({"path": str(tmp_path / "a")}, seed=1)

    refused("There is no folder .*TXZOO_DATA", DataNotFoundError)
    (tmp_path / "a").write_text("text")
    refused("is a file", DataNotFoundError)
    (tmp_path / "a").unlink()
    (tmp_path / "a").mkdir()
    refused("no folders of labels")
    draw(tmp_path / "a", {"red": 3})
    refused("all 3 pictures have the label 'red'")
    (tmp_path / "a" / "blue").mkdir()
    refused("no picture of blue$")
    (tmp_path / "a" / "blue" / "x.png").write_bytes(b"none")
    refused("no picture of blue; 1 of its files are no pictures.*blue/x.png")
    shutil.copy(tmp_path / "a" / "red" / "1.png", tmp_path / "a" / "blue" / "x.png")
    refused("too few different pictures of blue.*--test-data")
    shutil.copy(tmp_path / "a" / "red" / "1.png", tmp_path / "a" / "blue" / "y.png")
    refused("too few different pictures of blue")  # the same one twice


def test_the_folders_of_a_test_are_held_against_those_of_training(
    album: Path, tmp_path: Path
) -> None:
    other = draw(tmp_path / "new", {"red": 3}, first=50)
    task = open_pictures({"path": str(album), "test_path": str(other)}, seed=1)
    assert len(task.pictures("train").labels) == 30 and task.pictures("test").labels == [2, 2, 2]
    shutil.copy(album / "red" / "0.png", other / "red")
    with pytest.warns(UserWarning, match="1 of the 4 pictures of new stand in paints too"):
        open_pictures({"path": str(album), "test_path": str(other)}, seed=1)
    (other / "red").rename(other / "pink")
    with pytest.raises(InputError, match="new has the labels pink; paints has blue, green, red"):
        open_pictures({"path": str(album), "test_path": str(other)}, seed=1)
    draw(tmp_path / "cut" / "test", {"red": 3})
    with pytest.raises(InputError, match="has test, and no train to learn from"):
        open_pictures({"path": str(tmp_path / "cut")}, seed=1)


def test_a_model_learns_the_pictures_of_a_folder(trained: Path, album: Path) -> None:
    card = zoo.info(trained)
    model = zoo.load(trained)
    assert model.config.labels == ("blue", "green", "red") and model.config.image_size == 8
    assert card.name == "paints-vit" and card.pipeline == "image-classification"
    scores = {score.metric: score.value for score in card.scores}
    assert scores["accuracy"] == 1  # three colours
    assert model(album / "red" / "3.png")["label"] == "red"
    data = card.data["txzoo"]["data"]
    assert data["pictures"] == 30 and data["held_out"] == 6 and "datasets" not in card.data
    assert "30 pictures of `paints`" in card.text and 'model("picture.png")' in card.text
    assert zoo.verify(trained).ok


def test_it_is_measured_on_what_was_held_out_and_on_others(
    trained: Path, album: Path, tmp_path: Path
) -> None:
    held = zoo.evaluate(trained)
    assert zoo.evaluate(trained, data=album) == held
    other = draw(tmp_path / "new", {"red": 3, "blue": 1}, first=50)
    assert zoo.evaluate(trained, data=str(other))["accuracy"] == 1
    shutil.copytree(other, tmp_path / "split" / "test")
    assert zoo.evaluate(trained, data=tmp_path / "split")["accuracy"] == 1
    with pytest.raises(UnknownNameError, match="validation"):
        zoo.evaluate(trained, data=tmp_path / "split", split="validation")
    model = zoo.load(trained)
    learned = open_pictures({"path": str(album)}, seed=1).names("train")[0]
    shutil.copy(album / learned, other / "red")
    with pytest.warns(UserWarning, match="1 of the 5 pictures of new stand in paints"):
        zoo.evaluate(model, data=other)
    (other / "red").rename(other / "cyan")
    with pytest.raises(InputError, match="the model has blue, green, red, and so not cyan"):
        zoo.evaluate(model, data=other)
    with pytest.raises(InputError, match="text_column belongs to labelled texts"):
        zoo.evaluate(model, data=other, text_column="text")


def test_a_folder_that_changed_or_is_gone_is_said(
    trained: Path, album: Path, tmp_path: Path
) -> None:
    moved = shutil.move(album, tmp_path / "paints")
    try:
        with pytest.raises(DataNotFoundError, match=r"was trained on paints \(30 pictures"):
            zoo.evaluate(trained)
        shutil.copytree(moved, album)
        (album / "red" / "0.png").unlink()
        with pytest.raises(DataNotFoundError, match="is not the paints of paints-vit"):
            zoo.evaluate(trained)
    finally:
        shutil.rmtree(album)
        shutil.move(moved, album)


def test_errors_name_the_files(
    trained: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = draw(tmp_path / "wrong", {"red": 2, "blue": 2}, first=70)
    (wrong / "red" / "70.png").rename(wrong / "blue" / "odd.png")
    found = errors(trained, data=str(wrong), n=5)
    (mistake,) = found.surest
    assert (mistake.text, mistake.label, mistake.given) == ("blue/odd.png", "blue", "red")
    assert found.what == "pictures" and found.by_length == ()
    command = ["eval", str(trained), "--data", str(wrong), "--errors", "3"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "1 of 4 pictures wrong" in printed and "blue/odd.png" in printed
    assert "Errors by length" not in printed
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["pictures"] == 4 and facts["errors"][0]["picture"] == "blue/odd.png"


def test_the_command_trains_on_a_folder(
    album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["image_size=8", "d_model=16", "n_layers=1", "n_heads=2", "d_ff=16", "steps=2"]
    sizes += ["batch_tokens=16", "warmup_steps=1", "n_convolutions=2"]
    command = ["train", "vit-cifar10", "--data", str(album), "--out", str(tmp_path / "mine")]
    assert main(command + [word for size in sizes for word in ("--set", size)]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert zoo.info(tmp_path / "mine").data["license"] == "unknown"
    assert main([*command, "--overwrite", "--text-column", "text"]) == 2
    assert "belongs to labelled texts" in capsys.readouterr().err
    assert main([*command[:3], str(tmp_path / "none"), "--out", str(tmp_path / "b")]) in (1, 2)
    assert "There is no folder" in capsys.readouterr().err


def test_a_trained_model_is_adapted_to_other_labels(trained: Path, tmp_path: Path) -> None:
    data = draw(tmp_path / "two", {"red": 6, "green": 6}, first=30)
    model = zoo.train(
        trained, tuning="linear-probe", data=str(data), steps=20, out=tmp_path / "tuned"
    )
    assert model.config.labels == ("green", "red")
    assert model.card is not None and model.card.training["trained_parameters"] == 2 * 16 + 2


def test_a_recipe_with_a_folder_says_what_it_lacks(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(RECIPE.replace('task = "cifar10"', '[data]\nlicense = "mit"'))
    with pytest.raises(RecipeError, match="lacks path"):
        zoo.train(recipe, out=tmp_path / "x")


def test_a_task_needs_a_part(album: Path) -> None:
    found = read_pictures(str(album))[WHOLE]
    assert PictureFolder(None, found, labels=sorted(COLOURS)).splits == ("test",)


@pytest.fixture
def pages() -> Any:
    """What runs the blocks of pages; loaded by its path, since docs/ is no package."""
    path = GUIDE.parents[1] / "_build" / "blocks.py"
    spec = importlib.util.spec_from_file_location("docs_blocks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_commands_of_the_guide_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """In their order, on the folders of the page's first block; smaller and shorter."""
    monkeypatch.chdir(tmp_path)
    text = GUIDE.read_text(encoding="utf-8")
    exec(next(pages.blocks(text, "python"))["code"], {})
    lines = [line for block in pages.blocks(text, "sh") for line in block["code"].splitlines()]
    assert len(lines) == 4
    small = ["steps=2", "image_size=8", "d_model=16", "n_layers=1", "n_heads=2", "d_ff=16"]
    for line in lines:
        program, *words = shlex.split(line)
        words += [word for size in small * (words[0] == "train") for word in ("--set", size)]
        words += ["--set", "batch_tokens=64"] if words[0] == "train" else []
        assert program == "txzoo" and main(words) == 0, line
        assert capsys.readouterr().out
