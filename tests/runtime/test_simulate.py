"""Simulated ranks: order, modes, random numbers, and how failures come out."""

import threading
import time

import pytest
import torch

from axisplit.errors import CollectiveError, InputError
from axisplit.runtime.groups import Group
from axisplit.runtime.simulate import SimulatedGroup, simulate


def test_one_rank_at_a_time_in_a_fixed_order() -> None:
    log: list[tuple[int, int]] = []

    def run(group: Group) -> None:
        for step in range(3):
            log.append((step, group.rank))
            group.barrier()

    simulate(3, run)
    assert log == [(step, rank) for step in range(3) for rank in range(3)]


def test_the_original_error_with_the_rank() -> None:
    class Oops(Exception):
        pass

    def run(group: Group) -> None:
        if group.rank == 1:
            raise Oops("here")
        group.barrier()
        raise AssertionError("the barrier let me pass")

    with pytest.raises(Oops, match="here") as caught:
        simulate(3, run)
    assert caught.value.__notes__ == ["raised on simulated rank 1 of 3"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("simulated")]


def test_disagreement_names_both_sides() -> None:
    def shapes(group: Group) -> None:
        group.all_reduce_sum(torch.zeros(2 + group.rank), "m/a")

    def sites(group: Group) -> None:
        group.all_reduce_sum(torch.zeros(2), "m/a" if group.rank else "m/b")

    def ended(group: Group) -> None:
        if group.rank == 0:
            group.broadcast(torch.zeros(2), 0, "m/a")

    def lies(group: Group) -> None:
        group.all_gather(torch.zeros(2), [[2], [3]], "m/a")

    for fn, sides in [
        (shapes, ["rank 0: all_reduce_sum m/a torch.float32 [2]", "rank 1: all_reduce_sum m/a torch.float32 [3]"]),
        (sites, ["rank 0: all_reduce_sum m/b", "rank 1: all_reduce_sum m/a"]),
        (ended, ["rank 0: broadcast m/a torch.float32 [[2], 0]", "rank 1: ended without it"]),
        (lies, ["rank 1: all_gather m/a torch.float32 [[2], [3]] but sends [2]"]),
    ]:
        with pytest.raises(CollectiveError, match="ranks disagree") as caught:
            simulate(2, fn)
        for side in sides:
            assert side in str(caught.value)


def test_each_rank_has_the_callers_random_numbers_and_the_caller_gets_rank_0s() -> None:
    def run(group: Group) -> torch.Tensor:
        first = torch.rand(2)
        group.barrier()
        if group.rank == 1:
            torch.rand(5)
        group.barrier()
        return torch.cat([first, torch.rand(2)])

    torch.manual_seed(3)
    expected, after = torch.rand(4), torch.rand(1)
    torch.manual_seed(3)
    ranks = simulate(2, run)
    assert torch.equal(ranks[0], expected)
    assert torch.equal(ranks[1][:2], expected[:2])
    assert not torch.equal(ranks[1], expected)
    assert torch.equal(torch.rand(1), after)


def test_the_callers_modes_hold_in_every_rank() -> None:
    def modes(group: Group) -> tuple[bool, bool, bool]:
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")

    assert simulate(2, modes) == [(True, False, False)] * 2
    with torch.no_grad(), torch.autocast("cpu"):
        assert simulate(2, modes) == [(False, False, True)] * 2
    with torch.inference_mode():
        assert simulate(2, modes) == [(False, True, False)] * 2


def test_results_are_not_shared_between_ranks() -> None:
    def run(group: Group) -> list[float]:
        x = group.broadcast(torch.zeros(2), 0)
        x += group.rank + 1
        total = group.all_reduce_sum(torch.ones(2))
        total += group.rank
        return [*x.tolist(), *total.tolist()]

    assert simulate(2, run) == [[1, 1, 2, 2], [2, 2, 3, 3]]


def test_strided_and_differentiable_inputs_come_back_contiguous_and_without_a_graph() -> None:
    def run(group: Group) -> None:
        x = torch.arange(6.0).view(2, 3).requires_grad_().t()
        for result in (group.all_reduce_sum(x), group.broadcast(x, 0), group.all_gather(x, [[3, 2]] * 2)[1]):
            assert result.is_contiguous()
            assert not result.requires_grad

    simulate(2, run)


def test_objects_travel_from_their_source() -> None:
    assert simulate(3, lambda group: group.broadcast_object({"rank": group.rank}, src=2)) == [{"rank": 2}] * 3


def test_simulations_nest_and_end() -> None:
    kept: list[SimulatedGroup] = []
    assert simulate(2, lambda outer: sum(simulate(3, lambda inner: inner.rank)) + outer.rank) == [3, 4]
    simulate(1, kept.append)
    with pytest.raises(CollectiveError, match="simulation is over"):
        kept[0].barrier()
    with pytest.raises(InputError, match="no ranks"):
        simulate(0, kept.append)


def test_a_handover_is_cheap() -> None:
    def run(group: Group) -> float:
        start = time.perf_counter()
        for _ in range(200):
            group.barrier()
        return (time.perf_counter() - start) / 200

    assert min(simulate(2, run)) < 0.005  # measured 0.0001 on an idle core
