"""Real processes: results, streams, failures that name the rank within seconds, and nothing left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from axisplit.errors import CollectiveError, InputError
from axisplit.runtime import collectives as ops
from axisplit.runtime.costs import all_reduce_bytes
from axisplit.runtime.groups import ProcessGroup
from axisplit.runtime.launch import launch, launch_stream
from axisplit.runtime.layout import Layout
from axisplit.runtime.pool import RankPool
from axisplit.runtime.script import run_script
from axisplit.runtime.sites import CollectiveContext, Site, registered

SIXTY_FOUR = Layout.of_sizes(0, [2] * 64)


def facts(rank: int, world_size: int, offset: int) -> tuple[int, int, str, bool]:
    group = ProcessGroup(None)
    total = group.all_reduce_sum(torch.tensor([float(rank + offset)]))
    sockets = {os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    own = [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    loopback = bool(own) and all(address.startswith("0100007F:") for address in own)
    return int(total), torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], loopback


def raises(rank: int, world_size: int) -> None:
    if rank == 1:
        raise LookupError("the cause")
    dist.barrier()


def is_killed(rank: int, world_size: int) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def leaves_before_it_raises(rank: int, world_size: int) -> None:
    dist.barrier()
    if rank == 1:
        dist.destroy_process_group()
        time.sleep(0.3)
        raise LookupError("the cause")
    dist.barrier()


def is_late(rank: int, world_size: int) -> None:
    if rank == 0:
        time.sleep(60)
    dist.barrier()


def counts(rank: int, world_size: int, emit: Callable[[Any], None], num: int) -> int:
    for i in range(num):
        emit((rank, i))
    dist.barrier()
    return rank


def test_launch_returns_results_of_loopback_single_threaded_ranks() -> None:
    assert launch(2, facts, (10,)) == [(21, 1, "1", True)] * 2


def test_a_stream_yields_what_rank_0_emits_and_returns_all_results() -> None:
    stream = launch_stream(2, counts, (3,))
    assert [next(stream) for _ in range(3)] == [(0, 0), (0, 1), (0, 2)]
    with pytest.raises(StopIteration) as end:
        next(stream)
    assert end.value.value == [0, 1]


def test_a_stream_that_is_closed_ends_its_ranks() -> None:
    stream = launch_stream(2, counts, (10**9,))
    next(stream)
    start = time.monotonic()
    stream.close()
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (raises, ["rank 1 of 2 failed", "LookupError: the cause", "in raises"]),
        (leaves_before_it_raises, ["rank 1 of 2 failed", "LookupError: the cause", "rank 0: "]),
        (is_killed, ["rank 1 of 2 failed", "exit code -9 (SIGKILL)", "rank 0:"]),
    ],
)
def test_a_failing_rank_is_named_within_seconds(pool2: RankPool, target: Any, text: list[str]) -> None:
    start = time.monotonic()
    with pytest.raises(CollectiveError) as caught:
        pool2.run(target)
    assert time.monotonic() - start < 5
    for part in text:
        assert part in str(caught.value)
    assert isinstance(caught.value.__cause__, type(None) if target is is_killed else LookupError)
    assert pool2.run(facts, 0)[0][0] == 1  # the pool starts anew


def test_a_late_rank_is_shown_where_it_is(pool2: RankPool) -> None:
    with pytest.raises(CollectiveError, match=r"(?s)no answer from rank 0, 1 of 2.*in is_late.*within 1 s"):
        pool2.run(is_late, deadline_s=1.0)


def sends_another_shape(rank: int, world_size: int, check: bool, shared_memory: bool) -> None:
    ProcessGroup(None, check=check, shared_memory=shared_memory).all_reduce_sum(torch.zeros(2 + rank), "m/mlp")


def swaps_sites(rank: int, world_size: int, shared_memory: bool) -> None:
    group = ProcessGroup(None, check=True, shared_memory=shared_memory)
    for site in ("m/a", "m/b")[:: 1 if rank else -1]:
        group.all_reduce_sum(torch.zeros(2), site)


@pytest.mark.parametrize(("check", "shared_memory"), [(True, False), (False, True), (True, True)])
def test_ranks_that_disagree_name_both_sides(pool2: RankPool, check: bool, shared_memory: bool) -> None:
    with pytest.raises(CollectiveError) as caught:
        pool2.run(sends_another_shape, check, shared_memory)
    for side in ("rank 0: all_reduce_sum m/mlp torch.float32 [2]", "rank 1: all_reduce_sum m/mlp torch.float32 [3]"):
        assert side in str(caught.value)
    with pytest.raises(CollectiveError, match=r"(?s)rank 0: all_reduce_sum m/b .*rank 1: all_reduce_sum m/a "):
        pool2.run(swaps_sites, shared_memory)


def swaps_sizes_that_are_equal(rank: int, world_size: int, shared_memory: bool) -> None:
    shape, group = (2, 3) if rank else (3, 2), ProcessGroup(None, shared_memory=shared_memory)
    group.all_reduce_sum(torch.zeros(shape, dtype=torch.float16 if rank else torch.bfloat16), "m/mlp")


@pytest.mark.parametrize("shared_memory", [True, False])
def test_unchecked_ranks_never_take_another_collectives_numbers(pool: RankPool, shared_memory: bool) -> None:
    with pytest.raises(CollectiveError) as caught:
        pool.run(swaps_sizes_that_are_equal, shared_memory)
    assert "rank 0: all_reduce_sum m/mlp torch.bfloat16 [3, 2]" in str(caught.value)
    assert "rank 1: all_reduce_sum m/mlp torch.float16 [2, 3]" in str(caught.value)


def test_unchecked_ranks_with_other_sizes_on_sockets_end_and_are_named(pool2: RankPool) -> None:
    with pytest.raises(CollectiveError, match=r"rank \d of 2 failed\n  got: exit code -6 .*sizes of ranks differ"):
        pool2.run(sends_another_shape, False, False)


def names_different_sources(rank: int, world_size: int) -> None:
    ProcessGroup(None).broadcast(torch.zeros(2), rank, "m/token")


def calls_other_collectives(rank: int, world_size: int) -> None:
    group = ProcessGroup(None)
    if rank:
        group.barrier()
    else:
        group.all_reduce_sum(torch.zeros(0), "m/mlp")


def test_different_sources_and_collectives_are_found_out(pool2: RankPool) -> None:
    with pytest.raises(CollectiveError, match=r"(?s)rank 0: broadcast m/token .*\[2\] from 0.*rank 1: .*\[2\] from 1"):
        pool2.run(names_different_sources)
    with pytest.raises(CollectiveError, match=r"(?s)rank 0: all_reduce_sum m/mlp.*rank 1: barrier"):
        pool2.run(calls_other_collectives)


def uses_groups(rank: int, world_size: int) -> list[Any]:
    everyone, pair = ProcessGroup(None), dist.new_group([1, 2])
    mesh = dist.init_device_mesh("cpu", (3,), mesh_dim_names=("tp",))
    seen: list[Any] = [ProcessGroup(mesh).rank, ProcessGroup(mesh["tp"]).size]
    seen.append(everyone.broadcast(torch.tensor([rank == 2]), 2).item())
    seen.append(everyone.broadcast_object(["ß", rank], src=1))
    if rank > 0:
        sub = ProcessGroup(pair)
        seen.append(
            (sub.rank, sub.size, sub.all_reduce_sum(torch.tensor([rank])).item(), sub.broadcast_object(rank, 1))
        )
        seen.append(sub.all_reduce_max(torch.tensor([rank])).item())
    else:
        with pytest.raises(InputError, match="not in the group"):
            ProcessGroup(pair)
    with pytest.raises(InputError, match="several dims"):
        ProcessGroup(dist.init_device_mesh("cpu", (3, 1), mesh_dim_names=("a", "b")))
    return seen


def test_subgroups_meshes_and_ranks_within_them(pool3: RankPool) -> None:
    first, second, third = pool3.run(uses_groups)
    assert first == [0, 3, True, ["ß", 1]]
    assert second == [1, 3, True, ["ß", 1], (0, 2, 3, 2), 2]
    assert third == [2, 3, True, ["ß", 1], (1, 2, 3, 2), 2]


def test_torchs_fake_group_of_64_ranks_gives_shapes_and_counts() -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=5, world_size=64)
    try:
        context = CollectiveContext(ProcessGroup(None), [Site("s", "all_reduce"), Site("g", "all_gather", SIXTY_FOUR)])
        with registered("m", context):
            assert ops.all_reduce(torch.zeros(100, 100), "m/s").shape == (100, 100)
            assert ops.all_gather(torch.zeros(2, 3), "m/g").shape == (128, 3)
        assert context.counters == {"s": (1, all_reduce_bytes(40_000, 64)), "g": (1, 63 * 24.0)}
    finally:
        dist.destroy_process_group()


def test_what_other_processes_cannot_find_is_refused() -> None:
    with pytest.raises(InputError, match="cannot find this function"):
        launch(1, lambda rank, world_size: None)
    with pytest.raises(InputError, match="not initialised"):
        ProcessGroup(None)


def test_ranks_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
            import os, time
            from axisplit.runtime.launch import launch_stream

            def wait(rank, world_size, emit):
                emit(os.getpid())
                time.sleep(60)

            if __name__ == "__main__":
                stream = launch_stream(2, wait)
                print(next(stream), flush=True)
                next(stream)
        """)
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=_environment(tmp_path)
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    ends = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < ends:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
    assert not list(tmp_path.glob("axisplit-*"))


@pytest.mark.slow
def test_run_script_is_torchrun_on_loopback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import os, sys
            import torch
            import torch.distributed as dist

            dist.init_process_group("gloo")
            x = torch.ones(1)
            dist.all_reduce(x)
            line = f"{os.environ['LOCAL_RANK']} {int(x)} {sys.argv[1:]} {os.path.basename(sys.path[0])}\\n"
            os.write(1, line.encode())  # in one piece: both ranks write to the same pipe
            if sys.argv[1] == "fail":
                if dist.get_rank() == 1:
                    sys.exit(7)
                dist.barrier()
        """)
    )
    assert run_script(2, str(script), ["--flag"]) == 0
    lines = sorted(capfd.readouterr().out.splitlines())
    assert lines == [f"{rank} 2 ['--flag'] {tmp_path.name}" for rank in range(2)]
    start = time.monotonic()
    assert run_script(2, str(script), ["fail"]) == 7
    assert time.monotonic() - start < 20
    assert "rank 1 of 2 failed first, with exit code 7" in capfd.readouterr().err
    with pytest.raises(InputError, match="nothing to run"):
        run_script(2, str(tmp_path / "none.py"))


def _environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
