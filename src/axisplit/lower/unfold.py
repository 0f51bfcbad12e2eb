"""From what was lowered on a folded model (four blocks for a long run) to the whole model's plan, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from axisplit.capture.fold import Fold, expand_name, stand_in
from axisplit.lower.lowering import Lowered
from axisplit.solve.plan import CapturedPlan, PlacePlan, Plan, StepPlan

Rename = Callable[[str], str]


def unfold(lowered: Lowered, folds: tuple[Fold, ...]) -> Lowered:
    """The same for every real block."""
    if not folds:
        return lowered

    def each(name: str) -> list[str]:
        return expand_name(folds, name)

    return Lowered(
        lowered.ranks,
        tuple(replace(p, name=name) for p in lowered.parameters for name in each(p.name)),
        {
            a: b
            for alias, owner in lowered.tied.items()
            for a, b in zip(each(alias), _matching(each, alias, owner), strict=True)
        },
        tuple(_place(p, m, p.module) for p in lowered.places for m in each(p.module)),
        tuple(replace(e, module=m) for e in lowered.edits for m in each(e.module)),
        tuple(_captured(c, m, c.module) for c in lowered.captured for m in each(c.module)),
        states=tuple(name for state in lowered.states for name in each(state)),
    )


def _matching(each: Callable[[str], list[str]], alias: str, owner: str) -> list[str]:
    """The owners of an alias's names: one for all, or one for each."""
    owners = each(owner)
    return owners if len(owners) == len(each(alias)) else owners * len(each(alias))


def refold(plan: Plan, folds: tuple[Fold, ...]) -> Lowered:
    """The part of a plan that the folded model runs."""

    def one(name: str) -> str | None:
        return stand_in(folds, name)

    return Lowered(
        plan.ranks,
        tuple(replace(p, name=name) for p in plan.parameters if (name := one(p.name)) is not None),
        {a: b for alias, owner in plan.tied.items() if (a := one(alias)) is not None and (b := one(owner)) is not None},
        tuple(_place(p, name, p.module) for p in plan.places if (name := one(p.module)) is not None),
        tuple(replace(e, module=name) for e in plan.edits if (name := one(e.module)) is not None),
        tuple(_captured(c, name, c.module) for c in plan.captured if (name := one(c.module)) is not None),
        states=tuple(name for state in plan.states if (name := one(state)) is not None),
    )


def _place(place: PlacePlan, module: str, before: str) -> PlacePlan:
    return replace(place, module=module, steps=tuple(_step(step, module, before) for step in place.steps))


def _step(step: StepPlan, module: str, before: str) -> StepPlan:
    """Site names begin with their module's."""
    prefix = f"{before or 'model'}:"
    assert step.name.startswith(prefix)
    return replace(step, name=f"{module or 'model'}:{step.name.removeprefix(prefix)}")


def _captured(captured: CapturedPlan, module: str, before: str) -> CapturedPlan:
    steps = tuple(_step(step, module, before) for step in captured.steps)
    names = {old.name: new.name for old, new in zip(captured.steps, steps, strict=True)}
    return replace(captured, module=module, steps=steps, programs=_renamed(captured.programs, names))


def _renamed(tree: Any, names: dict[str, str]) -> Any:
    if isinstance(tree, str):
        return names.get(tree, tree)
    if isinstance(tree, (tuple, list)):
        return type(tree)(_renamed(item, names) for item in tree)
    if isinstance(tree, dict):
        return {key: _renamed(item, names) for key, item in tree.items()}
    return tree


__all__ = ["refold", "unfold"]
