"""Ops that draw random numbers: each rank would draw its own."""

from __future__ import annotations

import torch

from axisplit.capture.graph import Graph, Node


def draws(node: Node) -> bool:
    """Whether an op draws random numbers here: dropout that is off does not."""
    if torch.Tag.nondeterministic_seeded not in node.op.tags:
        return False
    schema = node.op._schema.arguments
    given = {**{a.name: v for a, v in zip(schema, node.args, strict=False)}, **node.kwargs}
    defaults = {a.name: a.default_value for a in schema if a.has_default_value()}
    switches = [{**defaults, **given}.get(a.name) for a in schema if a.name in ("train", "p", "dropout_p", "dropout")]
    return not switches or all(switches)


def random_op(graph: Graph) -> Node | None:
    """The first op whose draws reach what the model returns; numbers that are drawn and left unused do no harm."""
    reaching = {value for _, value in graph.outputs}
    found = None
    for node in reversed(graph.nodes):
        if reaching.intersection(node.outputs):
            reaching.update(node.inputs())
            found = node if draws(node) else found
    return found


def why_random(graph: Graph) -> str:
    """In words, which op draws; "" if none does."""
    node = random_op(graph)
    return f"{node.name} in {node.module or 'the model'} draws numbers, which differ from rank to rank" if node else ""
