"""Program matching without decisions: is what the ranks of an installed plan run some split of a whole program?

A plan decides for the graph it was made on. A call that takes another path has other ops; nothing decided for them, but
the shards, sites and attributes are what they are. So the states are inferred from them, rank by rank:

    leaf         every state whose ranges are, on all ranks, those that the plan holds it in
    op           every legal strategy whose operands arrive in the states it needs, and whose arguments and result
                 shapes are this rank's own; a value may thus be known in several states, all of them true
    conversion   as its site says: only where the site's layout is the value's in that state

A strategy counts only if it fits on every rank: after each round those that did not are struck, until none is. Then
each fact is one about all ranks, and an all-reduce adds up parts of one split. What is inferred is right because each
step is an instance of a law; nothing is taken from the solver.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from axisplit.capture.graph import Graph, Node
from axisplit.lower.decision import Parts
from axisplit.proof.program import Mismatch, Walk
from axisplit.runtime.layout import Layout
from axisplit.runtime.sites import Site
from axisplit.solve.plan import ParameterPlan
from axisplit.solve.shards import layout_of, local_length, local_ranges, merge
from axisplit.solve.splits import Range
from axisplit.solve.states import PARTIAL, WHOLE, Strategy, split_state, strategies

Ways = dict[int, list[Strategy]]


def infer_program(
    parts: Parts, parameters: Iterable[ParameterPlan], sites: Iterable[Site], traces: Mapping[int, Graph]
) -> Mismatch | None:
    """Match the traced programs of ranks with the whole one. None if together they are a split of it.

    Args:
        parts: the whole graph with its candidate splits.
        parameters, sites: what the plan installed.
        traces: rank -> its program.
    """
    splits = list(parts.search.splits.values())
    derived, keys = parts.search.derived, parts.search.keys
    ways = {node.index: strategies(derived, node, keys, splits) for node in parts.graph.nodes}
    held = _held(parts, {p.name: p for p in parameters})
    known = {site.name: site for site in sites}
    while True:
        remaining = sum(map(len, ways.values()))
        for rank, local in traces.items():
            walk = InferredWalk(parts, rank, ways, held, known)
            mismatch = walk.run(local)
            if mismatch is not None:
                return mismatch
            ways = walk.fitting
        if sum(map(len, ways.values())) == remaining:
            return None


def _held(parts: Parts, parameters: Mapping[str, ParameterPlan]) -> dict[int, list[str]]:
    """Parameter or buffer -> the states it is held in."""
    found: dict[int, list[str]] = {}
    for name, value in {**parts.graph.parameters, **parts.graph.buffers}.items():
        plan = parameters.get(name)
        if plan is None:
            continue  # a tie: held under its first name
        if plan.held == "split":
            states = map(split_state, parts.search.splits)
            found[value] = [state for state in states if _ranges(parts, value, state) == plan.ranges]
        else:
            found[value] = [WHOLE if plan.held == "whole" else PARTIAL]
    return found


def _ranges(parts: Parts, value: int, state: str) -> tuple[tuple[tuple[Range, ...], ...], ...]:
    """Rank -> dim -> index ranges of a value in a split state."""
    derived = parts.search.derived
    return tuple(
        tuple(tuple(local_ranges(derived.axes, axis, held)) for axis in derived.dims[value])
        for held in (parts.held(state, rank) for rank in range(parts.num_ranks))
    )


class InferredWalk(Walk):
    """A walk that finds out by itself in which states values are."""

    def __init__(
        self, parts: Parts, rank: int, ways: Ways, held: Mapping[int, list[str]], sites: Mapping[str, Site]
    ) -> None:
        super().__init__(parts, rank)
        self.fitting: Ways = {}
        self._ways, self._held, self._sites = ways, held, sites
        self._looked_up: dict[int, Site] = {}  # localized ids, and rows looked up by them -> the site

    def held(self, value: int) -> Iterable[str]:
        return self._held.get(value, ())

    def ways(self, node: Node) -> Sequence[Strategy]:
        return self._ways[node.index]

    def fitted(self, node: Node, strategies: Sequence[Strategy]) -> None:
        self.fitting[node.index] = list(strategies)

    def becomes(self, node: Node, value: int, state: str) -> Iterable[str]:
        kind, site = node.op._opname, self._site(node)
        if (kind, state) in (("take", WHOLE), ("reduce_scatter", PARTIAL)):
            return [s for s in map(split_state, self.parts.search.splits) if self._lies(value, s, site)]
        if kind in ("all_gather", "pad") and not self._lies(value, state, site):
            return ()
        if kind == "scale" and (state[0] != "M" or site.weights != self._weights(value, state)):
            return ()
        if kind == "localize":
            self._looked_up[node.outputs[0]] = site
        if kind == "mask_rows" and not self._masks(node, value, site):
            return ()
        return super().becomes(node, value, state)

    def unread(self, whole: Node, node: Node, strategy: Strategy) -> str:
        wrong = super().unread(whole, node, strategy)
        if wrong or not any(state[0] == "I" for state in strategy.inputs):
            return wrong
        table, site = next(whole.inputs()), self._looked_up[list(node.inputs())[1]]
        if not self._lies(table, strategy.inputs[0], site):
            return f"{node.name} looks up rows that are localized for another part of the table"
        self._looked_up[node.outputs[0]] = site
        return ""

    def _site(self, node: Node) -> Site:
        return self._sites[node.args[-1].partition("/")[2]]

    def _masks(self, node: Node, value: int, site: Site) -> bool:
        """Whether rows are masked by the ids, and for the part of the table, that they were looked up with."""
        rows, ids = node.inputs()
        wanted = list(self.whole.producer[value].inputs())[1]
        return self._looked_up.get(rows) == site and (wanted, WHOLE) in self.whole_of[ids]

    def _lies(self, value: int, state: str, site: Site) -> bool:
        """Whether a value in a split state lies on the ranks as a site's layout says."""
        if state[0] != "S" or site.layout is None:
            return False
        found = layout_of(self.parts.search.derived, value, self.parts.split(state), self.parts.search.keys)
        if found is None:
            return False
        shape = self.whole.values[value].shape
        layouts = (Layout(*found), site.layout)
        return layouts[0].dim == layouts[1].dim % len(shape) and _same_spread(*layouts, shape[layouts[0].dim])

    def _weights(self, value: int, state: str) -> tuple[float, ...]:
        """Each rank's share of the indices that a mean was taken over."""
        derived = self.parts.search.derived
        reduced = derived.axes.product(derived.laws[self.whole.producer[value].index].reduce)
        ranks = range(self.parts.num_ranks)
        return tuple(local_length(derived.axes, reduced, self.parts.held(state, r)) / reduced.size for r in ranks)


def _same_spread(a: Layout, b: Layout, size: int) -> bool:
    """Whether two layouts give every rank the same indices of a dim, whatever their periods."""
    return size % a.period == size % b.period == 0 and _spread(a, size) == _spread(b, size)


def _spread(layout: Layout, size: int) -> list[list[Range]]:
    starts = range(0, size, layout.period)
    return [merge([(s + a, s + b) for s in starts for a, b in held]) for held in layout.ranges]


__all__ = ["infer_program"]
