"""Decision -> Plan, lowered: find places and edits, put them into fake ranks, prove each rank's program, or say what to
forbid so that the next plan can be lowered.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import torch

from axisplit.capture.graph import Frame, Graph, Node, build_uses
from axisplit.capture.integers import Path
from axisplit.capture.kept import forget
from axisplit.capture.modes import fake_mode
from axisplit.capture.provenance import Attribute
from axisplit.capture.record import Recorder
from axisplit.capture.trace import Captured, Inputs, run_phases, shadow_copy
from axisplit.errors import CollectiveError
from axisplit.lower.apply import Installable, apply_captured, apply_edits, apply_places, sites_of, take_shard
from axisplit.lower.captured import capture_module, step_plan
from axisplit.lower.decision import Decision
from axisplit.lower.edits import solve_edits
from axisplit.lower.insert import is_method, way_to
from axisplit.lower.places import IsMethod, Place, Refusal, WayTo, find_places
from axisplit.lower.sizes import Sizes
from axisplit.lower.source import Position, position_of
from axisplit.proof.program import DecidedWalk, FlowWalk, Mismatch, Walk
from axisplit.runtime.cotangents import shown
from axisplit.runtime.groups import FakeGroup, Group
from axisplit.runtime.simulate import simulate
from axisplit.runtime.sites import CollectiveContext, registered
from axisplit.solve.cotangents import VARIED
from axisplit.solve.plan import CapturedPlan, EditPlan, ParameterPlan, PlacePlan
from axisplit.solve.shards import ranges_on_ranks
from axisplit.solve.states import PARTIAL, WHOLE


@dataclass(frozen=True)
class Lowered:
    """What the ranks do to the model: the part of a plan that is installed."""

    ranks: int
    parameters: tuple[ParameterPlan, ...]
    tied: dict[str, str]
    places: tuple[PlacePlan, ...]
    edits: tuple[EditPlan, ...]
    captured: tuple[CapturedPlan, ...] = ()
    converted: Mapping[str, set[tuple[int, str, str]]] = field(default_factory=dict)
    """Site -> (value, state it is made in, state it is converted to): what the collectives are called with."""
    states: tuple[str, ...] = ()
    doubtful: frozenset[tuple[str, str]] = frozenset()
    """What may be forbidden because there is another way to the same sizes (`lower.sizes`)."""


def ways_in(model: torch.nn.Module) -> WayTo:
    """How an expression (or an operand or argument of it) in what a module runs can be wrapped, remembered for modules
    of one class.
    """
    known: dict[tuple[object, ...], tuple[Frame, ...] | None] = {}

    def find(
        path: str, frames: tuple[Frame, ...], operand: int, call: bool, argument: Path
    ) -> tuple[Frame, ...] | None:
        module = model.get_submodule(path)
        key = (type(module), operand, call, argument, *((f.code, f.instruction, f.module is None) for f in frames))
        if key not in known:
            known[key] = way_to(module, frames, operand, call, argument)
        return known[key]

    return find


def methods_in(model: torch.nn.Module) -> IsMethod:
    """Whether a function is a method of the module that runs it, remembered for modules of one class."""
    known: dict[tuple[type, CodeType], bool] = {}

    def find(path: str, code: CodeType) -> bool:
        module = model.get_submodule(path)
        key = (type(module), code)
        if key not in known:
            known[key] = is_method(module, code)
        return known[key]

    return find


def lower(decision: Decision, captured: Captured) -> tuple[Lowered, list[Refusal]]:
    """Places, edits and shards of a decision, and what of it cannot be lowered (then the rest is not complete)."""
    model = captured.model

    ways = ways_in(model)
    finder, sizes = find_places(decision, ways), Sizes(decision, ways)
    edits, failed = solve_edits(decision, captured.attributes, sizes)
    sizes.find({rank: {**captured.attributes, **edits[rank]} for rank in decision.one_of_each})
    refusals = [*finder.refusals, *failed, *sizes.refusals]
    parameters, tied = plan_parameters(decision)
    planned = tuple(_place_plan(place) for place in (*finder.places.values(), *sizes.places))
    captured_modules = tuple(
        program
        for module in sorted(set(decision.captured_in.values()))  # what runs inside another's program has none itself
        for program in capture_module(decision, model, module, finder.arriving, finder.steps, captured.attributes)
    )
    found = Lowered(
        decision.num_ranks,
        parameters,
        tied,
        planned,
        _edit_plans(edits, captured.attributes),
        captured_modules,
        finder.converted,
        captured.states,
        frozenset(sizes.doubtful),
    )
    return found, refusals


def _edit_plans(by_rank: Sequence[dict[Attribute, int]], attributes: dict[Attribute, int]) -> tuple[EditPlan, ...]:
    changed = sorted({a for edits in by_rank for a in edits}, key=str)
    return tuple(
        EditPlan(a.module, a.path, attributes[a], tuple(_optional(edits.get(a, attributes[a])) for edits in by_rank))
        for a in changed
    )


def _optional(value: int) -> int | None:
    """-1 in aten stands for an index that is not given; in Python that is None."""
    return None if value == -1 else value


def _place_plan(place: Place) -> PlacePlan:
    steps = tuple(step_plan(site) for site in place.steps)
    if not place.way:
        return PlacePlan(place.module, place.where, place.leaf, steps, operand=place.operand, reads=place.reads)
    (function, position), *calls = [_point(frame) for frame in place.way]
    through = tuple(reversed(calls))
    return PlacePlan(
        place.module,
        place.where,
        place.leaf,
        steps,
        function,
        position,
        place.operand,
        place.reads,
        through,
        place.argument,
        place.shares,
    )


def _point(frame: Frame) -> tuple[str, Position]:
    position = position_of(frame)
    assert position is not None, "ways lead through expressions that were found in the source"
    return frame.code.co_qualname, position


def plan_parameters(decision: Decision) -> tuple[tuple[ParameterPlan, ...], dict[str, str]]:
    """Every parameter's and buffer's shards, and which names are ties to another."""
    graph, plans = decision.graph, list[ParameterPlan]()
    first, tied = dict[int, str](), dict[str, str]()
    for kind, names in (("parameter", graph.parameters), ("buffer", graph.buffers)):
        for name, value in names.items():
            if value in first:
                tied[name] = first[value]
                continue
            first[value] = name
            plans.append(_parameter_plan(decision, name, value, kind))
    return tuple(plans), tied


def _parameter_plan(decision: Decision, name: str, value: int, kind: Any) -> ParameterPlan:
    info, state = decision.graph.values[value], decision.made_in(value)
    dtype = str(info.dtype).removeprefix("torch.")
    reason = decision.choice.whole_reasons.get(decision.search.ties.value[value], "")
    if state == WHOLE:
        reason = reason or ("one dim: used whole" if len(info.shape) < 2 else _why_whole(decision, value))
        varied = decision.flows_from(value) == VARIED
        return ParameterPlan(
            name, info.shape, dtype, "whole", reason=reason, kind=kind, gradient="sum" if varied else "own"
        )
    if state == PARTIAL:
        reason = "added once, on the first rank"
        return ParameterPlan(name, info.shape, dtype, "first", reason=reason, kind=kind, gradient="first")
    derived = decision.search.derived
    split, keys = decision.split(state), decision.search.keys
    dims = [ranges_on_ranks(derived, axis, split, keys) for axis in derived.dims[value]]
    held = tuple(zip(*dims, strict=True))
    ranges = derived.memo.setdefault(("alike", held), held)
    gradient: Any = "shared" if decision.layout(value, state).is_shared else "own"
    return ParameterPlan(name, info.shape, dtype, "split", ranges, state[2:], "", kind, gradient)


def _why_whole(decision: Decision, value: int) -> str:
    """In words: which op needs a parameter whole."""
    for index in decision.graph.uses.get(value, ()):
        law, node = decision.search.derived.laws[index], decision.graph.nodes[index]
        if law.reason:
            return f"{node.op._opname}: {law.reason}"
    return "no axis of it can be split over this many ranks" if decision.graph.uses.get(value) else "not used"


def prove_programs(
    decision: Decision,
    plan: Installable,
    captured: Captured,
    model: torch.nn.Module,
    inputs: Inputs,
    until_one_fails: bool = False,
) -> list[Mismatch]:
    """Trace every rank's lowered module and match its program. Ranks that hold the same shapes share a trace; where the
    path depends on values, all run, and communicate.
    """
    found: list[Mismatch] = []

    def prove(group: Group) -> None:
        mismatch = prove_rank(decision, plan, captured, model, inputs, group)
        if mismatch is not None:
            found.append(mismatch)

    if captured.fake:
        for rank in distinct_ranks(plan, decision.kinds):
            prove(FakeGroup(rank, plan.ranks))
            if found and until_one_fails:
                break
        return found
    try:
        simulate(plan.ranks, prove)
    except CollectiveError:
        if not found:  # else it is but the others, who wait for the rank that broke
            raise
    return found


def distinct_ranks(plan: Installable, wanted: Sequence[int]) -> list[int]:
    """One rank of each kind: same local shapes, edits, slice sizes and programs, and alike in what is `wanted` of them
    (`Parts.kinds`). Rank 0 differs where it alone holds values, which no program sees.
    """
    kinds: dict[object, int] = {}
    for rank in range(plan.ranks):
        shapes = tuple(p.local_shape(rank) for p in plan.parameters)
        edits = tuple(e.values[rank] for e in plan.edits)
        steps = tuple(sum(b - a for a, b in s.ranges[rank]) for place in plan.places for s in place.steps if s.ranges)
        shares = tuple(place.shares[rank] for place in plan.places if place.shares)
        programs = tuple(json.dumps(c.programs[rank]) for c in plan.captured)
        kinds.setdefault((wanted[rank], shapes, edits, steps, shares, programs), rank)
    return list(kinds.values())


def prove_rank(
    decision: Decision, plan: Installable, captured: Captured, model: torch.nn.Module, inputs: Inputs, group: Group
) -> Mismatch | None:
    """Trace one rank's lowered module, on fake tensors if the whole was, and match it with the split of the whole:
    phase by phase, and no further than the first mismatch. With real tensors the others wait for this rank: to the end.
    """
    recorder, backward = Recorder(), decision.cotangents is not None
    walk = FlowWalk(decision, group.rank, sites_of(plan)) if backward else DecidedWalk(decision, group.rank)

    def follow(*_: Any) -> None:
        if captured.fake and walk.follow(recorder.recording) is not None:
            raise _Mismatched

    try:
        with shown() if backward else nullcontext():
            graph = trace_rank(plan, captured, model, inputs, group, recorder, follow)
    except _Mismatched:
        return walk.mismatch
    except Exception as error:
        return walk.follow(recorder.recording) or _broken(walk, recorder, error)
    return walk.run(graph)


class _Mismatched(Exception):
    """Ends the tracing of a program that is not the split one."""


def trace_rank(
    plan: Installable,
    captured: Captured,
    model: torch.nn.Module,
    inputs: Inputs,
    group: Group,
    recorder: Recorder,
    traced: Callable[[tuple[Any, ...], dict[str, Any]], None] = lambda args, kwargs: None,
) -> Graph:
    """The program of one rank in the phases that were captured: `plan` is installed on a copy of the whole model.
    `traced` is called behind each phase with its arguments.

    Raises: whatever the rank's part of the model, or `traced`, raises.
    """
    rank, mode = group.rank, fake_mode() if captured.fake else None
    shards = {p.name: p for p in plan.parameters}

    def convert(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if mode is None:
            return take_shard(shards[name], tensor, rank)
        return torch.empty(shards[name].local_shape(rank), dtype=tensor.dtype)

    local_model = shadow_copy(model, convert, mode, captured.folds)
    key = "proof"  # alike on all ranks
    forget(local_model, plan.states)
    apply_edits(local_model, plan, rank)
    apply_captured(local_model, plan, rank, key)
    with registered(key, CollectiveContext(group, sites_of(plan))):
        apply_places(local_model, plan, key, rank)
        outputs = run_phases(local_model, inputs, recorder, mode, captured.graph.phases, traced)
    return _local_graph(local_model, recorder, outputs)


def _local_graph(model: torch.nn.Module, recorder: Recorder, outputs: Sequence[tuple[str, int]]) -> Graph:
    recording = recorder.recording
    return Graph(
        tuple(recording.values),
        tuple(recording.nodes),
        tuple(recording.calls),
        recording.parameters,
        recording.buffers,
        tuple(outputs),
        uses=build_uses(tuple(recording.nodes)),
    )


def _broken(walk: Walk, recorder: Recorder, error: Exception) -> Mismatch:
    """The rank's program did not run to its end, and what it issued is right: it broke in front of the next op."""
    nodes = walk.whole.nodes
    node = nodes[min(walk.position, len(nodes) - 1)]
    reason = f"{node.name} in {node.module or 'the model'} does not run on its part: {error}"
    return Mismatch(walk.rank, node.index, reason, raised=None if recorder.refused else recorder.module_stack[-1])


def fingerprint(graph: Graph) -> str:
    """A digest of a graph: parameters with shapes and dtypes, and every op with its module, phase, and whether its
    result's gradient is asked for.
    """

    def watches(node: Node) -> bool:
        return not graph.watched.isdisjoint(node.outputs)

    digest = hashlib.sha256()
    for name, value in sorted({**graph.parameters, **graph.buffers}.items()):
        info = graph.values[value]
        digest.update(f"{name} {info.shape} {info.dtype}\n".encode())
    for node in graph.nodes:
        digest.update(f"{node.phase} {node.module} {node.name}{' watched' * watches(node)}\n".encode())
    return digest.hexdigest()[:16]
