"""What is decided once: repeated blocks are, equal layers in a row and blocks in a chain are not."""

from __future__ import annotations

import pytest
from torch import nn

from axisplit.solve.ties import Ties
from solve.small import WIDTH, Blocks, Chain, Mlp, features, search_of, signals


def ties_of(model: nn.Module) -> tuple[Ties, dict[str, int]]:
    search = search_of(model, features(), 2)
    return search.ties, dict(search.derived.graph.parameters)


def test_equal_single_layers_stay_apart() -> None:
    layers = [nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)]
    ties, parameters = ties_of(nn.Sequential(*layers))
    weights = [ties.value[parameters[f"{i}.weight"]] for i in (0, 2, 4)]
    assert weights == ["0.weight", "2.weight", "4.weight"]
    assert len(set(ties.node)) == len(ties.node)


def test_repeated_blocks_share_keys() -> None:
    ties, parameters = ties_of(Blocks(3))
    for name in ("up.weight", "up.bias", "down.weight", "down.bias"):
        assert {ties.value[parameters[f"layers.{i}.{name}"]] for i in range(3)} == {f"layers.*.{name}"}
    assert set(ties.axis_name.values()) == {"layers.*.down.bias[0]", "layers.*.down.weight[1]"}
    assert all(ties.node.count(key) == 3 for key in ties.node)


def test_blocks_that_differ_are_apart() -> None:
    ties, parameters = ties_of(Blocks(2, odd=True))
    assert ties.value[parameters["layers.0.up.weight"]] == ties.value[parameters["layers.1.up.weight"]]
    assert ties.value[parameters["layers.2.0.weight"]] == "layers.2.0.weight"


def test_blocks_of_other_sizes_are_apart() -> None:
    class Uneven(Blocks):
        def __init__(self) -> None:
            super().__init__(2)
            self.layers.extend(Mlp(inner=24) for _ in range(2))

    ties, parameters = ties_of(Uneven())
    keys = [ties.value[parameters[f"layers.{i}.up.weight"]] for i in range(4)]
    assert keys == ["layers.*.up.weight"] * 2 + ["layers.*2.up.weight"] * 2


def test_a_module_called_twice_is_decided_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = Mlp()

        def forward(self, x):
            for _ in range(2):
                x = self.mlp(x)
            return x

    ties, _ = ties_of(Twice())
    assert all(ties.node.count(key) == 2 for key in ties.node)


@pytest.mark.parametrize("depthwise", [False, True])
def test_blocks_in_a_chain_are_decided_one_by_one(depthwise: bool) -> None:
    search = search_of(Chain(4, depthwise), signals(), 2)
    weights = [value for name, value in search.derived.graph.parameters.items() if name.endswith("weight")]
    assert len({search.ties.value[value] for value in weights}) == len(weights) == (8 if depthwise else 4)


def test_a_chain_of_folded_blocks_stays_tied() -> None:
    search = search_of(Chain(8), signals(), 2)
    weights = {search.ties.value[v] for n, v in search.derived.graph.parameters.items() if n.endswith("weight")}
    assert weights == {"layers.*.conv.weight"}
