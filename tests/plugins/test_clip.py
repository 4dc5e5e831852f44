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
from zoo.evaluation.prompts import (
    greedy,
    halves,
    read_prompts,
    study_prompts,
    wilson,
    write_prompts,
)
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
    with pytest.warns(UserWarning, match="1 of 33 left out.*broken.png"):
        again.called.search("a red circle", copy)
    for query, where, words in (
        ("", folder, "query is empty"),
        ("a red circle", tmp_path / "none", "There is no folder"),
    ):
        with pytest.raises(InputError, match=words):
            again.called.search(query, where)


def test_a_folder_is_classified_whatever_lies_in_it(
    trained: Path,
    model: Model,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(folder / "red", mixed)
    (mixed / "0.png").write_bytes(b"no picture")
    (mixed / "broken.png").touch()
    options = {"labels": COLOURS, "templates": TEMPLATES, "negative_labels": ["white"]}
    with pytest.warns(UserWarning, match="2 of 9 left out: .*0.png"):
        found = model.called.classify_folder(mixed, top_k=2, **options)
    assert [Path(one["picture"]).name for one in found] == [f"{n}.png" for n in range(1, 8)]
    for one in found:
        alone = model(one["picture"], top_k=2, **options)
        assert [a["label"] for a in one["labels"]] == [a["label"] for a in alone]
        for key in ("score", "similarity"):
            wanted = pytest.approx([a[key] for a in alone], abs=1e-5)
            assert [a[key] for a in one["labels"]] == wanted

    words = ["run", str(trained), str(mixed), "--labels", "red,blue", "--template", "a {} circle"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "2 of 9 left out" in said.err and said.out.count(".png") == 7

    again = zoo.load(trained)  # what was read is known, to prompts as well
    again.called.classify_folder(folder, **options)
    monkeypatch.setattr(again.module, "encode_image", lambda pixels: pytest.fail("read again"))
    assert len(again.called.classify_folder(folder, **options)) == 32
    assert study_prompts(again, folder, TEMPLATES[:1]).measured_on == 16
    with pytest.raises(InputError, match="needs labels"):
        again.called.classify_folder(folder)
    with pytest.raises(InputError, match="There is no folder"):
        again.called.classify_folder(tmp_path / "none", **options)


def test_a_cache_that_cannot_be_written_stops_nothing(
    trained: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TXZOO_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="vectors of pictures are not kept"):
        found = zoo.load(trained).called.search("a red circle", folder, top_k=3)
    assert len(found) == 3


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
    write_prompts(study, out)
    known = read_prompts(out)
    assert known["templates"] == list(study.best.templates)
    assert model(drawing("red"), **known)[0]["label"] in COLOURS


@pytest.mark.filterwarnings("ignore:tiny lacks words")
def test_a_folder_measures_it(model: Model, folder: Path, tmp_path: Path) -> None:
    """Counted by hand over what calls answer, with pictures in wrong folders."""
    folder = shutil.copytree(folder, tmp_path / "pictures")
    for number in range(3):
        (folder / "blue" / f"{number}.png").rename(folder / "green" / f"wrong {number}.png")
    found = zoo.evaluate(model, data=folder)
    labels = sorted(path.name for path in folder.iterdir())
    files = [(label, file) for label in labels for file in sorted((folder / label).iterdir())]
    answers = model([str(file) for _, file in files], labels=labels, top_k=1)
    hits = [answer[0]["label"] == label for answer, (label, _) in zip(answers, files, strict=True)]
    assert 0 < sum(hits) < len(hits)
    assert found["accuracy"] == pytest.approx(sum(hits) / len(hits))
    assert found.keys() >= {"macro_f1", "expected_calibration_error", "accuracy_stderr"}
    assert zoo.evaluate(model, data=folder, limit=4)["accuracy"] == sum(hits[:4]) / 4
    with pytest.raises(InputError, match="takes pictures, one folder"):
        zoo.evaluate(model, data=folder, label_column="label")


def test_negative_labels_are_studied_and_kept(model: Model, folder: Path, tmp_path: Path) -> None:
    """A picture is right where its label beats the others and what is not asked for."""
    template, negative = ["a {} circle"], [["star", "red"], "green"]
    for colour in ("red", "green"):
        shutil.copytree(folder / colour, tmp_path / "data" / f"large_{colour}")
    study = study_prompts(model, tmp_path / "data", template, negative_labels=negative)
    assert study.labels == (("large green",), ("large red",))
    assert study.negative_labels == (("star", "red"), ("green",))
    labels = ["large green", "large red", *negative]
    every = model.called.classify_folder(tmp_path / "data", labels, templates=template, top_k=1)
    right = [
        one["labels"][0]["label"].replace(" ", "_") == Path(one["picture"]).parent.name
        for one in every
    ]
    measured = halves(np.repeat([0, 1], 8), 1)[1]
    assert study.best.accuracy == np.mean([right[place] for place in measured])
    without = study_prompts(model, tmp_path / "data", template)
    assert study.best.accuracy < without.best.accuracy
    write_prompts(study, tmp_path / "prompts.toml")
    known = read_prompts(tmp_path / "prompts.toml")
    assert known["negative_labels"] == [["star", "red"], ["green"]]
    with pytest.raises(InputError, match="'Large red' stands there twice"):
        study_prompts(model, tmp_path / "data", template, negative_labels=["Large red"])


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
    run(*study, "--synonym", "red=star", "--negative-labels", "white, grey")
    known = read_prompts(out)
    assert ["red", "star"] in known["labels"]
    assert known["negative_labels"] == [["white"], ["grey"]]
    synonyms = ["--synonym", "red=star", "--synonym", "red=square", "--json"]
    found = json.loads(run("run", name, picture, *told, *template, *synonyms))["result"]
    labels = [["red", "star", "square"], *COLOURS[1:]]
    wanted = zoo.load(name)(picture, labels=labels, templates=template[1::2])
    assert [one["label"] for one in found] == [one["label"] for one in wanted]
    scores = [one["score"] for one in wanted]
    assert [one["score"] for one in found] == pytest.approx(scores)
    for more, words in (
        (["--synonym", "pink=rose"], "'pink' is none of the labels red, green, blue, yellow"),
        (["--synonym", "red"], "must read LABEL=NAME"),
    ):
        assert main(["run", name, str(picture), *told, *more]) == 2
        assert words in capsys.readouterr().err
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


@pytest.mark.parametrize(
    ("torch_version", "mend"),
    [
        (
            "2.14.1+cpu",
            "pip install torch==2.14.1 torchvision --index-url https://download.pytorch.org/whl/cpu",
        ),
        ("2.14.1+cu130", "torchvision --index-url https://download.pytorch.org/whl/cu130;"),
        ("2.14.1+rocm7.0", "torchvision --index-url https://download.pytorch.org/whl/rocm7.0;"),
        ("2.14.1", "pip install torch==2.14.1 torchvision;"),
        ("2.14.1+own.build", "pip install torch==2.14.1 torchvision;"),
    ],
)
def test_doctor_knows_a_torchvision_of_another_build(
    torch_version: str, mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo import doctor

    def unfit(name: str) -> object:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor, "import_module", unfit)
    (found,) = doctor._torchvision(torch_version)
    assert found.state == "wrong" and "operator torchvision::nms does not exist" in found.value
    assert mend in found.advice and "pip uninstall torchvision" in found.advice
