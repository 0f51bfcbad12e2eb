"""Exported plans, run by the libraries they are exported to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import axisplit
from axisplit.errors import LayoutError
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
