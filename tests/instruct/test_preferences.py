"""Preference tuning: the loss against `trl` and by hand, and that answers become likelier."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.conversation import Template
from zoo.errors import RecipeError, TrainingError
from zoo.nn.loss import IGNORED
from zoo.tasks.instruction import Example
from zoo.tasks.preferences import (
    Preference,
    PreferenceBatches,
    PreferenceTuning,
    dpo_loss,
    last_answer,
)

WORDS = ["red", "blue", "green", "black"]
V = 29
RECIPE = """
architecture = "alibi-decoder"
task = "manners"
base = "BASE"
[tuning]
method = "full"
[objective]
template = "chatml"
beta = 0.2
[training]
steps = 25
batch_tokens = 160
learning_rate = 1e-2
storage = "float32"
"""


class Manners(PreferenceTuning):
    """It is polite to say please."""

    splits = ("train", "test")

    def preferences(self, split: str) -> Sequence[Preference]:
        asked = [[{"role": "user", "content": f"name {word}"}] for word in WORDS]
        return [Preference(a, f"{w} please", f"{w} now") for a, w in zip(asked, WORDS, strict=True)]


@pytest.fixture(scope="module")
def _manners(offer: Callable[..., None]) -> None:
    offer("manners", Manners, "preference_accuracy", "preference_margin")


def test_equation_7_by_hand() -> None:
    policy, reference = [[-3.0, -2.0], [-1.0, -5.0]], [[-2.5, -2.5], [-1.5, -4.0]]
    beta, total = 0.3, 0.0
    for (pw, pl), (rw, rl) in zip(policy, reference, strict=True):
        total += -math.log(1 / (1 + math.exp(-beta * ((pw - rw) - (pl - rl)))))
    found = dpo_loss(torch.tensor(policy), torch.tensor(reference), beta)
    assert found.item() == pytest.approx(total / 2, rel=1e-6)


def example(length: int) -> Example:
    ids = torch.randint(V, (length + 1,))
    response = torch.arange(length) >= length // 2
    return Example(ids[:-1].numpy(), torch.where(response, ids[1:], IGNORED).numpy())


def module_of() -> nn.Module:
    sizes = {"d_model": 24, "n_layers": 2, "n_heads": 3, "n_kv_heads": 1, "d_ff": 20}
    made = zoo.create("rope-decoder", vocab_size=V, max_seq_len=32, **sizes)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.4)
    return made


class Theirs(nn.Module):
    """Our decoder as trl calls a model: the log-probability of each token after the first."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, input_ids: Tensor, labels: Tensor, **_: Any) -> SimpleNamespace:
        chances = self.module(input_ids)[:, :-1].log_softmax(-1)
        right = labels[:, 1:]
        found = chances.gather(-1, right.clamp(min=0)[..., None])[..., 0] * (right != IGNORED)
        nothing = torch.zeros_like(found)
        return SimpleNamespace(
            log_probs=found, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )


@pytest.mark.reference
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_loss_and_gradients_are_those_of_trl(beta: float) -> None:
    trl = pytest.importorskip("trl", reason="needs trl")
    module = module_of()
    pairs = [((example(9), example(6)), (-7.0, -9.5)), ((example(4), example(11)), (-3.0, -8.25))]
    batch = PreferenceBatches(pairs, batch_tokens=30, seed=1)(0)
    assert len(batch["ids"]) == 2
    task = Manners()
    task.set_objective({"beta": beta})
    ours = task.loss(module, batch)
    ours.backward()
    gradients = [parameter.grad.clone() for parameter in module.parameters()]
    module.zero_grad()
    # theirs: whole sequences, the wanted ones first, and which tokens are answers
    ids, targets = (batch[key].transpose(0, 1).flatten(0, 1) for key in ("ids", "targets"))
    last = targets.where(targets != IGNORED, 0)[:, -1:]
    inputs = {
        "input_ids": torch.cat([ids, last], dim=1),
        "completion_mask": nn.functional.pad((targets != IGNORED).long(), (1, 0)),
        "attention_mask": torch.ones(4, ids.shape[1] + 1),
        "ref_chosen_logps": batch["reference"][:, 0],
        "ref_rejected_logps": batch["reference"][:, 1],
    }
    for row, right in zip(inputs["input_ids"], targets, strict=True):  # behind padding too
        row[1:] = torch.where(right != IGNORED, right, row[1:])
    alone = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x, device="cpu")
    trainer = SimpleNamespace(
        model=module,
        accelerator=alone,
        beta=beta,
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    theirs = trl.DPOTrainer._compute_loss(trainer, Theirs(module), inputs, False)
    theirs.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert ours.item() != pytest.approx(math.log(2), abs=0.01)
    for mine, parameter in zip(gradients, module.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-5, atol=1e-6)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """An untrained decoder with words of its own."""
    task = Manners()
    task.set_objective({"template": "chatml"})
    tokenizer = task.build_tokenizer({"kind": "word"})
    from zoo.model import Model

    module = zoo.create(
        "alibi-decoder",
        vocab_size=tokenizer.get_vocab_size(),
        max_seq_len=32,
        d_model=16,
        n_layers=1,
        n_heads=2,
        d_ff=16,
    )
    front = {
        "license": "cc0-1.0",
        "pipeline_tag": "text-generation",
        "txzoo": {"name": "base", "summary": "Knows nothing", "architecture": "alibi-decoder"},
    }
    card = zoo.Card(data=front, text="# base\n", path=tmp_path / "none" / "README.md")
    model = Model(
        name="base",
        module=module.eval(),
        config=module.config,
        tokenizer=tokenizer,
        pipeline="text-generation",
        card=card,
    )
    return model.save_pretrained(tmp_path / "base")


@pytest.mark.usefixtures("_manners")
@pytest.mark.parametrize("method", ["full", "lora"])
def test_wanted_answers_become_likelier(method: str, base: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace("BASE", str(base)).replace('"full"', f'"{method}"'))
    task = Manners()
    task.set_objective({"template": "chatml"})
    task.begin(zoo.load(base))
    before = task.evaluate(zoo.load(base), "test")
    model = zoo.train(path, out=tmp_path / "out")
    after = zoo.evaluate(model)
    assert after["preference_accuracy"] == 1
    assert after["preference_margin"] > before["preference_margin"] + 0.1
    assert model.template is not None and "<|im_start|>" in model.template.source
    lines = (tmp_path / "out" / "training.jsonl").read_text().splitlines()
    assert '"loss": 0.69' in lines[0] or '"loss": 0.68' in lines[0]  # log 2: as the base began
    epochs = [line for line in lines if '"epoch"' in line]
    assert epochs and not any("perplexity" in line for line in epochs)  # a loss of pairs has none


def test_pairs_that_do_not_fit_are_left_out_and_counted(
    base: Path, tmp_path: Path, offer: Callable[..., None]
) -> None:
    """In training by the recipe's window, which may be shorter than the base's; on the card too."""

    class Wordy(Manners):
        def preferences(self, split: str) -> Sequence[Preference]:
            usual = super().preferences(split)
            return [*usual, Preference(usual[0].asked, "red" + " please" * 6, "red now")]

    offer("wordy", Wordy, "preference_accuracy", "preference_margin")
    task = Wordy()
    task.set_objective({"template": "chatml"})
    model = zoo.load(base)
    task.begin(model)
    assert model.tokenizer is not None
    *short, long = sorted(max(map(len, pair)) for pair, _ in task.pairs)
    window = short[-1]
    assert len(short) == 4 and window < long <= 32
    with pytest.warns(UserWarning, match=f"1 of 5 training pairs .* more than {window} tokens"):
        batches = task.batches(model.tokenizer, length=window, batch_tokens=40, seed=1)
    assert (len(batches.pairs), batches.left_out) == (4, 1)
    path = tmp_path / "recipe.toml"
    text = RECIPE.replace("BASE", str(base)).replace("manners", "wordy").replace("= 25", "= 2")
    path.write_text(f"{text}[config]\nmax_seq_len = {window}\n")
    with pytest.warns(UserWarning, match="left out"):
        trained = zoo.train(path, out=tmp_path / "out")
    assert trained.card is not None
    assert trained.card.training["left_out"] == {"train": 1, "test": 1}


@pytest.mark.usefixtures("_manners")
def test_the_reference_is_the_base_before_training(base: Path) -> None:
    model = zoo.load(base)
    task = Manners()
    task.set_objective({"template": "chatml"})
    task.begin(model)
    template = Template.called("chatml")
    assert model.tokenizer is not None
    pair = task.preferences("train")[2]
    expected = []
    for answer in (pair.chosen, pair.rejected):
        messages = pair.conversation(answer)
        prefix = len(
            model.tokenizer.encode(template.render(pair.asked, add_generation_prompt=True)).ids
        )
        ids = torch.tensor(model.tokenizer.encode(template.render(messages)).ids)
        chances = model.module(ids[None, :-1])[0].log_softmax(-1)
        steps = range(prefix - 1, len(ids) - 1)
        expected.append(sum(chances[step, ids[step + 1]].item() for step in steps))
    assert task.pairs[2][1] == pytest.approx(expected, abs=1e-4)


def test_only_the_last_answer_counts(base: Path) -> None:
    model = zoo.load(base)
    assert model.tokenizer is not None
    template = Template.called("chatml")
    first = [{"role": "user", "content": "name red"}, {"role": "assistant", "content": "red now"}]
    again = [{"role": "user", "content": "name blue"}]
    pair = Preference([*first, *again], "blue please", "blue now")
    one = last_answer(template, model.tokenizer, pair.conversation(pair.chosen))
    learned = [int(token) for token in one.targets if token != IGNORED]
    text = model.tokenizer.decode(learned, skip_special_tokens=False)
    assert "blue please" in text and "red" not in text


@pytest.mark.usefixtures("_manners")
def test_what_cannot_be(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace("BASE", str(base)).replace("beta = 0.2", "beta = 0"))
    with pytest.raises(RecipeError, match="beta must be a number above 0, got 0"):
        zoo.train(path, out=tmp_path / "out")
    with pytest.raises(TrainingError, match="learned by a trained model"):
        task = Manners()
        task.batches(task.build_tokenizer({"kind": "word"}), length=9, batch_tokens=9, seed=1)
    path.write_text(RECIPE.replace("BASE", str(base)).replace("chatml", "chat-ml"))
    with pytest.raises(zoo.ZooError, match="Did you mean 'chatml'"):
        zoo.train(path, out=tmp_path / "out")
