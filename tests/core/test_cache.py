"""The key/value cache: what goes in comes out, in order, row by row."""

import torch
from torch import Tensor

from zoo.nn import Cache, causal_mask

torch.set_num_threads(1)


def test_it_gives_back_all_that_was_put_in() -> None:
    torch.manual_seed(0)
    cache = Cache(2, 3, 2, 10, 4)
    kept: list[list[Tensor]] = [[], []]
    for T in (4, 1, 2):
        for layer in range(2):
            pair = torch.randn(2, 3, 2, T, 4)
            kept[layer].append(pair)
            found = torch.stack(cache.update(layer, pair[0], pair[1]))
            assert torch.equal(found, torch.cat(kept[layer], dim=3))
        cache.advance(T)
    assert cache.length == 7


def test_columns_are_written_again_where_the_text_goes_back() -> None:
    torch.manual_seed(0)
    cache = Cache(2, 1, 2, 10, 4)
    first, second, third = (torch.randn(2, 2, 1, 2, T, 4) for T in (5, 5, 2))
    for part, back in ((first, 0), (second, 0), (third, 3)):
        cache.length = back
        for layer in range(2):
            found = torch.stack(cache.update(layer, *part[layer]))
            before = torch.stack([second[layer][..., :back, :]]).squeeze(0)
            assert torch.equal(found, torch.cat([before, part[layer]], dim=3))
        if part is not first:  # as when a step is tried, and not counted
            cache.advance(part.shape[-2])
    other = Cache(2, 1, 2, 10, 4)
    cache.memory, cache.length = other.memory, 3
    cache.update(1, *third[1])
    assert torch.equal(other.memory[1][..., 3:5, :], third[1])
    assert not other.memory[0].any()


def test_its_mask_is_there_where_one_is_needed() -> None:
    plain = Cache(1, 2, 1, 8, 4)
    assert plain.mask(3) is None  # causal from the start
    plain.advance(3)
    assert plain.mask(1) is None  # the last one sees everything
    found = plain.mask(2)
    assert found is not None
    assert torch.equal(found, causal_mask(2, 5))
    padded = Cache(1, 2, 1, 8, 4, padding=torch.tensor([0, 2]))
    padded.advance(3)
    found = padded.mask(1)
    assert found is not None
    assert found.int().tolist() == [[[[1, 1, 1, 1]]], [[[0, 0, 1, 1]]]]


def test_it_reorders_rows_with_their_padding() -> None:
    torch.manual_seed(0)
    cache = Cache(2, 3, 1, 5, 4, padding=torch.tensor([0, 1, 2]))
    k, v = torch.randn(2, 3, 1, 3, 4)
    for layer in range(2):
        cache.update(layer, k, v)
    cache.advance(3)
    rows = torch.tensor([2, 2, 0])
    cache.reorder(rows)
    assert cache.padding is not None
    assert cache.padding.tolist() == [2, 2, 0]
    new = torch.randn(3, 1, 1, 4)
    keys, values = cache.update(1, new, new)
    assert torch.equal(keys, torch.cat([k[rows], new], dim=2))
    assert torch.equal(values, torch.cat([v[rows], new], dim=2))


def test_rows_that_move_again_and_again() -> None:
    generator = torch.Generator().manual_seed(0)
    cache = Cache(1, 4, 2, 9, 3)
    expected = torch.empty(4, 2, 0, 3)
    # fewer rows in between: both memories are made anew
    for rows in ([1, 0, 0, 3], [2, 3, 1, 1], [3, 2, 1, 0], [3, 1], [1, 1], [0, 1]):
        new = torch.randn(len(expected), 2, 1, 3, generator=generator)
        keys, values = cache.update(0, new, -new)
        cache.advance(1)
        expected = torch.cat([expected, new], dim=2)
        assert torch.equal(keys, expected) and torch.equal(values, -expected)
        cache.reorder(torch.tensor(rows))
        expected = expected[rows]
    keys, _ = cache.update(0, expected[:, :, :1], expected[:, :, :1])
    assert torch.equal(keys[:, :, :-1], expected)
