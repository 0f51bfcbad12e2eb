"""Drawings: to scale, in the right colours, readable without them."""

import re

import pytest

from axisplit.report.colours import _luminance, rank_colours
from axisplit.report.drawing import Matrix, Part, by_columns, by_rows, expression_svg, matrix_svg, partial, whole


def pieces(svg):
    """(rank, x, y, width, height) of each piece."""
    found = re.findall(r'<rect class="part r(\d+)" x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)"', svg)
    return [(int(rank), *map(float, box)) for rank, *box in found]


def test_uneven_parts_are_to_scale():
    assert pieces(matrix_svg(by_rows("W", 9, 6, ranks=2), scale=10)) == [(0, 0, 0, 60, 50), (1, 0, 50, 60, 40)]
    assert pieces(matrix_svg(by_columns("W", 6, 9, ranks=2), scale=10)) == [(0, 0, 0, 50, 60), (1, 50, 0, 40, 60)]


def test_packed_parts_lie_where_their_ranges_are():
    ranges = (((0, 4), (8, 12)), ((4, 8), (12, 16)))
    packed = Matrix("qkv", 16, 8, 2, tuple(Part(own, ((0, 8),)) for own in ranges))
    assert [(rank, y) for rank, _, y, _, _ in pieces(matrix_svg(packed, scale=4))] == [
        (0, 0),
        (1, 16),
        (0, 32),
        (1, 48),
    ]


def test_what_two_ranks_hold_is_banded_in_both_colours():
    both = Part(((0, 8),), ((0, 16),))
    shared = Matrix("k", 16, 16, 3, (both, both, Part(((8, 16),), ((0, 16),))))
    found = pieces(matrix_svg(shared, scale=4))
    assert [rank for rank, *_ in found] == [0, 1, 0, 1, 2]
    assert sum(width * height for rank, _, _, width, height in found if rank < 2) == 64 * 32


def test_an_expression_says_what_it_shows():
    svg = expression_svg([whole("X", 8, 6), "@", by_columns("W1", 6, 16, 2), "→", partial("Y", 8, 16, 2)])
    label = re.search('aria-label="(.*?)"', svg)[1]
    assert label == (
        "X, 8 × 6, whole on every rank @ W1, 6 × 16, rank 0: columns 0:8; rank 1: columns 8:16 → "
        "Y, 8 × 16, a summand on each of 2 ranks"
    )
    assert not re.search(r"\bid=|style=", svg)


@pytest.mark.parametrize("ranks", [1, 2, 8, 9, 16, 64])
def test_colours_differ_and_their_numbers_can_be_read(ranks):
    colours = rank_colours(ranks)
    assert len({colour.fill for colour in colours}) == ranks
    for colour in colours:
        low, high = sorted((_luminance(colour.fill), _luminance(colour.ink)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour
