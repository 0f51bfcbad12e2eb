"""Slices equal torch's, and cost no more bytes than they should."""

import math
import os
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from axisplit.checkpoint import open_checkpoint, stream
from axisplit.errors import InputError

DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.uint8)


@st.composite
def slices(draw):
    """(tensor, ranges per dim in any order, None or empty included)."""
    shape = draw(st.lists(st.integers(0, 9), max_size=4))
    dtype = draw(st.sampled_from(DTYPES))
    tensor = torch.arange(math.prod(shape)).to(dtype).reshape(shape)
    ranges = []
    for size in shape:
        one = st.tuples(st.integers(0, size), st.integers(0, size)).map(lambda pair: (min(pair), max(pair)))
        ranges.append(draw(st.none() | st.lists(one, max_size=3).map(tuple)))
    return tensor, tuple(ranges)


def expected(tensor, ranges_per_dim):
    for dim, ranges in enumerate(ranges_per_dim):
        if ranges is not None:
            index = [i for start, stop in ranges for i in range(start, stop)]
            tensor = tensor.index_select(dim, torch.tensor(index, dtype=torch.long))
    return tensor


def num_runs(shape, ranges_per_dim):
    """Runs of consecutive elements in the boxes that the ranges make."""
    flat = torch.arange(math.prod(shape)).reshape(shape)
    choices = [((0, size),) if dim is None else dim for dim, size in zip(ranges_per_dim, shape, strict=True)]
    runs = 0
    for box in product(*choices):
        part = flat[tuple(slice(*pair) for pair in box)].flatten()
        runs += int(part.numel() > 0) + int((part.diff() != 1).sum())
    return runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("slices")


@given(slices())
def test_slices_equal_torch_and_bytes_are_bounded(folder, case):
    tensor, ranges = case
    save_file({"before": torch.ones(3, dtype=torch.uint8), "w": tensor}, folder / "model.safetensors")
    counts, pieces = [], []
    read_into = stream._BoxReader._read_into

    def counted(self, offset, out):
        counts.append(out.numel() * out.element_size())
        pieces.append(0 if self._piece is None else self._piece.numel())
        read_into(self, offset, out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "GAP_BYTES", 24)
        patch.setattr(stream, "PIECE_BYTES", 64)
        patch.setattr(stream._BoxReader, "_read_into", counted)
        read = open_checkpoint(folder).read_slice("w", ranges)
    assert read.dtype == tensor.dtype
    assert torch.equal(read, expected(tensor, ranges))
    assert sum(counts) <= read.nbytes + 24 * num_runs(tensor.shape, ranges)
    assert max(pieces, default=0) <= 64


def test_columns_of_wide_rows_are_read_run_by_run(tmp_path, monkeypatch):
    weight = torch.randn(64, 8192)
    save_file({"w": weight}, tmp_path / "model.safetensors")
    counts, preadv = [], os.preadv

    def counted(file, buffers, offset):
        counts.append(sum(buffer.nbytes for buffer in buffers))
        return preadv(file, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    read = open_checkpoint(tmp_path).read_slice("w", (None, ((1024, 2048), (4096, 5120))))
    assert torch.equal(read, torch.cat([weight[:, 1024:2048], weight[:, 4096:5120]], 1))
    assert counts == [4 * 1024] * 128
    assert sum(counts) == read.nbytes


def test_a_read_that_gives_less_than_asked_for_is_gone_on_with(tmp_path, monkeypatch):
    weight = torch.randn(8, 16384)
    save_file({"w": weight}, tmp_path / "model.safetensors")
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, offset: preadv(file, [buffers[0][:5]], offset))
    assert torch.equal(open_checkpoint(tmp_path).read_slice("w", (None, ((1, 9),))), weight[:, 1:9])


@pytest.mark.parametrize("ranges", [(None,), (((0, 3),), None), (((1, 0),), None), (((-1, 1),), None)])
def test_bad_ranges(tmp_path, ranges):
    save_file({"w": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="cannot slice tensor 'w'\n  where: shape \\[2, 2\\]"):
        open_checkpoint(tmp_path).read_slice("w", ranges)


def test_unknown_name_and_a_file_that_changed(tmp_path):
    save_file({"w": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(InputError, match="cannot read tensor 'v'"):
        checkpoint.read("v")
    save_file({"w": torch.ones(4, 1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="the checkpoint changed while it was being read"):
        checkpoint.read("w")
