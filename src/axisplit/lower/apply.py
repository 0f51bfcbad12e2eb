"""Make a module this rank's part: shards for parameters, conversions around forwards and in them, edited attributes.

The same function serves the fake copies on which a plan is proved and the model that runs.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from itertools import accumulate, product
from typing import Any, Protocol

import torch

from axisplit.capture.kept import forget
from axisplit.capture.provenance import Attribute, set_attribute
from axisplit.capture.trace import shadow_copy
from axisplit.capture.trees import with_leaf
from axisplit.errors import LoweringError
from axisplit.lower.fused import run_unfused
from axisplit.lower.insert import Insertion, insert_calls
from axisplit.lower.stand_in import install_captured
from axisplit.runtime import lookup
from axisplit.runtime.aligned import aligned_copy
from axisplit.runtime.cotangents import FOR_GRADIENTS, for_gradients
from axisplit.runtime.definition import DEFINED, step_at
from axisplit.runtime.following import Lengths
from axisplit.runtime.groups import Group
from axisplit.runtime.layout import Layout
from axisplit.runtime.sites import CollectiveContext, Kind, Site, register, unregister, whole_site
from axisplit.solve.plan import CapturedPlan, EditPlan, ParameterPlan, PlacePlan, Ranges, StepPlan


class Installable(Protocol):
    """The part of a plan that is put into a module."""

    @property
    def ranks(self) -> int: ...
    @property
    def parameters(self) -> tuple[ParameterPlan, ...]: ...
    @property
    def places(self) -> tuple[PlacePlan, ...]: ...
    @property
    def edits(self) -> tuple[EditPlan, ...]: ...
    @property
    def captured(self) -> tuple[CapturedPlan, ...]: ...
    @property
    def states(self) -> tuple[str, ...]: ...
    @property
    def tied(self) -> Mapping[str, str]: ...


Step = Callable[[torch.Tensor], torch.Tensor]


def sites_of(plan: Installable) -> list[Site]:
    """The sites that a plan's places call, for a `CollectiveContext`."""
    sites: dict[str, Site] = {}
    for steps in [*(p.steps for p in plan.places), *(c.steps for c in plan.captured)]:
        for step in steps:
            sites[step.name] = site = site_of(step)
            beside = whole_site(site) if site.follows else None
            if beside is not None:
                sites[beside.name] = beside
    found = [_argmax_site(place) for place in plan.places if place.reads]
    return [*sites.values(), *(site for site in found if site is not None), *map(_gradient_site, _summed(plan))]


def site_of(step: StepPlan) -> Site:
    """The site at which a planned step stands: inverse of `captured.step_plan`."""
    layout = None if step.dim is None else Layout(step.dim, step.period, step.ranges)
    return Site(step.name, step.kind, layout, step.weights, step.partial, step.follows)  # type: ignore[arg-type]


GRADIENT = ":gradient"
"""Ends the name of the site at which a parameter's gradient is summed."""
_GRADIENT_KINDS: dict[str, Kind] = {"sum": "all_reduce", "shared": "sum_shared", "first": "only_first"}


def _summed(plan: Installable) -> list[ParameterPlan]:
    return [p for p in plan.parameters if p.gradient != "own" and p.kind == "parameter"]


def _gradient_site(parameter: ParameterPlan) -> Site:
    layout = None
    if parameter.gradient == "shared":
        whole = [((0, size),) for size in parameter.shape]
        (dim,) = [d for d, _ in enumerate(whole) if any(held[d] != whole[d] for held in parameter.ranges)]
        layout = Layout(dim, parameter.shape[dim], tuple(held[dim] for held in parameter.ranges))
    return Site(parameter.name + GRADIENT, _GRADIENT_KINDS[parameter.gradient], layout)


class LocalOutputs:
    """Outputs of the whole model that can stay split where the caller wants only a reduction of them."""

    def __init__(self, plan: Installable, key: str) -> None:
        self._key = key
        self._kept: set[str] = set()
        self._argmax = {p.reads: _argmax_site(p) for p in plan.places if p.reads and _argmax_site(p) is not None}

    def keeps(self, path: str) -> bool:
        return path in self._kept

    @contextmanager
    def kept(self, path: str) -> Iterator[None]:
        """Inside the block the output at `path` stays as it is on each rank."""
        self._kept.add(path)
        try:
            yield
        finally:
            self._kept.discard(path)

    def argmax_site(self, path: str) -> str | None:
        """The site at which the maximum over the split last dim of an output is found; None if it is not split so."""
        site = self._argmax.get(path)
        return None if site is None else f"{self._key}/{site.name}"


def _argmax_site(place: PlacePlan) -> Site | None:
    """A reduction in place of the gather that makes an output whole, if it is one over the last dim."""
    if len(place.steps) != 1 or place.steps[0].kind != "all_gather" or place.where != "output":
        return None
    step = place.steps[0]
    assert step.dim is not None
    return Site(f"{step.name}:argmax", "argmax", Layout(-1, step.period, step.ranges))


def take_shard(plan: ParameterPlan, tensor: torch.Tensor, rank: int) -> torch.Tensor:
    """A rank's part of a whole tensor: a copy that does not keep the whole alive."""
    if plan.held == "first":
        return tensor.detach().clone() if rank == 0 else torch.zeros_like(tensor)
    if plan.held == "whole":
        return tensor.detach()
    part = tensor.detach()
    for dim, ranges in enumerate(plan.ranges[rank]):
        if ranges != ((0, part.shape[dim]),):
            pieces = [part.narrow(dim, a, b - a) for a, b in ranges]
            part = torch.cat(pieces, dim) if len(pieces) > 1 else pieces[0]
    return aligned_copy(part)


def put_shard(plan: ParameterPlan, whole: torch.Tensor, part: torch.Tensor, rank: int) -> None:
    """Write a rank's part of a split tensor into its place in the whole: inverse of `take_shard`."""
    spans = [_with_offsets(ranges) for ranges in plan.ranges[rank]]
    for box in product(*spans):
        there = tuple(slice(a, b) for a, b, _ in box)
        whole[there] = part[tuple(slice(low, low + b - a) for a, b, low in box)]


def _with_offsets(ranges: Ranges) -> list[tuple[int, int, int]]:
    """(start, end, where it begins in the rank's part) of each range."""
    lows = accumulate((b - a for a, b in ranges), initial=0)
    return [(a, b, low) for (a, b), low in zip(ranges, lows, strict=False)]


def make_rank(
    model: torch.nn.Module, plan: Installable, group: Group, key: str
) -> tuple[torch.nn.Module, CollectiveContext]:
    """A copy of a whole model that is one rank's part; its sites are registered under `key` until `unregister`."""
    shards = {p.name: p for p in plan.parameters}

    def own(name: str, tensor: torch.Tensor) -> torch.Tensor:
        part = take_shard(shards[name], tensor, group.rank)
        return part.clone() if shards[name].held == "whole" else part  # ranks of one process may write to theirs

    part = shadow_copy(model, own, None)
    return part, install(part, plan, group, key)


def install(model: torch.nn.Module, plan: Installable, group: Group, key: str) -> CollectiveContext:
    """Edits and places on a module that already holds the rank's shards."""
    context = model.__dict__["axisplit_context"] = CollectiveContext(group, sites_of(plan))
    forget(model, plan.states)
    apply_edits(model, plan, group.rank)
    apply_captured(model, plan, group.rank, key)
    register(key, context)  # steps are bound to their sites
    try:
        apply_places(model, plan, key, group.rank)
    except BaseException:
        unregister(key)
        raise
    apply_gradients(model, plan, key)
    changed = [[p.module for p in plan.places], [c.module for c in plan.captured], [e.module for e in plan.edits]]
    run_unfused(model, {p.name for p in plan.parameters if p.held != "whole"}.union(*changed))
    model.__dict__["axisplit_plan"] = plan
    return context


def apply_edits(model: torch.nn.Module, plan: Installable, rank: int) -> None:
    """Rewrite the attributes that differ on this rank."""
    for edit in plan.edits:
        set_attribute(model, Attribute(edit.module, edit.attribute), edit.values[rank])


def apply_captured(model: torch.nn.Module, plan: Installable, rank: int, key: str) -> None:
    """Give modules with a captured program that program as their forward."""
    for module in dict.fromkeys(c.module for c in plan.captured):
        programs = [c for c in plan.captured if c.module == module]
        install_captured(model.get_submodule(module), programs, rank, key)


def apply_gradients(model: torch.nn.Module, plan: Installable, key: str) -> None:
    """After each backward, sum the gradients of parameters that several ranks use a part each of. A hook on the
    parameter itself: it sees each backward's own gradient, so accumulation over several adds up.
    """
    parameters = dict(model.named_parameters())
    for planned in _summed(plan):
        site = f"{key}/{planned.name}{GRADIENT}"
        parameter, kind = parameters[planned.name], _GRADIENT_KINDS[planned.gradient]
        trained = parameter.requires_grad
        parameter.requires_grad_(True)  # hooks are not taken otherwise; frozen parameters may be trained later
        parameter.register_hook(lambda grad, op=DEFINED[kind], site=site: op(grad, site))  # type: ignore[no-untyped-call]
        parameter.requires_grad_(trained)


def apply_places(model: torch.nn.Module, plan: Installable, key: str, rank: int) -> None:
    """Forwards of their own and inserted calls; `key` is the model key under which the sites are registered."""
    outputs = model.__dict__["axisplit_outputs"] = LocalOutputs(plan, key)
    following = {step.follows for place in plan.places for step in place.steps}
    lengths = {name: Lengths(name, plan.ranks) for name in following if name}
    steps: list[tuple[PlacePlan, Callable[..., Any]]] = []
    for place in plan.places:
        if place.where == "lookup":
            _wrap_lookup(model.get_submodule(place.module), place, f"{key}/{place.steps[0].name}")
        else:
            steps.append((place, _inserted(place, key, rank, lengths)))
    _put_in_place(model, steps, outputs)


Probe = Callable[[str, torch.Tensor], torch.Tensor]


def apply_probes(model: torch.nn.Module, plan: Installable, sites: Container[str], probe: Probe) -> None:
    """On a whole model: `probe(site, value)` whenever it passes where a rank's part has one of these sites; there the
    value is what the site's collective makes whole on a rank. The model goes on with what the probe returns.
    """

    def probes(names: list[str]) -> Step:
        def probed(x: torch.Tensor) -> torch.Tensor:
            for name in names:
                x = probe(name, x)
            return x

        return probed

    found = [(place, [step.name for step in place.steps if step.name in sites]) for place in plan.places]
    _put_in_place(model, [(place, probes(names)) for place, names in found if names], LocalOutputs(plan, ""))


def _put_in_place(
    model: torch.nn.Module, steps: Iterable[tuple[PlacePlan, Callable[..., Any]]], outputs: LocalOutputs
) -> None:
    insertions: dict[str, list[Insertion]] = defaultdict(list)
    of_modules: list[tuple[PlacePlan, Callable[..., Any]]] = []
    for place, step in steps:
        if place.where in ("input", "output"):
            of_modules.append((place, step))
        else:
            assert place.position is not None
            module = model.get_submodule(place.module)
            module.__dict__.setdefault("_axisplit", {})[place.leaf] = step
            call, where = place.where == "call", (place.function, place.position, place.operand)
            insertions[place.module].append(Insertion(place.leaf, *where, call, place.through, place.argument))
    for path, found in insertions.items():
        insert_calls(model.get_submodule(path), found)
    for place, step in of_modules:  # around what has calls inserted
        module = model.get_submodule(place.module)
        if place.where == "input":
            _convert_input(module, place, step)
        else:
            _convert_output(module, place, step, outputs)


def _inserted(place: PlacePlan, key: str, rank: int, lengths: Mapping[str, Lengths]) -> Callable[..., Any]:
    """What an inserted call does."""
    if place.where == "size":
        return _local_size(place, *place.shares[rank])
    return _lookup_call(f"{key}/{place.steps[0].name}") if place.where == "call" else _chain(place, key, lengths)


def _local_size(place: PlacePlan, numerator: int, denominator: int) -> Callable[[int], int]:
    """The rank's part of an integer argument; what stands for all that is left (-1, or None in a slice) stays."""

    def local(size: int) -> int:
        if size is None or size == -1:
            return size
        part = size * numerator // denominator
        if part * denominator == size * numerator:
            return part
        assert place.position is not None
        raise LoweringError(
            "a size has no part of its own on this rank",
            where=f"{place.module or 'the model'}, {place.function}, line {place.position[0]}",
            got=str(size),
            needed=f"a multiple of {denominator}",
            do="plan again with inputs of this size",
        )

    return local


def _chain(place: PlacePlan, key: str, lengths: Mapping[str, Lengths]) -> Step:
    """The place's steps, one after the other."""
    sites = map(site_of, place.steps)
    steps = [_following(site, key, lengths[site.follows]) if site.follows else _step(site, key) for site in sites]
    if len(steps) == 1:
        return steps[0]

    def run(x: torch.Tensor) -> torch.Tensor:
        for step in steps:
            x = step(x)
        return x

    return run


def _step(site: Site, key: str) -> Step:
    name = f"{key}/{site.name}"
    return for_gradients(site.kind, name) if site.kind in FOR_GRADIENTS else step_at(site.kind, name)


def _following(site: Site, key: str, lengths: Lengths) -> Step:
    """A step on an index of the inputs: one site's where its length is cut, another's where it is whole."""
    beside = whole_site(site)
    cut, whole = _step(site, key), (lambda x: x) if beside is None else _step(beside, key)
    dim = site.layout.dim if site.layout is not None else 0
    is_cut = lengths.is_part if site.kind == "all_gather" else lengths.cut

    def step(x: torch.Tensor) -> torch.Tensor:
        return (cut if is_cut(x.shape[dim]) else whole)(x)

    return step


def _convert_output(module: torch.nn.Module, place: PlacePlan, step: Step, outputs: LocalOutputs) -> None:
    """In a forward of its own: in front of all hooks, as outputs are traced. (torch takes a slow path through modules
    with hooks, which costs a decode step 1 %.)
    """
    forward, path, reads = module.forward, place.leaf.split("."), place.reads

    @wraps(forward)
    def forward_converted(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if reads and outputs.keeps(reads):
            return output
        return step(output) if isinstance(output, torch.Tensor) else with_leaf(output, path, step)

    module.forward = forward_converted


def _convert_input(module: torch.nn.Module, place: PlacePlan, step: Step) -> None:
    """One leaf of one argument, however the caller passes it, in a forward of its own: behind all hooks."""
    head, *rest = place.leaf.split(".")
    forward = module.forward
    names = list(inspect.signature(forward).parameters)
    position = int(head) if head.isdigit() else names.index(head) if head in names else len(names)
    name = head if not head.isdigit() else names[position] if position < len(names) else head

    @wraps(forward)
    def forward_converted(*args: Any, **kwargs: Any) -> Any:
        if position < len(args):
            args = (*args[:position], with_leaf(args[position], rest, step), *args[position + 1 :])
        elif name in kwargs:  # else it is not given in this call
            kwargs[name] = with_leaf(kwargs[name], rest, step)
        return forward(*args, **kwargs)

    module.forward = forward_converted


def _wrap_lookup(module: torch.nn.Module, place: PlacePlan, site: str) -> None:
    """A table look-up on a part of the table: local indices in, rows that others hold out as zeros."""
    forward, head = module.forward, place.leaf

    def forward_part(*args: Any, **kwargs: Any) -> Any:
        ids = args[int(head)] if head.isdigit() else kwargs[head]
        local = lookup.localize(ids, site)
        if head.isdigit():
            args = tuple(local if i == int(head) else a for i, a in enumerate(args))
        else:
            kwargs = {**kwargs, head: local}
        return lookup.mask_rows(forward(*args, **kwargs), ids, site)

    module.forward = forward_part


def _lookup_call(site: str) -> Callable[..., torch.Tensor]:
    """Stands in for a call that looks ids (its first argument) up in a table."""

    def look_up(function: Callable[..., torch.Tensor], ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        rows: torch.Tensor = lookup.mask_rows(function(lookup.localize(ids, site), *args, **kwargs), ids, site)
        return rows

    return look_up
