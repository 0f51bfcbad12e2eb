"""What no gradient notices is compared where backward delivers it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu

import axisplit
from axisplit.proof.gradients import measure_gradients
from axisplit.runtime.simulate import SimulatedGroup
from axisplit.runtime.sites import BACKWARD
from models_zoo.tiny import perturb


class Faint(nn.Module):
    """What the split branch adds to the norm's gradient is lost in its rounding, but in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(48, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return y + 1e-6 * self.down(gelu(self.up(y)))


class Padded(nn.Module):
    """The row of a padding token has no gradient. With a residual its rows have a cotangent on another way, too."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.embed, self.up, self.down = nn.Embedding(64, 18, padding_idx=0), nn.Linear(18, 48), nn.Linear(48, 18)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        y = self.embed(ids)
        made = self.down(gelu(self.up(y)))
        return y + made if self.residual else made


@pytest.fixture(scope="module", params=["all_reduce", "reduce_scatter"])
def unnoticed(request):
    torch.manual_seed(0)
    beside = request.param == "all_reduce"
    model, inputs = perturb(Padded(residual=beside)), (torch.zeros(2, 5, dtype=torch.long),)
    keep = ["embed.weight"] if beside else []
    return request.param, model, inputs, axisplit.plan(model, inputs, ranks=3, keep=keep)


def test_what_no_gradient_notices(unnoticed):
    kind, model, inputs, plan = unnoticed
    found = measure_gradients(model, inputs, plan)
    (delivery,) = found.deliveries
    assert delivery.collective.startswith(f"{kind} at ")
    assert found.control_errors[delivery.collective] <= 10 * found.bound
    assert found.equal
    assert found.control_caught
    assert 0 < delivery.max_error <= delivery.bound < 1e-2 * delivery.missing
    assert 0 < delivery.exact_error < 1e-13


def test_a_wrong_cotangent_that_no_gradient_notices(unnoticed, monkeypatch):
    kind, model, inputs, plan = unnoticed
    method = {"all_reduce": "all_reduce_sum", "reduce_scatter": "all_to_all"}[kind]
    right = getattr(SimulatedGroup, method)

    def wrong(self, x, *args):
        result = right(self, x, *args)
        if not any(isinstance(arg, str) and arg.endswith(BACKWARD) for arg in args):
            return result
        return result * 1.01 if isinstance(result, torch.Tensor) else [part * 1.01 for part in result]

    monkeypatch.setattr(SimulatedGroup, method, wrong)
    found = measure_gradients(model, inputs, plan)
    (delivery,) = found.deliveries
    assert found.max_error <= found.bound  # of gradients
    assert not found.equal
    assert delivery.max_error > 10 * delivery.bound
    assert delivery.exact_error > 1e-3


def test_what_gradients_notice_in_float64_only():
    model, inputs = perturb(Faint()), (torch.randn(1, 1, 16),)  # so little that it enters behind the norm
    found = measure_gradients(model, inputs, axisplit.plan(model, inputs, ranks=2))
    ((name, error),) = found.exact_controls.items()
    assert "enter@backward" in name
    assert found.control_errors[name] <= 10 * found.bound
    assert 1e-9 < error < 1e-4
    assert found.deliveries == ()
    assert found.control_caught


def test_the_gradient_of_a_norm_has_a_bound():
    model, inputs = perturb(Faint()), (torch.randn(2, 5, 16),)
    found = measure_gradients(model, inputs, axisplit.plan(model, inputs, ranks=2))
    assert found.equal  # nothing rounds behind the norm but the sums over its rows
    assert found.max_error > 0


class Shifted(nn.Module):
    """Attention whose keys are all shifted alike, which no softmax sees: the shift's gradient cancels."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16, bias=False) for _ in range(4))
        self.shift, self.heads = nn.Parameter(torch.ones(4)), 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (one(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for one in (self.q, self.k, self.v))
        y = (q @ (k + self.shift).mT).softmax(-1) @ v
        return self.o(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("length", "caught"), [(5, True), (1, False)])
def test_a_gradient_that_cancels_needs_no_sum(length, caught):
    """Over one key its terms are not there at all, and nothing is known of it."""
    torch.manual_seed(0)
    model, inputs = perturb(Shifted()), (torch.randn(2, length, 16),)
    verdict = axisplit.verify(model, inputs, axisplit.plan(model, inputs, ranks=2), gradients=True)
    name = "all_reduce at shift:gradient"
    assert name in verdict.gradients.control_errors
    assert verdict.gradients.vanishing == ((name,) if caught else ())
    assert (name in verdict.gradients.unnoticed) is not caught
    assert ("each is noticed or not needed" in str(verdict)) is caught
    assert (f"no gradient notices {name}: it sums what is zero but for rounding" in str(verdict)) is caught
