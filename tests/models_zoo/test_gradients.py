"""Training on parts: every parameter's gradient is its shard of the whole model's, for every model of the zoo.

Without `axisplit.verify`: a random cotangent for every output, in float64, in training mode with dropout at 0.
By default each model runs at one number of ranks, in rotation; `--full` runs the whole product.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import axisplit
from axisplit import Plan
from axisplit.lower.apply import take_shard
from axisplit.proof.numbers import Widened
from models_zoo.equality import TOLERANCE, on_ranks
from models_zoo.tiny import ZOO
from models_zoo.training import backward, trainable

PLANNED, FRESH = (2, 12), (3, 9)
PRODUCT = [(name, ranks) for name in ZOO for ranks in (2, 3, 4)]
ROTATION = [(n, r) for i, (n, r) in enumerate(PRODUCT) if (i // 3 + 1) % 3 == i % 3]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = PRODUCT if metafunc.config.getoption("--full") else ROTATION
    if metafunc.function is test_gradients:
        metafunc.parametrize(("name", "ranks"), chosen, ids=lambda x: str(x))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}


def worst(plan: Plan, whole: dict[str, Tensor], parts: list[dict[str, Tensor]]) -> tuple[float, str]:
    """Largest error over the gradient's size; over a part of the largest where it is 0 but for rounding."""
    shards = {p.name: p for p in plan.parameters}
    least = 1e-4 * max(float(g.abs().max()) for g in whole.values())
    found = (0.0, "")
    for rank, part in enumerate(parts):
        for name, gradient in whole.items():
            wanted = take_shard(shards[name], gradient, rank)
            assert part[name].shape == wanted.shape, name
            error = float((part[name] - wanted).abs().max()) if wanted.numel() else 0.0
            found = max(found, (error / max(float(gradient.abs().max()), least), f"{name} on rank {rank}"))
    return found


def train(model: nn.Module, name: str, *sizes: tuple[int, int]) -> dict[str, Tensor]:
    backward(model, name, *sizes)
    return gradients(model)


def test_gradients(name: str, ranks: int) -> None:
    model = trainable(name)
    plan = axisplit.plan(model, ZOO[name].inputs(*PLANNED), ranks=ranks)
    model = model.double()
    assert not plan.no_backward
    with Widened():
        whole = train(copy.deepcopy(model), name, FRESH)
    parts = [part for part, _ in on_ranks(plan, model, lambda part: train(part, name, FRESH), Widened)]
    error, where = worst(plan, whole, parts)
    moved = sum(c.bytes for c in plan.collectives if c.phase == "backward")
    print(f"| {name} | {ranks} | {error:.0e} | {moved:,.0f} against {plan.comm_bytes_per_rank:,.0f} forward |")
    assert error <= TOLERANCE, where


@pytest.mark.parametrize(("name", "ranks"), [("opt", 3), ("gpt2", 2)])  # without casts: recomputing drops modes
def test_accumulated_and_recomputed(name: str, ranks: int) -> None:
    model = trainable(name)
    plan = axisplit.plan(model, ZOO[name].inputs(*PLANNED), ranks=ranks)
    model = model.double()
    with Widened():
        whole = train(copy.deepcopy(model), name, PLANNED, FRESH)

    def recomputed(part: nn.Module) -> dict[str, Tensor]:
        part.activation_checkpointing_enable()
        return train(part, name, PLANNED, FRESH)

    for way in (lambda part: train(part, name, PLANNED, FRESH), recomputed):
        error, where = worst(plan, whole, [part for part, _ in on_ranks(plan, model, way, Widened)])
        assert error <= TOLERANCE, where


@pytest.mark.parametrize("ranks", [2, 4])
def test_training_steps(ranks: int) -> None:
    """Three steps of SGD leave every rank with its shard of the whole model's parameters, of biases held once too."""
    model = trainable("gpt2")
    plan = axisplit.plan(model, ZOO["gpt2"].inputs(*PLANNED), ranks=ranks)
    model = model.double()
    assert {p.gradient for p in plan.parameters} >= {"own", "first"}

    def steps(part: nn.Module) -> dict[str, Tensor]:
        optimizer = torch.optim.SGD(part.parameters(), lr=1e-3, momentum=0.9, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            backward(part, "gpt2", PLANNED)
            optimizer.step()
        return {n: p.detach() for n, p in part.named_parameters()}

    with Widened():
        whole = steps(copy.deepcopy(model))
    error, where = worst(plan, whole, [part for part, _ in on_ranks(plan, model, steps, Widened)])
    assert error <= TOLERANCE, where


def test_a_frozen_parameter_can_be_trained_later() -> None:
    model = trainable("llama")
    plan = axisplit.plan(model, ZOO["llama"].inputs(*PLANNED), ranks=2)
    model = model.double()
    assert any(p.gradient == "sum" for p in plan.parameters)
    with Widened():
        whole = train(copy.deepcopy(model), "llama", PLANNED)
    frozen = copy.deepcopy(model).requires_grad_(False)

    def thaw(part: nn.Module) -> dict[str, Tensor]:
        assert not any(p.requires_grad for p in part.parameters())
        return train(part.requires_grad_(True), "llama", PLANNED)

    error, where = worst(plan, whole, [part for part, _ in on_ranks(plan, frozen, thaw, Widened)])
    assert error <= TOLERANCE, where
