"""What a decision moves between ranks: every collective of one forward (each phase) and of one backward."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from axisplit.lower.apply import site_of
from axisplit.lower.cotangents import carrying
from axisplit.lower.decision import Decision
from axisplit.lower.lowering import Lowered
from axisplit.runtime.costs import all_gather_bytes, all_reduce_bytes, reduce_scatter_bytes
from axisplit.runtime.sites import twin_of
from axisplit.solve.build import is_whole
from axisplit.solve.plan import CollectivePlan, ParameterPlan, Ranges
from axisplit.solve.states import PARTIAL, WHOLE


@dataclass(frozen=True)
class Moved:
    """One collective on one value: bytes that each rank sends."""

    kind: str
    where: str
    phase: str
    by_rank: tuple[float, ...]


def planned_collectives(decision: Decision) -> list[Moved]:
    """Every collective that one pass through each phase issues."""
    graph, found = decision.graph, []
    read = {value for _, value in graph.outputs}
    for value in graph.values:
        source = decision.made_in(value.index)
        if source == WHOLE or value.origin in ("parameter", "buffer"):
            continue
        targets = {state for _, _, state in decision.uses(value.index)} | ({WHOLE} if value.index in read else set())
        node = graph.producer.get(value.index)
        for target in targets - {source}:
            if (source[0] == "S" and target == PARTIAL) or is_whole(decision.search, value.index, source):
                continue  # padded with zeros in place, or there already
            where = decision.search.ties.node[node.index].split("|")[0] if node is not None else value.name
            phase = node.phase if node is not None else value.name.partition(":")[0]
            times = decision.search.times(node.index) if node is not None else 1
            kind = _kind(decision, value.index, source, target)
            sent = _sent(decision, value.index, kind, target if kind == "reduce_scatter" else source)
            found += [Moved(kind, where or "model", phase, sent)] * times
    return found


def busiest_bytes(moved: Iterable[Moved], phase: str) -> float:
    """What the rank that sends most does in a phase."""
    sent = [entry.by_rank for entry in moved if entry.phase == phase]
    return max(map(sum, zip(*sent, strict=True)), default=0.0)


def _kind(decision: Decision, value: int, source: str, target: str) -> str:
    if source[0] == "S":
        return "all_gather"
    scattered = target[0] == "S" and decision.split(target).follows and not is_whole(decision.search, value, target)
    return "reduce_scatter" if scattered else "all_reduce"


def _sent(decision: Decision, value: int, kind: str, state: str) -> tuple[float, ...]:
    """Bytes that each rank sends in a collective on a value; `state` says how its parts lie."""
    ranks, size = range(decision.num_ranks), decision.graph.values[value].bytes
    if kind in ("all_reduce", "sum_parts"):
        return tuple(all_reduce_bytes(size, decision.num_ranks) for _ in ranks)
    layout = decision.layout(value, state)
    owners = layout.owners()
    shares = [size * owners.local_size(rank) // layout.period for rank in ranks]
    formula = reduce_scatter_bytes if kind == "reduce_scatter" else all_gather_bytes
    return tuple(formula(shares, rank) for rank in ranks)


def listed(moved: list[Moved]) -> tuple[CollectivePlan, ...]:
    """Collectives of one kind and place together; bytes are those of the rank that sends most in the first phase."""
    if not moved:
        return ()
    ranks = range(len(moved[0].by_rank))
    totals = [sum(m.by_rank[rank] for m in moved if m.phase == moved[0].phase) for rank in ranks]
    rank = totals.index(max(totals))
    groups: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for entry in moved:
        groups[entry.kind, entry.where, entry.phase].append(entry.by_rank[rank])
    return tuple(
        CollectivePlan(kind, where, phase, len(sizes), sum(sizes)) for (kind, where, phase), sizes in groups.items()
    )


def backward_traffic(decision: Decision, lowered: Lowered) -> tuple[CollectivePlan, ...]:
    """Every collective of one backward through the first phase, kinds and places together."""
    if decision.cotangents is None or decision.num_ranks == 1:
        return ()
    return listed([*_of_places(decision, lowered), *_of_parameters(decision, lowered)])


def _of_places(decision: Decision, lowered: Lowered) -> Iterator[Moved]:
    graph, trained = decision.graph, carrying(decision, ("parameter",))
    for steps in [*(p.steps for p in lowered.places), *(c.steps for c in lowered.captured)]:
        for step in steps:
            twin = twin_of(site_of(step))
            kind = "" if twin is None else twin.kind
            for value, source, target in sorted(lowered.converted.get(step.name, ())):
                node = graph.producer.get(value)
                if kind in _SENDING and node is not None and node.phase == graph.phases[0] and value in trained:
                    state = target if step.kind in ("take", "reduce_scatter") else source
                    where = decision.search.ties.node[node.index].split("|")[0] or "model"
                    sent = _sent(decision, value, kind, state)
                    yield from [Moved(kind, where, "backward", sent)] * decision.search.times(node.index)


_SENDING = ("all_reduce", "all_gather", "reduce_scatter", "sum_parts")


def _of_parameters(decision: Decision, lowered: Lowered) -> Iterator[Moved]:
    values, ties = decision.graph.parameters, decision.search.ties
    trained = carrying(decision, ("parameter",))
    for parameter in lowered.parameters:
        if parameter.kind == "parameter" and values[parameter.name] in trained:
            where = ties.value[values[parameter.name]]
            count = decision.search.times_read(values[parameter.name])
            if parameter.gradient == "sum":
                sent = (all_reduce_bytes(parameter.bytes, decision.num_ranks),) * decision.num_ranks
                yield from [Moved("all_reduce", where, "backward", sent)] * count
            elif parameter.gradient == "shared":
                yield from [Moved("sum_shared", where, "backward", _sent_to_holders(parameter))] * count


def _sent_to_holders(parameter: ParameterPlan) -> tuple[float, ...]:
    """Bytes each rank sends to those that hold the same indices."""
    alike = Counter(parameter.ranges)
    shares = {own: sum(_share(own, theirs) * count for theirs, count in alike.items()) - 1.0 for own in alike}
    return tuple(shares[own] * parameter.local_bytes(rank) for rank, own in enumerate(parameter.ranges))


def _share(own: Sequence[Ranges], theirs: Sequence[Ranges]) -> float:
    """Of what a rank holds, the part that another holds too."""
    share = 1.0
    for mine, held in zip(own, theirs, strict=True):
        common = sum(max(0, min(b, d) - max(a, c)) for a, b in mine for c, d in held)
        share *= common / sum(b - a for a, b in mine)
    return share


__all__ = ["Moved", "backward_traffic", "busiest_bytes", "listed", "planned_collectives"]
