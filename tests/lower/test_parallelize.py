"""`axisplit.parallelize` and plan files: what stays, what is refused, and models that cannot be split."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import axisplit
from axisplit.errors import InputError, PlanMismatchError
from axisplit.solve.plan import check_plan
from lower.test_edits import planned
from models_zoo import real
from models_zoo.small import Attention, Mlp
from models_zoo.tiny import perturb


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(plan of an Mlp at 3 ranks, its file)."""
    plan, _ = planned(perturb(Mlp()), 16, 3)
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    plan.save(path)
    return plan, path


def test_a_saved_plan_is_the_same_plan(saved):
    plan, path = saved
    assert axisplit.Plan.load(path) == plan
    assert str(axisplit.Plan.load(path)) == str(plan)
    assert not list(path.parent.glob("*.partial"))
    check_plan(axisplit.Plan.load(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "the plan is not JSON"),
        ("{}", "the plan has another schema version"),
        ('{"schema_version": 99}', "the plan has another schema version"),
        ('{"schema_version": 1}', "the plan is damaged"),
        ("[]", "the plan has another schema version"),
    ],
)
def test_damaged_plans(content, said, tmp_path, saved):
    path = tmp_path / "bad.json"
    path.write_text(content.replace("1}", f"{saved[0].schema_version}}}"))
    with pytest.raises(InputError, match=said):
        axisplit.Plan.load(path)
    with pytest.raises(InputError, match="cannot read the plan"):
        axisplit.Plan.load(tmp_path / "absent.json")


def test_parameters_stay_what_they_were(saved, three_ranks):
    plan, path = saved
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    found = three_ranks.run(real.identities, str(path), x)
    with torch.no_grad():
        whole = perturb(Mlp())(x)
    for rank, seen in enumerate(found):
        assert seen["same object"]
        assert seen["same names"]
        assert seen["same parameters"]
        assert seen["same in the optimizer"]
        assert seen["shapes"] == {"up.weight": (16, 16), "up.bias": (16,), "down.weight": (16, 16), "down.bias": (16,)}
        assert (seen["bias"] > 0) == (rank == 0)
        assert seen["hook"] == [(2, 5, 16)]
        assert seen["comm_bytes"] == plan.comm_bytes_per_rank
        torch.testing.assert_close(seen["output"], whole, rtol=0, atol=1e-5)


def test_plans_for_something_else(saved, two_ranks, three_ranks):
    plan, path = saved
    said = two_ranks.run(real.mismatches, str(path))[0]
    assert len(said) == 3
    assert "the plan is for another number of ranks" in said[0]
    assert "2 ranks run" in said[0]
    assert "start 3 ranks, or plan for 2" in said[0]
    other, wider = three_ranks.run(real.mismatches, str(path))[2]
    assert "the plan was made for another model" in other
    assert "q.weight: ((32, 32), 'float32'), planned absent" in other
    assert plan.fingerprint in other
    assert "up.weight: ((64, 16), 'float32'), planned ((48, 16), 'float32')" in wider


def test_verify_refuses_another_models_plan():
    plan, _ = planned(perturb(Mlp()), 16)
    with pytest.raises(PlanMismatchError, match="the plan was made for another model"):
        axisplit.verify(Mlp(ffn=64), (torch.randn(2, 5, 16),), plan)
    with pytest.raises(PlanMismatchError):
        axisplit.verify(Attention(16), (torch.randn(2, 5, 16),), plan)


class Sorted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.randn(16))

    def forward(self, x):
        return (x + self.offset).sort(-1).values


def test_nothing_to_split():
    plan, inputs = planned(Sorted(), 16)
    assert plan.warnings == ("nothing to split: the model runs whole on every rank",)
    assert plan.split_fraction == 0
    assert plan.collectives == plan.places == ()
    verdict = axisplit.verify(Sorted(), inputs, plan)
    assert verdict.equal
    assert verdict.control_caught is None
    assert "nothing to split" in str(plan)


def test_one_rank():
    plan, inputs = planned(perturb(Mlp()), 16, ranks=1)
    assert plan.comm_bytes_per_rank == 0
    assert plan.warnings == ()
    assert axisplit.verify(perturb(Mlp()), inputs, plan).equal


def test_planning_twice_gives_the_same_file(tmp_path):
    plans = [planned(perturb(Attention()), 32, 3)[0] for _ in range(2)]
    assert plans[0] == plans[1]
    assert json.dumps(plans[0].to_json()) == json.dumps(plans[1].to_json())


def test_check_plan_states_what_a_plan_is(saved):
    plan, _ = saved
    for wrong in (
        replace(plan, comm_bytes_per_rank=1.0),
        replace(plan, parameters=tuple(replace(p, ranges=p.ranges[:2]) if p.ranges else p for p in plan.parameters)),
        replace(
            plan, parameters=tuple(replace(p, ranges=p.ranges[:1] * 3) if p.ranges else p for p in plan.parameters)
        ),
    ):
        with pytest.raises(AssertionError):
            check_plan(wrong)


class Prefixed(nn.Module):
    """Learned vectors in front of each channel's values: none."""

    def __init__(self):
        super().__init__()
        self.up, self.prefix = nn.Linear(6, 12), nn.Parameter(torch.randn(12, 0))

    def forward(self, x):
        return torch.cat([self.prefix, self.up(x).T], 1).sum(1)


def test_parameters_without_elements():
    model, inputs = Prefixed(), (torch.randn(5, 6),)
    plan = axisplit.plan(model, inputs, ranks=3)
    assert plan.split_fraction == 1
    assert axisplit.verify(model, inputs, plan, gradients=True).equal
