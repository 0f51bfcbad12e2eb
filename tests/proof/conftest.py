"""Plans that are right, for tests to break."""

from __future__ import annotations

import pytest
import torch

import axisplit
from models_zoo.small import Attention, Mlp, Slopes
from models_zoo.tiny import perturb

Good = tuple[torch.nn.Module, tuple[torch.Tensor, ...], axisplit.Plan]


def good(model: torch.nn.Module, width: int) -> Good:
    torch.manual_seed(0)
    inputs = (torch.randn(2, 5, width),)
    return perturb(model).eval(), inputs, axisplit.plan(model, inputs, ranks=2)


@pytest.fixture(scope="session")
def good_mlp() -> Good:
    return good(Mlp(), 16)


@pytest.fixture(scope="session")
def good_attention() -> Good:
    return good(Attention(), 32)


@pytest.fixture(scope="session")
def good_slopes() -> Good:
    return good(Slopes(), 32)
