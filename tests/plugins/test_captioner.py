"""From captions to a model that writes them: the task, the commands, where it looks."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
from PIL import Image
from toy_tasks import PaintCaptions, Paints
from zoo_scenes import scenes
from zoo_scenes.captions import SceneCaptions

import zoo
from zoo.attention import gaze, seen
from zoo.cli import main
from zoo.errors import InputError, TrainingError
from zoo.nn import record_attention
from zoo.nn.loss import IGNORED


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def paint(place: int) -> Image.Image:
    (pixels,) = PaintCaptions().pictures("test")([place], 8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def test_it_learns_to_say_what_it_sees(captioner: Path) -> None:
    card, model = zoo.info(captioner), zoo.load(captioner)
    assert card.pipeline == "image-to-text" and card.task == "paint-captions"
    scores = {score.key: score.value for score in card.scores}
    assert scores["exact_attributes"] > 0.9  # by chance a sixth
    truth = PaintCaptions().pictures("test")
    for place in range(6):
        assert set(truth.attributes(place).values()) <= set(model(paint(place)).split())


def test_its_scores_are_those_counted_by_hand(captioner: Path) -> None:
    model, task = zoo.load(captioner), PaintCaptions()
    found = task.evaluate(model, "test")
    pictures = task.pictures("test")
    captions = [model(paint(place), num_beams=4) for place in range(12)]
    references = [pictures.references(place) for place in range(12)]
    bleu = sacrebleu.corpus_bleu(captions, list(map(list, zip(*references, strict=True))))
    assert found["bleu"] == pytest.approx(bleu.score)
    nats, tokens = 0.0, 0
    for place in range(12):
        ids = model.tokenizer.encode(references[place][0]).ids
        given = torch.tensor([[model.config.start_id, *ids[:-1]]])
        pixels = (pictures([place], 8) / 255 - 0.5) / 0.5
        chances = model.module(pixels, given)[0].log_softmax(-1)
        nats -= float(chances[range(len(ids)), ids].sum())
        tokens += len(ids)
    assert found["perplexity_per_token"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert math.isnan(task.evaluate(model, "test", limit=1)["bleu_stderr"])


def test_attributes_are_counted_as_said() -> None:
    task = PaintCaptions()
    said = ["a dark red picture", "this picture is red", "a bright blue picture", "nothing"]
    right = [Paints(4, 1).attributes(place) for place in (3, 3, 5, 0)]
    assert right[0] == {"colour": "red", "shade": "dark"}
    found = task.attribute_scores(said, right)
    assert found["colour_accuracy"] == 0.75 and found["shade_accuracy"] == 0.25
    assert found["exact_attributes"] == 0.25
    assert found["exact_attributes_stderr"] == pytest.approx(math.sqrt(0.25 * 0.75 / 3))


def test_batches_are_a_function_of_the_step(captioner: Path) -> None:
    model, task = zoo.load(captioner), PaintCaptions()
    task.model_config = model.config

    def made(seed: int) -> Any:
        return task.batches(model.tokenizer, length=10, batch_tokens=100, seed=seed)

    one, other = made(1), made(1)
    assert one.per_epoch == 6
    for step in (0, 7):
        for name, tensor in one(step).items():
            assert torch.equal(tensor, other(step)[name])
    assert not torch.equal(one(0)["pixels"], made(2)(0)["pixels"])
    batch = one(3)
    assert (
        batch["pixels"].shape == (10, 3, 8, 8)
        and (batch["ids"][:, 0] == 0 + one.config.start_id).all()
    )
    texts = set()
    for step in range(12):  # two epochs: each picture in both ways
        batch = one(step)
        for ids, targets in zip(batch["ids"], batch["targets"], strict=True):
            kept = targets[targets != IGNORED]
            assert kept[-1] == model.config.end_id and torch.equal(ids[1 : len(kept)], kept[:-1])
            texts.add(model.tokenizer.decode(kept.tolist()))
    assert texts == {text for place in range(6) for text in Paints(6, 1).references(place)}
    with pytest.raises(TrainingError, match="60 pictures are too few for a batch of 61"):
        task.batches(model.tokenizer, length=1, batch_tokens=61, seed=1)


def test_where_it_looks_is_its_own_attention(captioner: Path, tmp_path: Path) -> None:
    model = zoo.load(captioner)
    found = gaze(model, paint(1), "a dark red picture")
    assert found.words == ["a", "dark", "red", "picture", "end"]
    ids = model.tokenizer.encode("a dark red picture").ids  # a word is a token
    with record_attention() as layers:
        pixels = (PaintCaptions().pictures("test")([1], 8) / 255 - 0.5) / 0.5
        model.module(pixels, torch.tensor([[model.config.start_id, *ids[:-1]]]))
    expected = layers[-1][0].detach()  # the last one is that of the decoder to the picture
    torch.testing.assert_close(found.layers[0].flatten(2), expected)
    assert gaze(model, paint(1)).words[:-1] == model(paint(1)).split()
    (maps,) = model.attention(paint(1))
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:2]))
    with pytest.raises(InputError, match=r"zoo\.attention\.gaze"):
        seen(model, paint(1))
    with pytest.raises(InputError, match="does not write what it sees"):
        gaze(zoo.load("speech-alibi"), paint(1))


def test_the_commands(captioner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, model = str(tmp_path / "p.png"), zoo.load(captioner)
    paint(2).save(picture)
    assert main(["run", str(captioner), picture]) == 0
    assert capsys.readouterr().out == f"{model(picture)}\n"
    beams = ["--num-beams", "3", "--num-return-sequences", "2", "--json"]
    assert main(["run", str(captioner), picture, *beams]) == 0
    found = json.loads(capsys.readouterr().out)
    options = {"num_beams": 3, "num_return_sequences": 2, "return_scores": True}
    assert found["answers"] == model(picture, **options) and found["picture"] == picture
    out = tmp_path / "looks.png"
    assert main(["attention", str(captioner), picture, "--out", str(out)]) == 0
    assert "at each word" in capsys.readouterr().out
    assert np.asarray(Image.open(out)).std() > 10
    assert main(["run", str(captioner), str(tmp_path / "none.png")]) == 2
    assert "There is no picture" in capsys.readouterr().err


def test_scenes_in_words_never_tell_what_is_held_out() -> None:
    task = SceneCaptions()
    held = set(scenes.UNSEEN)
    for split in task.splits:
        pictures = task.pictures(split)
        for place in range(40):
            truth = pictures.attributes(place)
            assert ((truth["colour"], truth["shape"]) in held) == (split == "test")
            plain, *others = pictures.references(place)
            assert task.described(plain) == truth
            for caption in (*others, pictures.caption(place, 3)):
                said = task.described(caption)
                assert said.items() <= truth.items() and {"colour", "shape", "count"} <= set(said)
    assert pictures([0, 1], 16).shape == (2, 3, 16, 16)
    assert len({pictures.caption(0, draw) for draw in range(20)}) > 5
