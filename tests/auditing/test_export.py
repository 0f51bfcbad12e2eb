"""Exported plans, run by the libraries they are exported to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import axisplit
from axisplit.errors import LayoutError
from axisplit.export import SUMMED
from benchmarks.zoo import build

KEPT = {"opt": ["*self_attn*", "*embed_positions*"], "bert": [], "falcon": ["*self_attention*"]}
"""What the styles cannot do: rewrite `num_heads`, packed segments, a table whose first argument is something else."""


@pytest.mark.slow
@pytest.mark.parametrize("name", KEPT)
def test_transformers_runs_an_exported_plan(name):
    model, inputs = build(name)
    exported = axisplit.plan(model, inputs, ranks=2, keep=KEPT[name]).to_hf_tp_plan()
    assert {"colwise", "rowwise", "embedding_rowwise"} <= set(exported.values())
    found = axisplit.audit(model, inputs, 2, exported, optimum=False)
    assert found.forward is True, str(found)
    if name != "falcon":  # its block writes into what a style returns, which torch refuses under autograd
        assert found.right, str(found)


@pytest.mark.slow
def test_transformers_sums_the_gradients_of_what_parts_share():
    """The slopes go through softplus before the parts use them; the model's own plan leaves their gradients apart."""
    model, inputs = build("apertus")
    exported = axisplit.plan(model, inputs, ranks=2).to_hf_tp_plan()
    summed = {name.rpartition(".")[2] for name, style in exported.items() if style == SUMMED}
    assert summed == {"q_norm", "k_norm", "act_fn"}
    found = axisplit.audit(model, inputs, 2, exported, optimum=False)
    assert found.gradients is True, str(found)
    assert all(name.split(".")[-2] in summed for name in found.wrong_accumulated)  # the style's, not the export's


@pytest.mark.slow
def test_torch_runs_an_exported_plan():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4)).eval()
    inputs = (torch.randn(3, 6),)
    source = axisplit.plan(model, inputs, ranks=2).to_parallelize_plan()
    found: dict[str, Any] = {}
    exec(source, found)
    assert sorted(found["parallelize_plan"]) == ["0", "2"]
    judged = axisplit.audit(model, inputs, 2, found["parallelize_plan"])
    assert judged.right, str(judged)
    assert judged.comm_bytes_per_rank == 3 * 4 * 4


class Shared(nn.Module):
    """A split pair, and between its halves what every rank holds whole: a slope, or an activation `gate`."""

    def __init__(self, shares: str) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)
        if shares == "activation":
            self.gate = nn.Linear(16, 1)
        self.slope, self.shares = nn.Parameter(torch.tensor(0.5)), shares

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.shares == "activation":
            return self.down(self.up(x) * self.gate(x))
        y = self.down(torch.relu(self.slope.exp() * self.up(x)))
        return y * self.slope if self.shares == "slope, twice" else y


IN_TRAINING = {
    "slope": ("0.slope: whole, and used on each rank's own part: no style sums its gradient over ranks", None),
    "slope, twice": ("0.slope: whole, and used on each", "0.slope: used on each rank's own part and otherwise"),
    "activation": ("0: reads what is whole on its own part", "0: reads what is whole on its own part"),
}


@pytest.mark.parametrize("shares", IN_TRAINING)
def test_what_would_be_wrong_in_training_only(shares):
    torch.manual_seed(0)
    plan = axisplit.plan(nn.Sequential(Shared(shares)), (torch.randn(3, 16),), ranks=2)
    of_torch, of_transformers = IN_TRAINING[shares]
    with pytest.raises(LayoutError) as refused:
        plan.to_parallelize_plan()
    assert f"in training: {of_torch}" in str(refused.value)
    assert "training=False" in str(refused.value)
    assert "# for inference" in plan.to_parallelize_plan(training=False)
    if of_transformers is None:
        assert plan.to_hf_tp_plan() == {"0": SUMMED, "0.up": "colwise", "0.down": "rowwise"}
    else:
        with pytest.raises(LayoutError, match=f"in training: {of_transformers}"):
            plan.to_hf_tp_plan()
    assert plan.to_hf_tp_plan(training=False) == {"0.up": "colwise", "0.down": "rowwise"}


@pytest.mark.slow
def test_a_plan_for_inference_is_right_but_in_training():
    torch.manual_seed(0)
    model, inputs = Shared("slope"), (torch.randn(3, 16),)
    found: dict[str, Any] = {}
    exec(axisplit.plan(model, inputs, ranks=2).to_parallelize_plan(training=False), found)
    judged = axisplit.audit(model, inputs, 2, found["parallelize_plan"], optimum=False)
    assert judged.forward is True
    assert [wrong.parameter for wrong in judged.wrong_gradients] == ["slope"]


def test_an_older_plan_says_nothing_of_gradients():
    plan = axisplit.plan(Shared("slope"), (torch.randn(3, 16),), ranks=2)
    with pytest.raises(LayoutError, match="in training: gradients: the plan is from before"):
        replace(plan, reads=None).to_hf_tp_plan()


def test_everything_that_cannot_be_said_is_named():
    model, inputs = build("gpt2")
    with pytest.raises(LayoutError) as refused:
        axisplit.plan(model, inputs, ranks=2).to_hf_tp_plan()
    text = str(refused.value)
    for problem in (
        "transformer.h.*.attn.c_attn.weight: dim 1 as 0:32,64:96,128:160 | 32:64,96:128,160:192: only one equal part",
        "transformer.h.*.attn.split_size must be 32/32 on the ranks, not 64",
        "transformer.h.*.attn.c_proj.bias: only rank 0 adds it",
    ):
        assert problem in text


def test_uneven_parts_are_refused():
    model = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 4))
    with pytest.raises(LayoutError, match=r"0\.weight: dim 0 as 0:5 \| 5:9|0\.weight: dim 0 as 0:4 \| 4:9"):
        axisplit.plan(model, (torch.randn(3, 6),), ranks=2).to_parallelize_plan()
