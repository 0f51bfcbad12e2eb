"""Rules that users state for their own ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from axisplit.axes.check import failed_claims
from axisplit.axes.law import Law, NodeView, find_rule
from axisplit.axes.pattern import WHOLE_DIM, Pattern, Term, expand, law_of, misfit, parse
from axisplit.axes.trial import CannotTry, Refused
from axisplit.errors import InputError


@dataclass
class _Stated:
    """A registered rule as it was written, and the kinds of calls for which it has been checked."""

    spec: str
    pattern: Pattern
    check: bool
    checked: set[Any] = field(default_factory=set)


_stated: dict[str, list[_Stated]] = {}  # op's full name -> its rules, for other numbers of operands or dims


def register_rule(
    op: Any,
    spec: str,
    *,
    whole: str = "",
    linear: Sequence[int | tuple[int, ...]] = (),
    added: Sequence[int] = (),
    sizes: Mapping[str, str] | None = None,
    check: bool = False,
) -> None:
    """State how an op of your own splits, in one line. Such an op is not tried, and plans do not list it as assumed.

    Args:
        op: `"mylib::scaled_linear"` (with `.overload` where it has several), or the op itself.
        spec: a letter (or name) for each dim of each tensor operand, in order, then of each output. Letters that are
            missing on the right are summed over; all others pass: the op on parts gives the parts. `...` stands for
            any leading dims, `_` for a dim that is needed whole (left) or that the op makes (right), `()` for no dims.
        whole: letters that the op needs whole (a softmax's own dim).
        linear: operands in each of which the op is linear (`(0, 1)`), or groups in which it is together (`((0, 1),)`).
        added: operands that are added after the sum: with a split letter summed over, they count once.
        sizes: arguments that hold a dim's size and must follow it: `{"n": "i"}`, for lists `{"shape": "b _ i"}`.
        check: try the rule on small operands of exact integers, for every kind of call that is planned.
    Raises: InputError if there is no such op, it has a rule built in, or the rule cannot describe it. Planning raises
        it where shapes do not follow the rule, or `check` finds that the op does not.

    A rule for the same operands replaces the one before; rules for other numbers of operands or dims stand beside it.

    >>> @torch.library.custom_op("docs::halved_linear", mutates_args=())
    ... def halved_linear(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    ...     return 0.5 * x @ w.T
    >>> register_rule("docs::halved_linear", "... i, o i -> ... o", linear=(0, 1), check=True)
    """
    overload = _resolve(op)
    name = _name(overload)
    try:
        pattern = _pattern(overload, spec, whole, linear, added, sizes or {})
    except ValueError as error:
        raise InputError(
            f"a rule for {name} that cannot be read",
            got=f"{spec!r}: {error}",
            needed="letters of each operand -> letters of each output, such as 'b s i, o i -> b s o'",
            do=f"describe the tensors of {overload._schema}",
        ) from error
    others = [known for known in _stated.get(name, []) if known.pattern.operands != pattern.operands]
    _stated[name] = [*others, _Stated(spec, pattern, check)]


def registered(view: NodeView) -> Law | None:
    """The law of a node by a registered rule; None if its op has none.

    Raises: InputError if the op's shapes do not follow its rule, or a check fails.
    """
    name = _name(view.node.op)
    rules = _stated.get(name)
    if not rules:
        return None
    shapes, outputs = tuple(view.operand_shapes()), view.output_shapes()
    reasons = []
    for rule in rules:
        pattern = expand(rule.pattern, [len(shape) for shape in shapes])
        wrong = "another number of operands or dims" if pattern is None else misfit(pattern, shapes, outputs)
        if pattern is not None and not wrong:
            pattern = _without_ones(pattern, shapes)
            _check(rule, pattern, view, shapes)
            law = law_of(view, pattern, "registered")
            law.reason = "its registered rule needs it whole"
            return law
        reasons.append(f"{rule.spec!r}: {wrong}")
    raise InputError(
        f"the registered rule of {name} does not describe a call of it",
        where=view.node.module or "the model's forward",
        got="\n".join([f"operands {list(map(list, shapes))}, outputs {list(map(list, outputs))}", *reasons]),
        needed="one size for each letter, as many dims as letters",
        do="register a rule for these operands too: one for each number of operands or dims",
    )


def _check(rule: _Stated, pattern: Pattern, view: NodeView, shapes: tuple[tuple[int, ...], ...]) -> None:
    kind = (id(view.node.op), repr(view.node.args), shapes, view.dtypes())
    if not rule.check or kind in rule.checked:
        return
    try:
        wrong = failed_claims(view.node, shapes, view.dtypes(), pattern)
    except (CannotTry, Refused) as error:
        raise InputError(
            f"the registered rule of {_name(view.node.op)} cannot be checked",
            got=str(error),
            do="register it with check=False, and test it by axisplit.verify",
        ) from error
    if wrong:
        raise InputError(
            f"the registered rule of {_name(view.node.op)} is not what the op does",
            where=view.node.module or "the model's forward",
            got="\n".join(wrong),
            needed=f"that {rule.spec!r} holds on exact integers",
            do="name letters that the op needs whole in whole=, operands that it adds after a sum in added=",
        )
    rule.checked.add(kind)


def _without_ones(pattern: Pattern, shapes: Sequence[Sequence[int]]) -> Pattern:
    """A letter of size 1 says nothing that could be tried or split."""
    ones = {
        letter for t, s in zip(pattern.operands, shapes, strict=True) for letter, n in zip(t, s, strict=True) if n == 1
    }

    def dropped(term: Term) -> Term:
        return tuple(WHOLE_DIM if letter in ones else letter for letter in term)

    return replace(
        pattern,
        operands=tuple(map(dropped, pattern.operands)),
        outputs=tuple(map(dropped, pattern.outputs)),
        whole=tuple(letter for letter in pattern.whole if letter not in ones),
        sizes=tuple((position, dropped(term)) for position, term in pattern.sizes),
    )


def _name(op: Any) -> str:
    return f"{op._schema.name}.{op._overloadname}"


def _resolve(op: Any) -> Any:
    """The overload of a name, a packet or a custom op. Raises: InputError."""
    text = op if isinstance(op, str) else getattr(getattr(op, "_opoverload", op), "_qualified_op_name", None)
    if isinstance(op, torch._ops.OpOverload):
        found: Any = op
    elif isinstance(op, torch._ops.OpOverloadPacket):
        found = getattr(op, "default", None)
    elif not isinstance(op, str):
        found = getattr(op, "_opoverload", None)
    else:
        space, _, rest = op.partition("::")
        base, _, overload = rest.partition(".")
        packet = getattr(getattr(torch.ops, space, None), base, None) if base else None
        found = getattr(packet, overload or "default", None)
    if not isinstance(found, torch._ops.OpOverload):
        raise InputError(
            "no op to register a rule for",
            got=repr(op if text is None else text),
            needed="the name of an op that is registered with torch, such as 'mylib::scaled_linear'",
            do="import the module that defines it first, and name the overload where it has several",
        )
    if find_rule(found) is not None:
        raise InputError(f"{found} has a rule built in", do="report it if that rule is wrong")
    return found


def _pattern(
    op: Any,
    spec: str,
    whole: str,
    linear: Sequence[int | tuple[int, ...]],
    added: Sequence[int],
    sizes: Mapping[str, str],
) -> Pattern:
    """The pattern of a rule, as far as the op's schema can judge it. Raises: ValueError."""
    pattern, schema = parse(spec), op._schema
    tensors = [a for a in schema.arguments if "Tensor" in str(a.type)]
    listed = any("List" in str(a.type) for a in tensors)
    if len(pattern.operands) > len(tensors) and not listed:
        raise ValueError(f"{len(pattern.operands)} operands, the op has {len(tensors)} tensors")
    returns = [str(r.type) for r in schema.returns]
    if all(kind == "Tensor" for kind in returns) and len(returns) != len(pattern.outputs):
        raise ValueError(f"{len(pattern.outputs)} outputs, the op has {len(returns)}")
    known = {letter for term in pattern.operands for letter in term} - {WHOLE_DIM}
    groups = tuple((group,) if isinstance(group, int) else tuple(group) for group in linear)
    _known("whole=", whole.split(), known)
    for number in [*added, *(number for group in groups for number in group)]:
        if not 0 <= number < len(pattern.operands):
            raise ValueError(f"there is no operand {number}: they count from 0")
    return replace(
        pattern, whole=tuple(whole.split()), linear=groups, added=tuple(added), sizes=_sizes(schema, sizes, known)
    )


def _sizes(schema: Any, sizes: Mapping[str, str], known: set[str]) -> tuple[tuple[int, Term], ...]:
    positions = {a.name: (i, str(a.type)) for i, a in enumerate(schema.arguments)}
    found = []
    for name, text in sizes.items():
        position, kind = positions.get(name, (-1, ""))
        if "int" not in kind.lower():
            raise ValueError(f"sizes= names {name}, which is no integer argument")
        _known(f"sizes= for {name}", [letter for letter in text.split() if letter != WHOLE_DIM], known)
        found.append((position, tuple(text.split())))
    return tuple(found)


def _known(what: str, letters: Sequence[str], known: set[str]) -> None:
    missing = [letter for letter in letters if letter not in known]
    if missing:
        raise ValueError(f"{what} names {' '.join(missing)}, which the operands do not have")
