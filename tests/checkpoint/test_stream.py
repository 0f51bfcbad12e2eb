"""Slices equal torch's, and cost no more bytes than they should."""

import math
import mmap
import os
import resource
import subprocess
import sys
from itertools import product

import numpy as np
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "GAP_BYTES", 24)
        patch.setattr(stream, "PIECE_BYTES", 64)
        asked_for = counted_requests(patch)
        read = open_checkpoint(folder).read_slice("w", ranges)
    assert read.dtype == tensor.dtype
    assert torch.equal(read, expected(tensor, ranges))
    assert sum(asked_for) <= read.nbytes + 24 * num_runs(tensor.shape, ranges)
    if tensor.ndim and tensor.numel():
        assert max(asked_for, default=0) <= max(64, tensor[0].nbytes)


def counted_requests(patch):
    """Lengths of the runs that the kernel is asked for, as they come."""
    lengths, populate = [], stream._populate_run

    def counted(pages, begin, length):
        lengths.append(length)
        populate(pages, begin, length)

    patch.setattr(stream, "_populate_run", counted)
    return lengths


def test_columns_of_wide_rows_are_asked_for_run_by_run(tmp_path, monkeypatch):
    weight = torch.randn(64, 8192)
    save_file({"w": weight}, tmp_path / "model.safetensors")
    asked_for = counted_requests(monkeypatch)
    read = open_checkpoint(tmp_path).read_slice("w", (None, ((1024, 2048), (4096, 5120))))
    assert torch.equal(read, torch.cat([weight[:, 1024:2048], weight[:, 4096:5120]], 1))
    assert asked_for == [4 * 1024] * 128


def read_what_is_cut_off(folder, after):
    """Print the error's message, and how many pieces were asked for, of a file that is cut in half after a number."""
    file = folder / "model.safetensors"
    save_file({"w": torch.randn(1024, 1024)}, file)
    checkpoint = open_checkpoint(folder)
    check, populate, calls = type(checkpoint)._check_unchanged, stream._populate, []

    def checked(*given):
        check(*given)
        if after == 0:
            os.truncate(file, 2**21)

    def populated(pages, *box):
        calls.append(box)
        populate(pages, *box)
        if after == len(calls):
            os.truncate(file, 2**21)

    type(checkpoint)._check_unchanged, stream._populate = checked, populated
    with pytest.raises(InputError) as caught:
        checkpoint.read_slice("w", (None, ((0, 1000),)))
    print(len(calls), caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels cannot be asked")
@pytest.mark.parametrize(
    ("after", "calls", "told"), [(0, 0, "mmap length is greater than file size"), (1, 3, "Bad address")]
)
def test_a_file_that_is_cut_off_while_it_is_read(tmp_path, after, calls, told):
    """Before it is mapped, and after, where touching what is no longer there would end the process."""
    code = "import sys, pathlib; from tests.checkpoint import test_stream; "
    code += f"test_stream.read_what_is_cut_off(pathlib.Path(sys.argv[1]), {after})"
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"{calls} a checkpoint file could not be read\n")
    assert told in ran.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels cannot be asked")
def test_runs_are_asked_for_in_whole_pages():
    class Pages:
        def madvise(self, *given):
            self.given = given

    pages, end_of_page = Pages(), mmap.PAGESIZE - 1
    stream._populate_run(pages, mmap.PAGESIZE + end_of_page, 2)
    assert pages.given[1:] == (mmap.PAGESIZE, end_of_page + 2)


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels cannot be asked")
@pytest.mark.parametrize("columns", [False, True])
def test_new_memory_is_asked_for_in_one_call(columns):
    """And not by a fault for each page, as `fill` would."""
    out = np.ndarray((512, 8192), np.uint8, mmap.mmap(-1, 512 * 8192))
    part = out[100:, 1000:3000] if columns else out[100:, 1:]
    stream._populate_to_write(part)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    part.fill(1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 100  # of 805 pages


def test_a_kernel_that_cannot_be_asked(tmp_path, monkeypatch):
    weight = torch.randn(256, 256)
    save_file({"w": weight}, tmp_path / "model.safetensors")
    for unknown in (None, 9999):  # another system, an older Linux
        monkeypatch.setattr(stream, "_POPULATE_READ", unknown)
        monkeypatch.setattr(stream, "_POPULATE_WRITE", unknown)
        assert torch.equal(open_checkpoint(tmp_path).read("w"), weight)


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
