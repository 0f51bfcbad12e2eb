"""Every model of the zoo: equal to the whole one at 2, 3 and 4 ranks, for an expert's number of collectives.

By default each model runs at one number of ranks, in rotation, and a few at all three; `--full` runs the whole
product, and `--full -rP` prints a row for each.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import axisplit
from models_zoo.equality import TOLERANCE, on_ranks, run, takes_mask, worst_difference
from models_zoo.tiny import VOCAB, WIDTH, ZOO, build

PLANNED, FRESH = (2, 12), (3, 9)
AT_ALL = ("mlp odd", "self attention", "llama", "llama 9 heads", "gpt2")
PRODUCT = [(name, ranks) for name in ZOO for ranks in (2, 3, 4)]
ROTATION = [(n, r) for i, (n, r) in enumerate(PRODUCT) if n in AT_ALL or (i // 3) % 3 == i % 3]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = PRODUCT if metafunc.config.getoption("--full") else ROTATION
    if {"name", "ranks"} <= set(metafunc.fixturenames):
        metafunc.parametrize(("name", "ranks"), chosen, ids=lambda x: str(x))


def test_equal_and_as_an_expert_would(name: str, ranks: int) -> None:
    tiny, model = ZOO[name], build(name)
    inputs = tiny.inputs(*PLANNED)
    plan = axisplit.plan(model, inputs, ranks=ranks)
    error = worst_difference(plan, model, lambda m: run(m, tiny, *FRESH))
    padded = takes_mask(model, tiny)
    if padded:
        error = max(error, worst_difference(plan, model, lambda m: run(m, tiny, *FRESH, padded=True)))

    kinds: Counter[str] = Counter()
    first = [c for c in plan.collectives if c.phase == plan.collectives[0].phase]
    for collective in first:
        kinds[collective.kind] += collective.count
    figures = (
        f"{kinds.total()} of {tiny.expert}, split {plan.split_fraction:.3f}, captured {plan.captured_fraction:.3f}"
    )
    print(f"| {name} | {ranks} | {error:.0e}{' masked too' if padded else ''} | {figures} | {plan.optimal} |")
    assert error <= TOLERANCE
    assert kinds.total() == tiny.expert, kinds
    assert plan.split_fraction >= tiny.split
    assert (plan.captured_fraction > 0) == tiny.captured
    assert not plan.warnings

    def forward(part: torch.nn.Module) -> None:
        with torch.no_grad():
            part(*inputs) if isinstance(inputs, tuple) else part(**inputs)

    assert max(sent for _, sent in on_ranks(plan, model, forward)) == pytest.approx(plan.comm_bytes_per_rank, rel=1e-9)
    if tiny.steps and set(inputs) == {"input_ids"} and model.config.hidden_size == WIDTH:
        batch, length = PLANNED
        share = 4 * batch * length * (ranks - 1) / ranks
        assert plan.comm_bytes_per_rank <= share * (2 * WIDTH * (tiny.expert - 1) + VOCAB)


@pytest.mark.parametrize("name", ["llama 1 kv", "t5", "gpt2"])
def test_beam_search(name: str) -> None:
    tiny, model = ZOO[name], build(name)
    plan = axisplit.plan(model, tiny.inputs(*PLANNED), ranks=2)
    prompt = tiny.inputs(2, 7)["input_ids"]
    settings = {"num_beams": 3, "max_new_tokens": 5, "do_sample": False, "attention_mask": torch.ones_like(prompt)}

    def generate(part: torch.nn.Module) -> torch.Tensor:
        return part.generate(prompt, **settings)

    whole = generate(model)
    for tokens, _ in on_ranks(plan, model, generate):
        assert torch.equal(tokens, whole)
