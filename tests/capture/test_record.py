"""What the recorder writes down, run again op by op, gives what the module gives; so do writes through views."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import axisplit
from axisplit.capture.graph import check_graph
from axisplit.capture.record import IDENTITIES
from axisplit.capture.trace import capture
from axisplit.errors import InputError
from capture.interpret import interpret
from models_zoo.small import Attention, Fused, Mlp, Slopes
from models_zoo.tiny import ZOO, build, perturb


class Writes(nn.Module):
    """In-place ops through views of views, on values and on slices; the input itself stays as it is."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        y = self.linear(x)
        getattr(self, self.kind)(y)
        return y.relu(), y.sum(-1)

    def plain(self, y):
        y.add_(1).mul_(2)

    def slice(self, y):
        y[:, 1:3] = y[:, :2] * 2

    def column(self, y):
        y[..., 2] *= 3

    def reshaped(self, y):
        y.view(-1, 2, 3)[:, 1].neg_()

    def transposed(self, y):
        y.transpose(0, 1)[1].fill_(7)

    def permuted(self, y):
        y.permute(2, 0, 1)[4].sub_(y.permute(2, 0, 1)[3])

    def chunked(self, y):
        y.unsqueeze(0)[0][1].clamp_(min=0)

    def read_before_and_after(self, y):
        row = y[0]
        before = row + 1
        y.mul_(2)
        row.add_(before)  # `row` must be seen doubled here
        y[1].copy_(row)

    def read_again_and_again(self, y):
        row = y[0]
        for _ in range(3):
            y.mul_(2)
            y[1].add_(row)

    def alias(self, y):
        y.detach().add_(1)

    def masked(self, y):
        y.masked_fill_(y > 0.2, -1.0)

    def narrowed(self, y):
        y.narrow(-1, 1, 2).mul_(3)

    @torch.no_grad()
    def pieces(self, y):
        y.split([1, 2, 3], -1)[2].neg_()
        y.chunk(2, -1)[1].mul_(2)
        y.unbind(-1)[4].add_(1)
        y.swapaxes(0, 1)[1].fill_(7)

    @torch.no_grad()
    def out(self, y):
        torch.cumsum(y[..., 1:4] * 2, -1, out=y.narrow(-1, 0, 3))

    def bits(self, y):
        kept = y > 0
        kept |= y < -1
        kept &= (y < 2) | kept
        kept ^= y > 1
        shifted = (4 * y).round().int()
        shifted <<= 2
        shifted >>= 1
        y.copy_(shifted * kept)

    def squeezed(self, y):
        y[:, :1].squeeze(1).exp_()

    def looked_at_otherwise(self, y):
        row = y[0]
        y.unsqueeze_(1)
        row.mul_(2)  # a view of what y was
        y.transpose_(0, 2)[1].add_(1)
        y.transpose_(0, 2).squeeze_(1)


KINDS = [name for name in vars(Writes) if name not in ("forward", "__init__") and not name.startswith("__")]


@pytest.mark.parametrize("kind", KINDS)
def test_writes_through_views(kind):
    model = perturb(Writes(kind))
    x = (
        torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
        .reshape(4, 6)[:, None]
        .expand(4, 3, 6)
        .contiguous()
    )
    graph = capture(model, (x,)).graph
    check_graph(graph)
    assert not [node for node in graph.nodes if node.op._schema.is_mutable or node.op._opname in IDENTITIES]
    found = interpret(graph, model, {"forward:0": x})
    first, second = model(x)
    torch.testing.assert_close(found["forward:0"], first)
    torch.testing.assert_close(found["forward:1"], second)


def test_a_module_that_writes_into_a_view_and_returns_it():
    """Its hook asks for the sizes of what it returns, and these for its value, which is made again by then."""
    model = perturb(nn.Sequential(nn.Linear(6, 6), nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(18, 6)))
    x = torch.randn(4, 3, 6)
    graph = capture(model, (x,)).graph
    assert [node.op._opname for node in graph.nodes] == ["linear", "flatten", "relu", "reshape", "flatten", "linear"]
    torch.testing.assert_close(interpret(graph, model, {"forward:0": x})["forward:0"], model(x))


class Fails(nn.Module):
    """Made a view of a parameter by the time that it gives up."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3, 4))

    def forward(self, x):
        x = x * self.gain[1:]
        raise ValueError("no such thing")


def test_a_models_own_error_is_what_is_reported():
    with pytest.raises(InputError, match="ValueError: no such thing"):
        capture(Fails(), (torch.ones(2, 4),))


@pytest.mark.parametrize("kind", [Mlp, Attention, Slopes, Fused])
def test_small_modules(kind):
    model, width = perturb(kind()).eval(), {Mlp: 16, Fused: 48}.get(kind, 32)
    x = torch.randn(2, 5, width)
    graph = capture(model, {"x": x}).graph
    assert graph.phases == ("forward",)
    assert graph.assumed == ()
    torch.testing.assert_close(interpret(graph, model, {"forward:x": x})["forward:0"], model(x))


@pytest.mark.parametrize("name", ["encoder layer", "cross attention", "conv net", "bert", "vit"])
def test_models(name):
    model, inputs = build(name), ZOO[name].inputs(2, 9)
    graph = capture(model, inputs).graph
    named = dict(enumerate(inputs)) if isinstance(inputs, tuple) else inputs
    found = interpret(graph, model, {f"forward:{key}": value for key, value in named.items()})
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            whole = model(*inputs) if isinstance(inputs, tuple) else model(**inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    whole = whole if isinstance(whole, torch.Tensor) else whole.logits
    (logits,) = [v for k, v in found.items() if v.shape == whole.shape and ("logits" in k or len(found) == 1)]
    torch.testing.assert_close(logits, whole)


def test_a_model_is_left_as_it_was():
    model = perturb(Fused()).eval()
    before = {name: (id(p), p.clone()) for name, p in model.named_parameters()}
    attributes = {k: (type(v), v) for k, v in vars(model).items() if not k.startswith("_")}
    capture(model, (torch.randn(2, 5, 48),))
    assert {k: (type(v), v) for k, v in vars(model).items() if not k.startswith("_")} == attributes
    assert all(id(p) == before[n][0] and torch.equal(p, before[n][1]) for n, p in model.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Generates(nn.Module):
    """Issues its ops inside a call of a built-in, which Python does in another instruction once it is warm."""

    def forward(self, x):
        return sum(tuple(x * scale for scale in (1, 2, 3)))


def test_places_do_not_depend_on_how_often_the_python_has_run():
    model, x = Generates(), torch.randn(4)
    before = [node.frames for node in capture(model, (x,)).graph.nodes]
    for _ in range(50):
        model(x)
    assert [node.frames for node in capture(model, (x,)).graph.nodes] == before


def test_parameters_need_no_data():
    with torch.device("meta"):
        model = Attention(4096, 32)
    graph = capture(model, (torch.empty(1, 128, 4096, device="meta"),)).graph
    assert graph.values[graph.parameters["q.weight"]].shape == (4096, 4096)


class Unrepresentable(nn.Module):
    def forward(self, x):
        y = x + 1
        y.unfold(0, 2, 1).mul_(2)
        return y


def test_errors():
    model = Mlp()
    with pytest.raises(axisplit.errors.InputError, match="inputs are not usable"):
        capture(model, 3)
    with pytest.raises(axisplit.errors.InputError):
        axisplit.plan(model, (torch.randn(2, 16),), ranks=0)
    with pytest.raises(axisplit.errors.InputError, match="number of ranks is missing"):
        axisplit.plan(model, (torch.randn(2, 16),))
    with pytest.raises(axisplit.errors.CaptureError, match=r"a write through the view op aten\.unfold"):
        capture(Unrepresentable(), (torch.randn(4),))


class Switches(nn.Module):
    """Sines that carry a gradient, cosines that do not, whichever way it is switched."""

    @torch.no_grad()
    def decorated(self, x):
        return x.cos()

    def forward(self, x):
        with torch.no_grad():
            x = x.cos()
            with torch.enable_grad():
                x = x.sin()
            x = self.decorated(x).cos()
        x = self.decorated(x.sin()).sin()
        with torch.set_grad_enabled(False):
            x = x.cos()
        with torch.inference_mode():
            y = x.cos()
        torch.set_grad_enabled(False)
        x = x.cos() + 0 * y.numel()
        torch.set_grad_enabled(True)
        return x.sin()


def test_where_gradients_are_switched_off():
    nodes = capture(Switches(), (torch.randn(3),)).graph.nodes
    found = [(node.op._opname, node.detached) for node in nodes if node.op._opname in ("sin", "cos")]
    assert found == [(name, name == "cos") for name, _ in found]
    assert len(found) == 11


class Reversible(torch.autograd.Function):
    """Runs its forward without gradients; they are what its backward says."""

    @staticmethod
    def forward(ctx, x):
        with torch.no_grad():
            return x.sin()


def test_in_an_autograd_function_nothing_is_switched_off():
    class Model(nn.Module):
        def forward(self, x):
            return Reversible.apply(x).cos()

    assert [node.detached for node in capture(Model(), (torch.randn(3),)).graph.nodes] == [False, False]
