"""Weights begin at pages, wherever they come from."""

import mmap
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import FakeTensorMode

from axisplit.checkpoint.stream import open_checkpoint
from axisplit.lower.apply import take_shard
from axisplit.runtime.aligned import aligned_copy, aligned_empty
from axisplit.solve.plan import ParameterPlan

ROWS, COLUMNS = 300, 512  # of float32: 600 KB


def begins_at_a_page(x: torch.Tensor) -> bool:
    return x.data_ptr() % mmap.PAGESIZE == 0 and x.is_contiguous()


def test_large_tensors_begin_at_a_page() -> None:
    kept = [aligned_empty((ROWS, COLUMNS), dtype) for dtype in (torch.float32, torch.bfloat16, torch.bool) * 3]
    assert all(map(begins_at_a_page, (x for x in kept if x.nbytes >= 2**18)))
    assert {(tuple(x.shape), x.dtype) for x in kept} == {((ROWS, COLUMNS), x.dtype) for x in kept[:3]}
    assert aligned_empty((8,), torch.float32).untyped_storage().nbytes() == 32  # no page for a few bytes


def test_a_copy_is_new_contiguous_and_of_the_dtype_that_is_asked_for() -> None:
    x = torch.randn(COLUMNS, ROWS).t()
    for dtype in (None, torch.float64):
        copy = aligned_copy(x, dtype)
        assert begins_at_a_page(copy)
        assert torch.equal(copy, x.to(dtype or x.dtype))
    assert not aligned_copy(x.to("meta")).is_cpu
    with FakeTensorMode() as mode:
        assert aligned_copy(mode.from_tensor(x)).stride() == (COLUMNS, 1)


def test_shards_begin_at_a_page(tmp_path: Path) -> None:
    whole = torch.randn(2 * ROWS, 2 * COLUMNS)
    half = (((0, 2 * ROWS),), ((0, COLUMNS),)), (((0, 2 * ROWS),), ((COLUMNS, 2 * COLUMNS),))
    plan = ParameterPlan("w", (2 * ROWS, 2 * COLUMNS), "float32", "split", half)
    save_file({"w": whole}, tmp_path / "model.safetensors")
    for rank in (0, 1):
        for shard in (take_shard(plan, whole, rank), open_checkpoint(tmp_path).read_slice("w", half[rank])):
            assert begins_at_a_page(shard)
            assert torch.equal(shard, whole[:, rank * COLUMNS : (rank + 1) * COLUMNS])
