"""Collectives over shared memory: any size and dtype in chunks, ranks that die or are late, nothing left behind."""

import logging
import os
import random
import signal
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from axisplit.errors import CollectiveError
from axisplit.runtime import launch
from axisplit.runtime.groups import Group, ProcessGroup
from axisplit.runtime.pool import RankPool
from axisplit.runtime.shared import board, connect
from axisplit.runtime.shared.segment import Segment
from axisplit.runtime.shared.wire import SharedWire
from axisplit.runtime.signature import signature_of
from axisplit.runtime.simulate import simulate
from axisplit.runtime.sums import max_over_ranks, sum_in_rank_order

SLOT_BYTES = 1024
_native = connect._native
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.bool)


@pytest.fixture(params=[False, True], ids=["python", "compiled"])
def compiled(request: pytest.FixtureRequest) -> bool:
    """Whether ranks use the compiled part, which a machine without a C compiler does not have."""
    if request.param and find_spec("axisplit.runtime.shared.native") is None:
        pytest.skip("axisplit was installed without its compiled part: no C compiler?")
    return bool(request.param)


def use(compiled: bool) -> None:
    connect._native = _native if compiled else lambda: None


def shared_wire(rank: int, size: int, compiled: bool, timeout_s: float = 30.0) -> SharedWire:
    """With slots so small that tests go through many chunks."""
    use(compiled)
    group = ProcessGroup(None, shared_memory=False)

    def tell(message: bytes) -> list[bytes]:
        row = torch.frombuffer(bytearray(message.ljust(64, b"\0")), dtype=torch.uint8)
        return [bytes(part.tolist()).rstrip(b"\0") for part in group.all_gather(row, [[64]] * size)]

    wire = connect.share_memory(rank, range(size), tell, timeout_s, slot_bytes=SLOT_BYTES)
    assert wire is not None
    return wire


def numbers(rank: int, size: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * rank + size)
    return (torch.randn(size, generator=generator) * 10).to(dtype)


def everything(rank: int, world_size: int, compiled: bool) -> int:
    """Sizes around the slot's, uneven ones, and none at all, of every dtype; returns how many were checked."""
    wire, checked = shared_wire(rank, world_size, compiled), 0
    for dtype in DTYPES:
        fit = SLOT_BYTES // dtype.itemsize
        for size in (0, 1, fit - 1, fit, fit + 1, 5 * fit + 3):
            all_sizes = [size + 3 * r * (fit // 2) * (size > 0) for r in range(world_size)]
            parts = [numbers(r, s, dtype) for r, s in enumerate(all_sizes)]
            got = wire.gather(parts[rank], [p.shape for p in parts], signature_of("gather", "", dtype, *all_sizes))
            assert all(map(torch.equal, got, parts))

            alike = [numbers(r, size, dtype) for r in range(world_size)]
            total = wire.reduce(alike[rank], sum_in_rank_order, signature_of("sum", "", dtype, size))
            assert torch.equal(total, sum_in_rank_order(alike))

            for src in (0, world_size - 1):
                sent = wire.broadcast(alike[rank], src, signature_of("broadcast", "", dtype, size, src))
                assert torch.equal(sent, alike[src])

            table = [[numbers(10 * a + b, size * (a + b), dtype) for b in range(world_size)] for a in range(world_size)]
            theirs = [table[a][rank] for a in range(world_size)]
            arrived = wire.swap(table[rank], [t.shape for t in theirs], signature_of("swap", "", dtype, size))
            assert all(map(torch.equal, arrived, theirs))
            checked += 1
    return checked


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_every_dtype_and_size(num_ranks: int, compiled: bool) -> None:
    with RankPool(num_ranks) as pool:
        assert pool.run(everything, compiled) == [len(DTYPES) * 6] * num_ranks


def again(rank: int, world_size: int, compiled: bool) -> int:
    """The same reductions of one site several times: what was prepared for one is not taken for another."""
    use(compiled)
    group, checked = ProcessGroup(None), 0
    for turn in range(3):
        for dtype in (torch.float32, torch.int64, torch.float16):
            for shape in ((4, 5), (5, 4), (1_100, 1_000)):  # no slot takes the last
                parts = [numbers(10 * turn + r, shape[0] * shape[1], dtype).view(shape) for r in range(world_size)]
                x = (
                    parts[rank].t().contiguous().t() if rank < turn else parts[rank]
                )  # the same numbers in another order
                assert torch.equal(group.all_reduce_sum(x, "m/site"), sum_in_rank_order(parts))
                assert torch.equal(group.all_reduce_max(x, "m/site"), max_over_ranks(parts))
                checked += 1
    return checked


def test_the_same_collective_again(pool: RankPool, compiled: bool) -> None:
    assert set(pool.run(again, compiled)) == {27}


def races(rank: int, world_size: int, compiled: bool) -> bool:
    """Ranks that are ahead and behind by turns never read what is being written."""
    wire, order, delays = shared_wire(rank, world_size, compiled), random.Random(0), random.Random(rank)
    for turn in range(1500):
        size = order.choice([1, 17, 700])
        x = torch.full((size,), float(turn * world_size + rank))
        if delays.random() < 0.02:
            time.sleep(delays.random() * 2e-3)
        parts = wire.gather(x, [x.shape] * world_size, signature_of("gather", "", size))
        time.sleep(0) if delays.random() < 0.1 else None
        if not all(torch.equal(p, torch.full_like(x, turn * world_size + r)) for r, p in enumerate(parts)):
            return False
    return True


def test_ranks_ahead_and_behind_by_turns(pool: RankPool, compiled: bool) -> None:
    assert all(pool.run(races, compiled))


def names() -> set[str]:
    """What is in shared memory under our name."""
    return {file.name for file in Path("/dev/shm").glob("*axisplit-*")}


def dies(rank: int, world_size: int, compiled: bool, before: set[str]) -> Any:
    """Rank 1 is killed in mid-run; the others' error and how long it took."""
    use(compiled)
    group = ProcessGroup(None)
    group.barrier()
    left = names() - before
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    begin = time.monotonic()
    try:
        group.all_reduce_sum(torch.ones(3), "m/mlp")
    except CollectiveError as error:
        Path(os.environ["AXISPLIT_TEST_FILE"]).write_text(f"{time.monotonic() - begin}\n{left}\n{error}")
        raise


def test_a_dead_rank_is_named_by_the_others_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    monkeypatch.setenv("AXISPLIT_TEST_FILE", str(tmp_path / "told"))
    monkeypatch.setattr(launch, "_GRACE_S", 10.0)  # for the others to tell, on a busy machine too
    before = names()
    with RankPool(2) as pool, pytest.raises(CollectiveError, match="rank 1 of 2 failed"):
        pool.run(dies, compiled, before)
    seconds, left, *error = (tmp_path / "told").read_text().splitlines()
    assert float(seconds) < 3
    assert left == "set()"
    assert error[:2] == ["rank 1 has ended", "  where: m/mlp"]
    assert "rank 0 waited" in error[2]
    assert names() <= before


def is_late(rank: int, world_size: int, compiled: bool) -> tuple[str, list[str]]:
    """Rank 2 sleeps while the others wait; what they say."""
    wire, said = shared_wire(rank, world_size, compiled, timeout_s=2.0), []
    board._LATE_S = 0.5
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("axisplit").addHandler(handler)
    if rank == 2:
        time.sleep(5)
        return "", []
    try:
        wire.gather(torch.ones(1), [(1,)] * world_size, signature_of("gather", "m/mlp"))
    except CollectiveError as error:
        with pytest.raises(CollectiveError, match=r"(?s)left unfinished.*got: rank 2 is late"):
            wire.gather(torch.ones(1), [(1,)] * world_size, signature_of("gather", "m/next"))
        return str(error), said
    return "no error", said


def test_a_late_rank_is_named_first_in_a_warning_then_in_an_error(pool3: RankPool, compiled: bool) -> None:
    for error, said in pool3.run(is_late, compiled)[:2]:
        assert error.startswith("rank 2 is late\n  where: m/mlp")
        assert said[0].startswith("waiting for rank 2 since 1 s, at gather m/mlp")


def disagree(rank: int, world_size: int, compiled: bool) -> str:
    wire = shared_wire(rank, world_size, compiled)
    size = 3 if rank else 2000
    with pytest.raises(CollectiveError) as caught:
        wire.reduce(torch.ones(size), sum_in_rank_order, signature_of("sum", "m/mlp", size))
    total = wire.reduce(torch.ones(2), sum_in_rank_order, signature_of("sum", "m/mlp", 2))
    assert total.tolist() == [world_size] * 2  # the board works on
    return str(caught.value)


def test_ranks_with_other_sizes_name_both_sides_and_can_go_on(pool: RankPool, compiled: bool) -> None:
    for error in pool.run(disagree, compiled):
        assert "rank 0: sum m/mlp 2000\n    rank 1: sum m/mlp 3" in error


def keeps_results(rank: int, world_size: int, compiled: bool) -> bool:
    """What a collective gave is not written again by later ones."""
    use(compiled)
    group, own = ProcessGroup(None), torch.arange(3.0) + 10 * rank
    shapes = [(3,)] * world_size

    def collect(x: Tensor) -> list[Tensor]:
        many = [*group.all_gather(x, shapes), *group.all_to_all([x] * world_size, shapes)]
        return [*many, group.all_reduce_sum(x), group.all_reduce_max(x), group.broadcast(x, 1)]

    first = collect(own)
    copies = [x.clone() for x in first]
    for _ in range(3):
        collect(own - 100)
    return all(map(torch.equal, first, copies))


def test_results_are_the_callers_own(pool: RankPool, compiled: bool) -> None:
    assert all(pool.run(keeps_results, compiled))


def without_memory(rank: int, world_size: int, before: set[str]) -> list[float]:
    """Rank 1 cannot open the segment: all go through sockets."""
    if rank == 1:
        connect.Segment = lambda *_: (_ for _ in ()).throw(OSError("none here"))  # type: ignore[misc, assignment]
    try:
        group = ProcessGroup(None)
        total = group.all_reduce_sum(torch.ones(2))
        assert group._way is group._sockets
        assert names() <= before
        return total.tolist()
    finally:
        connect.Segment = Segment  # type: ignore[misc]


def compiles_differently(rank: int, world_size: int) -> list[float]:
    use(rank == 0)
    return ProcessGroup(None).all_reduce_sum(torch.ones(2)).tolist()


def test_a_rank_without_the_compiled_part_has_all_do_without(pool2: RankPool) -> None:
    assert pool2.run(compiles_differently) == [[2.0, 2.0]] * 2


def test_ranks_that_share_no_memory_use_sockets(pool2: RankPool) -> None:
    assert pool2.run(without_memory, names()) == [[2.0, 2.0]] * 2


def on_machines(rank: int, world_size: int, machines: list[int], compiled: bool) -> Any:
    use(compiled)
    connect._machine = lambda: str(machines[rank]).encode()  # type: ignore[assignment]
    return everything_of(ProcessGroup(None))


def everything_of(group: Group) -> dict[str, Tensor]:
    rank, size = group.rank, group.size
    rows = [numbers(r, 3 * r + 2, torch.float32) for r in range(size)]
    found = {f"row {r}": row for r, row in enumerate(group.all_gather(rows[rank], [row.shape for row in rows]))}
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        x = (numbers(rank, 40_000, torch.float32).round() / 8).to(dtype)  # sums are exact in any order
        found[f"sum {dtype}"] = group.all_reduce_sum(x)
        found[f"max {dtype}"] = group.all_reduce_max(x)
    terms = torch.tensor([256.0, 1.0, 1.0, 0.0], dtype=torch.bfloat16)  # 258 has a bfloat16, 257 has none
    found["rounded once"] = group.all_reduce_sum(terms[rank : rank + 1])
    for src in range(size):
        found[f"from {src}"] = group.broadcast(numbers(rank, 5, torch.float64), src)
    sides = [[numbers(10 * a + b, a + 1, torch.float32) for b in range(size)] for a in range(size)]
    swapped = group.all_to_all(sides[rank], [sides[r][rank].shape for r in range(size)])
    found["object"] = torch.tensor(group.broadcast_object([1, 2] if rank == 1 else None, 1))
    group.barrier()
    return found | {f"swapped {r}": part for r, part in enumerate(swapped)}


@pytest.mark.parametrize("machines", [[0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]])
def test_ranks_of_several_machines(machines: list[int], compiled: bool) -> None:
    with RankPool(4) as pool:
        real = pool.run(on_machines, machines, compiled)
    for found, expected in zip(real, simulate(4, everything_of), strict=True):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 8), ("250000 100000", 3), ("1600000 100000", 8)])
def test_cores_are_those_of_the_affinity_and_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(board, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert board.num_cores() == cores
    monkeypatch.setattr(board, "_QUOTA", tmp_path / "none")
    assert board.num_cores() == 8
