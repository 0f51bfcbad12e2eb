"""Models from elsewhere and written by hand, at sizes that divide by nothing: equal at 2, 3 and 4 ranks, gradients too.

By default each runs at one number of ranks, in rotation; `--full` runs all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import axisplit
from models_zoo import written
from models_zoo.vision import VISION, Made


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.table, self.cells = nn.Embedding(101, 30), kind(30, 50, 2, batch_first=True)
        self.head = nn.Linear(50, 101)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.cells(self.table(ids))[0])


class Recommender(nn.Module):
    """Large tables, a bag, a small network on top."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(1001, 31), nn.Embedding(2003, 31)
        self.tags = nn.EmbeddingBag(503, 31, mode="mean")
        self.top = nn.Sequential(nn.Linear(93, 63), nn.ReLU(), nn.Linear(63, 1))

    def forward(self, user: Tensor, item: Tensor, tags: Tensor) -> Tensor:
        return self.top(torch.cat([self.users(user), self.items(item), self.tags(tags)], -1)).sigmoid()


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sin(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * torch.cos(ctx.saved_tensors[0])


class Physics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 33), nn.Linear(33, 47), nn.Linear(47, 1)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = Sine.apply(layer(x))
        return self.layers[-1](x)


def speech() -> Made:
    layers = [
        nn.Conv1d(1, 33, 10, 5), nn.GroupNorm(3, 33), nn.GELU(), nn.Conv1d(33, 48, 3, 2, groups=3), nn.BatchNorm1d(48),
        nn.ReLU(), nn.Conv1d(48, 65, 3, 2), nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(260, 7),
    ]  # fmt: skip
    return nn.Sequential(*layers).eval(), (torch.randn(2, 1, 400),), 0.95


def x_transformers() -> Made:
    made = pytest.importorskip("x_transformers")
    layers = made.Decoder(dim=60, depth=2, heads=5, attn_dim_head=12, ff_glu=True, attn_kv_heads=1)
    model = made.TransformerWrapper(num_tokens=250, max_seq_len=32, attn_layers=layers)
    return model.eval(), (torch.randint(0, 250, (2, 12)),), 0.95


def unet() -> Made:
    made = pytest.importorskip("diffusers")
    model = made.UNet2DModel(
        sample_size=16, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return model.eval(), {"sample": torch.randn(2, 3, 16, 16), "timestep": torch.tensor([3, 4])}, 0.85


def dit() -> Made:
    made = pytest.importorskip("diffusers")
    model = made.DiTTransformer2DModel(
        num_attention_heads=5, attention_head_dim=16, in_channels=4, num_layers=2, sample_size=8, norm_num_groups=4
    )
    labels = {"timestep": torch.tensor([3, 4]), "class_labels": torch.tensor([1, 2])}
    return model.eval(), {"hidden_states": torch.randn(2, 4, 8, 8), **labels}, 0.95


def graph_attention() -> Made:
    made = pytest.importorskip("torch_geometric.nn")

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = made.GATConv(24, 16, heads=5), made.TransformerConv(80, 10)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x, edges)), edges)

    return Graph().eval(), (torch.randn(10, 24), torch.randint(0, 10, (2, 30))), 0.95


def graph_transformer() -> Made:
    made = pytest.importorskip("torch_geometric.nn")
    layer = made.GPSConv(30, made.GCNConv(30, 30), heads=5)
    graphs = torch.tensor([0] * 4 + [1] * 6)
    return layer.eval(), (torch.randn(10, 30), torch.randint(0, 10, (2, 30)), graphs), 0.9


def lora() -> Made:
    made = pytest.importorskip("peft")
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=250, hidden_size=60, intermediate_size=130, num_hidden_layers=2, num_attention_heads=5,
        num_key_value_heads=5,
    )  # fmt: skip
    model = made.get_peft_model(LlamaForCausalLM(config), made.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return model.eval(), {"input_ids": torch.randint(0, 250, (2, 12))}, 0.95


OUTSIDE: dict[str, Callable[[], Made]] = {
    "lstm": lambda: (Recurrent(nn.LSTM).eval(), (torch.randint(0, 101, (2, 7)),), 0.15),  # the cells run whole
    "gru": lambda: (Recurrent(nn.GRU).eval(), (torch.randint(0, 101, (2, 7)),), 0.15),
    "recommender": lambda: (
        Recommender(), (torch.randint(0, 1001, (5,)), torch.randint(0, 2003, (5,)), torch.randint(0, 503, (5, 4))), 0.8,
    ),
    "custom autograd function": lambda: (Physics(), (torch.randn(9, 2),), 0.9),
    "speech convolutions": speech,
    "compiled": lambda: (
        torch.compile(nn.Sequential(nn.Linear(16, 51), nn.GELU(), nn.Linear(51, 16))), (torch.randn(3, 16),), 0.95,
    ),
    "minimal gpt": lambda: (
        written.MinimalGpt(), (torch.randint(0, 97, (2, 12)), torch.randint(0, 97, (2, 12))), 0.9,
    ),
    "windows": lambda: (nn.Sequential(written.Windows(), written.Windows()), (torch.randn(2, 8, 8, 30),), 0.95),
    "complex rotary": lambda: (written.ComplexRotary(), (torch.randn(2, 9, 72),), 1.0),
    "fourier operator": lambda: (written.FourierOperator(), (torch.randn(2, 16, 2),), 0.95),
    "looped gates": lambda: (written.LoopedGates(), (torch.randn(2, 4, 18),), 0.45),  # a step gathers its state
    "clicks": lambda: (
        written.Clicks(),
        (torch.randn(4, 13), torch.randint(0, 57, (3, 8)), torch.tensor([[0, 2, 4, 6]] * 3)), 0.95,
    ),
    "mapped": lambda: (written.Mapped(), (torch.randn(4, 7, 18),), 0.95),
    "upscaler": lambda: (written.upscaler(), (torch.randn(2, 3, 6, 6),), 0.95),
    "x-transformers": x_transformers,
    "diffusers unet": unet,
    "diffusers dit": dit,
    "torch-geometric": graph_attention,
    "torch-geometric gps": graph_transformer,
    "peft": lora,
    **VISION,
}  # fmt: skip
PRODUCT = [(name, ranks) for name in OUTSIDE for ranks in (2, 3, 4)]
ROTATION = [(name, ranks) for i, (name, ranks) in enumerate(PRODUCT) if (i // 3) % 3 == i % 3]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function is test_equal:
        chosen = PRODUCT if metafunc.config.getoption("--full") else ROTATION
        metafunc.parametrize(("name", "ranks"), chosen, ids=lambda x: str(x))


def test_equal(name: str, ranks: int) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those packages' own
        model, inputs, split = OUTSIDE[name]()
        plan = axisplit.plan(model, inputs, ranks=ranks)
        verdict = axisplit.verify(model, inputs, plan, gradients=True)
    figures = f"{verdict.exact_error:.0e} | {plan.split_fraction:.3f} | {plan.comm_bytes_per_rank:,.0f}"
    print(f"| {name} | {ranks} | {figures} |")
    assert verdict.equal, str(verdict)
    assert not verdict.could_not, str(verdict)
    assert plan.split_fraction >= split
    assert plan.captured_fraction == 0 or name not in ("minimal gpt", "windows", "complex rotary")
