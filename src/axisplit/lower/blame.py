"""What to forbid when a plan cannot be put into the model's code, so that the next one can.

A mismatch names the op at which a rank's program broke; what is forbidden is a decision that led there:

    an argument is another   an attribute was rewritten that this op reads too (`n_heads ** -0.5`): the strategies that
                             asked for the rewriting
    Python raised            the same for attributes of the module that raised (a check of sizes), if there are any
    an op too many           the strategies of the ops that made what it reads (`if kv_heads < heads: repeat`, where
                             one side was made whole)
    anything else            the op's strategy; if it runs whole, those of the ops that made what it reads

Excluding one strategy at a time can go on for long in a module that no split fits: after some rounds, or when all that
can be blamed is forbidden already, the modules that are still refused are left whole altogether.
"""

from __future__ import annotations

from collections.abc import Iterable

from axisplit.capture.graph import Node
from axisplit.capture.provenance import Attribute
from axisplit.lower.decision import Decision
from axisplit.lower.edits import equations
from axisplit.lower.places import Refusal
from axisplit.lower.sizes import EDIT, SIZE
from axisplit.proof.program import Mismatch
from axisplit.solve.plan import EditPlan
from axisplit.solve.problem import common_strategies


def blame(
    decision: Decision, mismatch: Mismatch, edits: Iterable[EditPlan], doubtful: frozenset[tuple[str, str]]
) -> list[Refusal]:
    """What to forbid so that a mismatch does not come again; first what is `doubtful`, for there is another way."""
    nobody = Refusal(("none",), str(mismatch), mismatch.node)
    if mismatch.node is None:
        return [nobody]
    node = decision.graph.nodes[mismatch.node]
    key, reason = decision.search.ties.node[node.index], str(mismatch)
    other_ways = [Refusal((kind, key), reason, node.index) for kind in (SIZE, EDIT) if (kind, key) in doubtful]
    if other_ways:
        return other_ways[:1]
    rewriters = _rewriters(decision, mismatch, node.module if mismatch.raised is None else mismatch.raised, edits)
    keys = {r.forbid[1] for r in rewriters}
    other_ways = [Refusal((EDIT, key), reason, node.index) for key in sorted(keys) if (EDIT, key) in doubtful]
    if other_ways or ((mismatch.argument or mismatch.raised is not None) and rewriters):
        return other_ways or rewriters
    return _makers(decision, node, mismatch.reads, reason) or [nobody]


def _rewriters(decision: Decision, mismatch: Mismatch, module: str, edits: Iterable[EditPlan]) -> list[Refusal]:
    """Strategies that asked for attributes of a module to be rewritten."""
    rewritten = {Attribute(e.module, e.attribute) for e in edits if e.module == module}
    found: dict[str, Refusal] = {}
    for equation in equations(decision, mismatch.rank):
        key = decision.search.ties.node[equation.node]
        strategy = decision.choice.solution.strategy[key]
        if strategy != "whole" and rewritten & set(equation.expression.attributes()):
            found[key] = Refusal(("run", key, strategy), str(mismatch), equation.node)
    return list(found.values())


def _makers(decision: Decision, node: Node, reads: Iterable[int], reason: str) -> list[Refusal]:
    """The op's strategy; if it runs whole, that of an op that made what one too many reads, or of the nearest in front
    that does not run whole.
    """
    producer = decision.graph.producer
    waiting = [node, *(producer[value] for value in reads if value in producer)]
    seen = set[int]()
    while waiting:
        current = waiting.pop(0)
        strategy = decision.strategy(current)
        if strategy.name != "whole":
            return [Refusal(("run", decision.search.ties.node[current.index], strategy.name), reason, node.index)]
        for value in current.inputs():
            if value in producer and value not in seen:
                seen.add(value)
                waiting.append(producer[value])
    return []


def give_up_modules(decision: Decision, refusals: Iterable[Refusal]) -> list[Refusal]:
    """Everything but whole for all ops of the modules (and their repetitions) that are refused, or that broke where
    nobody is to blame.
    """
    modules = {_module(r.forbid[1]): r.reason for r in refusals if r.forbid[0] in ("run", "convert")}
    broken = ((r.node, r.reason) for r in refusals if r.forbid[0] == "none" and r.node is not None)
    modules |= {_module(decision.search.ties.node[node]): reason for node, reason in broken}
    found = []
    for key, instances in decision.choice.problem.instances.items():
        reason = modules.get(_module(key))
        if reason is not None:
            strategies = (name for name in common_strategies(instances) if name != "whole")
            found += [Refusal(("run", key, name), reason) for name in strategies]
    return found


def _module(key: str) -> str:
    """The module in a key of an op or of a value that an op made."""
    return key.partition("|")[0]
