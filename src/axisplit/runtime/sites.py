"""Where collectives are issued: sites, the context that binds them to a group, and the registry that ops look in.

A traced program holds only strings: an op's `site` argument is "<model key>/<site name>". Registering a
`CollectiveContext` under the model key binds each of them to this rank's group, layout and counters, so that an op
finds all it needs with one dict lookup. The registry is per process; each simulated rank (simulate.py) has its own.

A site whose backward issues an op has a twin "<site name>@backward", counted and dropped on its own. Which op that is
follows from the states of the cotangents (`twin_of`, DESIGN 5): where a whole value goes into computations of which
each rank does a part, its cotangent is partial, that is the sum over ranks.

| kind           | cotangent of the whole value is whole        | partial        |
|----------------|----------------------------------------------|----------------|
| all_reduce     | identity                                     | all_reduce     |
| all_gather     | keep (own part)                              | reduce_scatter |
| reduce_scatter | all_gather                                   |                |
| take           | all_gather; sum_parts if ranks hold the same | embed          |
| only_first     | identity                                     | only_first     |
| enter          | -                                            | all_reduce     |
| leave          | only_first                                   | -              |
| pad            | keep                                         |                |
| scale          | scale                                        |                |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal

from torch import Tensor

from axisplit.errors import CollectiveError, InputError, LayoutError
from axisplit.runtime.costs import all_gather_bytes, all_reduce_bytes, reduce_scatter_bytes
from axisplit.runtime.groups import Group
from axisplit.runtime.layout import Layout, check_layout

__all__ = [
    "BACKWARD",
    "DROPPABLE",
    "WHOLE_LENGTH",
    "BoundSite",
    "CollectiveContext",
    "Kind",
    "Registry",
    "Site",
    "check_site",
    "current",
    "has_twin",
    "kind_at",
    "lookup",
    "own_registry",
    "register",
    "registered",
    "twin_of",
    "unregister",
    "whole_site",
]

Kind = Literal[
    "all_reduce", "all_gather", "take", "only_first", "scale", "argmax", "lookup", "pad", "enter", "leave",
    "keep", "embed", "reduce_scatter", "sum_parts", "sum_shared",
]  # fmt: skip
BACKWARD = "@backward"
WHOLE_LENGTH = ":whole"
"""Ends the name of the site that stands in for one on an index of the inputs where its length does not divide."""

_TWINS: dict[tuple[Kind, bool], Kind] = {
    ("all_reduce", True): "all_reduce",
    ("all_gather", False): "keep",
    ("all_gather", True): "reduce_scatter",
    ("reduce_scatter", False): "all_gather",
    ("take", False): "all_gather",
    ("take", True): "embed",
    ("only_first", True): "only_first",
    ("enter", True): "all_reduce",
    ("leave", False): "only_first",
    ("pad", False): "keep",
    ("scale", False): "scale",
}
_WITH_LAYOUT = (
    "all_gather", "take", "argmax", "lookup", "pad", "keep", "embed", "reduce_scatter", "sum_parts", "sum_shared"
)  # fmt: skip
DROPPABLE = ("all_reduce", "all_gather", "argmax", "reduce_scatter", "sum_parts", "sum_shared")


@dataclass(frozen=True)
class Site:
    """One place in a program where an op of this folder stands.

    Args:
        name: unique in its model, for example "layers.0.mlp.down_proj:out"; "@" is ours.
        kind: the op.
        layout: how the dim is held (all_gather, take, argmax, lookup).
        weights: each rank's factor (scale): for a mean over a split dim its share of the dim.
        partial: whether the cotangent of the whole value at this site is partial.
        follows: the index of the inputs that the layout is of, "" if none (`following`).
    """

    name: str
    kind: Kind
    layout: Layout | None = None
    weights: tuple[float, ...] | None = None
    partial: bool = False
    follows: str = ""


def check_site(site: Site, num_ranks: int) -> None:
    """State what a site needs: a layout or weights for `num_ranks` ranks where its kind takes them.

    Raises: LayoutError.
    """
    if site.layout is not None:
        check_layout(site.layout)
    given = {"layout": site.layout and site.layout.num_ranks, "weights": site.weights and len(site.weights)}
    needed = {
        "layout": num_ranks if site.kind in _WITH_LAYOUT else None,
        "weights": num_ranks if site.kind == "scale" else None,
    }
    if given != needed:
        raise LayoutError(
            f"a {site.kind} site is not described for {num_ranks} ranks",
            where=site.name,
            got=", ".join(f"{what} for {n} ranks" if n else f"no {what}" for what, n in given.items()),
            needed=", ".join(f"{what} for {n} ranks" if n else f"no {what}" for what, n in needed.items()),
        )


def whole_site(site: Site) -> Site | None:
    """What a site on an index of the inputs does where its length does not divide, and every rank holds all of it: the
    op of another site, so that each is counted, and has the backward that belongs to what was done forward. Cotangents
    are partial there, as those of a whole value's parts are.

    | cut                                   | whole                                        |
    |---------------------------------------|----------------------------------------------|
    | reduce_scatter                        | all_reduce, its backward too                 |
    | all_gather, cotangent partial / whole | nothing / leave                              |
    | take, cotangent partial / whole       | nothing / enter, its backward an all-reduce  |
    """
    name = site.name + WHOLE_LENGTH
    if site.kind == "reduce_scatter":
        return Site(name, "all_reduce", partial=True)
    if site.partial:
        return None
    return Site(name, "leave") if site.kind == "all_gather" else Site(name, "enter", partial=True)


@dataclass(slots=True)
class BoundSite:
    """A site on this rank: what an op reads on each call, and what it counts."""

    kind: Kind
    group: Group
    layout: Layout | None
    weight: float
    count_fake: bool
    dropped: bool = False
    calls: int = 0
    volume: int = 0
    """Bytes that enter the kind's formula: S of a reduction; of a gather the bytes of one index of the split dim."""

    def count(self, volume: int) -> None:
        self.calls += 1
        self.volume += volume

    @property
    def comm_bytes(self) -> float:
        """Payload bytes this rank sent here; one evaluation of the formula, so that no rounding adds up."""
        if self.kind in ("all_reduce", "argmax"):
            return all_reduce_bytes(self.volume, self.group.size)
        if self.kind == "sum_parts":
            return all_reduce_bytes(self.volume * self.the_layout.period, self.group.size)
        if self.kind == "sum_shared":
            return float(self.volume * self._shared_size())
        if self.kind in ("all_gather", "reduce_scatter"):
            owners = self.the_layout.owners()
            shares = [self.volume * owners.local_size(rank) for rank in range(self.group.size)]
            formula = all_gather_bytes if self.kind == "all_gather" else reduce_scatter_bytes
            return formula(shares, self.group.rank)
        return 0.0

    def _shared_size(self) -> int:
        """Indices that this rank sends to those who hold them too."""
        layout, own = self.the_layout, self.group.rank
        others = (rank for rank in range(self.group.size) if rank != own)
        return sum(b - a for rank in others for a, b in layout.shared(own, rank))

    @property
    def the_layout(self) -> Layout:
        assert self.layout is not None  # check_site
        return self.layout

    def index_bytes(self, local: Tensor) -> int:
        """Bytes of one index of the layout's period, all periods together."""
        share = self.the_layout.local_size(self.group.rank)
        if share:
            return local.numel() * local.element_size() // share
        others = (size for d, size in enumerate(local.shape) if d != self.the_layout.dim % local.ndim)
        return prod(others) * local.element_size()


class CollectiveContext:
    """All sites of one model, bound to this rank of a group.

    Args:
        group: the ranks; a FakeGroup where the program is only traced.
        sites: the sites, names unique.
        count_fake: count calls on fake tensors too.
    Raises: LayoutError for a site that is not described for the group's ranks; InputError for names that clash.
    """

    def __init__(self, group: Group, sites: Iterable[Site], *, count_fake: bool = False) -> None:
        self.group = group
        self.sites = {site.name: site for site in _with_twins(sites)}
        for site in self.sites.values():
            check_site(site, group.size)
        self.bound = {name: self._bind(site, count_fake) for name, site in self.sites.items()}

    def _bind(self, site: Site, count_fake: bool) -> BoundSite:
        weight = site.weights[self.group.rank] if site.weights else 1.0
        return BoundSite(site.kind, self.group, site.layout, weight, count_fake)

    @property
    def counters(self) -> dict[str, tuple[int, float]]:
        """Site name -> (calls, payload bytes this rank sent) since the last reset, for every site that was called."""
        return {name: (bound.calls, bound.comm_bytes) for name, bound in self.bound.items() if bound.calls}

    @property
    def comm_bytes(self) -> float:
        """Payload bytes this rank sent at all sites since the last reset."""
        return sum(bound.comm_bytes for bound in self.bound.values())

    def reset_counters(self) -> None:
        for bound in self.bound.values():
            bound.calls = bound.volume = 0

    def drop(self, names: Iterable[str]) -> None:
        """From now on exactly these sites' collectives do not communicate; none dropped by `()`.

        An all_reduce returns its input, an all_gather has zeros for the other ranks' parts, an argmax is this rank's
        own. Every rank must drop the same sites.
        Raises: InputError for a name that is no site or has no collective.
        """
        chosen = set(names)
        droppable = {name for name, site in self.sites.items() if site.kind in DROPPABLE}
        if chosen - droppable:
            raise InputError("no such collective to drop", got=", ".join(sorted(chosen - droppable)))
        for name, bound in self.bound.items():
            bound.dropped = name in chosen

    @contextmanager
    def dropping(self, *names: str) -> Iterator[None]:
        """`drop(names)` inside the block, whatever was dropped before again after it."""
        before = [name for name, bound in self.bound.items() if bound.dropped]
        self.drop(names)
        try:
            yield
        finally:
            self.drop(before)


@dataclass
class Registry:
    """Contexts by model key, and their sites by the string that ops carry."""

    contexts: dict[str, CollectiveContext] = field(default_factory=dict)
    sites: dict[str, BoundSite] = field(default_factory=dict)


_registry: ContextVar[Registry] = ContextVar("axisplit_registry", default=Registry())  # noqa: B039  process-wide


def own_registry() -> None:
    """Give the current context (a simulated rank's thread) a registry of its own, empty at first."""
    _registry.set(Registry())


def register(key: str, context: CollectiveContext) -> None:
    """Let ops find the context's sites as "<key>/<site name>", in this process or this simulated rank.

    Raises: InputError if the key is taken: two models would share groups and counters.
    """
    registry = _registry.get()
    if key in registry.contexts:
        raise InputError("this model key is registered already", got=key, do="unregister it, or use another key")
    registry.contexts[key] = context
    registry.sites.update({f"{key}/{name}": bound for name, bound in context.bound.items()})


def unregister(key: str) -> None:
    """Forget a context; no error if there is none, as it also runs from finalizers."""
    registry = _registry.get()
    context = registry.contexts.pop(key, None)
    for name in context.bound if context else ():
        registry.sites.pop(f"{key}/{name}", None)


@contextmanager
def registered(key: str, context: CollectiveContext) -> Iterator[CollectiveContext]:
    """`register` for the length of a block."""
    register(key, context)
    try:
        yield context
    finally:
        unregister(key)


def current(key: str) -> CollectiveContext:
    """The context under a model key. Raises: CollectiveError if there is none."""
    context = _registry.get().contexts.get(key)
    if context is None:
        raise _unknown(key)
    return context


def lookup(site: str, kind: Kind) -> BoundSite:
    """The bound site of an op call. Raises: CollectiveError if it is unknown or of another kind."""
    bound = _registry.get().sites.get(site)
    if bound is None:
        raise _unknown(site)
    if bound.kind != kind:
        raise CollectiveError("an op was called at another op's site", where=site, got=kind, needed=bound.kind)
    return bound


def has_twin(site: str) -> bool:
    """Whether the backward of the op at a site issues one."""
    return site + BACKWARD in _registry.get().sites


def kind_at(site: str) -> Kind:
    """The kind of a site. Raises: CollectiveError if it is unknown."""
    bound = _registry.get().sites.get(site)
    if bound is None:
        raise _unknown(site)
    return bound.kind


def _unknown(site: str) -> CollectiveError:
    known = ", ".join(_registry.get().contexts) or "none"
    return CollectiveError(
        "no group is registered for this site",
        where=site,
        got=f"model keys registered here: {known}",
        needed="register(key, CollectiveContext(group, sites)) in this process, or in this simulated rank",
    )


def _with_twins(sites: Iterable[Site]) -> list[Site]:
    given = list(sites)
    names = [site.name for site in given]
    bad = sorted({name for name in names if names.count(name) > 1 or "@" in name})
    if bad:
        raise InputError("site names must be unique and without '@'", got=", ".join(bad))
    return given + [twin for twin in map(twin_of, given) if twin is not None]


def twin_of(site: Site) -> Site | None:
    """The site of the op that a site's backward issues; None where the cotangent passes as it is."""
    kind = _TWINS.get((site.kind, site.partial))
    if kind == "all_gather" and site.layout is not None and site.layout.is_shared:
        kind = "sum_parts"
    return None if kind is None else replace(site, name=site.name + BACKWARD, kind=kind, partial=False, follows="")
