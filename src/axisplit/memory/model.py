"""What a real model holds: its own parameters, axisplit's plan, and a forward that is watched on fake tensors.

    whole model ─meter→ what each of its pieces keeps, works in and caches, in 32 bit and in 16 bit
    plan ─each kind of rank→ the same of the rank's part, as it would run: tensor parallelism's figures
    pieces      the children of its outermost numbered containers (blocks), and the leaves outside them, as they run

The measuring is on the CPU's ops: a fused attention keeps no scores there, as on a GPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from axisplit.api import check_fits
from axisplit.capture.kept import forget
from axisplit.capture.memos import memos_aside
from axisplit.capture.modes import fake_mode, quiet_shapes, swaps_allowed, uncompiled
from axisplit.capture.trace import Inputs, normalize_inputs, shadow_copy
from axisplit.capture.trees import leaves, map_items
from axisplit.errors import CaptureError, LayoutError, LoweringError
from axisplit.lower.apply import apply_captured, apply_edits, apply_places, sites_of
from axisplit.lower.planning import make_plan
from axisplit.memory.contents import Part, Widths
from axisplit.memory.formulae import Recompute
from axisplit.memory.measured import MeasuredContents, Piece, Size, activations_of
from axisplit.memory.meter import Usage, watch
from axisplit.report.text import percent_text
from axisplit.runtime.groups import FakeGroup
from axisplit.runtime.sites import CollectiveContext, registered
from axisplit.solve.plan import ParameterPlan, Plan

WIDTHS = (torch.bfloat16, torch.float32)


def measure(
    model: torch.nn.Module,
    inputs: Inputs,
    ranks: int,
    *,
    training: bool,
    recompute: Recompute = "none",
    plan: Plan | None = None,
    name: str = "",
) -> MeasuredContents:
    """The contents of a model that is called with `inputs`; it is not changed, and may be on the meta device.

    Args:
        plan: axisplit's plan for it, made here if it is not given; where none can be made, tensor parallelism says why.
    Raises: InputError if the model does not run on the inputs; CaptureError if it does not without values;
        PlanMismatchError if the plan is another model's or for another number of ranks.
    """
    notes: list[tuple[str, str]] = [("activations", _basis(model, training, recompute))]
    why_not = ""
    if plan is not None:
        check_fits(model, plan, ranks)
    elif ranks > 1:
        try:
            plan = make_plan(model, inputs, ranks, name=name)
        except (CaptureError, LayoutError, LoweringError) as error:
            why_not = f"axisplit has no plan: {error.what}"
    forward = _Forward(model, inputs, training)
    whole = _by_width(forward.whole, notes, "")
    pieces = _pieces(model, whole, training)
    parts = () if plan is None else _tensor_parts(plan, forward, whole, notes, recompute)
    if plan is not None and plan.ranks > 1:
        notes.append(("tensor", _planned(plan)))
    return MeasuredContents(
        parameters=sum(p.numel() for p in model.parameters()),
        sizes=_sizes(model),
        pieces=pieces,
        rows=_rows(inputs),
        training=training,
        recompute=recompute,
        inputs=_shapes(inputs),
        ranks=ranks,
        tensor=parts,
        no_tensor=why_not,
        remarks=tuple(notes),
    )


def _planned(plan: Plan) -> str:
    share = percent_text(plan.split_fraction)
    others = "over other numbers of ranks (≈) what it splits is taken to split evenly"
    return f"axisplit's plan, its collectives included: {share} of the parameters are split; {others}"


def _basis(model: torch.nn.Module, training: bool, recompute: Recompute) -> str:
    mode = "training" if model.training else "evaluation"
    if training:
        dropout = "" if model.training else " (dropout's masks are not counted)"
        again = "nothing recomputed" if recompute == "none" else "of each block its inputs, and all of the largest one"
        return f"measured: what autograd keeps of a forward in {mode} mode{dropout}, and its outputs; {again}"
    return f"measured: the largest working set of a forward in {mode} mode without gradients, logits of all tokens too"


# --- the forward that is watched ----------------------------------------------------------------------------------


@dataclass
class _Forward:
    """Runs copies of a model on fake tensors of a chosen dtype, watched."""

    model: torch.nn.Module
    inputs: Inputs
    training: bool
    modules: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.modules = tuple(name for name, _ in _named_pieces(self.model))

    def whole(self, dtype: torch.dtype) -> Usage:
        """The model as it is."""
        return self._run(dtype, lambda _, tensor: tuple(tensor.shape), lambda _: None)

    def of_rank(self, plan: Plan, rank: int) -> Callable[[torch.dtype], Usage]:
        """One rank's part, as the plan puts it into the model."""
        shards: dict[str, ParameterPlan] = {p.name: p for p in plan.parameters}

        def install(local: torch.nn.Module) -> None:
            forget(local, plan.states)
            apply_edits(local, plan, rank)
            apply_captured(local, plan, rank, "fit")
            apply_places(local, plan, "fit", rank)

        def run(dtype: torch.dtype) -> Usage:
            with registered("fit", CollectiveContext(FakeGroup(rank, plan.ranks), sites_of(plan))):
                return self._run(dtype, lambda name, _: shards[name].local_shape(rank), install)

        return run

    def _run(
        self,
        dtype: torch.dtype,
        shape: Callable[[str, torch.Tensor], tuple[int, ...]],
        install: Callable[[torch.nn.Module], None],
    ) -> Usage:
        mode = fake_mode()

        def convert(name: str, tensor: torch.Tensor) -> torch.Tensor:
            return torch.empty(shape(name, tensor), dtype=_converted(tensor.dtype, dtype))

        local = shadow_copy(self.model, convert, mode)
        install(local)
        with ExitStack() as stack:
            for context in (mode, swaps_allowed(mode), quiet_shapes(), uncompiled(), memos_aside()):
                stack.enter_context(context)
            args, kwargs = _imitated(normalize_inputs(self.inputs), dtype)
            return watch(local, args, self._with_cache(kwargs), self.modules, training=self.training)

    def _with_cache(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Models that generate return their cache in inference, and make none in training."""
        recurrent = bool(getattr(self.model, "can_generate", bool)())
        accepted = "use_cache" in inspect.signature(self.model.forward).parameters
        return {"use_cache": not self.training, **kwargs} if recurrent and accepted else kwargs


def _converted(found: torch.dtype, wanted: torch.dtype) -> torch.dtype:
    return wanted if found.is_floating_point else found


def _imitated(tree: Any, dtype: torch.dtype) -> Any:
    if isinstance(tree, torch.Tensor):
        return torch.empty(tree.shape, dtype=_converted(tree.dtype, dtype))
    return map_items(tree, lambda item: _imitated(item, dtype))


def _by_width(run: Callable[[torch.dtype], Usage], notes: list[tuple[str, str]], who: str) -> tuple[Usage, Usage]:
    """A forward in 16 bit and one in 32 bit; where the first does not run, half of the second, with a note.

    Raises: CaptureError if neither runs.
    """
    try:
        wide = run(torch.float32)
    except Exception as error:
        raise CaptureError(
            "the model's forward cannot be measured without values",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            needed="a forward that runs on fake tensors",
            do="give its number of parameters and shape instead: --params --layers --hidden --heads",
        ) from error
    try:
        return run(torch.bfloat16), wide
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:160]
        notes.append(("16 bit", f"{who}activations are half of 32 bit's, as it does not run in bf16: {reason}"))
        return _halved(wide), wide


def _halved(usage: Usage) -> Usage:
    def half(sizes: Mapping[str, int]) -> dict[str, int]:
        return {module: size // 2 for module, size in sizes.items()}

    return Usage(half(usage.kept), half(usage.entered), half(usage.working), half(usage.caches), usage.order)


# --- the whole model ----------------------------------------------------------------------------------------------


def _named_pieces(model: torch.nn.Module, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """(name, whether it is a block): children of outermost numbered containers, and leaves with parameters outside."""
    children = list(model.named_children())
    numbered = len(children) > 1 and all(name == str(index) for index, (name, _) in enumerate(children))
    for name, child in children:
        if numbered:
            yield prefix + name, True
        elif any(True for _ in child.children()):
            yield from _named_pieces(child, f"{prefix}{name}.")
        elif any(True for _ in child.parameters()):
            yield prefix + name, False


def _pieces(model: torch.nn.Module, usages: tuple[Usage, Usage], training: bool) -> tuple[Piece, ...]:
    """The pieces in the order in which they run. What belongs to none of them comes first, those that never run last
    (none, if others hold the same tensors).
    """
    named, ran = dict(_named_pieces(model)), usages[1].order
    owners = {id(t): n for n, t in [*model.named_parameters(), *model.named_buffers()]}
    inside = {name: _leaves_of(model.get_submodule(name), owners) for name in named}
    used = set[str]().union(*(inside[name] for name in ran))
    names = [*ran, *(name for name in named if name not in ran and not inside[name] <= used)]
    rest = set(owners.values()).difference(*inside.values())
    found = [_piece("", frozenset(rest), False, usages, training)]
    found += [_piece(name, inside[name], named[name], usages, training) for name in names]
    first = found[0]
    return tuple(found[1:] if len(found) > 1 and not first.tensors and not any(first.activations) else found)


def _leaves_of(module: torch.nn.Module, owners: dict[int, str]) -> frozenset[str]:
    return frozenset(owners[id(tensor)] for tensor in [*module.parameters(), *module.buffers()])


def _piece(name: str, tensors: frozenset[str], block: bool, usages: tuple[Usage, Usage], training: bool) -> Piece:
    activations: Widths = _pair(lambda usage: float((usage.kept if training else usage.working).get(name, 0)), usages)
    entered: Widths = _pair(lambda usage: float(usage.entered.get(name, 0)), usages)
    caches: Widths = _pair(lambda usage: float(usage.caches.get(name, 0)), usages)
    return Piece(name, tensors, block, activations, entered, caches)


def _pair(of: Callable[[Usage], float], usages: tuple[Usage, Usage]) -> Widths:
    return of(usages[0]), of(usages[1])


def _sizes(model: torch.nn.Module) -> dict[str, Size]:
    """Parameters and buffers by name; those that are tied under their first name only."""
    own = model.named_parameters()
    found = {name: _size(p, counted=p.is_floating_point() or p.is_complex()) for name, p in own}
    return found | {name: _size(buffer, counted=False) for name, buffer in model.named_buffers()}


def _size(tensor: torch.Tensor, *, counted: bool) -> Size:
    length = max(tensor.shape[0], 1) if tensor.dim() else 1
    fixed = 0 if counted else tensor.numel() * tensor.element_size()
    return Size(tensor.numel() if counted else 0, tensor.requires_grad, length, fixed)


def _rows(inputs: Inputs) -> int:
    """The batch: the first dim of the first input that has one."""
    sizes = (tensor.shape[0] for _, tensor in leaves(normalize_inputs(inputs), lambda tensor: tensor) if tensor.dim())
    return next(sizes, 1)


def _shapes(inputs: Inputs) -> str:
    args, kwargs = normalize_inputs(inputs)
    named = {**{str(i): item for i, item in enumerate(args)}, **kwargs}
    found = leaves(named, lambda tensor: list(tensor.shape))
    return ", ".join(f"{'input ' if path.isdigit() else ''}{path} {shape}" for path, shape in found)


# --- tensor parallelism -------------------------------------------------------------------------------------------


def _tensor_parts(
    plan: Plan, forward: _Forward, whole: tuple[Usage, Usage], notes: list[tuple[str, str]], recompute: Recompute
) -> tuple[Part, ...]:
    """What each rank of the plan holds; ranks with equal shards share a measurement. A rank whose part does not run on
    fake tensors (a plan made on values) is taken to work in as much as the whole model, with a note.
    """
    trained = {name: p.requires_grad for name, p in forward.model.named_parameters(remove_duplicate=False)}
    measured: dict[tuple[tuple[int, ...], ...], tuple[Widths, Widths]] = {}
    parts = []
    for rank in range(plan.ranks):
        kind = tuple(p.local_shape(rank) for p in plan.parameters)
        if kind not in measured:
            try:
                usages = _by_width(forward.of_rank(plan, rank), notes, f"rank {rank}'s ")
            except CaptureError as error:
                usages = whole
                notes.append((f"rank {rank}", f"activations and caches as the whole model's: {error.got}"))
            measured[kind] = _of_usages(forward.model, usages, forward.training, recompute)
        parts.append(_tensor_part(plan, rank, trained, *measured[kind]))
    return tuple(parts)


def _of_usages(
    model: torch.nn.Module, usages: tuple[Usage, Usage], training: bool, recompute: Recompute
) -> tuple[Widths, Widths]:
    """Activations and caches of one rank, all rows at once."""
    named = {"": False, **dict(_named_pieces(model))}
    pieces = [_piece(name, frozenset(), block, usages, training) for name, block in named.items()]
    caches: Widths = _pair(lambda usage: float(sum(usage.caches.values())), usages)
    return activations_of(pieces, training, recompute), caches


def _tensor_part(plan: Plan, rank: int, trained: dict[str, bool], activations: Widths, caches: Widths) -> Part:
    counted = {p.name: _elements(p.local_shape(rank)) for p in plan.parameters if _is_counted(p)}
    fixed = sum(p.local_bytes(rank) for p in plan.parameters if not _is_counted(p))
    trainable = sum(elements for name, elements in counted.items() if trained[name])
    return Part(sum(counted.values()), trainable, activations, caches, fixed_bytes=fixed)


def _is_counted(parameter: ParameterPlan) -> bool:
    """Whether its bytes follow the dtype that is asked for."""
    return parameter.kind == "parameter" and parameter.dtype.startswith(("float", "bfloat", "complex"))


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
