"""CLIP against open_clip itself: a checkpoint of its own format, its loss, its preprocessing."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from models import as_model
from PIL import Image
from safetensors.torch import load_file, save_file

import zoo
from zoo import registry
from zoo.attention import rollout, seen
from zoo.cli import main
from zoo.errors import (
    ConfigError,
    FolderError,
    HashMismatchError,
    HubError,
    InputError,
    UnknownNameError,
    WeightsError,
)
from zoo.model import Model
from zoo.tasks.contrastive import symmetric_loss

open_clip = pytest.importorskip("open_clip", reason="needs txzoo[clip]")
pytestmark = pytest.mark.reference

from zoo_clip import pinning  # noqa: E402

NAME = "txzoo-tiny"
SIZES: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 24,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 20,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 2,
    },
}
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]  # openai's
TEXTS = (
    "a photo of a cat",
    "It's  A DOG!! 12 of them",
    "naïve café — “quoted” &amp; 漢字 🙂",
    "x " * 200,
    "'s don't we'll",
    "<end_of_text> hm",
    "a\tb\nc",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a model that is registered as open_clip's own are."""
    folder = tmp_path_factory.mktemp("open_clip")
    (folder / f"{NAME}.json").write_text(json.dumps(SIZES))
    open_clip.add_model_config(folder / f"{NAME}.json")
    torch.manual_seed(1)
    tensors = open_clip.create_model(NAME).state_dict()
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "weights.safetensors")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": SIZES, "preprocess_cfg": {"mean": MEAN, "std": STD}})
    )
    return folder / "weights.safetensors"


@pytest.fixture(scope="module")
def pinned(checkpoint: Path) -> Path:
    folder = checkpoint.parent / "clip-zero-shot"
    pinning.pin(NAME, str(checkpoint), out=folder, license="mit")
    return folder


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 255, (40, 61, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_vectors_and_tokens_are_open_clips(
    checkpoint: Path, pinned: Path, picture: Image.Image
) -> None:
    theirs, _, prepare = open_clip.create_model_and_transforms(NAME, pretrained=str(checkpoint))
    theirs.eval()
    model = zoo.load(pinned)
    tokens = open_clip.get_tokenizer(NAME)(list(TEXTS))
    ours = model.module.read_texts(model.tokenizer, TEXTS)
    assert torch.equal(ours, tokens)
    assert torch.equal(model.module.read_pictures([picture])[0], prepare(picture))
    with torch.no_grad():
        seen = theirs.encode_image(prepare(picture)[None], normalize=True)
        told = theirs.encode_text(tokens, normalize=True)
        wanted, _ = theirs.get_logits(prepare(picture)[None], tokens)
        found = model.module(prepare(picture)[None], tokens)
    torch.testing.assert_close(model.called.embed_pictures([picture]), seen)
    torch.testing.assert_close(model.called.embed_texts(TEXTS), told)
    torch.testing.assert_close(found, wanted)


def test_scores_are_those_of_open_clips_own_recipe(
    checkpoint: Path, pinned: Path, picture: Image.Image
) -> None:
    """Their zero-shot classifier, which averages templates as Radford et al. do."""
    theirs, _, prepare = open_clip.create_model_and_transforms(NAME, pretrained=str(checkpoint))
    theirs.eval()
    names, templates = ["cat", "dog", "ship"], ["a photo of a {}", "a drawing of a {}"]
    classifier = open_clip.build_zero_shot_classifier(
        theirs,
        open_clip.get_tokenizer(NAME),
        names,
        [template.format for template in templates],
        use_tqdm=False,
    )
    with torch.no_grad():
        seen = theirs.encode_image(prepare(picture)[None], normalize=True)
        logits = theirs.logit_scale.exp() * seen @ classifier
    wanted = dict(zip(names, logits.softmax(-1)[0].tolist(), strict=True))
    answers = zoo.load(pinned)(picture, labels=names, templates=templates)
    assert {one["label"]: one["score"] for one in answers} == pytest.approx(wanted, rel=1e-4)
    cosines = dict(zip(names, (seen @ classifier)[0].tolist(), strict=True))
    assert {a["label"]: a["similarity"] for a in answers} == pytest.approx(cosines, abs=1e-5)


@pytest.mark.parametrize("rows", [2, 7])
def test_the_loss_is_open_clips(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    pictures, texts = torch.nn.functional.normalize(
        torch.randn(2, rows, 16, generator=generator), dim=-1
    )
    scale = torch.tensor(12.5)
    wanted = open_clip.ClipLoss()(pictures, texts, scale)
    torch.testing.assert_close(symmetric_loss(scale * pictures @ texts.T), wanted)


def test_a_sigmoids_scores_are_each_labels_own(
    checkpoint: Path, picture: Image.Image, tmp_path: Path
) -> None:
    """SigLIP's, as its authors' example computes them: nothing competes, one label is enough."""
    name = "txzoo-tiny-sigmoid"
    sizes = {**SIZES, "init_logit_bias": -1.0, "init_logit_scale": 2.0, "custom_text": True}
    (tmp_path / f"{name}.json").write_text(json.dumps(sizes))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    torch.manual_seed(2)
    theirs = open_clip.create_model(name).eval()
    weights = tmp_path / "weights.safetensors"
    save_file({n: t.contiguous() for n, t in theirs.state_dict().items()}, weights)
    shutil.copy(checkpoint.with_name("open_clip_config.json"), tmp_path)
    pinning.pin(name, str(weights), out=tmp_path / "out")
    model, tokens = zoo.load(tmp_path / "out"), open_clip.get_tokenizer(name)(["cat", "dog"])
    with torch.no_grad():
        seen = theirs.encode_image(model.module.read_pictures([picture]), normalize=True)
        told = theirs.encode_text(tokens, normalize=True)
        logits = seen @ told.T * theirs.logit_scale.exp() + theirs.logit_bias
    wanted = dict(zip(["cat", "dog"], torch.sigmoid(logits)[0].tolist(), strict=True))
    answers = model(picture, labels=["cat", "dog"], templates=["{}"])
    assert {one["label"]: one["score"] for one in answers} == pytest.approx(wanted, rel=1e-4)
    for others in (["dog"], []):  # one label alone, without a warning
        (one,) = model(picture, labels=["cat"], negative_labels=others, templates=["{}"])
        assert one["score"] == pytest.approx(wanted["cat"], rel=1e-4)


def test_other_preprocessing_does_not_pass(pinned: Path, tmp_path: Path) -> None:
    """open_clip#1068: offline it took another model's."""
    for name, old, new in (
        ("config.json", '"resize": "shortest"', '"resize": "squash"'),
        ("tokenizer.json", "<start_of_text>", "<begin_of_text>"),
    ):
        folder = tmp_path / name
        shutil.copytree(pinned, folder)
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
        with pytest.raises(HashMismatchError, match=name):
            zoo.load(folder)


def copied(checkpoint: Path, folder: Path, said: object = None) -> str:
    """The same weights, with another configuration beside them, or none."""
    folder.mkdir()
    path = shutil.copy(checkpoint, folder)
    if said is not None:
        (folder / "open_clip_config.json").write_text(json.dumps(said))
    return str(path)


def test_a_file_is_read_as_what_lies_beside_it_says(
    checkpoint: Path, picture: Image.Image, tmp_path: Path
) -> None:
    """SigLIP's preprocessing, which is not what `open_clip` takes unless it is told."""
    told = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    weights = copied(checkpoint, tmp_path / "a", {"model_cfg": SIZES, "preprocess_cfg": told})
    pinning.pin(NAME, weights, out=tmp_path / "out")
    theirs = open_clip.image_transform(
        24, is_train=False, mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode="squash"
    )
    ours = zoo.load(tmp_path / "out").module.read_pictures([picture])[0]
    assert torch.equal(ours, theirs(picture))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (None, "nothing says which preprocessing weights.safetensors was trained with"),
        ([], "cannot be read"),
        ({"model_cfg": SIZES}, "says no mean and std"),
        (
            {
                "model_cfg": {**SIZES, "vision_cfg": {"image_size": 32}},
                "preprocess_cfg": {"mean": MEAN, "std": STD},
            },
            "is of another model than txzoo-tiny: image_size=32, not 24",
        ),
    ],
)
def test_a_file_that_nothing_tells_of(
    checkpoint: Path, tmp_path: Path, said: object, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        pinning.pin(NAME, copied(checkpoint, tmp_path / "a", said), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_activation_is_that_of_the_weights(
    checkpoint: Path, picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tag may say another than the model's name, as `openai` of `ViT-B-32` does."""
    theirs = open_clip.create_model(NAME, pretrained=str(checkpoint), force_quick_gelu=True).eval()
    monkeypatch.setitem(
        open_clip.pretrained._PRETRAINED,
        NAME,
        {"quick": open_clip.pretrained._pcfg(hf_hub="own/er/", quick_gelu=True)},
    )
    file = SimpleNamespace(rfilename="open_clip_model.safetensors")
    hub = SimpleNamespace(siblings=[file], sha="0" * 40, card_data=None)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *a, **k: hub)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: str(checkpoint))
    pinning.pin(NAME, "quick", out=tmp_path / "by tag")
    said = {"model_cfg": {**SIZES, "quick_gelu": True}}
    said["preprocess_cfg"] = {"mean": MEAN, "std": STD}
    pinning.pin(NAME, copied(checkpoint, tmp_path / "a", said), out=tmp_path / "by file")
    for folder in ("by tag", "by file"):
        model = zoo.load(tmp_path / folder)
        pixels = model.module.read_pictures([picture])
        with torch.no_grad():
            seen = theirs.encode_image(pixels, normalize=True)
            told = theirs.encode_text(open_clip.get_tokenizer(NAME)(["a cat"]), normalize=True)
        torch.testing.assert_close(model.called.embed_pictures([picture]), seen)
        torch.testing.assert_close(model.called.embed_texts(["a cat"]), told)


def test_what_it_looks_at_is_open_clips_own_attention(pinned: Path, picture: Image.Image) -> None:
    model = zoo.load(pinned)
    blocks = model.module.clip.visual.transformer.resblocks
    read: list[torch.Tensor] = []
    hooks = [block.ln_1.register_forward_hook(lambda *a: read.append(a[2])) for block in blocks]
    maps = model.attention(picture)
    for hook in hooks:
        hook.remove()
    assert len(maps) == len(read) == len(blocks) == model.config.n_layers
    for weights, block, x in zip(maps, blocks, read, strict=True):
        _, expected = block.attn(x, x, x, need_weights=True, average_attn_weights=False)
        torch.testing.assert_close(weights, expected[0])
    grid = seen(model, picture)
    assert grid.shape == (3, 3)
    by_class_token = rollout(maps)[0, 1:].view(3, 3)
    torch.testing.assert_close(grid, by_class_token / by_class_token.sum())


def test_either_kind_of_block_shows_what_it_looks_at(picture: Image.Image) -> None:
    sizes = {"vocab_size": 9, "max_seq_len": 5, "image_size": 16, "d_embed": 8}
    text = {"layers": 1, "width": 16, "heads": 2}

    found: list[Model] = []
    for kind in ("default", "custom"):
        vision = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 4, "block_type": kind}
        torch.manual_seed(1)
        module = zoo.create("open-clip", **sizes, text=text, vision={**vision, "pool_type": "avg"})
        if found:
            module.load_state_dict(found[0].module.state_dict())
        found.append(as_model(module.eval(), pipeline="zero-shot-image-classification"))
    one, other = found
    for weights, expected in zip(one.attention(picture), other.attention(picture), strict=True):
        assert weights.shape == (2, 17, 17)
        torch.testing.assert_close(weights, expected)
    patches = rollout(one.attention(picture))[1:, 1:].mean(0).view(4, 4)
    torch.testing.assert_close(seen(one, picture), patches / patches.sum())
    config = one.config.to_dict() | {"vision": {"layers": [1, 1, 1, 1], "width": 8}}
    module = zoo.create("open-clip", **config)
    with pytest.raises(InputError, match="does not cut pictures into patches"):
        seen(as_model(module.eval(), pipeline="zero-shot-image-classification"), picture)


def test_what_was_brought_has_a_name(
    checkpoint: Path,
    picture: Image.Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TXZOO_HOME", str(tmp_path))
    try:
        registry.reset()
        for verb in (["run", "clip-zero-shot", "a"], ["prompts", "clip-zero-shot", "--data", "a"]):
            assert main(verb) != 0
            assert "not on this machine yet: `txzoo pin-clip` brings it" in capsys.readouterr().err
        assert main(["pin-clip", NAME, str(checkpoint)]) == 0
        assert "zoo.load('clip-zero-shot') opens it" in capsys.readouterr().out
        registry.reset()
        assert "clip-zero-shot" in zoo.list_models(pipeline="zero-shot-image-classification")
        found = zoo.load("clip-zero-shot")(picture, labels=["cat", "dog"])
        assert {entry["label"] for entry in found} == {"cat", "dog"}
        assert main(["pin-clip", NAME, str(checkpoint)]) != 0  # not in place of what is there
        for name, words in {
            "tiny-clip": "tiny-clip is a model already",
            "../up": "lower case",
        }.items():
            assert main(["pin-clip", NAME, str(checkpoint), "--name", name]) != 0
            assert words in capsys.readouterr().err
    finally:
        monkeypatch.undo()
        registry.reset()


def test_the_card_says_where_it_is_from(pinned: Path, checkpoint: Path) -> None:
    config = json.loads((pinned / "config.json").read_text())
    digest = zoo.folder.sha256(checkpoint)
    assert config["source"] == {
        "model": NAME,
        "pretrained": "weights.safetensors",
        "file": "weights.safetensors",
        "sha256": digest,
    }
    assert config["image_mean"] == list(open_clip.OPENAI_DATASET_MEAN)
    assert (config["resize"], config["interpolation"]) == ("shortest", "bicubic")
    card = zoo.info(pinned)
    assert card.license == "mit" and digest in card.text
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= card.files.keys()
    for path in pinned.iterdir():
        if path.suffix in (".json", ".md"):
            assert str(checkpoint.parent) not in path.read_text(), "no path of this machine"


def test_what_cannot_be_pinned(
    checkpoint: Path, pinned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    out = tmp_path / "out"
    with pytest.raises(UnknownNameError, match=r"'ViT-B-31'. Did you mean 'ViT-B-32'"):
        pinning.pin("ViT-B-31", "openai", out=out)
    with pytest.raises(UnknownNameError, match="Did you mean 'laion2b_s34b_b79k'"):
        pinning.pin("ViT-B-32", "laion2b_s34b_b79", out=out)
    with pytest.raises(HubError, match="Cannot get ViT-B-32 laion2b_s34b_b79k from the Hub"):
        pinning.pin(*pinning.USUAL, out=out)
    with pytest.raises(ConfigError, match="CoCa"):
        pinning.pin("coca_ViT-B-32", "laion2b_s13b_b90k", out=out)
    with pytest.raises(ConfigError, match="roberta"):
        pinning.pin("roberta-ViT-B-32", "laion2b_s12b_b32k", out=out)
    with pytest.raises(FolderError, match="already"):
        pinning.pin(NAME, str(checkpoint), out=pinned)
    tensors = load_file(checkpoint)
    del tensors["ln_final.weight"]
    save_file(tensors, tmp_path / "half.safetensors")
    shutil.copy(checkpoint.with_name("open_clip_config.json"), tmp_path)
    with pytest.raises(ConfigError, match="ln_final.weight"):
        pinning.pin(NAME, str(tmp_path / "half.safetensors"), out=out)
    (tmp_path / "bad.safetensors").write_bytes(checkpoint.read_bytes()[:-5])
    with pytest.raises(WeightsError, match="cut off"):
        pinning.pin(NAME, str(tmp_path / "bad.safetensors"), out=out)
    monkeypatch.setitem(pinning.PINS, (NAME, "weights.safetensors"), ("0" * 40, "0" * 64))
    with pytest.raises(HashMismatchError, match="get the file again"):
        pinning.pin(NAME, str(checkpoint), out=out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resize": "any"}, "resize must be one of"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std must be above 0"),
        ({"vision": {"layers": 1 << 30}}, "beyond"),
        ({"vision": {"no_such": 1}}, "open_clip builds no model"),
        ({"text": {"hf_model_name": "roberta-base"}}, "would be asked of the network"),
        ({"more": {"trust": True}}, "not read"),
        ({"end_id": 60}, "none of 50"),
    ],
)
def test_configurations_that_cannot_be(changes: dict[str, Any], words: str) -> None:
    from zoo_clip import TINY

    values = {"vocab_size": 50, "max_seq_len": 12, "image_size": 16, **TINY}
    with pytest.raises(ConfigError, match=words):
        zoo.create("open-clip", **{**values, **changes})
