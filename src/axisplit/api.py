"""The Python interface: plan, verify, parallelize, load. Each does one thing that the folders below do in parts."""

from __future__ import annotations

import warnings
import weakref
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from axisplit.capture.kept import forget
from axisplit.capture.trace import Inputs
from axisplit.errors import ForgottenStateWarning, InputError, PlanMismatchError
from axisplit.lower.apply import install, take_shard
from axisplit.lower.guard import Guard
from axisplit.lower.planning import make_plan
from axisplit.proof.processes import error_on_processes
from axisplit.proof.verify import Verdict, verify_plan, with_gradients
from axisplit.runtime.groups import Group, ProcessGroup
from axisplit.runtime.sites import CollectiveContext, unregister
from axisplit.solve.plan import Plan

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_numbers = count()


def plan(
    model: torch.nn.Module,
    inputs: Inputs,
    ranks: int | None = None,
    *,
    mesh: DeviceMesh | None = None,
    keep: list[str] | tuple[str, ...] = (),
    memory_per_rank: float | None = None,
    uneven: bool = True,
    name: str = "",
) -> Plan:
    """Derive the split of a model over `ranks` ranks that moves the fewest bytes. No process group is needed.

    Args:
        model: any module; parameters may be on the meta device. It is not changed.
        inputs: what the model is called with, at the sizes that will run: a tuple is positional, a dict keywords.
        ranks: how many ranks; or `mesh`, a one-dimensional DeviceMesh that says so.
        keep: patterns (fnmatch) of parameters to leave whole, and of indices of the inputs (`inputs.input_ids[1]` are
            the positions), which large values between reductions are split by otherwise.
        memory_per_rank: bytes of parameters a rank may hold; then the fewest bytes under that bound, and blocks may
            stay whole.
        uneven: whether ranks may get parts of different sizes.
        name: what to call the model in the plan; its class's name if not given.
    Returns: a plan that is lowered and whose program is proved, ready to run.
    Raises: InputError, CaptureError, LoweringError, MemoryBoundError.
    """
    if mesh is not None:
        if mesh.ndim != 1:
            raise InputError(
                "the mesh must have one dim", got=f"{mesh.ndim}", do="pass the dim to split over: mesh['tp']"
            )
        ranks = mesh.size() if ranks is None else ranks
    if ranks is None:
        raise InputError("the number of ranks is missing", needed="ranks= or mesh=", do="pass ranks=2")
    return make_plan(model, inputs, ranks, keep=tuple(keep), memory_per_rank=memory_per_rank, uneven=uneven, name=name)


def verify(
    model: torch.nn.Module, inputs: Inputs, plan: Plan, *, gradients: bool = False, processes: bool = False
) -> Verdict:
    """Prove that the plan does not change the model's answer: laws, program, numbers and control, forward.

    The model is the whole one, in memory (a model on the meta device gets laws and program only: `equal` is None).
    Ranks are simulated in this process.

    Args:
        gradients: compare every parameter's gradient too, in the mode (train or eval) the model is in.
        processes: run on real local processes too; their error must be within the same bound.
    Raises: PlanMismatchError if the plan was made for another model; InputError if gradients are asked for and the
        model is not deterministic (dropout in training mode).
    """
    verdict = verify_plan(model, inputs, plan)
    if gradients:
        verdict = with_gradients(verdict, model, inputs, plan)
    if not processes or verdict.numbers is None:
        return verdict
    error = error_on_processes(model, inputs, plan, verdict.numbers.choices)
    return replace(verdict, equal=bool(verdict.equal) and error <= verdict.numbers.bound, processes_error=error)


def parallelize(
    model: torch.nn.Module, plan: Plan, *, mesh: DeviceMesh | None = None, group: Any = None
) -> torch.nn.Module:
    """Make a model this rank's part, in place, and return it. Collective: every rank calls it with the same plan.

    Parameters keep their names and identities and become this rank's shards; floating-point outputs come back whole on
    every rank, caches stay local. What modules kept in attributes from earlier calls is forgotten, with a warning.

    Args:
        mesh, group: where the ranks are; the world of torch.distributed if neither is given.
    Raises: PlanMismatchError if the plan is for another number of ranks or another model.
    """
    ranks = _group(mesh, group)
    check_fits(model, plan, ranks.size)
    shards = {p.name: p for p in plan.parameters}
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            tensor.data = take_shard(shards[name], tensor, ranks.rank)
    bind(model, plan, ranks)
    return model


def bind(model: torch.nn.Module, plan: Plan, group: Group) -> CollectiveContext:
    """Install a plan on a module that holds the rank's shards; its sites live as long as the module. Calls outside what
    the plan was proved for are proved when they come, or refused.
    """
    guard = Guard(model, plan)
    forgotten = forget(model, plan.states)
    if forgotten:
        text = f"state that modules kept from earlier calls of the whole model is forgotten: {', '.join(forgotten)}"
        warnings.warn(text, ForgottenStateWarning, stacklevel=3)
    key = f"{plan.fingerprint}-{next(_numbers)}"
    context = install(model, plan, group, key)
    guard.attach(model)
    weakref.finalize(model, unregister, key)
    return context


def load(
    checkpoint: str | Path,
    plan: Plan,
    *,
    mesh: DeviceMesh | None = None,
    group: Any = None,
    dtype: torch.dtype | None = None,
) -> torch.nn.Module:
    """This rank's part of a checkpoint, its slices read straight from the safetensors files: no rank ever holds the
    whole model. Otherwise as `parallelize`.

    Args:
        checkpoint: a directory with config.json and safetensors.
        dtype: of the parameters; the plan's if not given.
    """
    from axisplit.checkpoint.shards import load_shards

    ranks = _group(mesh, group)
    if ranks.size != plan.ranks:
        raise _wrong_ranks(plan, ranks.size)
    model = load_shards(Path(checkpoint), plan, ranks.rank, dtype)
    bind(model, plan, ranks)
    return model


def _group(mesh: DeviceMesh | None, group: Any) -> Group:
    return ProcessGroup(mesh if mesh is not None else group)


def _wrong_ranks(plan: Plan, size: int) -> PlanMismatchError:
    return PlanMismatchError(
        "the plan is for another number of ranks",
        got=f"{size} ranks run",
        needed=f"{plan.ranks}",
        do=f"start {plan.ranks} ranks, or plan for {size}",
    )


def check_fits(model: torch.nn.Module, plan: Plan, size: int) -> None:
    """Raise PlanMismatchError unless the plan is for this model (names, shapes, dtypes) and number of ranks."""
    if size != plan.ranks:
        raise _wrong_ranks(plan, size)
    wanted = {p.name: (p.shape, p.dtype) for p in plan.parameters}
    found = {n: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for n, t in _named(model)}
    wrong = [n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n)]
    if wrong:
        lines = [f"{n}: {found.get(n, 'absent')}, planned {wanted.get(n, 'absent')}" for n in sorted(wrong)[:8]]
        more = f"\n… and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise PlanMismatchError(
            "the plan was made for another model",
            got="\n".join(lines) + more,
            needed=f"{plan.model}, fingerprint {plan.fingerprint}",
            do="plan this model, or load the one that was planned",
        )


def _named(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
