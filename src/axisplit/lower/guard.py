"""The domain of the proof at run time: every call of a parallelized model is one whose program was proved, or is
proved now, or is refused.

    known call      its text (`capture.calls`) is among the plan's: a few microseconds
    unknown call    traced on fake tensors, whole and for every kind of rank, and matched by inference
                    (`proof.inference`); remembered either way
    not traceable   the Python looks at values, or takes a state that cannot be made again: a warning, once

What is traced is a copy of the whole model on the meta device, made before the plan was installed. A call with a state
(a cache) is traced from its beginning: an empty state is given as it is; a filled one is made again by a prefill of the
same arguments without it, or with an empty one of its kind that came before, and the call is the decode after that.
Where a mask of [B, S] is given, the call without it is traced too: models leave out a mask that hides nothing.

Nothing here depends on values or on the rank: all ranks trace all kinds of ranks, so they decide alike without asking
each other.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import torch

from axisplit.capture.calls import CallText, is_state, kind
from axisplit.capture.kept import forget
from axisplit.capture.modes import outside_modes
from axisplit.capture.randomness import why_random
from axisplit.capture.trace import Captured, capture, shadow_copy
from axisplit.errors import AxisplitError, CaptureError, InputError, ProofError, UnprovedCallWarning
from axisplit.lower.paths import why_not_on
from axisplit.solve.plan import Plan

_MOST_KNOWN = 1024
FIRST = ("forward", "prefill")
WITH_NEXT = (*FIRST, "decode")
PAST = 2  # tokens in front of a decode call that is traced and does not say how many there were
Arguments = dict[str, Any]


class Guard:
    """Checks the calls of one model; made before its plan is installed, attached after."""

    def __init__(self, model: torch.nn.Module, plan: Plan) -> None:
        shapes = {p.name: p.shape for p in plan.parameters}
        self._skeleton = shadow_copy(
            model, lambda name, t: torch.empty(shapes[name], dtype=t.dtype, device="meta"), mode=None
        )
        forget(self._skeleton, plan.states)
        self._text = CallText(model)
        self._plan = plan
        self.proved = set(plan.calls)
        self._known: set[Hashable] = set()  # keys of proved calls
        self.refused: dict[str, str] = {}
        self.unproved: set[str] = set()
        self._empty: Arguments = {}  # kind of state -> one that was still empty

    def attach(self, model: torch.nn.Module) -> None:
        """Check every call of a model, before any other hook."""
        model.register_forward_pre_hook(self._check, with_kwargs=True, prepend=True)

    def _check(self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The pre-hook. Raises: ProofError for a call that is outside the domain."""
        if torch.compiler.is_compiling():
            return  # compiled code is traced from calls; their texts are not values that it can compute
        key = self._text.key(args, kwargs, model.training)
        if key in self._known:
            return
        call = self._text.of(args, kwargs, model.training)
        if call in self.proved:
            if key is not None and len(self._known) < _MOST_KNOWN:
                self._known.add(key)
            return
        if call not in self.refused and call not in self.unproved:
            self._decide(call, model, args, kwargs)
        if call in self.refused:
            raise self._outside(call)

    def _decide(self, call: str, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Prove a call, or remember why not."""
        for name, module in self._skeleton.named_modules():
            module.training = model.get_submodule(name).training
        with outside_modes():
            try:
                reason = self._prove(call, self._text.named(args, kwargs))
            except _NotTraceable as error:
                self.unproved.add(call)
                warnings.warn(_warning(call, error), UnprovedCallWarning, stacklevel=2)
                return
        if reason:
            self.refused[call] = reason
        else:
            self.proved.add(call)

    def _prove(self, call: str, given: Arguments) -> str:
        """Why the ranks' programs of a call are not the split of the whole; "" if they are."""
        for arguments in _with_and_without_mask(given):
            wanted = self._text.of((), arguments, self._skeleton.training)
            if wanted not in self.proved:
                reason = self._prove_one(wanted, arguments, optional=wanted != call)
                if reason:
                    return reason
        return ""

    def _prove_one(self, call: str, given: Arguments, optional: bool) -> str:
        """As `_prove`, for one way to take a call. One without a state is traced with the step after it if that can be:
        it will come next. A call that is `optional` need not run.
        """
        self._empty |= {kind(v): copy.deepcopy(v) for v in given.values() if is_state(v) and not holds_tensors(v)}
        arguments, reason = from_the_beginning(given, self._empty), ""
        arguments |= self._text.flags_left_to_config(
            arguments
        )  # else capture asks for a cache, whatever the config says
        ways = (WITH_NEXT,) if any(map(is_state, given.values())) else (WITH_NEXT, FIRST)
        for phases in ways:
            try:
                reason = self._match(call, arguments, phases)
            except (InputError, CaptureError) as error:
                if phases is ways[-1] and not (optional and isinstance(error, InputError)):
                    raise _NotTraceable(f"{error.what}: {error.got or ''}".rstrip(": ")) from error
                continue
            if not reason:
                break
        return reason

    def _match(self, call: str, arguments: Arguments, phases: tuple[str, ...]) -> str:
        """Capture the whole model in these phases, match the ranks, remember what was proved."""
        captured = capture(self._skeleton, arguments, phases)
        if call not in captured.calls:
            raise _NotTraceable(f"it cannot be reached from a call without its state, only {'; '.join(captured.calls)}")
        reason = self._mismatch(captured, arguments)
        if not reason:
            self.proved.update(captured.calls)
        return reason

    def _mismatch(self, captured: Captured, arguments: Arguments) -> str:
        """Trace every kind of rank and match them with the whole program."""
        random = why_random(captured.graph)
        if random:
            return random
        return why_not_on(captured, self._plan, self._skeleton, arguments)

    def _outside(self, call: str) -> ProofError:
        return ProofError(
            "this call is outside what the plan was proved for",
            where=self._plan.model,
            got=f"{call}\n{self.refused[call]}",
            needed="a call whose program on every rank is the split of the whole model's, such as\n"
            + "\n".join(self._plan.calls),
            do="plan with inputs of this kind (and in this mode): axisplit.plan(model, {...}, ranks=...)",
        )


class _NotTraceable(AxisplitError):
    """A call whose program cannot be had on fake tensors."""


def _warning(call: str, error: Exception) -> str:
    return (
        f"this call was not proved: {call}\n  {error}\n  axisplit.verify with inputs of this kind can compare numbers"
    )


def _with_and_without_mask(given: Arguments) -> Iterator[Arguments]:
    yield given
    mask = given.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.dim() == 2:
        yield {name: value for name, value in given.items() if name != "attention_mask"}


def from_the_beginning(given: Arguments, empty: Mapping[str, Any]) -> Arguments:
    """The call to trace for a call. A filled state is left out, or replaced by an empty one of its
    kind, with as many tokens as the mask says were before (or `PAST`); then decode is the call itself.
    """
    filled = {name for name, value in given.items() if is_state(value) and holds_tensors(value)}
    if not filled:
        return dict(given)
    rest = {name: value for name, value in given.items() if name not in filled}
    rest |= {name: empty[kind(given[name])] for name in filled if kind(given[name]) in empty}
    tokens = next((rest[n] for n in ("decoder_input_ids", "input_ids") if isinstance(rest.get(n), torch.Tensor)), None)
    if tokens is not None:
        before = _tokens_before(tokens, rest)
        rest = {name: _lengthened(name, value, tokens.shape[-1], before, rest) for name, value in rest.items()}
    return rest


def _tokens_before(tokens: torch.Tensor, given: Arguments) -> int:
    mask = given.get("attention_mask")
    beside = isinstance(mask, torch.Tensor) and mask.dim() == 2 and "decoder_input_ids" not in given
    return max(mask.shape[-1] - tokens.shape[-1], 2) if beside else PAST  # type: ignore[union-attr]


def _lengthened(name: str, value: Any, length: int, before: int, given: Arguments) -> Any:
    """An argument of a step as the prefill before it had it: tokens, and what lies beside them, are that long."""
    if not isinstance(value, torch.Tensor) or value.is_floating_point():
        return value
    encoders = "decoder_input_ids" in given and not name.startswith("decoder_")
    if encoders or (value.shape[-1:] != (length,) and not (name == "attention_mask" and value.dim() == 2)):
        return value
    return torch.empty((*value.shape[:-1], before), dtype=value.dtype, device="meta")


def holds_tensors(value: Any, seen: set[int] | None = None) -> bool:
    """Whether an object, or anything below it, is a tensor with elements (a lone number, such as a count, is none)."""
    seen = set() if seen is None else seen
    if isinstance(value, torch.Tensor):
        return value.dim() > 0 and value.numel() > 0
    if id(value) in seen:
        return False
    seen.add(id(value))
    below = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return any(holds_tensors(item, seen) for item in (*below, *getattr(value, "__dict__", {}).values()))


__all__ = ["Guard"]
