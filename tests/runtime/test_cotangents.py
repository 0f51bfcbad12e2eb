"""The ops of backward (and two of forward), by what they must add up to over ranks, in exact integers."""

from __future__ import annotations

import pytest
import torch

from axisplit.runtime.collectives import all_gather, pad
from axisplit.runtime.cotangents import embed, enter, keep, leave, reduce_scatter, sum_parts, sum_shared
from axisplit.runtime.layout import Layout
from axisplit.runtime.simulate import simulate
from axisplit.runtime.sites import BACKWARD, CollectiveContext, Site, registered

LAYOUTS = {
    "even": Layout(1, 6, (((0, 2),), ((2, 4),), ((4, 6),))),
    "uneven": Layout(1, 6, (((0, 3),), ((3, 5),), ((5, 6),))),
    "pieces": Layout(0, 6, (((0, 1), (3, 4)), ((1, 2), (4, 5)), ((2, 3), (5, 6)))),
    "held by two": Layout(1, 6, (((0, 3),), ((0, 3),), ((3, 6),))),
    "overlapping": Layout(1, 6, (((0, 4),), ((2, 6),), ((3, 5),))),
    "held by all": Layout(1, 6, (((0, 6),), ((0, 6),), ((0, 6),))),
    "two periods": Layout(1, 3, (((0, 1),), ((1, 2),), ((1, 3),))),
}
OPS = {
    "all_gather": all_gather,
    "pad": pad,
    "keep": keep,
    "embed": embed,
    "reduce_scatter": reduce_scatter,
    "sum_parts": sum_parts,
    "sum_shared": sum_shared,
}


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(seed)).float()


def on_ranks(kind, layout, given):
    """The op's result on every rank, and the bytes that each sent."""

    def rank(group):
        context = CollectiveContext(group, [Site("here", kind, layout)])
        with registered("m", context):
            return OPS[kind](given[group.rank], "m/here"), context.comm_bytes

    results = simulate(3, rank)
    return [result for result, _ in results], [sent for _, sent in results]


def padded(layout, parts):
    return sum(layout.pad(part, rank) for rank, part in enumerate(parts))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_forward_counts_each_index_once(layout):
    whole = numbers(6, 6, seed=0)
    parts = [layout.take(whole, rank) for rank in range(3)]
    assert all(torch.equal(gathered, whole) for gathered in on_ranks("all_gather", layout, parts)[0])
    assert torch.equal(sum(on_ranks("pad", layout, parts)[0]), whole)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_parts_of_whole_cotangents(layout):
    whole = [numbers(6, 6, seed=rank) for rank in range(3)]
    kept, sent = on_ranks("keep", layout, [whole[0]] * 3)
    assert torch.equal(padded(layout, kept), whole[0])
    assert sent == [0, 0, 0]
    scattered, sent = on_ranks("reduce_scatter", layout, whole)
    assert torch.equal(padded(layout, scattered), sum(whole))
    assert sum(sent) == 2 * whole[0].nbytes  # every index from all but its owner
    assert [part.shape for part in kept] == [torch.Size(layout.local_shape((6, 6), rank)) for rank in range(3)]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_cotangents_of_parts(layout):
    parts = [layout.take(numbers(6, 6, seed=rank), rank) for rank in range(3)]
    total = padded(layout, parts)
    for rank, (alone, everywhere, shared) in enumerate(
        zip(*(on_ranks(kind, layout, parts)[0] for kind in ("embed", "sum_parts", "sum_shared")), strict=True)
    ):
        assert torch.equal(alone, layout.pad(parts[rank], rank))
        assert torch.equal(everywhere, total)
        assert torch.equal(shared, layout.take(total, rank))


def test_only_what_is_shared_is_sent():
    layout = LAYOUTS["held by two"]
    parts = [layout.take(numbers(6, 6, seed=rank), rank) for rank in range(3)]
    assert on_ranks("sum_shared", layout, parts)[1] == [parts[0].nbytes, parts[1].nbytes, 0]


def test_low_precision_sums_are_rounded_once():
    layout = LAYOUTS["held by all"]
    parts = [torch.full((6, 6), value, dtype=torch.bfloat16) for value in (256.0, 1.0, 1.0)]
    for result in on_ranks("sum_shared", layout, parts)[0]:
        assert result.dtype == torch.bfloat16
        assert (result == 258).all()


def test_enter_and_leave():
    """X enters two halves: its cotangent is the sum; y leaves: the whole cotangent counts once."""

    def rank(group):
        sites = [Site("in", "enter", partial=True), Site("out", "leave")]
        with registered("m", CollectiveContext(group, sites)) as context:
            x = torch.ones(3, requires_grad=True)
            y = enter(x, "m/in")
            y += 0  # models write to what they get
            (y * (group.rank + 1)).sum().backward()
            z = torch.ones(3, requires_grad=True)
            leave(z, "m/out").sum().backward()
            with torch.no_grad():
                assert enter(x, "m/in") is x
            assert enter(z.detach(), "m/in").requires_grad is False
            return x.grad.tolist(), z.grad.tolist(), sorted(context.counters)

    found = simulate(2, rank)
    assert [x for x, _, _ in found] == [[3, 3, 3]] * 2
    assert [z for _, z, _ in found] == [[1, 1, 1], [0, 0, 0]]
    assert found[0][2] == ["in", "in" + BACKWARD, "out", "out" + BACKWARD]
