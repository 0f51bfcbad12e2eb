"""A captured program (see `captured`) in place of a module's forward: whether a call is of the traced kind; its run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from axisplit.capture.provenance import apply_operator
from axisplit.errors import LoweringError
from axisplit.runtime import collectives
from axisplit.solve.plan import CapturedPlan

Json = Any


def install_captured(module: torch.nn.Module, plans: list[CapturedPlan], rank: int, key: str) -> None:
    """Replace a module's forward by its captured programs."""
    signature = inspect.signature(module.forward)
    runners = [_Runner(plan, module, rank, key) for plan in plans]

    def forward_captured(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for runner in runners:
            values = runner.accepts(bound.arguments)
            if values is not None:
                return runner.run(values)
        raise LoweringError(
            "a module with a captured program is called in a way that was not traced",
            where=plans[0].module or "model",
            got=f"{_mode(module.training)}: "
            + ", ".join(
                f"{n}={type(v).__name__ if not isinstance(v, bool) else v}" for n, v in bound.arguments.items()
            ),
            needed="; or ".join(f"{_mode(plan.training)}: {plan.arguments}" for plan in plans),
            do="plan again with inputs of this kind, and the model in the mode in which it will run",
        )

    module.forward = forward_captured


def _mode(training: bool) -> str:
    return "in training" if training else "in evaluation"


class _Runner:
    """One captured program, its ops looked up once."""

    def __init__(self, plan: CapturedPlan, module: torch.nn.Module, rank: int, key: str) -> None:
        self._plan, self._module, self._key = plan, module, key
        self._ops = [
            (torch.no_grad()(_op(name)) if off else _op(name), args, kwargs, outputs)
            for name, args, kwargs, outputs, *off in plan.programs[rank]
        ]

    def accepts(self, given: Mapping[str, Any]) -> dict[Any, torch.Tensor] | None:
        """The tensors of a call by value number, or None if it is not a call of the traced kind."""
        values: dict[Any, torch.Tensor] = {}
        wanted = self._plan.arguments
        if wanted.keys() != given.keys() or self._module.training != self._plan.training:
            return None
        # twice: sizes are compared with those of tensors that may come behind them
        same = all(_match(wanted[name], given[name], values) for _ in range(2) for name in wanted)
        return values if same else None

    def run(self, values: dict[Any, torch.Tensor]) -> Any:
        inputs = dict(values)
        for op, args, kwargs, outputs in self._ops:
            result = op(*self._decode(args, values, inputs), **self._decode(kwargs, values, inputs))
            results = result if isinstance(result, (tuple, list)) else (result,)
            values.update(zip(outputs, results, strict=True))
        return self._decode(self._plan.result, values, inputs)

    def _decode(self, tree: Json, values: Mapping[Any, torch.Tensor], inputs: Mapping[Any, torch.Tensor]) -> Any:
        def again(item: Json) -> Any:
            return self._decode(item, values, inputs)

        if isinstance(tree, (list, tuple)):
            return [again(item) for item in tree]
        if not isinstance(tree, dict):
            return tree
        ((tag, content), *_) = tree.items()
        if tag == "%":
            return values[content]
        if tag == "own":
            owner, _, name = content.rpartition(".")
            return getattr(self._module.get_submodule(owner), name)
        if tag == "size":
            return _evaluate(content, inputs)
        if tag == "tuple":
            return tuple(again(item) for item in content)
        if tag == "dict":
            return {name: again(item) for name, item in content.items()}
        if tag == "site":
            return f"{self._key}/{content}"
        if tag == "constant":
            return _constant(tree, again(tree.get("like")))
        if tag == "device":
            return next(iter(inputs.values())).device
        return getattr(torch, content)


def _constant(tree: Json, like: torch.Tensor | None) -> torch.Tensor:
    """A tensor of numbers written in the program. A vector is on the device of the operand beside it; a single number
    is used by every device from where it is.
    """
    numbers, dtype = tree["constant"], getattr(torch, tree["dtype"]) if like is None or tree["dtype"] else like.dtype
    if not tree["shape"]:
        return torch.tensor(numbers[0], dtype=dtype)
    return torch.tensor(numbers, dtype=dtype, device=None if like is None else like.device)


def _op(name: str) -> Callable[..., Any]:
    namespace, opname, *overload = name.split(".")
    if namespace == "axisplit":
        found: Callable[..., Any] = getattr(collectives, opname)
        return found
    packet = getattr(getattr(torch.ops, namespace), opname)
    if opname == "view":  # `contiguous` changes no value and is not in a graph, but views need it
        return lambda x, *args: packet.default(x.contiguous(), *args)
    if opname == "slice_scatter":
        return _slice_scatter
    if opname == "copy":  # torch's own has no backward
        return lambda x, source, *_: x.clone().copy_(source)
    return getattr(packet, overload[0]) if overload else packet.default  # type: ignore[no-any-return]


def _slice_scatter(
    x: torch.Tensor, part: torch.Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> torch.Tensor:
    """`x` with every `step`-th index from `start` to `end` of one dim exchanged for `part`."""
    if not x.is_complex():
        return torch.slice_scatter(x, part, dim, start, end, step)
    made = x.clone()  # torch's own has no backward for complex numbers
    made[(slice(None),) * (dim % x.ndim) + (slice(start, end, step),)] = part
    return made


def _evaluate(expression: Json, inputs: Mapping[Any, torch.Tensor]) -> int:
    if isinstance(expression, int):
        return expression
    symbol, *operands = expression
    if symbol == "dim":
        return int(inputs[operands[0]].shape[operands[1]])
    return apply_operator(symbol, [_evaluate(operand, inputs) for operand in operands])


def _values_in(expression: Json) -> set[Any]:
    """The tensors that a size is made of."""
    if isinstance(expression, int):
        return set()
    symbol, *operands = expression
    return {operands[0]} if symbol == "dim" else set[Any]().union(*map(_values_in, operands))


def _match(wanted: Json, given: Any, values: dict[Any, torch.Tensor]) -> bool:
    if isinstance(wanted, dict) and "%" in wanted:
        sizes = wanted.get("sizes", ())
        if not isinstance(given, torch.Tensor) or any(given.shape[dim] != size for dim, size in sizes):
            return False
        return values.setdefault(wanted["%"], given) is given
    if isinstance(wanted, dict) and "size" in wanted:
        known = _values_in(wanted["size"]) <= values.keys()
        return not isinstance(given, torch.Tensor) and (not known or bool(_evaluate(wanted["size"], values) == given))
    if isinstance(wanted, dict) and "tuple" in wanted:
        wanted = wanted["tuple"]
    if isinstance(wanted, dict) and "dict" in wanted:
        wanted = wanted["dict"]
        same = isinstance(given, dict) and wanted.keys() == given.keys()
        return same and all(_match(wanted[name], given[name], values) for name in wanted)
    if isinstance(wanted, (list, tuple)):
        same = isinstance(given, (list, tuple)) and len(wanted) == len(given)
        return same and all(_match(w, g, values) for w, g in zip(wanted, given, strict=True))
    return not isinstance(given, torch.Tensor) and bool(wanted == given)
