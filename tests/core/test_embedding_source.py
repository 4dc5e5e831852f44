"""Embeddings of a source as the beginning of a new model: reading, rows, freezing, resuming."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo_synthetic.task
from accelerate import Accelerator
from embedding_sources import bert_folder, gpt2_folder, gpt2_tokenizer
from safetensors.torch import load_file, save_file
from tokenizers import (
    Tokenizer,
    models,
)
from torch import Tensor

import zoo
from zoo.errors import FolderError, RecipeError, UnsafeFileError, WeightsError
from zoo.training import Recipe, train
from zoo.training.embeddings import open_source, take
from zoo.training.loop import Run
from zoo.training.recipe import EmbeddingSettings
from zoo.training.vocabulary import source_tokenizer

D, POSITIONS = 16, 48
RECIPE = """
architecture = "decoder"
task = "synthetic"
seed = 3

[tokenizer]
kind = "source"

[config]
max_seq_len = 32
d_model = 16
n_layers = 1
n_heads = 2
d_ff = 24

[embeddings]
source = "gpt2"
token = "wte.weight"
position = "wpe.weight"
frozen_epochs = 1.0
learning_rate = 1e-3

[training]
steps = 12
batch_tokens = 512
learning_rate = 1e-2
weight_decay = 0.1
warmup_steps = 2
log_every = 3
checkpoint_every = 5
storage = "float32"
"""


@pytest.fixture(autouse=True)
def _few_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.set_num_threads(1)
    monkeypatch.setattr(zoo_synthetic.task, "LINES", {"train": 40, "validation": 4, "test": 6})
    zoo_synthetic.task.generate.cache_clear()
    yield
    zoo_synthetic.task.generate.cache_clear()


def text() -> str:
    task = zoo_synthetic.task.Synthetic()
    return task.start + task.text("train")


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return gpt2_folder(tmp_path / "gpt2", text(), D, POSITIONS)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return bert_folder(tmp_path / "bert", text(), D, POSITIONS)


@pytest.fixture
def recipe(gpt2: Path) -> Recipe:
    path = gpt2.parent / "tiny.toml"
    path.write_text(RECIPE)
    return Recipe.read(path)


def read_log(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


# what a model begins with


def test_a_decoder_begins_with_the_sources_rows(recipe: Recipe, gpt2: Path, tmp_path: Path) -> None:
    run = Run(recipe, tmp_path, Accelerator())
    theirs = load_file(gpt2 / "model.safetensors")
    ours = dict(run.module.named_parameters())
    assert torch.equal(ours["token_embedding.weight"], theirs["wte.weight"])
    assert torch.equal(ours["positions.weight"], theirs["wpe.weight"][:32])  # the first ones
    assert run.tokenizer.encode("a b").ids == gpt2_tokenizer(text()).encode("a b").ids
    # all else begins as it does without a source
    plain = Run(
        recipe.with_changes(
            embeddings={"source": ""}, tokenizer={"kind": "source", "source": str(gpt2)}
        ),
        tmp_path,
        Accelerator(),
    )
    for name, parameter in plain.module.named_parameters():
        same = torch.equal(parameter, ours[name])
        assert same == (name not in ("token_embedding.weight", "positions.weight")), name


def test_positions_may_be_left_out(recipe: Recipe, gpt2: Path, tmp_path: Path) -> None:
    changed = recipe.with_changes(embeddings={"position": "", "token": ""})
    run = Run(changed, tmp_path, Accelerator())
    assert run.taken is not None and run.taken.names == ("token_embedding.weight",)
    theirs = load_file(gpt2 / "model.safetensors")
    assert torch.equal(run.module.get_parameter("token_embedding.weight"), theirs["wte.weight"])
    assert run.module.get_parameter("positions.weight").std() < 0.03  # as ours begin


@pytest.mark.parametrize("architecture", ["alibi-decoder", "rope-decoder", "relative-decoder"])
def test_any_decoder_takes_token_embeddings(
    recipe: Recipe, gpt2: Path, tmp_path: Path, architecture: str
) -> None:
    more = {"n_kv_heads": 2} if architecture == "rope-decoder" else {}
    recipe = recipe.with_changes(architecture=architecture, config=more)
    run = Run(recipe.with_changes(embeddings={"position": ""}), tmp_path, Accelerator())
    theirs = load_file(gpt2 / "model.safetensors")["wte.weight"]
    assert torch.equal(run.module.get_parameter("token_embedding.weight"), theirs)
    with pytest.raises(RecipeError, match=r"position='wpe.weight', but \w+ has no table of pos"):
        Run(recipe, tmp_path, Accelerator())


def test_an_encoder_takes_both_tables(gpt2: Path) -> None:
    sizes = {"d_model": D, "n_layers": 1, "n_heads": 2, "d_ff": 8, "max_seq_len": 20}
    theirs = load_file(gpt2 / "model.safetensors")
    count = len(theirs["wte.weight"])
    module = zoo.create("encoder", vocab_size=count, head="masked-language", **sizes)
    taken = take(module, EmbeddingSettings(source=str(gpt2), position="wpe.weight"), None)
    assert taken.names == ("token_embedding.weight", "position_embedding.weight")
    assert torch.equal(module.position_embedding.weight, theirs["wpe.weight"][:20])


def test_a_whole_models_prefix_and_a_bare_file(gpt2: Path, tmp_path: Path) -> None:
    """GPT2LMHeadModel's names; a file may lie under any name."""
    theirs = load_file(gpt2 / "model.safetensors")
    file = tmp_path / "other.safetensors"
    save_file({f"transformer.{name}": tensor for name, tensor in theirs.items()}, file)
    source = open_source(str(file))
    assert source.find("wte.weight", ()) == "transformer.wte.weight"
    assert source.shape("transformer.wpe.weight") == (POSITIONS, D)
    assert torch.equal(source.read("transformer.wte.weight"), theirs["wte.weight"])


# vocabularies


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_reduced_vocabulary_splits_the_text_as_the_whole_one(
    kind: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(kind)
    whole, rows = source_tokenizer({"kind": "source"}, str(folder), text())
    small, few = source_tokenizer({"kind": "source", "reduced": True}, str(folder), text())
    assert small.get_vocab_size() == len(few) < len(rows) == whole.get_vocab_size()
    assert small.encode(text()).tokens == whole.encode(text()).tokens
    original = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    for token, number in small.get_vocab().items():
        assert few[number] == original.get(token, -1), token  # rows go by text
    for unused in ("never", "##said", "[unused0]") if kind == "bert" else ("Ġever",):
        assert unused in original and unused not in small.get_vocab()
    odd = "tunoc" if kind == "bert" else "xyz"  # spelled, for want of a token
    assert small.decode(small.encode(odd).ids) == odd


def test_berts_special_tokens_lengths_and_line_ends(bert: Path) -> None:
    made, rows = source_tokenizer({"kind": "source"}, str(bert), text())
    words = text().split()[:20]
    lines = f"\n{' '.join(words)}\n{words[0]}\n"
    tokens = made.encode(lines).tokens
    assert len(tokens) > 20 and not {"[CLS]", "[SEP]", "[PAD]"} & set(tokens)
    assert [token for token in tokens if token == "\n"] == ["\n"] * 3
    assert rows[made.token_to_id("\n")] == -1 and rows.count(-1) == 1
    written = made.decode(made.encode(lines).ids)
    assert written.count("\n") == 3 and " \n" not in written and "\n " not in written


def test_the_token_without_a_row_begins_as_ours_do(
    recipe: Recipe, bert: Path, tmp_path: Path
) -> None:
    changed = recipe.with_changes(
        tokenizer={"kind": "source", "reduced": True},
        embeddings={"source": str(bert), "token": "", "position": ""},
    )
    run = Run(changed, tmp_path, Accelerator())
    theirs = load_file(bert / "model.safetensors")["embeddings.word_embeddings.weight"].float()
    original = Tokenizer.from_file(str(bert / "tokenizer.json"))
    ours = run.module.get_parameter("token_embedding.weight")
    assert len(ours) == run.tokenizer.get_vocab_size() < len(theirs)
    for token, number in run.tokenizer.get_vocab().items():
        if token == "\n":
            assert ours[number].std() < 0.1
        else:
            assert torch.equal(ours[number], theirs[original.token_to_id(token)]), token
    assert run.taken is not None
    assert (run.taken.facts["rows"], run.taken.facts["of"]) == (len(ours) - 1, len(theirs))


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_the_most_frequent_tokens_alone(kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    full, _ = source_tokenizer({"reduced": True}, str(folder), text())
    most = full.get_vocab_size() - 5 - (kind == "bert")  # the line end is not counted
    small, rows = source_tokenizer({"vocab_size": most}, str(folder), text())
    assert most - 3 <= len(rows) - (kind == "bert") <= most
    assert set(small.get_vocab()) < set(full.get_vocab())
    known = small.encode(text()).tokens
    assert "[UNK]" not in known
    assert (
        small.decode(small.encode(text()).ids).split()
        == full.decode(full.encode(text()).ids).split()
    )
    with pytest.raises(RecipeError, match=r"vocab_size must be at least \d+ here, got 3"):
        source_tokenizer({"vocab_size": 3}, str(folder), text())


# freezing


def moved(model: torch.nn.Module, theirs: Tensor) -> bool:
    return not torch.equal(model.get_parameter("token_embedding.weight"), theirs)


def test_frozen_rows_stay_and_then_move(recipe: Recipe, gpt2: Path, tmp_path: Path) -> None:
    theirs = load_file(gpt2 / "model.safetensors")
    run = Run(recipe, tmp_path, Accelerator())
    per_epoch = run.batches.per_epoch
    assert 2 <= per_epoch < 12
    (group,) = [g for o in run.optimizers for g in o.param_groups if g["lr"] == 1e-3]
    assert [id(p) for p in group["params"]] == [
        id(run.module.get_parameter(name))
        for name in ("token_embedding.weight", "positions.weight")
    ]
    others = run.module.get_parameter("blocks.0.attention.qkv.weight").detach().clone()
    for step in range(12):
        run._set_learning_rates()
        assert run.one_step() is not None
        run.step += 1
        assert moved(run.module, theirs["wte.weight"]) == (step >= per_epoch), step
        first = run.module.get_parameter("positions.weight")
        assert torch.equal(first, theirs["wpe.weight"][:32]) == (step < per_epoch)
        assert not torch.equal(run.module.get_parameter("blocks.0.attention.qkv.weight"), others)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_log_and_card_show_the_groups(
    recipe: Recipe, tmp_path: Path, optimizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = train(recipe.with_changes(optimizer=optimizer), out=tmp_path / "out")
    rows = read_log(tmp_path / "out")
    groups = rows[0]["parameter_groups"]
    assert rows[0]["step"] == 0
    assert sum(group["numbers"] for group in groups) == sum(
        p.numel() for p in model.module.parameters()
    )
    (apart,) = [group for group in groups if group["frozen_epochs"]]
    assert apart == {
        "parameters": ["token_embedding.weight", "positions.weight"],
        "numbers": (model.config.vocab_size + 32) * D,
        "optimizer": "AdamW",
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "frozen_epochs": 1.0,
    }
    (matrices,) = [group for group in groups if group["weight_decay"]]
    assert "blocks.*.attention.qkv.weight" in matrices["parameters"]
    assert model.card is not None
    facts = model.card.training
    assert facts["parameter_groups"] == groups
    assert facts["embeddings"]["source"] == "gpt2"  # no path of this machine
    assert set(facts["embeddings"]["sha256"]) == {"wte.weight", "wpe.weight"}
    (freed,) = [row for row in rows if "no_longer_frozen" in row]
    epochs = [row for row in rows if "epoch" in row]
    assert freed["step"] == epochs[0]["step"] + 1
    for row in epochs:
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]), rel=1e-3)
    printed = capsys.readouterr().err
    assert "AdamW at 0.001, weight decay 0, frozen for 1.0 epochs" in printed
    assert model("count 1", max_new_tokens=4).startswith("count 1")
    assert zoo.verify(str(tmp_path / "out")).ok


def test_embeddings_that_stay_frozen(recipe: Recipe, gpt2: Path, tmp_path: Path) -> None:
    model = train(recipe.with_changes(embeddings={"frozen_epochs": math.inf}), out=tmp_path / "out")
    theirs = load_file(gpt2 / "model.safetensors")["wte.weight"]
    assert not moved(model.module, theirs)
    assert "frozen_epochs = inf" in (tmp_path / "out" / "recipe.toml").read_text()
    again = Recipe.read(tmp_path / "out" / "recipe.toml")
    assert again.embeddings["frozen_epochs"] == math.inf


@pytest.mark.parametrize("last", [2, 7, 11])
@pytest.mark.parametrize("keep", ["last", "best"])
def test_an_interrupted_run_goes_on_as_if_never_stopped(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int, keep: str
) -> None:
    recipe = recipe.with_changes(checkpoint_every=1, keep=keep, evaluate_every=2)
    train(recipe, out=tmp_path / "whole")
    calls, original = 0, Run.one_step

    def one_step(self: Run) -> Any:
        nonlocal calls
        calls += 1
        if calls == last:
            raise KeyboardInterrupt
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "one_step", one_step)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, out=tmp_path / "cut")
    train(recipe, out=tmp_path / "cut", resume=True)
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    recipes = [(tmp_path / name / "recipe.toml").read_text() for name in ("whole", "cut")]
    one, other = (text.partition("\n")[2] for text in recipes)  # the first line has the minutes
    assert one == other
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "cut")


# bad input


def renamed(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file(change(tensors), file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"d_model": 24}}, r"wte.weight is 16 wide, .* d_model is 24: .* = 16 fits"),
        ({"config": {"max_seq_len": 64}}, r"wpe.weight has 48 pos.*len is 64: up to 48"),
        ({"tokenizer": {"kind": "word"}}, r"has \d+ rows, the vocabulary \d+ tokens: .*'source'"),
        ({"embeddings": {"position": "ln_f.bias"}}, r"ln_f.bias is F32 of \(16,\), no table"),
        ({"embeddings": {"token": "wte.wieght"}}, r"no tensor 'wte.wieght'. Near are wte.weight"),
        ({"embeddings": {"position": "wpe"}}, r"no tensor 'wpe'. Near are wpe.weight"),
        ({"embeddings": {"source": "nowhere"}}, "there is no 'nowhere'; a source is 'hf://owner/na"),
        ({"tokenizer": {"kind": "source", "size": 3}}, "reduced and vocab_size, got 'size'"),
        ({"tokenizer": {"kind": "source", "reduced": 1}}, "reduced must be true or false, got 1"),
        ({"tokenizer": {"kind": "source", "vocab_size": "9"}}, "must be a whole number, got '9'"),
        (
            {"embeddings": {"source": ""}, "tokenizer": {"kind": "source", "source": ""}},
            "kind 'source' needs a source, here or under",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_so(
    recipe: Recipe, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((RecipeError, WeightsError, FolderError), match=message) as caught:
        train(recipe.with_changes(**changes), out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("frozen_epochs = 1.0", "frozen_epochs = -1", "frozen_epochs must be at least 0, got -1"),
        ("frozen_epochs = 1.0", "frozen_epochs = nan", "frozen_epochs must be at least 0, got nan"),
        ("frozen_epochs = 1.0", "frozen = 1", r"no key 'frozen'. Did you mean 'frozen_epochs'\?"),
        ("learning_rate = 1e-3", "learning_rate = inf", "learning_rate must be finite, got inf"),
        ('token = "wte.weight"', "token = 3", r"\[embeddings\] token must be a text, got 3"),
        ('source = "gpt2"', "", r"\[embeddings\] lacks source"),
        ('storage = "float32"', 'keep = "first"', "keep must be last or best, got 'first'"),
        ('storage = "float32"', 'keep = "best"', "keep = 'best' needs an evaluate_every above 0"),
    ],
)  # fmt: skip
def test_bad_tables(gpt2: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in RECIPE
    path = tmp_path / "bad.toml"
    path.write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(RecipeError, match=message):
        Recipe.read(path)


def test_a_base_has_embeddings_of_its_own(recipe: Recipe, tiny_model: Path) -> None:
    with pytest.raises(RecipeError, match=r"\[embeddings\] and a base"):
        Recipe.from_dict(
            {
                "name": "x",
                "architecture": "alibi-decoder",
                "task": "synthetic",
                "base": str(tiny_model),
                "tuning": {"method": "lora"},
                "embeddings": {"source": "y"},
                "training": {"steps": 1, "batch_tokens": 1, "learning_rate": 1.0},
            }
        )
    adapted = recipe.with_changes(tuning="lora", base=str(tiny_model))
    assert adapted.embeddings == {}


def test_sources_that_are_damaged_or_no_weights(gpt2: Path, recipe: Recipe, tmp_path: Path) -> None:
    def run() -> Run:
        return Run(recipe, tmp_path, Accelerator())

    whole = (gpt2 / "model.safetensors").read_bytes()
    renamed(gpt2, lambda t: {"a_table.weight": t["wte.weight"]})
    with pytest.raises(WeightsError, match=r"no tensor 'wte.weight'. \w+ \w+ a_table.weight"):
        run()
    (gpt2 / "model.safetensors").write_bytes(whole[:-9])
    with pytest.raises(WeightsError, match="is damaged, or no safetensors file"):
        run()
    (gpt2 / "model.safetensors").write_bytes(whole)
    renamed(gpt2, lambda t: t | {"wte.weight": t["wte.weight"] / 0})
    with pytest.raises(WeightsError, match="wte.weight holds NaN or infinity"):
        run()
    renamed(gpt2, lambda t: t | {"wte.weight": torch.zeros(9, D)})
    with pytest.raises(RecipeError, match="has 9 rows, its tokenizer has tokens up to"):
        run()
    renamed(gpt2, lambda t: t | {"wte.weight": torch.zeros(9, D, dtype=torch.long)})
    with pytest.raises(WeightsError, match=r"wte.weight is I64 of \(9, 16\), no table"):
        run()
    (gpt2 / "model.safetensors").rename(gpt2 / "pytorch_model.bin")
    with pytest.raises(UnsafeFileError, match="only safetensors"):
        run()
    with pytest.raises(UnsafeFileError, match="only safetensors"):
        open_source(str(gpt2 / "pytorch_model.bin"))


def test_sources_without_a_tokenizer_that_can_be_read(gpt2: Path) -> None:
    file = gpt2 / "tokenizer.json"
    values = json.loads(file.read_text())
    for broken, message in (
        ("{", "is not valid JSON"),
        ("[]", "is not a tokenizers file"),
        (json.dumps({**values, "model": {"type": "BPE"}}), "is not a tokenizers file"),
    ):
        file.write_text(broken)
        with pytest.raises(FolderError, match=message):
            source_tokenizer({}, str(gpt2), text())
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    unigram.save(str(file))
    with pytest.raises(FolderError, match="of the kind 'Unigram'; reduced are"):
        source_tokenizer({"reduced": True}, str(gpt2), text())
    file.unlink()
    with pytest.raises(FolderError, match=r"has no tokenizer.json"):
        source_tokenizer({}, str(gpt2), text())


def test_a_source_is_found_beside_the_recipe(
    recipe: Recipe, gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recipe.embeddings["source"].endswith("gpt2")  # a path from here, as the test runs
    assert Path(recipe.embeddings["source"]).samefile(gpt2)
    again = Recipe.from_dict({"name": "tiny", **_values(recipe)}, source=recipe.source)
    assert again == recipe
    monkeypatch.chdir(tmp_path)
    assert Recipe.read(tmp_path / "tiny.toml").embeddings["source"] == "gpt2"
    shutil.rmtree(gpt2)
    assert Recipe.read(tmp_path / "tiny.toml").embeddings["source"] == "gpt2"


def _values(recipe: Recipe) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(recipe.dump())


# the best weights


def test_the_best_weights_are_kept(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores are made up: the third look is the best, the last one is not finite."""
    scores = iter([0.2, 0.3, 0.9, 0.5, 0.6, math.nan])
    weights: list[Tensor] = []
    original = zoo_synthetic.task.Synthetic.evaluate

    def evaluate(self: Any, model: Any, split: str, **options: Any) -> dict[str, float]:
        found = original(self, model, split, **options)
        if split != "validation":
            return found
        weights.append(model.module.get_parameter("positions.weight").detach().clone())
        return {**found, "accuracy": next(scores)}

    monkeypatch.setattr(zoo_synthetic.task.Synthetic, "evaluate", evaluate)
    recipe = recipe.with_changes(keep="best", evaluate_every=2, embeddings={"frozen_epochs": 0})
    model = train(recipe, out=tmp_path / "out")
    assert len(weights) == 6  # after steps 2, 4, ... 12
    assert torch.equal(model.module.get_parameter("positions.weight"), weights[2])
    assert not torch.equal(weights[2], weights[-1])
    assert model.card is not None
    assert model.card.training["kept"] == {"step": 6, "validation": {"accuracy": 0.9}}
    rows = [row["step"] for row in read_log(tmp_path / "out") if "validation" in row]
    assert rows == [2, 4, 6, 8, 10, 12]
