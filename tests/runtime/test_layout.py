"""Layouts: gather(shard(x)) == x for every layout, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from axisplit.errors import LayoutError
from axisplit.runtime.layout import Layout, Placement, check_layout


def _merged(indices: list[int]) -> tuple[tuple[int, int], ...]:
    spans: list[tuple[int, int]] = []
    for i in indices:
        if spans and spans[-1][1] == i:
            spans[-1] = (spans[-1][0], i + 1)
        else:
            spans.append((i, i + 1))
    return tuple(spans)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Layout, int]:
    """Any layout, replication and empty ranks included, with a number of periods it may have."""
    period, num_ranks = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    held: list[list[int]] = [[] for _ in range(num_ranks)]
    for i in range(period):
        for rank in draw(st.sets(st.integers(0, num_ranks - 1), min_size=1)):
            held[rank].append(i)
    layout = Layout(draw(st.sampled_from([0, 1, 2, -1, -2])), period, tuple(map(_merged, held)))
    return layout, 1 if layout.has_empty_rank else draw(st.integers(0, 3))


def _whole(layout: Layout, outer: int) -> torch.Tensor:
    shape = [2, 3, 2]
    shape[layout.dim] = outer * layout.period
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)


@given(layouts())
def test_assemble_undoes_take(case: tuple[Layout, int]) -> None:
    layout, outer = case
    check_layout(layout)
    x = _whole(layout, outer)
    parts = [layout.take(x, rank) for rank in range(layout.num_ranks)]
    assert torch.equal(layout.assemble(parts), x)
    for rank, part in enumerate(parts):
        assert part.is_contiguous()
        assert list(part.shape) == layout.local_shape(x.shape, rank)
        assert layout.global_shape(part, rank) == list(x.shape)
        strided = x.transpose(0, 2).contiguous().transpose(0, 2)
        assert torch.equal(layout.take(strided, rank), part)
        with FakeTensorMode() as mode:
            assert layout.take(mode.from_tensor(x), rank).shape == part.shape


@given(layouts())
def test_owners_hold_every_index_once_and_take_it_from_their_part(case: tuple[Layout, int]) -> None:
    layout, outer = case
    owners = layout.owners()
    check_layout(owners)
    assert sum(owners.local_size(rank) for rank in range(layout.num_ranks)) == layout.period
    x = _whole(layout, outer)
    owned = [layout.take_owned(layout.take(x, rank), rank) for rank in range(layout.num_ranks)]
    assert torch.equal(owners.assemble(owned), x)


@given(layouts())
def test_pad_is_the_transpose_of_take(case: tuple[Layout, int]) -> None:
    layout, outer = case
    x = _whole(layout, outer)
    for rank in range(layout.num_ranks):
        part = layout.take(x, rank)
        cotangent = torch.ones_like(part)
        padded = layout.pad(cotangent, rank)
        assert (padded * x).sum() == part.sum()
        assert torch.equal(layout.take(padded, rank), cotangent)


def test_take_shares_no_memory_so_that_a_shard_does_not_keep_the_whole_alive() -> None:
    x = torch.zeros(8, 2)
    part = Layout.of_sizes(0, (4, 4)).take(x, 0)
    assert part.untyped_storage().nbytes() == part.nbytes
    assert Layout.of_sizes(0, (8,)).take(x, 0).data_ptr() != x.data_ptr()


def test_first_holder_wins_and_placements_name_all_holders() -> None:
    layout = Layout(0, 3, (((0, 2),), ((1, 3),)))
    assert layout.placements() == (Placement(0, 1, (0,)), Placement(1, 2, (0, 1)), Placement(2, 3, (1,)))
    assert layout.assemble([torch.tensor([1, 2]), torch.tensor([7, 3])]).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("layout", "fault"),
    [
        (Layout(0, 4, (((0, 2),), ((3, 4),))), "indices 2:3 on no rank"),
        (Layout(0, 4, (((0, 5),),)), "rank 0: range 0:5 outside 0:4"),
        (Layout(0, 4, (((2, 4), (0, 2)),)), "unsorted"),
        (Layout(0, 4, (((0, 3), (2, 4)),)), "overlap"),
        (Layout(0, 4, (((0, 4), (4, 4)),)), "rank 0: range 4:4 outside 0:4 or empty"),
        (Layout(0, 0, ()), "period 0, 0 ranks"),
    ],
)
def test_check_names_the_offender(layout: Layout, fault: str) -> None:
    with pytest.raises(LayoutError) as caught:
        check_layout(layout)
    assert fault in str(caught.value)


def test_sizes_that_do_not_fit_are_refused() -> None:
    layout = Layout.of_sizes(0, (2, 1))
    with pytest.raises(LayoutError, match="the whole dim does not fit"):
        layout.take(torch.zeros(4), 0)
    with pytest.raises(LayoutError, match="not of one whole"):
        layout.assemble([torch.zeros(4), torch.zeros(1)])
    with pytest.raises(LayoutError, match="some ranks only"):
        Layout.of_sizes(0, (3, 0)).take(torch.zeros(6), 0)
