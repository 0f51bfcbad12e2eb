"""Real gloo ranks, by `parallelize` and a plan file: equal within the bound that `verify` makes, same tokens; and the
whole model's parameters after steps of training.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import axisplit
from axisplit.proof.numbers import DRAWS, SAFETY, Perturbed, Widened, difference
from models_zoo import real
from models_zoo.equality import TOLERANCE, run
from models_zoo.tiny import ZOO, build
from models_zoo.training import train_steps, trainable

SIZES = (2, 12)


@pytest.fixture
def plain_attention() -> Iterator[None]:
    """A fused block would hide the reductions that are to be perturbed."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ranks"),
    [("mlp odd", 3), ("self attention", 2), ("conv net", 3), ("llama 9 heads", 2), ("gpt2", 3), ("mixtral", 2)],
)
def test_real_ranks(name, ranks, request, tmp_path, plain_attention):
    pool = request.getfixturevalue({2: "two_ranks", 3: "three_ranks"}[ranks])
    model = build(name)
    plan = axisplit.plan(model, ZOO[name].inputs(*SIZES), ranks=ranks)
    plan.save(tmp_path / "plan.json")
    whole, bound = run(model, ZOO[name], *SIZES), 0.0
    for draw in range(DRAWS):
        with Perturbed(seed=draw):
            bound = max(bound, SAFETY * difference(whole, run(model, ZOO[name], *SIZES)))
    parts = pool.run(real.run_part, name, str(tmp_path / "plan.json"), *SIZES)
    for part in parts:
        assert difference(whole, part) <= bound
        assert all(torch.equal(part[key], whole[key]) for key in whole if key.startswith("token"))
    for key in whole:
        assert all(torch.equal(part[key], parts[0][key]) for part in parts), "ranks agree to the bit"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ranks", "batches", "again", "limit"),
    [
        ("llama 9 heads", 2, [(2, 12)], False, 1.0),
        ("llama", 3, [(2, 12), (3, 9)], False, 1.0),
        ("qwen3", 2, [(2, 12), (3, 9)], False, 0.0),
        ("gpt2", 3, [(2, 12)], True, 1.0),  # without casts: recomputing drops modes
        ("conv net", 3, [(2, 12)], False, 1.0),
    ],
)
def test_training(name, ranks, batches, again, limit, request, tmp_path):
    """Steps of AdamW on uneven parts, in float64: with several backwards a step, with activations computed again, with
    gradients clipped to a limit; in the end rank 0 gathers the whole model's state dict.
    """
    pool = request.getfixturevalue({2: "two_ranks", 3: "three_ranks"}[ranks])
    whole = trainable(name)
    axisplit.plan(whole, ZOO[name].inputs(*SIZES), ranks=ranks).save(tmp_path / "plan.json")
    whole = whole.double()
    started = {key: value.clone() for key, value in whole.state_dict().items()}
    clip = (lambda model: torch.nn.utils.clip_grad_norm_(model.parameters(), limit)) if limit else None
    with Widened():
        norms = train_steps(whole, name, batches, clip)
    parts = pool.run(real.train_part, name, str(tmp_path / "plan.json"), batches, limit, again)
    for found, _ in parts:
        assert found == pytest.approx(norms, rel=TOLERANCE)
        assert found == parts[0][0], "ranks agree to the bit"
    assert all(norm > 2 * limit for norm in norms)
    state = parts[0][1]
    assert [gathered for _, gathered in parts[1:]] == [{}] * (ranks - 1)
    assert list(state) == list(started)
    for key, wanted in whole.state_dict().items():
        assert torch.allclose(state[key], wanted, rtol=0.0, atol=TOLERANCE * float(wanted.abs().max())), key
    assert any((state[key] - started[key]).abs().max() > 1e-3 for key in state if state[key].is_floating_point())
