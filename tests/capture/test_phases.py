"""Integers remember their attribute; models with a cache have phases; models that look at values say so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import axisplit
from axisplit.capture.provenance import Attribute, Dim, TracedInt, set_attribute
from axisplit.capture.trace import capture
from models_zoo.small import Attention, Fused
from models_zoo.tiny import ZOO, build, perturb


def traced(graph, op: str) -> list[dict[int, str]]:
    """For each such node: position of an integer -> attributes that it was computed from."""
    return [
        {position: "*".join(sorted(map(str, e.attributes()))) for position, e in node.traced}
        for node in graph.nodes
        if node.op._opname == op
    ]


def test_views_know_their_attributes():
    graph = capture(Attention(), (torch.randn(2, 5, 32),)).graph
    assert traced(graph, "view") == [{0: "", 1: "", 2: "num_heads", 3: "head_dim"}] * 3
    (last,) = traced(graph, "reshape")
    assert last == {0: "", 1: "", 2: "head_dim*num_heads"}
    view = next(node for node in graph.nodes if node.op._opname == "view")
    (source,) = view.inputs()
    assert (dict(view.traced)[0], dict(view.traced)[1]) == (Dim(source, 0), Dim(source, 1))


def test_two_attributes_of_one_value_stay_apart():
    graph = capture(Fused(heads=4, kv_heads=4, width=32), (torch.randn(2, 5, 32),)).graph
    assert [found[2] for found in traced(graph, "view")] == ["num_heads", "kv_heads", "kv_heads"]
    (split,) = traced(graph, "split_with_sizes") or traced(graph, "split")
    assert sorted(split.values()) == ["head_dim*kv_heads", "head_dim*kv_heads", "head_dim*num_heads"]


class Starts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start = 2

    def forward(self, x):
        y = x.clone()
        y[:, 0] = self.start
        return y


def test_what_is_assigned_is_no_index():
    """`select(y, 1, 0)` has two integers, as the assignment has, but neither is what is assigned."""
    assert traced(capture(Starts(), (torch.zeros(2, 5),)).graph, "select") == [{}]


def test_arithmetic_keeps_the_expression():
    heads, width = Attribute("attention", "heads"), Attribute("attention", "width")
    a, b = TracedInt(4, heads), TracedInt(64, width)
    for number, now, then in (
        (b // a, 16, 24), (a * 3, 12, 6), (3 * a, 12, 6), (b - a, 60, 46), (100 - a, 96, 98), (b % (a + 5), 1, 6),
        (-a, -4, -2), (130 // a, 32, 65),
    ):  # fmt: skip
        assert number == now
        assert number.expression.evaluate({heads: 2, width: 48}) == then
    assert type(a * 0.5) is float
    assert type(a * True) is int
    with pytest.raises(ZeroDivisionError):
        (b // a).expression.evaluate({heads: 0, width: 48})


def test_an_attribute_is_set_in_a_copy_of_its_config():
    class Config:
        def __init__(self):
            self.sizes, self.heads = (4, 6), 4

    shared = Config()
    model = nn.Sequential(nn.Identity(), nn.Identity())
    model[0].config = model[1].config = shared
    set_attribute(model, Attribute("0", "config.heads"), 2)
    set_attribute(model, Attribute("0", "config.sizes.1"), 3)
    assert (model[0].config.heads, model[0].config.sizes) == (2, (4, 3))
    assert (shared.heads, shared.sizes) == (4, (4, 6))
    assert model[1].config is shared


@pytest.mark.parametrize(
    ("name", "phases"),
    [
        ("llama", ("prefill", "decode", "prefill masked", "decode masked")),
        ("t5", ("prefill", "decode", "prefill masked", "decode masked")),
        ("mamba", ("prefill", "decode", "prefill masked", "decode masked")),
        ("bert", ("forward",)),
        ("vit", ("forward",)),
    ],
)
def test_models_with_caches_have_phases(name, phases):
    captured = capture(build(name), ZOO[name].inputs(2, 9))
    assert captured.graph.phases == phases
    assert captured.fake
    for phase in phases:
        assert any(path.startswith(f"{phase}:") for path, _ in captured.graph.outputs)


class Routed(nn.Module):
    """Python that looks at values: which rows go where."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x):
        if x.sum() > 0:
            return self.down(self.up(x).relu())
        return x


class Asks(nn.Module):
    """Its `generate` says where the next token is asked for, which nobody else does."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(32, 16), nn.Linear(16, 32)

    def can_generate(self):
        return True

    def prepare_inputs_for_generation(self, input_ids, **given):
        asked = torch.zeros(input_ids.shape[1], 1)
        asked[-1] = 1.0
        return {"input_ids": input_ids, "asked": asked, **given}

    def forward(self, input_ids, asked=None, is_first_iteration=False):
        y = self.table(input_ids)
        return self.head(y if asked is None else asked.tanh() * y)


def test_what_only_generate_passes_is_traced_as_it_passes_it():
    captured = capture(Asks(), {"input_ids": torch.randint(0, 32, (2, 5))})
    assert captured.graph.phases == ("prefill", "prefill generated")
    assert any("asked=float[2]" in call for call in captured.calls)
    assert [n.phase for n in captured.graph.nodes if n.op._opname == "tanh"] == ["prefill generated"]
    given = {"input_ids": torch.randint(0, 32, (2, 5)), "asked": torch.ones(5, 1)}
    assert capture(Asks(), given).graph.phases == ("prefill",)


class Marks(nn.Module):
    """Indices given one by one, which torch's C++ reads."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 24), nn.Linear(24, 8)

    def forward(self, x):
        largest = tuple(x.argmax(-1))
        x = x.clone()
        x[tuple(range(len(largest))), largest] = 0.5
        return self.down(self.up(x).relu())


def test_tensors_that_are_indices_one_by_one_are_read():
    model, x = perturb(Marks()), torch.arange(24.0).reshape(3, 8) % 3
    plan = axisplit.plan(model, (x,), ranks=2)
    assert plan.on_values
    assert axisplit.verify(model, (x,), plan).equal


def test_a_path_that_depends_on_data_is_said_to():
    model = perturb(Routed())
    plan = axisplit.plan(model, (torch.ones(3, 8),), ranks=2)
    assert plan.assumed == ("traced on real values: the path taken depends on data",)
    assert plan.split_fraction > 0.9
    assert "depends on data" in str(plan)
    verdict = axisplit.verify(model, (torch.ones(3, 8),), plan)
    assert verdict.equal
    assert verdict.proof.assumed == plan.assumed
    with torch.device("meta"):
        hollow = Routed()
    with pytest.raises(Exception, match=r"(?i)data|meta|item"):
        capture(hollow, (torch.empty(3, 8, device="meta"),))


class Converts(nn.Module):
    """Converts a layer in its forward, as routers do that want another dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(23, 29), nn.Linear(29, 23)

    def forward(self, x):
        self.up = self.up.to(x.dtype)
        return self.down(self.up(x).relu())


def test_a_module_that_is_converted_in_a_forward():
    """The widths are no other test's: what torch has made once before, it does not refer to."""
    model, x = perturb(Converts()), torch.randn(3, 23)
    plan = axisplit.plan(model, (x,), ranks=2)
    assert plan.split_fraction > 0.9
    assert axisplit.verify(model, (x,), plan).equal
