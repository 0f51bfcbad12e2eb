"""Plans by hand that are right, and the same ones with one mistake: the audit names the place of the mistake."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

import axisplit
from axisplit.auditing.states import classify
from axisplit.errors import InputError
from benchmarks.zoo import build

pytestmark = pytest.mark.slow


class Block(nn.Module):
    """A slope that all channels share, between a column-wise and a row-wise matrix; a norm inside on request."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.slope = nn.PReLU()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.up(x)
        if self.norm:
            hidden = hidden / hidden.norm(dim=-1, keepdim=True)
        return self.down(self.slope(hidden))


class Net(nn.Module):
    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(5, 8), Block(norm), nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.embed(x)))


def net(norm: bool = False) -> tuple[Net, tuple[torch.Tensor]]:
    torch.manual_seed(0)
    return Net(norm), (torch.randn(3, 5),)


PAIR = {"block.up": ColwiseParallel(), "block.down": RowwiseParallel()}


def test_a_parameter_shared_by_the_parts_lacks_a_sum_and_nothing_else_is_wrong():
    model, inputs = net()
    found = axisplit.audit(model, inputs, 2, PAIR)
    assert found.forward is True
    assert found.gradients is False
    assert [(g.parameter, g.state, g.planned) for g in found.wrong_gradients] == [
        ("block.slope.weight", "partial", "sum")
    ]
    assert not found.right
    assert "must be summed over ranks; axisplit's plan sums it" in " ".join(str(found).split())
    # one all-reduce of [3, 8] float32 over 2 ranks: 2 * (1 / 2) * 96 bytes
    assert found.forward_bytes == {"all_reduce": 96}


def test_a_right_plan_is_right():
    model, inputs = net()
    model.block.slope = nn.ReLU()
    found = axisplit.audit(model, inputs, 2, {**PAIR, "absent.*": ColwiseParallel()})
    assert found.right, str(found)
    assert found.unused == ("absent.*",)
    assert found.optimum is not None
    assert found.comm_bytes_per_rank == 96
    sizes = {"block.up": 12 * 8 + 12, "block.down": 12 * 8}
    assert found.split_fraction == sum(sizes.values()) / sum(p.numel() for p in model.parameters())


def test_the_code_that_mixes_a_split_dim_is_named():
    model, inputs = net(norm=True)
    found = axisplit.audit(model, inputs, 2, PAIR, optimum=False)
    assert found.forward is False
    assert found.first_wrong is not None
    assert (found.first_wrong.module, found.first_wrong.before) == ("block", "block.slope")
    assert found.first_wrong.after == (("block.up", "part"),)
    assert found.gradients is None


def test_an_output_that_is_only_a_part_is_wrong():
    model, inputs = net()
    found = axisplit.audit(model, inputs, 2, {"head": ColwiseParallel()}, optimum=False)
    assert dict(found.outputs) == {"0": "part"}
    assert found.first_wrong is not None
    assert found.first_wrong.after[-1] == ("head", "part")


def test_a_crash_is_told_with_its_module():
    model, inputs = net()
    found = axisplit.audit(model, inputs, 2, {"block.up": ColwiseParallel()}, optimum=False)
    assert found.crash is not None
    assert (found.crash.step, found.crash.module) == ("forward", "block.down")
    assert not found.right


def test_what_cannot_be_judged_is_an_error():
    model, inputs = net()
    with pytest.raises(InputError, match="there is no plan to audit"):
        axisplit.audit(model, inputs, 2)
    with pytest.raises(InputError, match="neither of transformers nor of torch"):
        axisplit.audit(model, inputs, 2, {"block.up": ColwiseParallel(), "block.down": "rowwise"})
    with pytest.raises(InputError, match="no_such_style"):
        axisplit.audit(model, inputs, 2, {"block.up": "no_such_style"})


def states(rank: int, world_size: int) -> dict[str, str]:
    whole = torch.arange(12, dtype=torch.float64).reshape(3, 4) + 1
    half = whole[:, [0, 2]] if rank == 0 else whole[:, [1, 3]]
    once = whole if rank == 0 else torch.zeros_like(whole)
    mine = {
        "whole": whole, "part": half, "partial": once, "repeated": 2 * whole, "reordered": whole.flip(0),
        "wrong": whole + 1, "wrong on one": whole + rank, "made up": half + 1,
    }  # fmt: skip
    return classify(mine, dict.fromkeys([*mine, "absent"], whole))


def test_states_are_told_apart(two_ranks):
    found = two_ranks.run(states)
    wrong = {"wrong on one": "wrong", "made up": "wrong"}
    assert found[0] == found[1] == {name: wrong.get(name, name) for name in found[0]}


NORMS = ["model.layers.*.self_attn.q_norm.weight", "model.layers.*.self_attn.k_norm.weight"]


@pytest.mark.parametrize(
    ("name", "module", "parameters", "accumulated"),
    [
        ("llama", None, [], []),
        ("gemma3n_text", "model.layers.0.mlp", [], []),
        ("apertus", None, ["model.layers.*.mlp.act_fn.alpha_p", "model.layers.*.mlp.act_fn.alpha_n"], NORMS),
        ("qwen3", None, [], NORMS),
    ],
)
def test_plans_that_transformers_carries(name, module, parameters, accumulated):
    """gemma3n's activation takes the mean over a split dim; the slopes of apertus are used by every rank's own part;
    the style of q and k norms sums what has been accumulated, not what one backward adds to it.
    """
    model, inputs = build(name)
    found = axisplit.audit(model, inputs, 2, optimum=False)
    assert (found.first_wrong and found.first_wrong.module) == module, str(found)
    assert [wrong.parameter for wrong in found.wrong_gradients] == parameters
    assert all(wrong.state == "partial" for wrong in found.wrong_gradients)
    assert list(found.wrong_accumulated) == accumulated
    assert found.right == (name == "llama")
