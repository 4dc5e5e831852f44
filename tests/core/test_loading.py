"""From a reference to a model, on real folders; and every way that a folder can be wrong."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

import zoo
from zoo import registry
from zoo.card import Card
from zoo.errors import (
    CardError,
    ConfigError,
    FolderError,
    HashMismatchError,
    InputError,
    NameClashError,
    PluginError,
    UnknownNameError,
    UnsafeFileError,
    WeightsError,
    ZooError,
)
from zoo.folder import FileRecord, save_folder

TOY = {
    "zoo_toy/__init__.py": """
        from pathlib import Path
        from zoo import Architecture, Pipeline, hookimpl

        @hookimpl
        def txzoo_architectures():
            return [Architecture("toy", target="zoo_toy.model:Toy", model_types=("toy-hf",))]

        @hookimpl
        def txzoo_pipelines():
            return [Pipeline("echo", target="zoo_toy.model:Echo")]

        @hookimpl
        def txzoo_models():
            return sorted(Path(__file__).parent.glob("models/*/"))
    """,
    "zoo_toy/model.py": """
        from dataclasses import dataclass

        import torch
        from torch import nn

        from zoo import Config


        @dataclass(frozen=True, kw_only=True)
        class ToyConfig(Config):
            vocab_size: int
            d_model: int = 4

            def __post_init__(self):
                self.require_positive("vocab_size", "d_model")


        class Toy(nn.Module):
            config_class = ToyConfig
            max_len = None

            def __init__(self, config):
                super().__init__()
                self.config = config
                self.embedding = nn.Embedding(config.vocab_size, config.d_model)
                self.out = nn.Linear(config.d_model, config.d_model)
                self.register_buffer("scale", torch.arange(1.0, 1 + config.d_model), False)
                self.register_buffer("steps", torch.tensor(7))
                nn.init.normal_(self.embedding.weight, std=0.1)

            def forward(self, ids, cache=None):
                return self.out(self.embedding(ids) * self.scale) @ self.embedding.weight.T

            @classmethod
            def from_transformers(cls, config, tensors):
                module = cls(ToyConfig(vocab_size=config["n_words"]))
                with torch.no_grad():
                    module.embedding.weight.copy_(tensors["wte"])
                return module


        class Echo:
            def __init__(self, model):
                self.model = model

            def __call__(self, text, *, times=1):
                return " ".join([self.model.name, *[text] * times])
    """,
}
WORDS = ("a", "b", "c", "d", "e")


@pytest.fixture
def toy(install: Callable[..., Path]) -> Path:
    """The plugin `zoo-toy` with architecture `toy` and pipeline `echo`; its package folder."""
    return install("zoo-toy", TOY) / "zoo_toy"


def word_tokenizer(words: Sequence[str] = WORDS) -> Tokenizer:
    """Five words, one token each."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.fixture
def toy_folder(toy: Path, tmp_path: Path) -> Path:
    """A complete folder of a trained toy model named `toy-lm`."""
    torch.manual_seed(0)
    folder = tmp_path / "toy-lm"
    module = zoo.create("toy", vocab_size=5)
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n')
    records = save_folder(
        folder,
        module=module,
        architecture="toy",
        config=module.config.to_dict(),
        tokenizer=word_tokenizer(),
        recipe='architecture = "toy"\n',
        log=log,
    )
    files = {name: {"sha256": r.sha256, "bytes": r.bytes} for name, r in records.items()}
    data = {
        "license": "mit",
        "pipeline_tag": "echo",
        "txzoo": {"architecture": "toy", "requires": {"txzoo": ">=0.0.1"}, "files": files},
    }
    Card(data=data, text="A toy.\n", path=folder / "README.md").write(folder)
    return folder


def rewrite(folder: Path, name: str, data: bytes) -> None:
    """Change a file and let the card vouch for the new bytes, as a liar would."""
    (folder / name).write_bytes(data)
    vouch(folder, name)


def vouch(folder: Path, *names: str) -> None:
    """Put the present hashes of files on the card."""
    card = Card.read(folder)
    for name in names:
        record = FileRecord.of(folder / name)
        card.data["txzoo"]["files"][name] = {"sha256": record.sha256, "bytes": record.bytes}
    card.write(folder)


def change_card(folder: Path, **changes: Any) -> None:
    """Set keys of the card's `txzoo` block; None removes one."""
    card = Card.read(folder)
    card.data["txzoo"].update(changes)
    for key in [key for key, value in changes.items() if value is None]:
        del card.data["txzoo"][key]
    card.write(folder)


def test_a_folder_gives_a_model_that_runs(toy_folder: Path) -> None:
    model = zoo.load(toy_folder)
    assert model.name == "toy-lm"
    assert (model.config.vocab_size, model.config.d_model) == (5, 4)
    assert model.pipeline == "echo"
    assert model.device == torch.device("cpu")
    assert not model.module.training
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert model.tokenizer is not None and model.tokenizer.encode("b c").ids == [1, 2]
    assert model("hi", times=2) == "toy-lm hi hi"
    assert repr(model) == "<zoo.Model 'toy-lm': Toy on cpu>"
    stored = load_file(toy_folder / "model.safetensors")
    for name, tensor in model.module.state_dict().items():
        torch.testing.assert_close(tensor, stored[name], rtol=0, atol=0)
    # the buffer that is not stored is computed by the module: columns times 1, 2, 3, 4
    ids = torch.tensor([[0, 3]])
    hidden = stored["embedding.weight"][ids] * torch.tensor([1.0, 2.0, 3.0, 4.0])
    hidden = hidden @ stored["out.weight"].T + stored["out.bias"]
    torch.testing.assert_close(model.module(ids), hidden @ stored["embedding.weight"].T)


def test_loading_leaves_the_random_state_alone(toy_folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    zoo.load(toy_folder)
    torch.testing.assert_close(torch.rand(4), expected, rtol=0, atol=0)


@pytest.mark.parametrize("spelling", ["toy-lm", "./toy-lm", "../{parent}/toy-lm", "{absolute}"])
def test_every_spelling_of_a_path(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    monkeypatch.chdir(toy_folder.parent)
    ref = spelling.format(parent=toy_folder.parent.name, absolute=toy_folder)
    assert zoo.load(ref).name == "toy-lm"
    monkeypatch.chdir(toy_folder)
    assert zoo.info(".").name == "toy-lm"


def test_a_name_goes_before_a_folder_of_the_same_name(
    toy: Path, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(toy_folder, toy / "models/toy-lm")
    change_card(toy_folder, summary="the one in the working directory")
    monkeypatch.chdir(toy_folder.parent)
    registry.reset()
    assert zoo.list_models() == ["toy-lm"]
    assert zoo.info("toy-lm").summary == ""
    assert zoo.info("./toy-lm").summary == "the one in the working directory"
    assert zoo.load("zoo-toy:toy-lm").name == "toy-lm"


def test_what_is_saved_is_loaded_back_bit_for_bit(toy_folder: Path, tmp_path: Path) -> None:
    first = zoo.load(toy_folder)
    again = tmp_path / "again/other-name"
    assert first.save_pretrained(again) == again
    for name in ("model.safetensors", "config.json", "recipe.toml", "training.jsonl"):
        assert (again / name).read_bytes() == (toy_folder / name).read_bytes()
    second = zoo.load(str(again))
    assert second.name == "toy-lm"
    assert second.card is not None and second.card.text == "A toy.\n"
    for name, tensor in second.module.state_dict().items():
        torch.testing.assert_close(tensor, first.module.state_dict()[name], rtol=0, atol=0)


def test_precision_and_device_can_be_chosen(toy_folder: Path) -> None:
    assert zoo.load(toy_folder, dtype="bfloat16").module.out.weight.dtype == torch.bfloat16
    model = zoo.load(toy_folder, dtype=torch.float64, device="cpu")
    assert model.module.out.weight.dtype == torch.float64
    assert model.to("float32") is model and model.module.out.weight.dtype == torch.float32
    assert model.to("meta").device.type == "meta"


@pytest.mark.parametrize("place", ["nonsense", "int8", "cuda:99", "Tensor"])
def test_a_place_that_is_none(toy_folder: Path, place: str) -> None:
    with pytest.raises(InputError, match=place):
        zoo.load(toy_folder).to(place)


def test_half_precision_on_disk_becomes_float32(toy_folder: Path) -> None:
    path = toy_folder / "model.safetensors"
    stored = {k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}
    save_file(stored, path)
    vouch(toy_folder, "model.safetensors")
    module = zoo.load(toy_folder).module
    assert module.out.weight.dtype == torch.float32
    torch.testing.assert_close(module.out.weight, stored["out.weight"].float(), rtol=0, atol=0)


class TestUnknown:
    """References that lead nowhere."""

    @pytest.mark.parametrize(
        ("ref", "message"),
        [
            (
                "owner/name",
                "A folder is written './owner/name', a model on the Hub 'hf://owner/nam",
            ),
            ("./here", "There is no folder 'here'. A folder is written './here'"),
            ("/no/where", "There is no folder '/no/where'. A folder is written '/no/where'"),
            ("a/b/c", "A folder is written './a/b/c', a model on the Hub 'hf://owner/name'"),
            ("x" * 5000 + "/y", "There is no folder"),
        ],
    )
    def test_a_path_that_is_not_there_says_the_spellings(
        self, toy: Path, ref: str, message: str
    ) -> None:
        with pytest.raises(FolderError) as caught:
            zoo.load(ref)
        assert message in str(caught.value)

    @pytest.mark.parametrize("ref", ["toy-ml", "", "zoo-toy:other", "x" * 5000, "nul\0"])
    def test_a_name_that_nobody_has(self, toy: Path, ref: str) -> None:
        with pytest.raises(UnknownNameError, match="Unknown model .* txzoo list shows all 0"):
            zoo.load(ref)

    def test_a_file_instead_of_a_folder(self, toy_folder: Path) -> None:
        with pytest.raises(FolderError, match="is a file; give the model folder"):
            zoo.load(toy_folder / "model.safetensors")
        with pytest.raises(UnsafeFileError, match="can run code"):
            zoo.load(toy_folder / "pytorch_model.bin")
        (toy_folder / "recipe.toml").touch()
        with pytest.raises(FolderError, match=r"recipe\.toml is no model: .* txzoo train "):
            zoo.load(toy_folder / "recipe.toml")

    def test_a_revision_of_something_local(self, toy_folder: Path) -> None:
        with pytest.raises(InputError, match="revision='main' is for models on the Hub"):
            zoo.load(toy_folder, revision="main")


class TestIncomplete:
    """Folders in which something is missing."""

    def test_no_config(self, toy_folder: Path) -> None:
        (toy_folder / "config.json").unlink()
        with pytest.raises(FolderError, match=r"has no file config\.json"):
            zoo.load(toy_folder)

    def test_no_card(self, toy_folder: Path) -> None:
        (toy_folder / "README.md").unlink()
        with pytest.raises(CardError, match=r"README\.md: a model folder needs a card"):
            zoo.load(toy_folder)

    def test_an_empty_folder(self, toy: Path, tmp_path: Path) -> None:
        with pytest.raises(FolderError, match=r"has no file config\.json; a model folder holds"):
            zoo.load(tmp_path)

    def test_no_weights(self, toy_folder: Path) -> None:
        (toy_folder / "model.safetensors").unlink()
        with pytest.raises(FolderError, match=r"has no file model\.safetensors"):
            zoo.load(toy_folder)

    def test_only_a_pickle(self, toy_folder: Path) -> None:
        (toy_folder / "model.safetensors").rename(toy_folder / "pytorch_model.bin")
        with pytest.raises(UnsafeFileError, match=r"pytorch_model\.bin can run code"):
            zoo.load(toy_folder)

    def test_a_recipe_that_nobody_has_run(self, toy_folder: Path) -> None:
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (toy_folder / name).unlink()
        change_card(toy_folder, files=None)
        assert not zoo.info(toy_folder).trained
        with pytest.raises(FolderError, match="has no weights yet: txzoo train toy-lm makes them"):
            zoo.load(toy_folder)

    def test_weights_that_nobody_vouches_for(self, toy_folder: Path) -> None:
        change_card(toy_folder, files=None)
        with pytest.raises(FolderError, match=r"gives no sha256 of model\.safetensors"):
            zoo.load(toy_folder)

    def test_no_licence(self, toy_folder: Path) -> None:
        card = (toy_folder / "README.md").read_text()
        (toy_folder / "README.md").write_text(card.replace("license: mit\n", ""))
        with pytest.raises(CardError, match=r"README\.md:1: license: is missing"):
            zoo.load(toy_folder)

    def test_no_tokenizer_is_fine(self, toy_folder: Path) -> None:
        (toy_folder / "tokenizer.json").unlink()
        files = {k: v for k, v in Card.read(toy_folder).data["txzoo"]["files"].items()}
        change_card(toy_folder, files={k: v for k, v in files.items() if k != "tokenizer.json"})
        assert zoo.load(toy_folder).tokenizer is None


class TestWrong:
    """Folders in which something is not what it should be."""

    @pytest.mark.parametrize(
        ("name", "old", "new"),
        [
            ("model.safetensors", b"F32", b"I32"),
            ("tokenizer.json", b'"e"', b'"E"'),
            ("config.json", b'"toy"', b'"tox"'),
            ("recipe.toml", b"toy", b"tox"),
        ],
    )
    def test_a_file_that_differs_from_its_hash(
        self, toy_folder: Path, name: str, old: bytes, new: bytes
    ) -> None:
        data = (toy_folder / name).read_bytes()
        assert old in data
        (toy_folder / name).write_bytes(data.replace(old, new))
        with pytest.raises(HashMismatchError, match=f"{name} has sha256"):
            zoo.load(toy_folder)

    def test_truncated_weights(self, toy_folder: Path) -> None:
        rewrite(
            toy_folder, "model.safetensors", (toy_folder / "model.safetensors").read_bytes()[:-7]
        )
        with pytest.raises(WeightsError, match=r"model\.safetensors is cut off"):
            zoo.load(toy_folder)

    def test_renamed_and_reordered_tensors(self, toy_folder: Path) -> None:
        path = toy_folder / "model.safetensors"
        stored = load_file(path)
        save_file(dict(reversed(stored.items())), path)
        vouch(toy_folder, path.name)
        module = zoo.load(toy_folder).module
        torch.testing.assert_close(module.out.weight, stored["out.weight"], rtol=0, atol=0)
        stored["out.wait"] = stored.pop("out.weight")
        save_file(stored, path)
        vouch(toy_folder, path.name)
        with pytest.raises(WeightsError, match=r"missing out\.weight, unexpected out\.wait"):
            zoo.load(toy_folder)

    def test_a_wrong_shape(self, toy_folder: Path) -> None:
        path = toy_folder / "model.safetensors"
        save_file({**load_file(path), "embedding.weight": torch.zeros(4, 5)}, path)
        vouch(toy_folder, path.name)
        with pytest.raises(
            WeightsError, match=r"embedding\.weight has shape \(4, 5\), this Toy needs \(5, 4\)"
        ):
            zoo.load(toy_folder)

    def test_not_a_number(self, toy_folder: Path) -> None:
        path = toy_folder / "model.safetensors"
        save_file({**load_file(path), "out.bias": torch.full((4,), float("nan"))}, path)
        vouch(toy_folder, path.name)
        with pytest.raises(WeightsError, match=r"tensor out\.bias holds NaN or infinity"):
            zoo.load(toy_folder)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"d_modle": 4}, "ToyConfig has no key 'd_modle'. Did you mean 'd_model'"),
            ({"vocab_size": "5"}, "vocab_size must be int, got '5'"),
            ({"vocab_size": 0}, "vocab_size must be above 0, got 0"),
            ({"d_model": 10**15}, "config.json: "),
        ],
    )
    def test_a_configuration_that_does_not_work(
        self, toy_folder: Path, changes: dict[str, Any], message: str
    ) -> None:
        config = json.loads((toy_folder / "config.json").read_text())
        rewrite(toy_folder, "config.json", json.dumps(config | changes).encode())
        with pytest.raises(ConfigError) as caught:
            zoo.load(toy_folder)
        assert message in str(caught.value) and "config.json" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_two_names_of_an_architecture(self, toy_folder: Path) -> None:
        change_card(toy_folder, architecture="other")
        with pytest.raises(FolderError, match="says architecture 'toy', its card says 'other'"):
            zoo.load(toy_folder)

    def test_an_architecture_that_nobody_has(self, toy_folder: Path) -> None:
        change_card(toy_folder, architecture="toi")
        rewrite(toy_folder, "config.json", b'{"architecture": "toi"}')
        with pytest.raises(UnknownNameError, match="architecture 'toi'. Did you mean 'toy'"):
            zoo.load(toy_folder)

    @pytest.mark.parametrize(
        ("requires", "message"),
        [
            ({"txzoo": ">=99"}, r"needs txzoo>=99, this is 0\..*: pip install 'txzoo>=99'"),
            (
                {"zoo-absent": ">=1.2,<2"},
                "needs zoo-absent>=1.2,<2, which is not installed: "
                "pip install 'zoo-absent>=1.2,<2'",
            ),
        ],
    )
    def test_a_plugin_that_is_not_there(
        self, toy_folder: Path, requires: dict[str, str], message: str
    ) -> None:
        change_card(toy_folder, architecture="absent", requires=requires)
        rewrite(toy_folder, "config.json", b'{"architecture": "absent"}')
        with pytest.raises(PluginError, match=message):
            zoo.load(toy_folder)

    def test_a_requirement_that_does_not_parse(self, toy_folder: Path) -> None:
        change_card(toy_folder, requires={"txzoo": "about 1"})
        with pytest.raises(CardError, match=r"README\.md: txzoo\.requires\.txzoo"):
            zoo.load(toy_folder)

    def test_a_tokenizer_that_is_none(self, toy_folder: Path) -> None:
        rewrite(toy_folder, "tokenizer.json", b"{}")
        with pytest.raises(FolderError, match=r"tokenizer\.json is not a tokenizers file"):
            zoo.load(toy_folder)

    def test_a_tokenizer_with_more_tokens_than_the_model(self, toy_folder: Path) -> None:
        tokenizer = word_tokenizer()
        tokenizer.add_tokens(["f"])
        rewrite(toy_folder, "tokenizer.json", tokenizer.to_str().encode())
        with pytest.raises(FolderError, match="has 6 tokens, config.json says vocab_size 5"):
            zoo.load(toy_folder)

    def test_a_link_out_of_the_folder(self, toy_folder: Path) -> None:
        path = toy_folder / "model.safetensors"
        path.rename(toy_folder.parent / "elsewhere.safetensors")
        path.symlink_to(toy_folder.parent / "elsewhere.safetensors")
        with pytest.raises(FolderError, match="links to a place outside"):
            zoo.load(toy_folder)

    def test_a_card_whose_path_leaves(self, toy_folder: Path) -> None:
        text = (toy_folder / "README.md").read_text()
        (toy_folder / "README.md").write_text(text.replace("recipe.toml", "../recipe.toml"))
        with pytest.raises(CardError, match=r"txzoo\.files\.\.\./recipe\.toml: leaves the model"):
            zoo.load(toy_folder)

    def test_a_pipeline_that_nobody_has(self, toy_folder: Path) -> None:
        text = (toy_folder / "README.md").read_text()
        (toy_folder / "README.md").write_text(text.replace("echo", "ecco"))
        model = zoo.load(toy_folder)
        with pytest.raises(UnknownNameError, match="Unknown pipeline 'ecco'. Did you mean 'echo'"):
            model("hi")


class TestForeign:
    """Folders in the layout of `transformers`."""

    @pytest.fixture
    def folder(self, toy: Path, tmp_path: Path) -> Path:
        """A checkpoint of model_type toy-hf."""
        folder = tmp_path / "checkpoint"
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "toy-hf", "n_words": 3}')
        save_file({"wte": torch.arange(12.0).view(3, 4)}, folder / "model.safetensors")
        return folder

    def test_it_loads_without_card_and_tokenizer(self, folder: Path) -> None:
        model = zoo.load(folder)
        torch.testing.assert_close(
            model.module.embedding.weight.data, torch.arange(12.0).view(3, 4)
        )
        assert model.tokenizer is None
        assert model.card is not None
        assert (model.name, model.pipeline) == ("checkpoint", "text-generation")
        assert (model.card.license, model.card.architecture) == ("unknown", "toy")

    def test_it_keeps_the_tokenizer_and_the_licence(self, folder: Path) -> None:
        word_tokenizer(WORDS[:3]).save(str(folder / "tokenizer.json"))
        (folder / "README.md").write_text("---\nlicense: mit\n---\nAbout.\n")
        model = zoo.load(folder)
        assert model.tokenizer is not None and model.tokenizer.get_vocab_size() == 3
        assert model.card is not None
        assert (model.card.license, model.card.text) == ("mit", "About.\n")
        (folder / "README.md").write_text("No front matter.\n")
        assert zoo.info(folder).license == "unknown"

    def test_a_tokenizer_with_more_tokens_than_the_model(self, folder: Path) -> None:
        word_tokenizer().save(str(folder / "tokenizer.json"))
        with pytest.raises(FolderError, match="has 5 tokens, config.json says vocab_size 3"):
            zoo.load(folder)

    def test_saved_it_is_a_folder_of_ours(self, folder: Path, tmp_path: Path) -> None:
        zoo.load(folder).save_pretrained(tmp_path / "ours")
        again = zoo.load(tmp_path / "ours")
        assert again.name == "checkpoint" and again.config.vocab_size == 3
        front = (tmp_path / "ours/README.md").read_text().split("---\n")[1]
        assert yaml.safe_load(front)["license"] == "unknown"

    def test_a_kind_that_nobody_reads(self, folder: Path) -> None:
        (folder / "config.json").write_text('{"model_type": "toy-hg"}')
        with pytest.raises(UnknownNameError, match="model_type 'toy-hg'. Did you mean 'toy-hf'"):
            zoo.load(folder)
        (folder / "config.json").write_text('{"model_type": ["x"]}')
        with pytest.raises(UnknownNameError, match="Read are toy-hf"):
            zoo.load(folder)

    def test_two_readers(self, folder: Path, install: Callable[..., Path]) -> None:
        source = """
            from zoo import Architecture, hookimpl

            @hookimpl
            def txzoo_architectures():
                return [Architecture("aa", target="a:B", model_types=("toy-hf",))]
        """
        install("squatter", {"squatter.py": source})
        with pytest.raises(NameClashError, match="aa and toy all read .*TXZOO_DISABLE_PLUGINS"):
            zoo.load(folder)

    def test_a_config_without_what_the_converter_needs(self, folder: Path) -> None:
        (folder / "config.json").write_text('{"model_type": "toy-hf"}')
        with pytest.raises(ConfigError, match=r"config\.json has no 'n_words'"):
            zoo.load(folder)

    def test_a_config_that_names_nothing(self, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        with pytest.raises(FolderError, match="names no architecture"):
            zoo.load(folder)

    def test_a_pickle_checkpoint(self, folder: Path) -> None:
        torch.save({"wte": torch.zeros(3, 4)}, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        with pytest.raises(UnsafeFileError, match=r"pytorch_model\.bin can run code"):
            zoo.load(folder)


class TestHub:
    """References to the Hub, answered from its cache."""

    COMMIT = "c0ffee" * 6 + "cafe"

    @pytest.fixture
    def cache(self, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A cache that holds the toy model as me/toy, laid out as the Hub's client does it."""
        cache = tmp_path / "hub"
        repository = cache / "models--me--toy"
        snapshot = repository / "snapshots" / self.COMMIT
        (repository / "blobs").mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text(self.COMMIT)
        snapshot.mkdir(parents=True)
        for path in toy_folder.iterdir():
            blob = repository / "blobs" / FileRecord.of(path).sha256
            shutil.copyfile(path, blob)
            (snapshot / path.name).symlink_to(f"../../blobs/{blob.name}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
        return cache

    @pytest.mark.parametrize("ref", ["hf://me/toy", f"hf://me/toy@{COMMIT}", "hf://me/toy@main"])
    def test_what_is_cached_loads_offline(self, cache: Path, ref: str) -> None:
        model = zoo.load(ref, offline=True)
        assert model("hi").endswith(" hi")
        assert zoo.load("hf://me/toy", revision="main", offline=True).name == model.name

    def test_txzoo_home_is_the_cache(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "nowhere")
        with pytest.raises(ZooError, match="Cannot get me/toy"):
            zoo.load("hf://me/toy", offline=True)
        monkeypatch.setenv("TXZOO_HOME", str(cache))
        assert zoo.load("hf://me/toy", offline=True)("hi").endswith(" hi")

    def test_a_snapshot_is_a_folder_too(self, cache: Path) -> None:
        snapshot = cache / "models--me--toy/snapshots" / self.COMMIT
        assert zoo.load(snapshot).config.vocab_size == 5
        (snapshot / "recipe.toml").unlink()
        (snapshot / "recipe.toml").symlink_to(cache.parent / "log.jsonl")
        with pytest.raises(FolderError, match="links to a place outside"):
            zoo.load(snapshot)

    def test_contents_in_the_caches_shared_store(self, cache: Path) -> None:
        repository = cache / "models--me--toy"
        weights = repository / "snapshots" / self.COMMIT / "model.safetensors"
        blob = weights.resolve()
        store = cache / "blobs" / "ab" / ("ab" * 32)
        store.parent.mkdir(parents=True)
        blob.rename(store)
        blob.symlink_to("../../blobs/ab/" + "ab" * 32)  # as the client keeps what Xet delivers
        assert zoo.load("hf://me/toy", offline=True)("hi").endswith(" hi")
        store.write_bytes(store.read_bytes()[:-1] + b"x")
        with pytest.raises(HashMismatchError, match="the Hub says"):
            zoo.load("hf://me/toy", offline=True)
        assert not store.exists()

    def test_a_pinned_checkpoint_of_transformers(self, cache: Path, tmp_path: Path) -> None:
        snapshot = cache / "models--me--toy/snapshots" / self.COMMIT
        for path in snapshot.iterdir():
            path.unlink()
        (snapshot / "config.json").write_text('{"model_type": "toy-hf", "n_words": 3}')
        save_file({"wte": torch.ones(3, 4)}, snapshot / "model.safetensors")
        record = FileRecord.of(snapshot / "model.safetensors")
        ours = {
            "architecture": "toy",
            "files": {"model.safetensors": {"sha256": record.sha256, "bytes": record.bytes}},
            "hub": {"repo": "me/toy", "revision": self.COMMIT},
        }
        pointer = tmp_path / "pointer"
        pointer.mkdir()
        data = {"license": "mit", "pipeline_tag": "echo", "txzoo": ours}
        Card(data, "", pointer / "README.md").write(pointer)
        assert zoo.load(pointer, offline=True).module.embedding.weight.eq(1).all()
        save_file({"wte": torch.zeros(3, 4)}, snapshot / "model.safetensors")
        with pytest.raises(HashMismatchError, match="its card says"):
            zoo.load(pointer, offline=True)

    def test_a_card_that_points_to_the_hub(self, cache: Path, toy_folder: Path) -> None:
        for path in toy_folder.iterdir():
            if path.name != "README.md":
                path.unlink()
        change_card(toy_folder, hub={"repo": "me/toy", "revision": self.COMMIT})
        assert zoo.info(toy_folder).hub is not None
        assert zoo.load(toy_folder, offline=True).name == "toy-lm"

    def test_the_card_here_is_what_the_hub_is_held_against(
        self, cache: Path, toy_folder: Path
    ) -> None:
        change_card(toy_folder, hub={"repo": "me/toy", "revision": self.COMMIT})
        (toy_folder / "config.json").unlink()
        weights = cache / f"models--me--toy/snapshots/{self.COMMIT}/model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        with pytest.raises(HashMismatchError, match=r"model\.safetensors has sha256"):
            zoo.load(toy_folder, offline=True)

    @pytest.mark.parametrize("ref", ["hf://me/other", "hf://me/toy@v2"])
    def test_what_is_not_cached_is_one_line(self, cache: Path, ref: str) -> None:
        with pytest.raises(ZooError, match="Cannot get me/.* from the Hub") as caught:
            zoo.load(ref, offline=True)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("ref", ["hf://toy", "hf://", "hf://a/b/c", "hf://a b/c"])
    def test_an_address_that_is_none(self, toy: Path, ref: str) -> None:
        with pytest.raises(InputError, match="hf://owner/name@revision"):
            zoo.load(ref)

    def test_two_revisions(self, toy: Path) -> None:
        with pytest.raises(InputError, match="names one revision and revision='v2' another"):
            zoo.load("hf://me/toy@v1", revision="v2")

    def test_a_name_the_hub_does_not_allow(self, toy: Path) -> None:
        with pytest.raises(ZooError, match=r"Cannot get -\./\.- from the Hub"):
            zoo.load("hf://-./.-", offline=True)


def test_create_makes_an_untrained_module(toy: Path) -> None:
    module = zoo.create("toy", vocab_size=7)
    assert module.embedding.weight.shape == (7, 4)
    assert module.training
    assert 0.03 < module.embedding.weight.std() < 0.3  # 28 numbers of deviation 0.1
    with pytest.raises(ConfigError, match="ToyConfig needs a value for vocab_size"):
        zoo.create("toy")
    with pytest.raises(ConfigError, match="has no key 'heads'"):
        zoo.create("toy", vocab_size=7, heads=2)
    with pytest.raises(UnknownNameError, match="Unknown architecture 'toys'. Did you mean 'toy'"):
        zoo.create("toys")


def test_a_model_without_a_card_cannot_be_saved(toy: Path, tmp_path: Path) -> None:
    module = zoo.create("toy", vocab_size=7)
    model = zoo.Model(
        name="new",
        module=module,
        config=module.config,
        tokenizer=None,
        pipeline="echo",
        card=None,
    )
    assert model("x") == "new x"
    assert module.training  # wrapping a module changes nothing about it
    with pytest.raises(ZooError, match="new has no card yet"):
        model.save_pretrained(tmp_path / "new")
