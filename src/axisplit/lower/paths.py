"""Another path of the model's Python than the one a plan was made on: whether the installed plan holds there, too.

Nothing was decided for its ops, but shards, sites and attributes are what they are: every rank is traced with the plan
installed, and the states are inferred from them by the laws (`proof.inference`).
"""

from __future__ import annotations

import torch

from axisplit.axes.derive import Derived, derive_axes
from axisplit.capture.graph import Graph
from axisplit.capture.record import Recorder
from axisplit.capture.trace import Captured, Inputs
from axisplit.errors import AxisplitError, LoweringError
from axisplit.lower.apply import sites_of
from axisplit.lower.decision import Parts
from axisplit.lower.lowering import distinct_ranks, trace_rank
from axisplit.lower.unfold import refold
from axisplit.proof.inference import infer_program
from axisplit.runtime.groups import FakeGroup, Group
from axisplit.runtime.simulate import simulate
from axisplit.solve.build import Search, find_splits
from axisplit.solve.plan import Plan
from axisplit.solve.ties import find_ties


def why_not_on(captured: Captured, plan: Plan, model: torch.nn.Module, inputs: Inputs) -> str:
    """Why the ranks' programs on a captured path are not the split of the whole one; "" if they are. Where the path
    depends on values, all ranks run, and communicate.
    """
    lowered = refold(plan, captured.folds)
    parts = _parts(derive_axes(captured.graph), plan, captured)

    def trace(group: Group) -> Graph:
        try:
            return trace_rank(lowered, captured, model, inputs, group, Recorder())
        except LoweringError as error:
            raise _Broken(f"{error.what}: {error.where}") from error
        except Exception as error:
            text = str(error).partition("\n")[0]
            raise _Broken(f"rank {group.rank}: its part does not run: {text}") from error

    try:
        if captured.fake:
            traces = {rank: trace(FakeGroup(rank, lowered.ranks)) for rank in distinct_ranks(lowered, parts.kinds)}
        else:
            traces = dict(enumerate(simulate(lowered.ranks, trace)))
    except AxisplitError as error:  # a rank's own, or that of one which waited for it
        return error.what
    found = infer_program(parts, lowered.parameters, sites_of(lowered), traces)
    return str(found) if found is not None else ""


class _Broken(AxisplitError):
    """A rank's program does not run to its end."""


def _parts(derived: Derived, plan: Plan, captured: Captured) -> Parts:
    ties = find_ties(derived, {fold.container for fold in captured.folds})
    splits = find_splits(derived, ties, plan.ranks, uneven=True, following=plan.following) if plan.ranks > 1 else {}
    return Parts(Search(derived, ties, plan.ranks, splits))
