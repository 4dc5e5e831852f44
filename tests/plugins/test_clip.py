"""Zero-shot from training to the command line: labels in words, search, prompts; and bad input."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from zoo_scenes import scenes

import zoo
from zoo.cli import main
from zoo.errors import InputError, MissingExtraError, PluginError, RecipeError
from zoo.evaluation.prompts import greedy, read_prompts, study_prompts, wilson
from zoo.model import Model
from zoo.pipelines.zero_shot import ZeroShotImageClassification

pytest.importorskip("open_clip", reason="needs txzoo[clip]")

RECIPE = """
architecture = "open-clip"
task = "scene-contrastive"
[tokenizer]
kind = "word"
[config]
max_seq_len = 16
image_size = 32
d_embed = 32
[config.vision]
patch_size = 8
layers = 1
width = 64
head_width = 32
pool_type = "avg"
[config.text]
layers = 1
width = 48
heads = 2
[training]
steps = 90
batch_tokens = 1024
learning_rate = 5e-3
betas = [0.9, 0.98]
warmup_steps = 10
log_every = 10
"""
COLOURS = ["red", "green", "blue", "yellow"]
TEMPLATES = ["a {} circle", "a drawing of a {} circle", "a {} square"]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("TXZOO_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model folder, measured on few scenes."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "tiny.toml").write_text(RECIPE)
    sizes = {"train": 4000, "validation": 60, "test": 200, "test_seen": 200}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "SPLITS", sizes)
        torch.set_num_threads(1)
        zoo.train(folder / "tiny.toml", out=folder / "tiny")
        yield folder / "tiny"


@pytest.fixture(scope="module")
def model(trained: Path) -> Model:
    return zoo.load(trained)


def drawing(colour: str, number: int = 0, shape: str = "circle") -> Image.Image:
    scene = scenes.Scene(colour=colour, shape=shape, size="large", count="one", place="centre")
    return Image.fromarray(scenes.draw(scene, np.random.default_rng(number), 32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's pictures: FOLDER/colour/number.png."""
    root = tmp_path_factory.mktemp("pictures")
    for colour in COLOURS:
        (root / colour).mkdir()
        for number in range(8):
            drawing(colour, number).save(root / colour / f"{number}.png")
    return root


def test_it_learns_and_its_card_says_so(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "training.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[0] > 3.5 and losses[-1] < losses[0] - 1  # log 64 is 4.16
    scores = {(one.split, one.name): one for one in zoo.info(trained).scores}
    assert {split for split, _ in scores} == {"test", "test_seen"}
    accuracy = scores["test_seen", "accuracy"]
    assert accuracy.value > 0.08 and accuracy.standard_error  # chance is 1 / 64
    again = zoo.evaluate(trained, split="test_seen")
    assert again["accuracy"] == pytest.approx(accuracy.value, abs=1e-3)
    difference = again["accuracy"] - again["bare_label_accuracy"]
    assert again["ensemble_gain"] == pytest.approx(difference)


def test_labels_in_words(model: Model) -> None:
    answers = model(drawing("blue"), labels=COLOURS, templates=TEMPLATES)
    assert {one["label"] for one in answers} == set(COLOURS)
    assert answers[0]["label"] == "blue"
    assert sum(one["score"] for one in answers) == pytest.approx(1)
    cosines = [one["similarity"] for one in answers]
    assert cosines == sorted(cosines, reverse=True) and all(-1 <= c <= 1 for c in cosines)
    many = model([drawing("blue")] * 70, labels=COLOURS, templates=TEMPLATES, top_k=2)
    assert len(many) == 70 and many[69][0]["score"] == pytest.approx(answers[0]["score"], abs=1e-5)


def test_an_ensemble_is_the_mean_of_unit_vectors(model: Model) -> None:
    called: ZeroShotImageClassification = model.called
    tokens = model.module.read_texts(model.tokenizer, ["a red circle", "a red square"])
    with torch.no_grad():
        one, other = model.module.clip.encode_text(tokens)
    mean = one / one.norm() + other / other.norm()
    found = called.classifier([["red"]], ["a {} circle", "a {} square"])[0]
    torch.testing.assert_close(found, mean / mean.norm())
    names = called.classifier([["red circle", "red square"]], ["a {}"])[0]  # synonyms likewise
    torch.testing.assert_close(names, found)


def test_each_text_is_computed_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    called = ZeroShotImageClassification(model)
    asked: list[int] = []
    encode = model.module.encode_text
    monkeypatch.setattr(
        model.module, "encode_text", lambda ids: asked.append(len(ids)) or encode(ids)
    )
    first = called.embed_texts(["a red circle", "a red circle", "a blue star"])
    again = called.embed_texts(["a blue star", "a red circle"])
    assert asked == [2] and torch.equal(first[2], again[0])


def test_negative_labels_compete_and_are_not_answered(model: Model) -> None:
    options = {"templates": TEMPLATES}
    every = {o["label"]: o["score"] for o in model(drawing("red"), labels=COLOURS, **options)}
    some = model(
        drawing("red"), labels=COLOURS[:2], negative_labels=COLOURS[2:], templates=TEMPLATES
    )
    assert {one["label"]: one["score"] for one in some} == pytest.approx(
        {label: every[label] for label in COLOURS[:2]}
    )


def test_synonyms_are_one_label(model: Model) -> None:
    given = [["circle", "disc"], "star"]
    first = model(drawing("red"), labels=given, templates=["a red {}"])
    assert {one["label"] for one in first} == {"circle", "star"}
    named = model(drawing("red"), labels={"circle": ["disc"], "star": []}, templates=["a red {}"])
    assert first == named


def test_five_thousand_labels(model: Model) -> None:
    labels = [f"{name} {n}" for n in range(79) for name in scenes.LABELS][:5000]
    with pytest.warns(UserWarning, match="lacks words of 'a red circle 0' and 4,999 more texts"):
        answers = model(drawing("red"), labels=labels, templates=["a {}"], top_k=5)
    assert len(answers) == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs labels"),
        ({"labels": []}, "labels is empty"),
        ({"labels": "cat"}, "labels is a list"),
        ({"labels": ["red", "Red "]}, "'Red ' stands there twice"),
        ({"labels": ["red"], "negative_labels": ["red"]}, "twice"),
        ({"labels": ["red", ["blue", "red"]]}, "twice"),
        ({"labels": ["red", " "]}, "a label is empty"),
        ({"labels": ["red", []]}, "no name"),
        ({"labels": ["red", 3]}, "must be a text, got int"),
        ({"labels": ["red", "\ud800"]}, "UTF-8"),
        ({"labels": COLOURS, "templates": ["a photo"]}, "0 places for a label"),
        ({"labels": COLOURS, "templates": ["{} and {}"]}, "2 places for a label"),
        ({"labels": COLOURS, "templates": "a {}"}, "templates is a list"),
        ({"labels": COLOURS, "templates": []}, "templates is empty"),
        ({"labels": COLOURS, "top_k": 0}, "top_k"),
        ({"labels": COLOURS, "temperature": 1}, "no option 'temperature'"),
    ],
)
def test_bad_questions(model: Model, options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        model(drawing("red"), **options)


def test_one_label_alone_is_answered_with_a_warning(model: Model) -> None:
    with pytest.warns(UserWarning, match="One label alone"):
        answers = model(drawing("red"), labels=["red"], templates=["a {} circle"])
    assert answers[0]["score"] == pytest.approx(1)


def test_bad_pictures(model: Model, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    for picture, words in (
        (tmp_path / "empty.png", "0 bytes"),
        (tmp_path / "text.png", "none that Pillow can read"),
        (tmp_path / "none.png", "There is no picture"),
    ):
        with pytest.raises(InputError, match=words):
            model(picture, labels=COLOURS, templates=TEMPLATES)
    for mode in ("L", "P", "RGBA", "CMYK", "1"):
        drawing("red").convert(mode).save(path := tmp_path / f"{mode}.tiff")
        assert len(model(path, labels=COLOURS, templates=TEMPLATES)) == 4
    assert model(Image.new("RGB", (1, 1)), labels=COLOURS, templates=TEMPLATES)


def test_search_reads_each_picture_once(
    trained: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.load(trained)
    found = model.called.search("a green circle", folder, top_k=8)
    assert len(found) == 8
    assert [Path(one["file"]).parent.name for one in found].count("green") >= 6
    cosines = [one["similarity"] for one in found]
    assert cosines == sorted(cosines, reverse=True)
    copy = shutil.copytree(folder, tmp_path / "other")  # other names, the same pictures
    again = zoo.load(trained)
    monkeypatch.setattr(again.module, "encode_image", lambda pixels: pytest.fail("read again"))
    other = again.called.search("a green circle", copy, top_k=8)
    assert [one["similarity"] for one in other] == pytest.approx(cosines)
    monkeypatch.undo()
    (copy / "broken.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="1 left out.*broken.png"):
        again.called.search("a red circle", copy)
    for query, where, words in (
        ("", folder, "query is empty"),
        ("a red circle", tmp_path / "none", "There is no folder"),
    ):
        with pytest.raises(InputError, match=words):
            again.called.search(query, where)


def test_wilson_is_the_textbooks() -> None:
    """Brown, Cai & DasGupta 2001; Newcombe 1998, table I: 81 of 263 is 0.2553 to 0.3662."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(20, 20)[1] == 1.0


def test_greedy_takes_what_helps() -> None:
    """Two labels in the plane; each template alone errs, both together do not."""
    right = np.array([0, 0, 1, 1])
    vectors = torch.tensor([[1.0, 0.1], [1.0, 0.6], [0.1, 1.0], [0.6, 1.0]])
    far, near = [[1.0, 0.0], [0.8, 0.6]], [[0.6, 0.8], [0.0, 1.0]]
    texts = torch.tensor([near, far, [[0.0, 1.0], [1.0, 0.0]]])
    assert greedy(vectors, right, texts) == [0, 1] or greedy(vectors, right, texts) == [1, 0]


def test_prompts_are_measured_and_written(model: Model, folder: Path, tmp_path: Path) -> None:
    templates = ["{}", "a {} circle", "a drawing of a {} circle", "a {}"]
    study = study_prompts(model, folder, templates)
    assert (study.chosen_on, study.measured_on) == (16, 16)
    assert [trial.templates for trial in study.trials] == [(one,) for one in templates]
    first = study.trials[0]
    assert first.gain == 0 and first.won == first.lost == ()
    for trial in (*study.trials, study.best):
        assert trial.low <= trial.accuracy <= trial.high
        assert trial.gain_low <= trial.gain <= trial.gain_high
        assert trial.gain * 16 == pytest.approx(len(trial.won) - len(trial.lost))
        assert trial.accuracy == pytest.approx(first.accuracy + trial.gain)
    assert study == study_prompts(model, folder, templates)
    out = tmp_path / "prompts.toml"
    from zoo.evaluation.prompts import write_prompts

    write_prompts(study, out)
    known = read_prompts(out)
    assert known["templates"] == list(study.best.templates)
    assert model(drawing("red"), **known)[0]["label"] in COLOURS


def test_bad_studies(model: Model, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 places"):
        study_prompts(model, folder, ["a photo"])
    with pytest.raises(InputError, match="stands there twice"):
        study_prompts(model, folder, ["{}", "{}"])
    with pytest.raises(InputError, match="none of the labels"):
        study_prompts(model, folder, ["{}"], synonyms={"pink": ["rose"]})
    with pytest.raises(InputError, match="limit"):
        study_prompts(model, folder, ["{}"], limit=0)
    (tmp_path / "bad.toml").write_text("templates = 3")
    with pytest.raises(RecipeError, match="holds no prompts"):
        read_prompts(tmp_path / "bad.toml")


def test_the_commands(
    trained: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> str:
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    picture, name = folder / "blue" / "0.png", str(trained)
    told = ["--labels", "red,green,blue,yellow"]
    template = ["--template", "a {} circle", "--template", "a drawing of a {} circle"]
    found = json.loads(run("run", name, picture, *told, *template, "--json"))
    assert found["result"][0]["label"] == "blue" and found["picture"] == str(picture)
    assert "similarity" in run("run", name, picture, *told, *template)
    batch = json.loads(run("run", name, folder, *told, *template, "--json"))["result"]
    assert len(batch) == 32 and {"picture", "labels"} == batch[0].keys()
    best = json.loads(run("run", name, folder, "--search", "a red circle", "--json"))["result"]
    assert "red" in best[0]["file"]
    out = tmp_path / "prompts.toml"
    study = ["prompts", name, "--data", folder, *template, "--out", out, "--flips", 3]
    assert "measured on 16 pictures" in run(*study)
    assert "similarity" in run("run", name, picture, "--prompts", out)
    assert main(["run", name, str(picture)]) == 2
    assert "needs labels" in capsys.readouterr().err


def test_without_open_clip(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import builtins

    usual = builtins.__import__

    def missing(name: str, *details: object) -> object:
        if name == "open_clip":
            raise ImportError("No module named 'open_clip'")
        return usual(name, *details)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'txzoo\[clip\]'"):
        zoo.load(trained)

    def unfit(name: str, *details: object) -> object:
        if name == "open_clip":
            raise RuntimeError("operator torchvision::nms does not exist")
        return usual(name, *details)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", unfit)
    with pytest.raises(PluginError, match="nms does not exist: txzoo doctor"):
        zoo.load(trained)


def test_doctor_knows_a_torchvision_of_another_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from zoo import doctor

    def unfit(name: str) -> object:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor, "import_module", unfit)
    (found,) = doctor._torchvision("2.14.1+cpu")
    assert found.state == "wrong" and "operator torchvision::nms does not exist" in found.value
    assert "pip install --force-reinstall torch torchvision" in found.advice
