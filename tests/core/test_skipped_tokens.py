"""A measurement that meets numbers which are not finite leaves them out, and counts them."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.tasks import token_scores
from zoo.tasks.language_modeling import perplexities

V, POISON = 7, 6


class Broken(nn.Module):
    """Even guesses, but of a window that holds one token none is finite."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, ids: Tensor) -> Tensor:
        poisoned = (ids == POISON).any(dim=1)[:, None, None]  # (B, 1, 1)
        return torch.where(poisoned, self.value, torch.zeros(*ids.shape, V))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@torch.no_grad()
def test_windows_that_are_not_finite_are_left_out_and_counted(value: float) -> None:
    ids = torch.arange(41) % 6  # (N + 1,)
    ids[20] = POISON
    nats, correct = token_scores(Broken(value), ids, 8)
    left_out = nats.isnan()
    # windows of 8 that begin at 0, 4, 8, ...: two of them hold token 20
    assert left_out.nonzero().flatten().tolist() == list(range(20, 28))
    assert nats[~left_out].tolist() == pytest.approx([math.log(V)] * 32)
    scores = perplexities(nats, correct, 8, words=20, characters=80)
    assert scores["skipped_tokens"] == 8
    assert scores["perplexity_per_token"] == pytest.approx(V)
    assert scores["perplexity_per_word"] == pytest.approx(V**2)  # 40 tokens in 20 words
    assert scores["bits_per_character"] == pytest.approx(math.log2(V) / 2)


def test_a_model_that_is_finite_nowhere_has_no_score() -> None:
    nats = torch.full((8,), math.nan, dtype=torch.float64)
    scores: dict[str, Any] = perplexities(nats, torch.ones(8).bool(), 4, words=2, characters=9)
    assert scores.pop("skipped_tokens") == 8
    assert all(math.isnan(value) for value in scores.values())


def test_nothing_is_said_where_all_is_finite() -> None:
    nats = torch.ones(8, dtype=torch.float64)
    scores = perplexities(nats, torch.ones(8).bool(), 4, words=2, characters=9)
    assert "skipped_tokens" not in scores
    assert scores["perplexity_per_word"] == pytest.approx(math.exp(4))
