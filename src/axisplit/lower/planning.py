"""Model + inputs + ranks -> lowered, proved Plan: capture, derive, choose, lower, prove, and go round again with what
could not be lowered forbidden.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version

import torch

from axisplit.axes.derive import derive_axes
from axisplit.capture.fold import count_of
from axisplit.capture.graph import Graph
from axisplit.capture.randomness import why_random
from axisplit.capture.trace import Captured, Inputs, capture, path_on_values
from axisplit.errors import InputError, LoweringError, MemoryBoundError, PlanMismatchError
from axisplit.lower.blame import blame, give_up_modules
from axisplit.lower.captured import can_capture
from axisplit.lower.cotangents import choose_cotangents, planned_cotangents, reader, restored_cotangents
from axisplit.lower.decision import Decision
from axisplit.lower.lowering import Lowered, fingerprint, lower, methods_in, prove_programs, ways_in
from axisplit.lower.paths import why_not_on
from axisplit.lower.places import Refusal, wrappable
from axisplit.lower.reads import reads_on_parts
from axisplit.lower.sizes import OTHER_WAYS
from axisplit.lower.traffic import backward_traffic, busiest_bytes, listed, planned_collectives
from axisplit.lower.unfold import refold, unfold
from axisplit.proof.program import Mismatch
from axisplit.solve.build import Search, build_problem, find_splits, has_place
from axisplit.solve.following import followed
from axisplit.solve.plan import AxisPlan, Plan, check_plan
from axisplit.solve.policy import Choice, choose, least_with
from axisplit.solve.problem import Solution, common_strategies
from axisplit.solve.ties import find_ties

MOST_ROUNDS, PATIENCE = 24, 8  # rounds of excluding what cannot be lowered; then whole modules at once


def make_plan(
    model: torch.nn.Module,
    inputs: Inputs,
    ranks: int,
    *,
    keep: tuple[str, ...] = (),
    memory_per_rank: float | None = None,
    uneven: bool = True,
    name: str = "",
    captured: Captured | None = None,
) -> Plan:
    """The plan that moves the fewest bytes among those that can be lowered, proved on every rank's program.

    Args:
        captured: the model's trace on these inputs, where the caller has it; it says nothing of the ranks.
    Raises: InputError for a bad rank count or inputs; MemoryBoundError; CaptureError; LoweringError.
    """
    if not isinstance(ranks, int) or ranks < 1:
        raise InputError(
            "the number of ranks must be at least 1", got=str(ranks), needed="1, 2, 3, ...", do="pass ranks=2"
        )
    captured = captured or capture(model, inputs)
    plan = _make_plan(model, inputs, ranks, keep, memory_per_rank, uneven, name, captured)
    taken, unknown = path_on_values(model, inputs, captured) if ranks > 1 else (None, "")
    if taken is not None and why_not_on(taken, plan, model, inputs):
        return _make_plan(model, inputs, ranks, keep, memory_per_rank, uneven, name, taken)
    return replace(plan, assumed=(*plan.assumed, unknown)) if unknown else plan


def _make_plan(
    model: torch.nn.Module,
    inputs: Inputs,
    ranks: int,
    keep: tuple[str, ...],
    memory_per_rank: float | None,
    uneven: bool,
    name: str,
    captured: Captured,
) -> Plan:
    planner = _Planner(captured, model, inputs, _start(captured, ranks, uneven, keep), keep, memory_per_rank)
    best = native = planner.search(planner.start)
    inside = reaching_inside(planner.start)
    if native is None or not is_optimal(native) or planner.may_gain(inside, native):
        best = planner.search(inside, programs=True, below=native) or native
    best = best or planner.all_whole()
    if best is None:
        raise LoweringError("no plan could be put into the model's code", got="; ".join(planner.reasons[-3:]))
    plan = describe(planner.with_cotangents(best), captured, name or type(model).__name__)
    check_plan(plan)
    return plan


def _start(captured: Captured, ranks: int, uneven: bool, keep: tuple[str, ...]) -> Search:
    """The search without the indices of the inputs that are to be kept whole."""
    search = begin_search(captured, ranks, uneven)
    kept = {n for n, split in search.splits.items() if split.follows and any(fnmatch(n, pattern) for pattern in keep)}
    return replace(search, splits={n: split for n, split in search.splits.items() if n not in kept})


@dataclass(frozen=True)
class Found:
    """A decision with its lowering, proved on every rank's program, and what was excluded on the way to it."""

    decision: Decision
    lowered: Lowered
    excluded: tuple[str, ...]
    first: Choice  # what would have been done if all of it could be lowered
    backward: Backward | None  # None on one rank
    no_backward: str = ""  # why gradients could not be derived


def is_optimal(found: Found) -> bool:
    """Whether nothing that had to be excluded would have made the plan better."""
    return found.decision.choice.solution.optimal and _cost(found.decision.choice) <= _cost(found.first)


def _cost(choice: Choice) -> tuple[float, float]:
    """What is compared between plans: parameter bytes left whole, then bytes moved (rounded to what the solver tells
    apart).
    """
    return round(choice.solution.unsplit, 3), round(choice.solution.bytes, 3)


Forbidden = frozenset[tuple[str, ...]]


@dataclass(frozen=True)
class Backward:
    """How far the search came for what gradients need of a decision: proved, or with what to go on."""

    proved: tuple[Decision, Lowered] | None
    forbidden: frozenset[str] | None = None  # classes not to convert in the next round; None: there is none
    reason: str = ""


@dataclass(frozen=True)
class Attempt:
    """A decision lowered, and why it does not do; without refusals it is proved on every rank."""

    decision: Decision
    lowered: Lowered
    refusals: list[Refusal]
    backward: Backward | None = None


class _Planner:
    """Chooses, lowers and proves, and goes round again without what could not be lowered."""

    def __init__(
        self,
        captured: Captured,
        model: torch.nn.Module,
        inputs: Inputs,
        start: Search,
        keep: tuple[str, ...],
        memory_per_rank: float | None,
    ) -> None:
        self.captured, self.model, self.inputs, self.start = captured, model, inputs, start
        self.keep, self.memory_per_rank = keep, memory_per_rank
        self.reasons: list[str] = []
        self.why_whole = ""  # why everything is kept, if it is not the user who asked for it
        self._chosen: dict[tuple[int, Forbidden], Choice] = {}
        self._tried: dict[tuple[int, Forbidden, frozenset[str]], Attempt] = {}

    def search(self, start: Search, programs: bool = False, below: Found | None = None) -> Found | None:
        """The best plan that can be lowered; with `programs`, modules may run captured ones. With `below`, only a plan
        that is better than that one.
        """
        forbidden: dict[tuple[str, ...], str] = {}
        modules: frozenset[str] = frozenset()
        choice = first = self._choose(start, forbidden)
        for turn in range(MOST_ROUNDS):
            if below is not None and _cost(choice) >= _cost(below.decision.choice):
                return None
            tried = self._try(start, frozenset(forbidden), choice, modules)
            decision, refusals = tried.decision, tried.refusals
            if not refusals:
                excluded = {reason for forbid, reason in forbidden.items() if forbid[0] not in OTHER_WAYS}
                return Found(decision, tried.lowered, tuple(sorted(excluded)), first, tried.backward)
            hopeless = [r for r in refusals if r.forbid[0] not in OTHER_WAYS]  # others can be done in another way
            more = self._capturable(decision, hopeless) - modules if programs else frozenset()
            if more:
                modules |= more
                continue
            if turn >= PATIENCE or all(r.forbid in forbidden or r.forbid[0] == "none" for r in refusals):
                refusals = [*refusals, *give_up_modules(decision, refusals)]
            new = {r.forbid: r.reason for r in refusals if r.forbid not in forbidden}
            self.reasons += [r.reason for r in refusals]
            if not new:
                return None
            forbidden.update(new)
            choice = self._choose(start, forbidden)
        return None

    def all_whole(self) -> Found | None:
        """The model as it is on every rank, where nothing else could be put into its code; with the last reason."""
        keeping = _Planner(self.captured, self.model, self.inputs, self.start, ("*",), self.memory_per_rank)
        keeping.why_whole = self.reasons[-1]
        found = keeping.search(keeping.start)
        return found and replace(found, excluded=tuple(dict.fromkeys(self.reasons[-3:])))

    def _try(self, start: Search, forbidden: Forbidden, choice: Choice, modules: frozenset[str]) -> Attempt:
        """Lower and prove one choice; the two searches begin alike. What gradients need is proved first: a program that
        is proved with it need not be traced without it.
        """
        key = (id(start), forbidden, modules)
        if key not in self._tried:
            decision, backward = Decision(replace(start, forbidden=forbidden), choice, modules), None
            lowered, refusals = lower(decision, self.captured)
            if not refusals:
                backward = self._with_cotangents(decision) if decision.num_ranks > 1 else None
                found = [] if backward is not None and backward.proved else self._mismatches(decision, lowered)
                refusals = [r for m in found for r in blame(decision, m, lowered.edits, lowered.doubtful)]
            self._tried[key] = Attempt(decision, lowered, refusals, backward)
        return self._tried[key]

    def _mismatches(self, decision: Decision, lowered: Lowered) -> list[Mismatch]:
        return prove_programs(decision, lowered, self.captured, self.model, self.inputs, until_one_fails=True)

    def with_cotangents(self, found: Found) -> Found:
        """The same plan with what backward needs, proved once more with it; the forward's choices stay."""
        backward = found.backward
        for _ in range(MOST_ROUNDS):
            if backward is None or backward.proved or backward.forbidden is None:
                break
            backward = self._with_cotangents(found.decision, backward.forbidden, backward.reason)
        if backward is None:
            return found
        if backward.proved is None:
            return replace(found, no_backward=backward.reason)
        decision, lowered = backward.proved
        return replace(found, decision=decision, lowered=lowered)

    def _with_cotangents(
        self,
        forward: Decision,
        forbidden: frozenset[str] = frozenset(),
        reason: str = "no states of the cotangents fit together",
    ) -> Backward:
        """States of the cotangents that can be lowered, and whether the program with them is the split one."""
        while True:
            chosen = choose_cotangents(forward, forbidden)
            if chosen is None:
                return Backward(None, None, reason)
            decision = replace(forward, cotangents=chosen)
            lowered, refusals = lower(decision, self.captured)
            if not refusals:
                break
            new, reason = _unreachable(decision, refusals, forbidden), refusals[0].reason
            if new <= forbidden:
                return Backward(None, None, reason)
            forbidden |= new
        mismatches = self._mismatches(decision, lowered)
        if not mismatches:
            return Backward((decision, lowered))
        new = _read_by(decision, mismatches[0].node)
        return Backward(None, None if new <= forbidden else forbidden | new, str(mismatches[0]))

    def may_gain(self, inside: Search, found: Found) -> bool:
        """Whether the first choice could split more, or split the same with fewer bytes, if all could be reached."""
        if inside is self.start:
            return False
        unsplit, moved = _cost(found.first)
        least = least_with(inside, found.first, self.keep)
        return unsplit > 0 or (least is not None and round(least, 3) < moved)

    def _choose(self, start: Search, forbidden: dict[tuple[str, ...], str]) -> Choice:
        key = (id(start), frozenset(f for f in forbidden if f[0] not in OTHER_WAYS))
        if key in self._chosen:
            return self._chosen[key]
        choice = choose(replace(start, forbidden=key[1]), self.keep, self.memory_per_rank)
        if choice is not None and self.why_whole:
            reasons = dict.fromkeys(choice.whole_reasons, self.why_whole)
            choice = replace(choice, solution=replace(choice.solution, optimal=False), whole_reasons=reasons)
        if choice is None:
            raise MemoryBoundError(
                "no plan fits into the memory that was allowed",
                got=f"{self.memory_per_rank:,.0f} bytes a rank",
                needed="more memory, or more ranks",
                do="raise --memory-per-rank or --ranks",
            )
        self._chosen[key] = choice
        return choice

    def _capturable(self, decision: Decision, refusals: list[Refusal]) -> frozenset[str]:
        """Modules (and their repetitions) whose ops were refused and whose program can stand in for their Python."""
        graph, keys = self.captured.graph, decision.search.ties.node
        classes = {keys[r.node].partition("|")[0] for r in refusals if r.node is not None}
        found = {n.module for n in graph.nodes if keys[n.index].partition("|")[0] in classes}
        return frozenset(module for module in found if can_capture(graph, module))


def begin_search(
    captured: Captured, ranks: int, uneven: bool = True, following: Collection[str] | None = None
) -> Search:
    """Axes, ties, candidate splits, and where the running Python can be reached; `following` are the indices of the
    inputs that a plan splits (None: what is worth it).
    """
    graph = captured.graph
    derived = derive_axes(graph)
    ties = find_ties(derived, {fold.container for fold in captured.folds})
    splits = find_splits(derived, ties, ranks, uneven, following) if ranks > 1 else {}
    returned = {value for call in graph.calls for _, value in call.outputs}
    given = {value for call in graph.calls if call.module for _, value in call.inputs}
    computed, wrapped = wrappable(derived, ways_in(captured.model), methods_in(captured.model))
    counts = {n.index: count_of(captured.folds, n.module) for n in graph.nodes} if captured.folds else {}
    return Search(derived, ties, ranks, splits, frozenset(), returned, given, computed, wrapped, counts)


def reaching_inside(search: Search) -> Search:
    """The search as it is for captured programs: what a module runs that one could stand in for can all be reached.
    The same object where that adds nothing. A program is of the traced lengths: no index of the inputs is split.
    """
    fixed = {name: split for name, split in search.splits.items() if not split.follows}
    search = search if len(fixed) == len(search.splits) else replace(search, splits=fixed, memo={})
    graph = search.derived.graph
    modules = {m for m in {node.module for node in graph.nodes} if can_capture(graph, m)}
    nodes = [node for node in graph.nodes if node.module in modules]
    computed = search.computed | {value for node in nodes for value in node.outputs}
    wrapped = search.wrapped | {(node.index, p) for node in nodes for p, _ in enumerate(node.inputs())}
    if all(has_place(search, value) for value in computed):
        return search
    return replace(search, computed=computed, wrapped=wrapped, memo={})


def decision_of(plan: Plan, captured: Captured) -> Decision:
    """A plan's decisions on a freshly captured graph.

    Raises: PlanMismatchError if the plan was made for another graph.
    """
    search = begin_search(captured, plan.ranks, following=plan.following)
    problem = build_problem(search)
    ops, held = plan.choices.get("ops", {}), plan.choices.get("held", {})
    fits = ops.keys() == problem.instances.keys() and held.keys() == problem.held.keys()
    fits = fits and all(ops[node] in common_strategies(found) for node, found in problem.instances.items())
    if not fits or fingerprint(captured.graph) != plan.fingerprint:
        raise PlanMismatchError(
            "the plan was made for another model",
            got=f"a model with fingerprint {fingerprint(captured.graph)}",
            needed=f"the plan's: {plan.fingerprint} ({plan.model}, torch {plan.versions.get('torch')})",
            do="plan this model again with these versions",
        )
    solution = Solution(dict(ops), dict(held), {}, plan.comm_bytes_per_rank, plan.lower_bound_bytes, plan.optimal, 0.0)
    modules = frozenset(c.module for c in refold(plan, captured.folds).captured)
    decision = Decision(search, Choice(solution, problem, {}), modules)
    return replace(decision, cotangents=restored_cotangents(decision, plan))


def describe(found: Found, captured: Captured, name: str) -> Plan:
    """The decision as a plan, with its figures."""
    decision, lowered = found.decision, unfold(found.lowered, captured.folds)
    graph, solution = decision.graph, decision.choice.solution
    moved = planned_collectives(decision)
    busiest = busiest_bytes(moved, first_phase(graph))
    optimal, bound = is_optimal(found), found.first.solution.bound
    split = any(p.held == "split" for p in lowered.parameters) or decision.num_ranks == 1
    warnings = [] if split else ["nothing to split: the model runs whole on every rank"]
    random = why_random(graph) if decision.num_ranks > 1 else ""
    warnings, calls = ([*warnings, random], ()) if random else (warnings, captured.calls)
    return Plan(
        model=name,
        ranks=decision.num_ranks,
        fingerprint=fingerprint(graph),
        versions=_versions(),
        sizes=sizes_of(graph),
        parameters=lowered.parameters,
        tied=lowered.tied,
        places=lowered.places,
        edits=lowered.edits,
        captured=lowered.captured,
        tiers=_tiers(lowered),
        collectives=(*listed(moved), *backward_traffic(decision, found.lowered)),
        axes=_axes(decision),
        comm_bytes_per_rank=busiest,
        lower_bound_bytes=busiest if optimal or not solution.bytes else busiest * min(1.0, bound / solution.bytes),
        optimal=optimal,
        choices={"ops": solution.strategy, "held": solution.state},
        constraints=_constraints(decision),
        excluded=found.excluded,
        on_values=not captured.fake,
        assumed=graph.assumed
        + _folded(captured)
        + tuple(sorted({law.assumption for law in decision.search.derived.laws if law.assumption})),
        domain=_domain(captured, calls),
        calls=calls,
        warnings=tuple(warnings),
        no_backward=found.no_backward,
        states=lowered.states,
        cotangents=planned_cotangents(decision.cotangents),
        reads=reads_on_parts(decision, captured.folds),
        following=tuple(split.name for split in decision.used if split.follows),
    )


def sizes_of(graph: Graph) -> dict[str, list[int]]:
    """Shapes of what the first phase is called with."""
    first = first_phase(graph)
    return {v.name: list(v.shape) for v in graph.values if v.origin == "input" and v.name.startswith(first)}


def first_phase(graph: Graph) -> str:
    """The phase that a plan's bytes and sizes are of."""
    return graph.phases[0] if graph.phases else "forward"


def _domain(captured: Captured, calls: tuple[str, ...]) -> tuple[str, ...]:
    """What the proof holds for, in words."""
    return (
        f"phases: {', '.join(captured.graph.phases)}",
        *(f"call: {call}" for call in calls),
        "other calls are proved when they come, or refused",
    )


def _unreachable(decision: Decision, refusals: Iterable[Refusal], forbidden: frozenset[str]) -> frozenset[str]:
    """Where conversions must not be: in front of an op that was refused one and that runs whole, so that it can take
    what is made; else of the value at all.
    """
    ties, found = decision.search.ties, set[str]()
    for refusal in (r for r in refusals if r.forbid[0] == "convert"):
        key = at = refusal.forbid[1]
        op = None if refusal.node is None else decision.graph.nodes[refusal.node]
        if op is not None and decision.strategy(op).name == "whole" and key in {ties.value[v] for v in op.inputs()}:
            at = reader(ties.node[op.index])
        found.add(key if at in forbidden else at)
    return frozenset(found)


def _read_by(decision: Decision, node: int | None) -> frozenset[str]:
    """Classes of the values that an op reads and that carry a cotangent."""
    if node is None or decision.cotangents is None:
        return frozenset()
    keys = {decision.search.ties.value[value] for value in decision.graph.nodes[node].inputs()}
    return frozenset(keys & decision.cotangents.carrying)


def _axes(decision: Decision) -> tuple[AxisPlan, ...]:
    """The splits that parameters are held in, and the indices of the inputs that ranks take in turns."""
    by_split: dict[str, set[str]] = defaultdict(set)
    for value, name in decision.search.ties.parameter.items():
        state = decision.made_in(value)
        if state[0] == "S":
            by_split[state[2:]].add(name)
    found = []
    for name, parameters in sorted(by_split.items()):
        split = decision.search.splits[name]
        parts = tuple(" x ".join(f"{a}:{b}" for a, b in box) for box in split.boxes)
        size = 1
        for length in split.sizes:
            size *= length
        found.append(AxisPlan(name, size, parts, tuple(sorted(parameters))))
    for split in decision.used:
        if split.follows:
            turns = tuple(f"{rank}::{decision.num_ranks}" for rank in range(decision.num_ranks))
            found.append(AxisPlan(split.name, followed(decision.search.derived, split).size, turns, ()))
    return tuple(found)


def _constraints(decision: Decision) -> tuple[str, ...]:
    must = decision.choice.problem.must_split
    listed = ["what one expression of a module does is decided once, in every repeated block and phase"]
    if must:
        listed.insert(0, f"{len(must)} parameter classes must be split (two or more dims, an axis to split)")
    return tuple(listed)


def _tiers(lowered: Lowered) -> dict[str, str]:
    """Module -> how its Python was made to run on parts, the deepest change that was needed."""
    tiers: dict[str, str] = {program.module or "model": "captured" for program in lowered.captured}
    for edit in lowered.edits:
        tiers.setdefault(edit.module or "model", "attributes")
    for places, tier in (
        (("result", "operand", "call", "size"), "expression"),
        (("input", "output", "lookup"), "native"),
    ):
        for place in lowered.places:
            if place.where in places:
                tiers.setdefault(place.module or "model", tier)
    return tiers


def _folded(captured: Captured) -> tuple[str, ...]:
    return tuple(
        f"{fold.container}: {sum(map(len, fold.members))} blocks, {len(fold.members)} of them traced: equal in class, "
        "parameters and attributes"
        for fold in captured.folds
    )


def _versions() -> dict[str, str]:
    found = {"axisplit": "0.1.0", "torch": str(torch.__version__)}
    try:
        found["transformers"] = version("transformers")
    except PackageNotFoundError:
        found["transformers"] = ""
    return found
