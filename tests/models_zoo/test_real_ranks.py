"""Real gloo ranks, by `parallelize` and a plan file: equal within the bound that `verify` makes, same tokens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import axisplit
from axisplit.proof.numbers import DRAWS, SAFETY, Perturbed, difference
from models_zoo import real
from models_zoo.equality import run
from models_zoo.tiny import ZOO, build

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
