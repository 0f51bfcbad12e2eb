"""A parameter as a drawing to scale: the two dims that make its face, the others as a stack of sheets.

The face is the neighbouring pair of dims with the largest product: rows and columns of a matrix, channels of a
convolution, one expert of many. A vector is a strip along that side of its module's matrix which has its length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from axisplit.report.drawing import Edge, Matrix, Part, matrix_svg, ranges_text, scale_of
from axisplit.report.table import split_dims
from axisplit.report.text import bytes_text, clean
from axisplit.solve.plan import ParameterPlan, Ranges

MOST_SHEETS = 12


def matrix_of(p: ParameterPlan, ranks: int, edges: Mapping[str, Edge], upright: bool = True) -> Matrix:
    """The drawing of a parameter; `upright`: a vector's length goes down."""
    edge, dims = edges.get(p.axis), split_dims(p)
    row, col = _face(p.shape, upright)
    rows, cols = (1 if row is None else p.shape[row]), (1 if col is None else p.shape[col])
    deep = [dim for dim in dims if dim not in (row, col)]
    parts = tuple(Part(_of(held, row), _of(held, col)) for held in p.ranges) if dims and not deep else ()
    return Matrix(
        ".".join(p.name.split(".")[-2:]).removesuffix(".weight"),
        rows,
        cols,
        ranks,
        parts,
        depth=_sheets(p, deep[0]) if deep else (),
        behind=prod(p.shape[:-2]) - 1 if not deep and row == len(p.shape) - 2 else 0,
        row_edge=edge if row in dims else None,
        col_edge=edge if col in dims else None,
        depth_edge=edge if deep else None,
        shape=" × ".join(f"{size:,}" for size in p.shape),
        titled=False,
    )


def _face(shape: Sequence[int], upright: bool) -> tuple[int | None, int | None]:
    if len(shape) < 2:
        return (0, None) if upright else (None, 0)
    row = max(range(len(shape) - 1), key=lambda dim: shape[dim] * shape[dim + 1])
    return row, row + 1


def _of(held: Sequence[Ranges], dim: int | None) -> Ranges:
    return ((0, 1),) if dim is None else held[dim]


def _sheets(p: ParameterPlan, dim: int) -> tuple[tuple[int, ...], ...]:
    """The ranks that hold each index of a dim; of a long one, of indices at equal distances."""
    count = min(p.shape[dim], MOST_SHEETS)
    indices = [(2 * i + 1) * p.shape[dim] // (2 * count) for i in range(count)]
    return tuple(
        tuple(rank for rank, held in enumerate(p.ranges) if any(a <= index < b for a, b in held[dim]))
        for index in indices
    )


def is_upright(vector: ParameterPlan, matrices: Sequence[ParameterPlan]) -> bool:
    """Whether a vector lies along the rows of its module's matrix: its length is theirs."""
    faces = [(p.shape, _face(p.shape, True)[0]) for p in matrices if len(p.shape) > 1]
    return any(row is not None and shape[row] == vector.shape[0] for shape, row in faces)


def draw_row(matrices: Sequence[Matrix]) -> list[str]:
    """Drawings to one scale."""
    scale = scale_of(matrices)
    return [matrix_svg(matrix, scale) for matrix in matrices]


def details(p: ParameterPlan, ranks: int, tied: str = "") -> dict[str, Any]:
    """What a reader is told who points at a parameter; each rank's index ranges of every dim that is split."""
    dims = split_dims(p)
    held = [
        [", ".join(f"dim {dim}: {ranges_text(p.ranges[rank][dim])}" for dim in dims), bytes_text(p.local_bytes(rank))]
        for rank in range(ranks)
    ]
    return {
        "name": clean(p.name),
        "shape": " × ".join(f"{size:,}" for size in p.shape) or "one number",
        "dtype": p.dtype,
        "bytes": bytes_text(p.bytes),
        "held": "" if dims else clean(_held(p)),
        "tied": clean(tied),
        "ranks": held if dims else [],
    }


def _held(p: ParameterPlan) -> str:
    """How one that is not split is held, and why."""
    if p.held == "first":
        return p.reason
    return f"whole on every rank: {p.reason}" if p.reason else "whole on every rank"
