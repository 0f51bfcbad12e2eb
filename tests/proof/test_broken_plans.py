"""Each way to break a plan that is right is caught: named where the program shows it, else by numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import axisplit
from axisplit.solve.plan import EditPlan, ParameterPlan, Plan
from models_zoo.equality import on_ranks
from models_zoo.tiny import ZOO, build


def reasons(model, inputs, plan: Plan) -> str:
    verdict = axisplit.verify(model, inputs, plan)
    assert verdict.equal is False
    assert verdict.proof.proved == 0
    return "\n".join(map(str, verdict.mismatches))


def with_parameter(plan: Plan, name: str, **changes) -> Plan:
    return replace(plan, parameters=tuple(replace(p, **changes) if p.name == name else p for p in plan.parameters))


def error_of(model, inputs, plan: Plan) -> torch.Tensor:
    """What rank 0 makes, less what the whole model makes."""
    with torch.no_grad():
        return on_ranks(plan, model, lambda part: part(*inputs).detach())[0][0] - model(*inputs)


def parameter(plan: Plan, name: str) -> ParameterPlan:
    return next(p for p in plan.parameters if p.name == name)


def test_the_good_plans_are_proved(good_mlp, good_attention, good_slopes):
    for good in (good_mlp, good_attention, good_slopes):
        verdict = axisplit.verify(*good)
        assert verdict.equal is True
        assert verdict.control_caught is True
        assert verdict.mismatches == ()
        assert verdict.proof.proved == verdict.proof.ops > 0
        assert verdict.exact_error < 1e-12


def only_entering(plan):
    """Without what forward needs; what backward alone needs stays."""
    return replace(plan, places=tuple(p for p in plan.places if p.steps[0].kind == "enter"))


def test_an_all_reduce_left_out(good_mlp):
    model, inputs, plan = good_mlp
    assert "aten.add.Tensor" in reasons(model, inputs, only_entering(plan))
    assert "in P, needed" in reasons(model, inputs, only_entering(plan))


def test_an_output_that_stays_partial():
    model, inputs = build("mlp"), ZOO["mlp"].inputs(2, 5)
    plan = axisplit.plan(model, inputs, ranks=2)
    assert "output forward:0 is not the whole value" in reasons(model, inputs, only_entering(plan))


def test_an_all_reduce_twice(good_mlp):
    model, inputs, plan = good_mlp
    (place,) = (p for p in plan.places if p.module == "down")
    (step,) = place.steps
    again = replace(place, steps=(step, replace(step, name="down:output.0:again")))
    twice = replace(plan, places=tuple(again if p is place else p for p in plan.places))
    assert "no value of the split program" in reasons(model, inputs, twice)


def test_a_bias_on_every_rank(good_mlp):
    model, inputs, plan = good_mlp
    assert parameter(plan, "down.bias").held == "first"
    doubled = with_parameter(plan, "down.bias", held="whole")
    assert reasons(model, inputs, doubled) == "rank 0: down.bias is held whole, needed first"
    error = error_of(model, inputs, doubled)
    assert torch.allclose(error, model.down.bias.expand_as(error), atol=1e-5)


@pytest.mark.parametrize(
    "ranges",
    [(((0, 24),), ((23, 47),)), (((0, 24),), ((12, 36),)), (((24, 48),), ((0, 24),))],
    ids=["shifted by one", "overlapping", "swapped"],
)
def test_wrong_ranges(good_mlp, ranges):
    model, inputs, plan = good_mlp
    (_, whole), (_, _) = parameter(plan, "up.weight").ranges
    wrong = with_parameter(plan, "up.weight", ranges=tuple((rows, whole) for rows in ranges))
    assert "up.weight is held as" in reasons(model, inputs, wrong)
    assert error_of(model, inputs, wrong).abs().max() > 0.01


def test_a_rank_with_more_rows(good_mlp):
    """Other shapes: the program says so by itself."""
    model, inputs, plan = good_mlp
    (_, whole), (_, _) = parameter(plan, "up.weight").ranges
    wrong = with_parameter(plan, "up.weight", ranges=((((0, 30),), whole), (((30, 48),), whole)))
    assert "does not run on its part" in reasons(model, inputs, wrong) or "makes" in reasons(model, inputs, wrong)


def test_wrong_edits(good_attention):
    model, inputs, plan = good_attention
    (edit,) = plan.edits
    assert edit == EditPlan("", "num_heads", 4, (2, 2))
    runs_otherwise = replace(plan, edits=(replace(edit, attribute="head_dim", whole=8, values=(4, 4)),))
    assert "aten.view.default in the model has size [2, 5, 4, 4], needed [2, 5, 2, 8]" in reasons(
        model, inputs, runs_otherwise
    )
    does_not_run = replace(plan, edits=(replace(edit, values=(4, 4)),))
    assert "aten.view.default in the model does not run on its part" in reasons(model, inputs, does_not_run)
    only_rank_1 = replace(plan, edits=(replace(edit, values=(2, 4)),))
    assert reasons(model, inputs, only_rank_1).startswith("rank 1: aten.view.default")


def test_an_arange_over_a_split_axis_that_starts_at_0(good_slopes):
    """Rewritten to count a rank's own heads, the slopes are the first heads' everywhere: right shapes, wrong heads."""
    model, inputs, plan = good_slopes
    (take,) = [place for place in plan.places if place.steps[0].kind == "take"]
    wrong = replace(
        plan,
        places=tuple(place for place in plan.places if place is not take),
        edits=(*plan.edits, EditPlan("", "slopes", 4, (2, 2))),
    )
    assert "aten.arange.default in the model has end 2, needed 4" in reasons(model, inputs, wrong)
    assert error_of(model, inputs, wrong).abs().max() > 1e-3


def test_slices_of_the_wrong_heads(good_slopes):
    """The same shapes and ops; only numbers can tell."""
    model, inputs, plan = good_slopes
    (take,) = [place for place in plan.places if place.steps[0].kind == "take"]
    swapped = replace(take, steps=(replace(take.steps[0], ranges=take.steps[0].ranges[::-1]),))
    verdict = axisplit.verify(
        model, inputs, replace(plan, places=(*(p for p in plan.places if p is not take), swapped))
    )
    assert verdict.equal is False
    assert verdict.max_error > 100 * verdict.bound
    assert verdict.exact_error > 1e-4


def test_bytes_that_were_not_planned(good_mlp):
    model, inputs, plan = good_mlp
    with pytest.raises(axisplit.errors.ProofError, match="the bytes that were sent are not those planned"):
        axisplit.verify(model, inputs, replace(plan, comm_bytes_per_rank=plan.comm_bytes_per_rank * 2))
