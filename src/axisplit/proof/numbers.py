"""The numbers: the lowered ranks beside the whole model, on the same inputs, phase by phase.

    exact    float64 throughout, every float32 cast widened: the structure is right if the outputs agree to ~1e-12
    native   the model's own dtypes: the reassociation that users will see, within a measured bound
    control  each distinct collective left out in turn: the error must exceed the bound by 10 times, or in float64 what
             is tolerated there; for what no output notices see delivered.py

The bound is not a chosen constant: the whole model is run again with every reduction (matmul, attention, convolution,
sum) perturbed by its own rounding error, several times; the outputs move by what rounding moves them, and `bound` is a
fixed multiple of the largest move. A product of rows x and columns w of length n is off by about

    u * sqrt(n) * sqrt(sum of (x_k * w_k)^2)

element by element (a few huge activations must not blur the rest); where the terms are not at hand, the root mean
square of the result's last dim stands for the second root. Each output has its own bound.

Every run is given the choices (top-k, argmax, sort) of the whole model's run in the same dtype, and what it chose from
is compared like an output (choices.py). The control too: otherwise a flip by chance would pass for a collective that is
missed.
Source of u * sqrt(length): Higham and Mary, SIAM J. Sci. Comput. 41, 2019 (probabilistic rounding error analysis).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from axisplit.capture.copies import copy_model
from axisplit.capture.kept import state_put_back
from axisplit.capture.modes import uncompiled, unfused
from axisplit.capture.trace import Inputs, normalize_inputs, own_inputs, phases
from axisplit.capture.trees import leaves, map_items
from axisplit.errors import AxisplitError
from axisplit.lower.apply import GRADIENT, make_rank, sites_of
from axisplit.proof.choices import Choices, Pinned, Recorded, Recorder, in_terms_of, summarize
from axisplit.runtime.groups import Group
from axisplit.runtime.simulate import simulate
from axisplit.runtime.sites import WHOLE_LENGTH, unregister
from axisplit.solve.plan import Plan

DRAWS, SAFETY, EXACT_TOLERANCE, CONTROL_FACTOR = 3, 8.0, 1e-10, 10.0
Outputs = dict[str, torch.Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class Numbers:
    """Absolute differences; `max_error` and `bound` are those of the output that comes closest to its own bound, what
    choices are made from apart.
    """

    exact_error: float
    max_error: float
    bound: float
    control_errors: dict[str, float]  # dropped collective -> error of the output that notices most, in terms of `bound`
    comm_bytes: list[float]  # observed in all phases together, for each rank
    choices: Choices = field(default_factory=Choices)
    exact_controls: dict[str, float] = field(default_factory=dict)  # those unnoticed so, in float64 -> relative error

    @property
    def control_caught(self) -> bool | None:
        return not self.unnoticed if self.control_errors else None

    @property
    def unnoticed(self) -> tuple[str, ...]:
        """Collectives without which no output, and nothing that is chosen from, is off by enough in either dtype."""
        return unnoticed_in_both(self.control_errors, self.bound, self.exact_controls)

    @property
    def equal(self) -> bool:
        return self.max_error <= self.bound and self.exact_error <= EXACT_TOLERANCE and self.choices.equal


def run_all(
    model: torch.nn.Module,
    inputs: Inputs,
    only: tuple[str, ...] = (),
    during: Callable[[str], AbstractContextManager[Any]] = nullcontext,
) -> Outputs:
    """Every output of the given phases, or of all that run, each inside `during(phase)`; complex ones as real and
    imaginary parts. Copies: a state that one phase returns the next may write to.
    """
    found: Outputs = {}
    args, kwargs = own_inputs(inputs)

    def run(phase: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with during(phase):
            return model(*args, **kwargs)

    with torch.no_grad(), uncompiled(), state_put_back(model):
        for phase, result in phases(model, args, kwargs, run, only):
            found |= {f"{phase}:{path}": tensor for path, tensor in leaves(result, as_numbers)}
    return found


def as_numbers(tensor: torch.Tensor) -> torch.Tensor:
    """A copy, of complex numbers [...] as [..., 2]."""
    return torch.view_as_real(tensor.resolve_conj()).clone() if tensor.is_complex() else tensor.clone()


def difference(left: Outputs, right: Outputs, relative: bool = False) -> float:
    """Largest of `differences`."""
    return max(differences(left, right, relative).values(), default=0.0)


def differences(left: Outputs, right: Outputs, relative: bool = False) -> dict[str, float]:
    """For each output the largest absolute difference (over its scale if relative); infinite where one is missing, of
    another shape, or not a number on one side only.
    """
    names = left.keys() | right.keys()
    return {n: _gap(left[n], right[n], relative) if n in left and n in right else float("inf") for n in sorted(names)}


def _gap(a: torch.Tensor, b: torch.Tensor, relative: bool) -> float:
    if a.shape != b.shape:
        return float("inf")
    a, b = a.double(), b.double()
    gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
    if gap.isnan().any():
        return float("inf")
    largest = float(gap.max()) if gap.numel() else 0.0
    finite = a[a.isfinite()].abs()
    scale = float(finite.max()) if relative and finite.numel() else 1.0
    return largest / scale if scale else largest


@dataclass(frozen=True)
class Whole:
    """The whole model's run: its outputs and its choices."""

    outputs: Outputs
    recorded: Recorded

    def differences(self, run: Run, relative: bool = False) -> dict[str, float]:
        """Of another run's outputs, and of what it chose from wherever its choice was pinned."""
        rows = {name: self.recorded[name].rows for name in run.rows}
        return differences(self.outputs | rows, run.outputs | run.rows, relative)

    def worst(self, runs: list[Run], relative: bool = False) -> dict[str, float]:
        """For each name the largest over runs; a choice's only over those in which it was pinned."""
        found = [self.differences(run, relative) for run in runs]
        return {name: max(one[name] for one in found if name in one) for name in set().union(*found)}


@dataclass(frozen=True)
class Run:
    """Another run with the whole model's choices: what it made them from, and which it would have made otherwise; on a
    rank, the bytes that it sent and the sites that it called.
    """

    outputs: Outputs
    rows: Outputs
    flipped: dict[str, torch.Tensor]
    comm_bytes: float = 0.0
    called: frozenset[str] = frozenset()


def run_whole(model: torch.nn.Module, inputs: Inputs, only: tuple[str, ...] = ()) -> Whole:
    """The whole model's outputs, and every choice that it makes on the way."""
    recorder = Recorder()
    return Whole(run_all(model, inputs, only, recorder.during), recorder.recorded)


def run_pinned(model: torch.nn.Module, inputs: Inputs, only: tuple[str, ...], recorded: Recorded) -> Run:
    """The same for a rank's part or in another mode, with the choices of the whole model's run."""
    pinned = Pinned(recorded)
    outputs = run_all(model, inputs, only, pinned.during)
    return Run(outputs, pinned.rows, pinned.flipped)


@unfused()
def measure(model: torch.nn.Module, inputs: Inputs, plan: Plan, only: tuple[str, ...]) -> Numbers:
    """Run everything of this file's header on simulated ranks, in the given phases."""
    whole = run_whole(model, inputs, only)
    runs = run_ranks(model, inputs, plan, only, whole.recorded)
    errors, bounds = whole.worst(runs), rounding_bounds(model, inputs, whole, only)
    outputs = [name for name in errors if name not in whole.recorded]
    nearest = max(outputs, key=lambda name: (_ratio(errors, bounds, name), errors[name]), default="")
    error, bound = errors.get(nearest, 0.0), bounds.get(nearest, 0.0)
    controls, collectives = {}, distinct_collectives(plan, frozenset().union(*(run.called for run in runs)))
    for name, sites in collectives.items():
        controls[name] = control_error(_without(model, inputs, plan, only, whole, sites), bounds, bound)
    choices = summarize(whole.recorded, [run.flipped for run in runs], errors, bounds)
    exact, without = exact_errors(model, inputs, plan, only, {n: collectives[n] for n in unnoticed(controls, bound)})
    return Numbers(exact, error, bound, controls, [run.comm_bytes for run in runs], choices, without)


def _without(
    model: torch.nn.Module,
    inputs: Inputs,
    plan: Plan,
    only: tuple[str, ...],
    whole: Whole,
    sites: tuple[str, ...],
    mode: Callable[[], Any] = nullcontext,
) -> dict[str, float]:
    """The errors of a run without these collectives. Infinite where it breaks off: the same run with them went through,
    so it is for want of them (ranks that compute another length each do not meet any more).
    """
    try:
        runs = run_ranks(model, inputs, plan, only, whole.recorded, drop=sites, mode=mode)
        return whole.worst(runs, relative=mode is not nullcontext)
    except (AxisplitError, RuntimeError, IndexError, ValueError) as error:
        return {f"broken off: {error}": float("inf")}


def _ratio(errors: dict[str, float], bounds: dict[str, float], name: str) -> float:
    return in_terms_of(errors[name], bounds.get(name, 0.0))


def control_error(missing: dict[str, float], bounds: dict[str, float], bound: float) -> float:
    """The errors of a run without a collective as one, in terms of the bound that is reported: that of what notices it
    most.
    """
    most = max((_ratio(missing, bounds, name) for name in missing), default=0.0)
    noticed = most > CONTROL_FACTOR  # by something, where rounding moves nothing that is reported
    return most * bound if bound else max(missing.values(), default=0.0) * noticed


def unnoticed(errors: dict[str, float], bound: float) -> tuple[str, ...]:
    """Controls whose error does not exceed the bound by far."""
    return tuple(name for name, error in errors.items() if error <= CONTROL_FACTOR * bound)


def unnoticed_in_both(errors: dict[str, float], bound: float, exact: dict[str, float]) -> tuple[str, ...]:
    """Controls whose error exceeds neither the bound by far nor, where it was run, what is tolerated in float64."""
    seen = {name for name in exact if name not in unnoticed(exact, EXACT_TOLERANCE)}
    return tuple(name for name in unnoticed(errors, bound) if name not in seen)


def exact_errors(
    model: torch.nn.Module, inputs: Inputs, plan: Plan, only: tuple[str, ...], controls: dict[str, tuple[str, ...]]
) -> tuple[float, dict[str, float]]:
    """(difference, relative to each output's scale, in float64 throughout; the same without each collective)."""
    wide = widened(model)
    given = widened_inputs(inputs)
    with wide_by_default():
        with Widened():
            whole = run_whole(wide, given, only)
        errors = whole.worst(run_ranks(wide, given, plan, only, whole.recorded, mode=Widened), relative=True)
        without = {n: _without(wide, given, plan, only, whole, sites, Widened) for n, sites in controls.items()}
    return max(errors.values(), default=0.0), {n: max(found.values(), default=0.0) for n, found in without.items()}


def run_ranks(
    model: torch.nn.Module,
    inputs: Inputs,
    plan: Plan,
    only: tuple[str, ...],
    recorded: Recorded,
    drop: tuple[str, ...] = (),
    mode: Callable[[], Any] = nullcontext,
) -> list[Run]:
    """Every simulated rank's run, with the recorded choices pinned."""
    key = f"verify-{plan.fingerprint}"

    def rank(group: Group) -> Run:
        part, context = make_rank(model, plan, group, key)
        try:
            context.drop(drop)
            with mode():
                run = run_pinned(part, inputs, only, recorded)
            return replace(run, comm_bytes=context.comm_bytes, called=frozenset(context.counters))
        finally:
            unregister(key)

    return simulate(plan.ranks, rank)


def distinct_collectives(plan: Plan, called: Container[str]) -> dict[str, tuple[str, ...]]:
    """Collectives by what they do and where, repeated blocks together: name -> sites. Of those on an index of the
    inputs, which are others for other lengths, the ones that are called.
    """
    found: dict[str, list[str]] = {}
    depends = {step.name for place in plan.places for step in place.steps if step.follows}
    for site in sites_of(plan):
        forward = site.kind in ("all_reduce", "all_gather", "reduce_scatter") and not site.name.endswith(GRADIENT)
        if forward and (site.name.removesuffix(WHOLE_LENGTH) not in depends or site.name in called):
            found.setdefault(f"{site.kind} at {starred(site.name)}", []).append(site.name)
    return {name: tuple(sites) for name, sites in found.items()}


def starred(name: str) -> str:
    """A site's name with the numbers of repeated blocks left open."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def rounding_bounds(model: torch.nn.Module, inputs: Inputs, whole: Whole, only: tuple[str, ...]) -> dict[str, float]:
    """How far each output, and what each choice is made from, moves when every reduction is off by its own rounding."""
    runs = perturbed(lambda: run_pinned(model, inputs, only, whole.recorded))
    return {name: SAFETY * move for name, move in whole.worst(runs).items()}


def perturbed(run: Callable[[], T]) -> list[T]:
    """What a run gives under rounding errors, drawn several times."""
    results = []
    for draw in range(DRAWS):
        with Perturbed(seed=draw):
            results.append(run())
    return results


class Perturbed(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds to the result of each reduction noise of the size of its own rounding error."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._opname in _LENGTHS_OF_GRADIENTS:
            for gradient, length in zip(result, _LENGTHS_OF_GRADIENTS[func._opname](args), strict=True):
                if gradient is not None:
                    self._perturb(func, args, gradient, length)
            return result
        found = _reduced_length(func, args, result)
        if found is not None:
            self._perturb(func, args, result[0] if isinstance(result, tuple) else result, found)
        return result

    def _perturb(self, func: Any, args: Any, first: torch.Tensor, length: int) -> None:
        numbers = torch.view_as_real(first) if first.is_complex() else first
        if numbers.is_floating_point() and numbers.numel():
            noise = torch.randn(numbers.shape, generator=self._generator).to(first.device)
            terms = _terms(func, args, first)
            terms = terms.unsqueeze(-1) if first.is_complex() else terms
            size = torch.finfo(first.dtype).eps / 2 * length**0.5 * terms
            numbers.add_((noise * size).to(numbers.dtype))


def _lengths_of_convolution(args: Any) -> tuple[int, int, int]:
    """What the gradients of a convolution's input, weight and bias each sum over."""
    cotangent, _, weight = args[:3]
    places = cotangent.numel() // max(cotangent.shape[1], 1)
    return weight.numel() // max(weight.shape[1], 1), places, places


def _lengths_of_norm(args: Any) -> tuple[int, int, int]:
    """The same of a layer norm over dims of the given sizes."""
    cotangent, width = args[0], prod(args[2])
    rows = cotangent.numel() // max(width, 1)
    return width, rows, rows


_LENGTHS_OF_GRADIENTS: dict[str, Callable[[Any], tuple[int, int, int]]] = {
    "convolution_backward": _lengths_of_convolution,
    "native_layer_norm_backward": _lengths_of_norm,
}


def _terms(func: Any, args: Any, result: torch.Tensor) -> torch.Tensor:
    """Root of the sum of squares of the terms that a reduction adds up, for each element of its result."""
    factors = {"mm": args[:2], "bmm": args[:2], "addmm": args[1:3], "baddbmm": args[1:3]}.get(func._opname)
    if factors is not None and func.namespace == "aten":
        left, right = factors
        return torch.matmul(left.abs().float().square(), right.abs().float().square()).sqrt()
    wide = result.abs().float()
    return wide.square().mean(-1, keepdim=True).sqrt() if result.dim() else wide.abs()


def _reduced_length(func: Any, args: Any, result: Any) -> int | None:
    name = func._opname
    if func.namespace != "aten":  # nobody knows what it sums over: no more than its longest operand dim
        return max((size for a in args if isinstance(a, torch.Tensor) for size in a.shape), default=None)
    if name in ("mm", "bmm", "mv", "dot"):
        return int(args[0].shape[-1])
    if name in ("addmm", "baddbmm", "addmv"):
        return int(args[1].shape[-1])
    if name == "convolution":
        return int(args[1][0].numel())
    if name.startswith("_scaled_dot_product"):
        return int(args[1].shape[-2]) + int(args[0].shape[-1])
    if name in ("sum", "mean", "native_layer_norm", "native_group_norm"):
        first = result[0] if isinstance(result, tuple) else result
        return int(max(args[0].numel() // max(first.numel(), 1), 2))
    return None


@contextmanager
def wide_by_default() -> Iterator[None]:
    """Floats that ask for no dtype (`torch.tensor(0.1)`) are float64, for all threads."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Widened(TorchFunctionMode):
    """Every request for float32 or a narrower float becomes one for float64, of complex numbers alike. What no copy
    widens, because it is neither parameter nor buffer (a tensor in a plain attribute, in a list, in a closure), is
    widened where an op refuses it beside wide operands.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _GROUPED:
            return _grouped_product(*args, **(kwargs or {}))
        func = _WIDE_CASTS.get(func, func)
        args = tuple(_wide(a) for a in args)
        kwargs = {name: _wide(value) for name, value in (kwargs or {}).items()}
        try:
            return func(*args, **kwargs)
        except RuntimeError:
            if _is_write(func, kwargs):  # what it wrote into a wider copy would be lost
                raise
            return func(*_widen(args), **_widen(kwargs))


def _is_write(func: Any, kwargs: dict[str, Any]) -> bool:
    name = getattr(func, "__name__", "")
    return "out" in kwargs or name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _wide(x: Any) -> Any:
    return _WIDER.get(x, x) if isinstance(x, torch.dtype) else x


_WIDER = dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.float64)
_WIDER |= {torch.complex64: torch.complex128, torch.complex32: torch.complex128}
_WIDE_CASTS: dict[Any, Any] = {
    torch.Tensor.float: torch.Tensor.double,
    torch.Tensor.half: torch.Tensor.double,
    torch.Tensor.bfloat16: torch.Tensor.double,
}


def _grouped_product(rows: torch.Tensor, weights: torch.Tensor, offs: torch.Tensor, **_: Any) -> torch.Tensor:
    """Rows [t, k] of one group after the other times weights [g, k, n]; the kernel has no float64."""
    ends = [0, *offs.tolist()]
    parts = [rows[a:b] @ w for a, b, w in zip(ends, ends[1:], weights, strict=False)]
    return torch.cat([*parts, rows.new_zeros(rows.shape[0] - ends[-1], weights.shape[-1])])


_GROUPED = {getattr(torch, "_grouped_mm", None), getattr(torch.nn.functional, "grouped_mm", None)} - {None}


def widened(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of the model in float64 and complex128."""
    wide = copy_model(model)
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # a buffer under two names stays one

    def convert(tensor: torch.Tensor) -> torch.Tensor:
        return made.setdefault(id(tensor), (tensor, _wider(tensor)))[1]

    wide._apply(convert)  # type: ignore[no-untyped-call]
    return wide


def _wider(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def widened_inputs(inputs: Inputs) -> Inputs:
    """The inputs with every float in float64."""
    args, kwargs = normalize_inputs(inputs)
    widened: Inputs = _widen(kwargs) if kwargs else _widen(args)
    return widened


def _widen(tree: Any) -> Any:
    return _wider(tree) if isinstance(tree, torch.Tensor) else map_items(tree, _widen)
