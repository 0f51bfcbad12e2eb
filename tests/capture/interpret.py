"""Run a captured graph op by op: the reference for what the recorder wrote down."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from axisplit.capture.graph import Graph, Node, replace_refs


def interpret(graph: Graph, model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The graph's outputs by name, from the model's parameters and buffers and `inputs` (phase:path -> tensor)."""
    values: dict[int, Any] = {}
    for name, value in graph.parameters.items():
        values[value] = model.get_parameter(name)
    for name, value in graph.buffers.items():
        values[value] = model.get_buffer(name)
    for info in graph.values:
        if info.origin == "input":
            values[info.index] = inputs[info.name]
        elif info.origin == "constant":
            assert info.constant is not None, "a tensor that no op made and nobody gave"
            values[info.index] = torch.tensor(info.constant, dtype=info.dtype).reshape(info.shape)
    with torch.no_grad():
        for node in graph.nodes:
            results = run_node(node, values)
            for value, result in zip(node.outputs, results, strict=False):
                assert tuple(result.shape) == graph.values[value].shape, node.name
                values[value] = result
    return {name: values[value] for name, value in graph.outputs}


def run_node(node: Node, values: dict[int, Any]) -> tuple[Any, ...]:
    """Inputs are not views of each other here: a functional op must not need them to be."""
    given = replace_refs(node.args, lambda v: values[v].clone()), replace_refs(node.kwargs, lambda v: values[v].clone())
    result = node.op(*given[0], **given[1])
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)
