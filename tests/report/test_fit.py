"""What `axisplit fit` prints, as a reader sees it."""

import pytest

import axisplit
from axisplit.report.fit import gib_text, size_text

GIB = 2**30


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("fit_7b_inference", {"params": 7e9, "ranks": 8, "memory": 16e9}),
        ("fit_70b_training", {"params": 70e9, "ranks": 8, "memory": 80 * GIB, "training": True, "batch": 8}),
        ("fit_7b_one_rank", {"params": 7e9, "ranks": 1, "memory": 24 * GIB}),
        ("fit_no_memory", {"params": 125e6, "ranks": 64, "name": "tiny\x1b[31m"}),
    ],
)
def test_the_text(golden, name, asked):
    golden(name, str(axisplit.fit(**asked)))


def test_no_line_is_wider_than_a_terminal():
    found = axisplit.fit(params=405e9, ranks=512, memory=80 * GIB, training=True, batch=2048)
    assert max(len(line) for line in str(found).splitlines()) <= 112


def test_sizes_in_both_units():
    assert gib_text(14e9) == "14.0 GB = 13.04 GiB"
    assert (gib_text(12), gib_text(3 * 2**20)) == ("12 B", "3.15 MB = 3.00 MiB")
    assert (size_text(80 * GIB), size_text(24e9), size_text(GIB / 2)) == ("80 GiB", "24.0 GB", "0.5 GiB")
