"""Parts in turns on real ranks: through shared memory the same bits as by the other collectives."""

from __future__ import annotations

import pytest
import torch

from axisplit.runtime.groups import ProcessGroup
from axisplit.runtime.layout import Layout
from axisplit.runtime.shared.wire import SharedWire
from axisplit.runtime.turns import InTurns

CASES = (
    (torch.float32, 1, 3),
    (torch.float32, 700, 300),  # several pieces, the last one shorter
    (torch.bfloat16, 5, 64),
    (torch.int64, 4, 2),
    (torch.float64, 2, 300_000),  # a row that no slot takes
    (torch.float32, 0, 8),
    (torch.float32, 3, 0),
)


def both_ways(rank: int, world_size: int) -> list[tuple[bool, bool]]:
    """For each case whether sums and gathers are those of `InTurns`."""
    group, found = ProcessGroup(None), []
    for number, (dtype, turns, behind) in enumerate(CASES):
        generator = torch.Generator().manual_seed(rank)
        x = (10 * torch.randn(turns, world_size, behind, generator=generator)).to(dtype)
        part = x[:, rank].contiguous()
        scattered = group.reduce_scatter_in_turns(x, f"scatter {number}")
        gathered = group.all_gather_in_turns(part, f"gather {number}")
        other = InTurns.reduce_scatter_in_turns(group, x, f"other scatter {number}")
        again = InTurns.all_gather_in_turns(group, part, f"other gather {number}")
        found.append((torch.equal(scattered, other), torch.equal(gathered, again)))
    assert isinstance(group._way, SharedWire)
    return found


@pytest.mark.parametrize("ranks", [2, 3])
def test_shared_memory_gives_the_same_bits(ranks, two_ranks, three_ranks):
    pool = two_ranks if ranks == 2 else three_ranks
    for found in pool.run(both_ways):
        assert found == [(True, True)] * len(CASES)


def test_which_layouts_are_in_turns() -> None:
    assert Layout(1, 2, (((0, 1),), ((1, 2),))).in_turns
    assert not Layout(1, 4, (((0, 2),), ((2, 4),))).in_turns
    assert not Layout(1, 2, (((1, 2),), ((0, 1),))).in_turns
    assert not Layout(1, 2, (((0, 2),), ((1, 2),))).in_turns
