"""What is remembered of an op's results is what the fake mode gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from axisplit.capture import shapes
from axisplit.capture.modes import fake_mode
from axisplit.capture.shapes import remembered

aten = torch.ops.aten
CALLS: dict[str, Callable[[Tensor, Tensor], tuple[Any, tuple[Any, ...], dict[str, Any]]]] = {
    "fresh": lambda x, y: (aten.add.Tensor, (x, y), {}),
    "of another dtype": lambda x, y: (aten.add.Tensor, (x.int(), 0.5), {}),
    "of an integer": lambda x, y: (aten.add.Tensor, (x.int(), 1), {}),
    "of a bool": lambda x, y: (aten.mul.Tensor, (x.bool(), True), {}),
    "keyword": lambda x, y: (aten.sum.dim_IntList, (x, [1]), {"dtype": torch.float64}),
    "strides of its operand": lambda x, y: (aten.relu.default, (x.transpose(0, 1),), {}),
    "view": lambda x, y: (aten.select.int, (x, 0, 2), {}),
    "view of a view": lambda x, y: (aten.slice.Tensor, (x[1:], 1, 2, 6), {}),
    "views": lambda x, y: (aten.split.Tensor, (x, 3, 1), {}),
    "several": lambda x, y: (aten.topk.default, (x, 2), {}),
    "reshape that copies": lambda x, y: (aten.reshape.default, (x.transpose(0, 1), [-1]), {}),
    "reshape that does not": lambda x, y: (aten.reshape.default, (x, [-1]), {}),
    "itself": lambda x, y: (aten.contiguous.default, (x,), {}),
    "view of a parameter": lambda x, y: (aten.t.default, (torch.nn.Parameter(x),), {}),
    "list of operands": lambda x, y: (aten.cat.default, ([x, y, x], 1), {}),
    "no operand": lambda x, y: (aten.arange.default, (7,), {"device": torch.device("cpu")}),
}


def looks(result: Any, operands: list[Tensor]) -> list[Any]:
    """All that can be told of results but their own storage."""
    found = []
    for x in result if isinstance(result, (tuple, list)) else [result]:
        storage = [y.untyped_storage()._cdata == x.untyped_storage()._cdata for y in operands]
        same = [y is x for y in operands]
        found += [type(x), x.shape, x.stride(), x.storage_offset(), x.dtype, x.device, x.requires_grad, storage, same]
    return [type(result), *found]


@pytest.mark.parametrize("name", CALLS)
def test_what_is_remembered_is_what_the_fake_mode_gives(name: str) -> None:
    def call(asked: Callable[..., Any]) -> list[Any]:
        with fake_mode(), torch.no_grad():
            op, args, kwargs = CALLS[name](torch.empty(4, 8), torch.empty(4, 8))
            operands = [x for a in args for x in (a if isinstance(a, list) else [a]) if isinstance(x, Tensor)]
            return looks(asked(op, args, kwargs, lambda: op(*args, **kwargs)), operands)

    def never() -> None:
        raise AssertionError("it was asked for before")

    shapes._known.clear()
    given = call(lambda op, args, kwargs, run: run())
    assert call(remembered) == given
    assert call(lambda op, args, kwargs, run: remembered(op, args, kwargs, never)) == given


@pytest.mark.parametrize(
    "call",
    [
        lambda x: (aten.add_.Tensor, (x, 1), {}),
        lambda x: (aten.nonzero.default, (x,), {}),
        lambda x: (aten.lift_fresh.default, (torch.tensor(3),), {}),
    ],
    ids=["writes", "depends on numbers", "a known number"],
)
def test_what_can_come_out_otherwise_is_asked_for_again(call: Callable[..., Any]) -> None:
    shapes._known.clear()
    with fake_mode(), torch.no_grad():
        op, args, kwargs = call(torch.empty(4, 8))
        try:
            remembered(op, args, kwargs, lambda: op(*args, **kwargs))
        except RuntimeError:
            assert op is aten.nonzero.default
    assert not shapes._known


def test_operands_that_share_a_storage_are_told_from_others() -> None:
    shapes._known.clear()
    with fake_mode(), torch.no_grad():
        x, y = torch.empty(4, 8), torch.empty(4, 8)
        for second in (x, y):
            remembered(aten.add.Tensor, (x, second), {}, lambda b=second: aten.add.Tensor(x, b))
        assert len(shapes._known) == 2
