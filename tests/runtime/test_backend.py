"""The backend of torch.distributed: what gloo gives, for every collective, with autograd, under DDP."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.nn.functional as with_autograd
from torch import Tensor, nn
from torch.distributed import ReduceOp

import axisplit
from axisplit.errors import CollectiveError, InputError
from axisplit.runtime.groups import ProcessGroup
from axisplit.runtime.pool import RankPool

OPS = (ReduceOp.SUM, ReduceOp.MAX, ReduceOp.MIN, ReduceOp.PRODUCT, ReduceOp.BAND, ReduceOp.BOR, ReduceOp.BXOR)


def everything(group: dist.ProcessGroup) -> dict[str, Any]:
    """What each collective leaves behind; whole numbers, so that sums are exact in any order."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    x = torch.arange(6).view(3, 2) * 7 + rank
    found: dict[str, Any] = {}
    for op in OPS:
        y = x.clone()
        dist.all_reduce(y, op, group=group)
        found[f"all_reduce {op}"] = y
    dist.all_reduce(y := torch.arange(300_000.0) + rank, group=group)
    found["all_reduce in chunks"] = y
    transposed = x.float().t()
    dist.all_reduce(transposed, group=group)
    found["all_reduce of a view"] = transposed
    dist.reduce(y := x.clone(), group=group, group_dst=1)
    found["reduce"] = y if rank == 1 else x
    dist.broadcast(y := x.clone(), group=group, group_src=1)
    found["broadcast"] = y
    parts = [torch.zeros_like(x) for _ in range(size)]
    dist.all_gather(parts, x, group=group)
    found["all_gather"] = parts
    dist.all_gather_into_tensor(y := x.new_zeros(3 * size, 2), x, group=group)
    found["all_gather_into_tensor"] = y
    dist.gather(x, y := parts if rank == 1 else None, group=group, group_dst=1)
    found["gather"] = y
    given = [x + 100 * r for r in range(size)]
    dist.scatter(y := torch.zeros_like(x), given if rank == 1 else None, group=group, group_src=1)
    found["scatter"] = y
    dist.reduce_scatter(y := torch.zeros_like(x), given, group=group)
    found["reduce_scatter"] = y
    dist.reduce_scatter_tensor(y := torch.zeros_like(x), torch.cat(given), group=group)
    found["reduce_scatter_tensor"] = y
    dist.all_to_all_single(y := x.new_zeros(3 * size, 2), torch.cat(given), group=group)
    found["all_to_all_single"] = y
    sent, received = [r + 1 for r in range(size)], [rank + 1] * size
    rows = torch.arange(sum(sent)) + 10 * rank
    dist.all_to_all_single(y := rows.new_zeros(sum(received)), rows, received, sent, group=group)
    found["uneven all_to_all_single"] = y
    objects: list[Any] = [None] * size
    dist.all_gather_object(objects, {"rank": rank}, group=group)
    found["objects"] = objects
    z = x.float().requires_grad_()
    (with_autograd.all_reduce(z * (rank + 1), group=group) * z).sum().backward()
    found["gradient of all_reduce"] = z.grad
    dist.barrier(group)
    return found


def beside_gloo(rank: int, world_size: int) -> list[str]:
    """The names of collectives that give something else than gloo's."""
    axisplit.register_backend()
    ours, theirs = everything(dist.new_group(backend="axisplit")), everything(dist.new_group(backend="gloo"))
    return [name for name in theirs if not same(ours[name], theirs[name])] + sorted(ours.keys() ^ theirs.keys())


def sums(rank: int, world_size: int) -> list[float]:
    """Our own collectives on a group of this backend."""
    axisplit.register_backend()
    return ProcessGroup(dist.new_group(backend="axisplit")).all_reduce_sum(torch.ones(2)).tolist()


def test_a_model_can_be_split_over_such_a_group(pool2: RankPool) -> None:
    assert pool2.run(sums) == [[2.0, 2.0]] * 2


def same(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


def test_every_collective_gives_what_gloo_gives(pool: RankPool) -> None:
    assert pool.run(beside_gloo) == [[]] * pool.num_ranks


def reduces(rank: int, world_size: int) -> tuple[list[float], list[float]]:
    """What gloo has not, a mean, and does not promise: only the root's tensor changes."""
    axisplit.register_backend()
    group = dist.new_group(backend="axisplit")
    mean, to_root = torch.tensor([3.0 * rank, 1.0]), torch.tensor([float(rank)])
    dist.all_reduce(mean, ReduceOp.AVG, group=group)
    dist.reduce(to_root, group=group, group_dst=1)
    return mean.tolist(), to_root.tolist()


def test_means_and_what_a_reduction_to_one_rank_leaves_alone(pool: RankPool) -> None:
    n = pool.num_ranks
    for rank, (mean, to_root) in enumerate(pool.run(reduces)):
        assert mean == [3 * (n - 1) / 2, 1.0]
        assert to_root == [n * (n - 1) / 2 if rank == 1 else rank]


def trains(rank: int, world_size: int) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of DDP on this rank's rows, and of the whole batch."""
    axisplit.register_backend()
    group = dist.new_group(backend="axisplit")
    torch.manual_seed(0)
    x = torch.randn(2 * world_size, 5)
    whole = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    torch.manual_seed(rank)
    part = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    if rank == 0:
        part.load_state_dict(whole.state_dict())
    parallel = nn.parallel.DistributedDataParallel(part, process_group=group)
    parallel(x[2 * rank : 2 * rank + 2]).mean().backward()
    whole(x).mean().backward()
    return [p.grad for p in part.parameters()], [p.grad for p in whole.parameters()]  # type: ignore[misc]


def test_ddp_trains_on_it(pool: RankPool) -> None:
    for ours, expected in pool.run(trains):
        assert all(map(partial(torch.allclose, atol=1e-6), ours, expected))


def refuses(rank: int, world_size: int) -> list[str]:
    axisplit.register_backend()
    axisplit.register_backend()  # again changes nothing
    said = []
    group = dist.new_group(backend="axisplit")
    with pytest.raises(CollectiveError) as caught:
        dist.send(torch.ones(1), 1 - rank, group=group) if rank else dist.recv(torch.ones(1), 1 - rank, group=group)
    said.append(str(caught.value))
    with pytest.raises(InputError) as wrong:
        dist.all_reduce(torch.ones(1), dist._make_nccl_premul_sum(2.0), group=group)
    said.append(str(wrong.value))
    with pytest.raises(CollectiveError) as differ:
        dist.all_reduce(torch.ones(2 + rank), group=group)
    said.append(str(differ.value))
    return said


def test_what_it_does_not_do_is_said(pool2: RankPool) -> None:
    for pairs, reduction, sizes in pool2.run(refuses):
        assert pairs.startswith("the backend 'axisplit' has no send and receive\n  do: use a group of \"gloo\"")
        assert reduction.startswith("no such reduction here\n  got: ")
        assert "rank 0: all_reduce - torch.float32 [2] " in sizes
        assert "rank 1: all_reduce - torch.float32 [3] " in sizes
