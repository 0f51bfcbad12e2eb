"""Many names as few: repeated blocks become `*`, siblings are joined, and axes get a word for what they are.

The words (heads, ffn, vocab …) are for reading only, guessed from the names of the parameters that hold the axis; the
plan itself knows axes by parameter and dim.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_WORDS = (
    (re.compile(r"norm|\bln_"), ""),
    (re.compile(r"experts?\b|experts_"), "experts"),
    (re.compile(r"position|wpe\b|pos_emb"), "positions"),
    (re.compile(r"token_type|segment"), "token types"),
    (re.compile(r"embed|wte\b|lm_head|output_projection|\bshared\b|predictions|proj_out"), "vocab"),
    (re.compile(r"attn|attention"), "heads"),
    (re.compile(r"mlp|ffn|feed_?forward|dense_?relu_?dense|intermediate|\bfc\d|\bw[io123]\b|\blin\d"), "ffn"),
    (re.compile(r"mixer|conv|mamba|ssm"), "channels"),
)
_TABLES = {"vocab", "positions", "token types"}


class Blocks:
    """Which numbers in dotted names count repeated blocks, learnt from a model's parameter names.

    A number does if another parameter has the same name but for it, and something is held below it: equal single
    layers in a row (`Sequential(Linear, GELU, Linear)`) are not blocks.

    >>> blocks = Blocks(["h.0.fc.weight", "h.1.fc.weight", "out.weight"])
    >>> blocks.fold("h.1.fc.weight"), blocks.fold_module("h.1"), blocks.fold("out.weight")
    ('h.*.fc.weight', 'h.*', 'out.weight')
    """

    def __init__(self, names: Iterable[str]) -> None:
        alike: dict[tuple[str, int], set[str]] = defaultdict(set)
        for name in names:
            for position, starred in _starred(name):
                alike[starred, position].add(name)
        self._folded: dict[str, str] = {}
        self._containers: set[str] = set()
        positions: dict[str, set[int]] = defaultdict(set)
        for (_, position), members in alike.items():
            if len(members) > 1:
                for name in members:
                    positions[name].add(position)
                    self._containers.add(_container(name.split("."), position))
        for name, stars in positions.items():
            self._folded[name] = ".".join("*" if i in stars else part for i, part in enumerate(name.split(".")))

    def fold(self, parameter: str) -> str:
        return self._folded.get(parameter, parameter)

    def fold_module(self, path: str) -> str:
        parts = path.split(".")
        starred = [
            "*" if part.isdigit() and _container(parts, i) in self._containers else part for i, part in enumerate(parts)
        ]
        return ".".join(starred)


def _starred(name: str) -> Iterable[tuple[int, str]]:
    parts = name.split(".")
    for position, part in enumerate(parts):
        if part.isdigit() and len(parts) > position + 2:
            yield position, ".".join([*parts[:position], "*", *parts[position + 1 :]])


def _container(parts: Sequence[str], position: int) -> str:
    """The path in front of a number, other numbers starred."""
    return ".".join("*" if part.isdigit() else part for part in parts[:position])


def join_siblings(marked: Sequence[tuple[str, str]]) -> list[str]:
    """(name, mark) pairs as few items: those of one module together, their common end and their biases said once.

    >>> join_siblings([("h.*.q_proj.weight", "[0]"), ("h.*.k_proj.weight", "[0]"), ("h.*.o_proj.weight", "[1]")])
    ['h.*.{q,k}_proj [0]', 'o_proj [1]']
    >>> join_siblings([("fc.weight", "[0]"), ("fc.bias", "[0]"), ("2.weight", "[1]")])
    ['fc [0]', '2.weight [1]', 'bias']
    """
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    weights = {name.removesuffix(".weight") for name, _ in marked if name.endswith(".weight")}
    biases: dict[str, int] = defaultdict(int)
    for name, mark in marked:
        layer = name.removesuffix(".bias")
        parent, leaf = _split_leaf(name)
        if layer != name and layer in weights:
            biases[_split_leaf(layer)[0]] += 1
        else:
            groups[parent][mark].append(leaf)
    items = []
    for parent, by_mark in groups.items():
        prefix = f"{parent}." if parent else ""
        for mark, leaves in by_mark.items():
            items.append(f"{prefix}{_braced(list(dict.fromkeys(leaves)))} {mark}".rstrip())
            prefix = ""
        if biases[parent]:
            items.append("bias" if biases[parent] == 1 else "biases")
    return items


def _split_leaf(name: str) -> tuple[str, str]:
    """(the module that holds the layer, the layer and what of it unless its weight)."""
    parts = name.split(".")
    if len(parts) > 1 and parts[-1] == "weight" and not parts[-2].isdigit():
        parts.pop()  # the name of a layer says enough, the number of one does not
    keep = 2 if len(parts) > 1 and (parts[-1] == "bias" or parts[-2].isdigit()) else 1
    return ".".join(parts[:-keep]), ".".join(parts[-keep:])


def _braced(leaves: list[str]) -> str:
    """Names in braces, with a common end behind them.

    >>> _braced(["gate_proj", "up_proj"]), _braced(["fc1", "fc2"]), _braced(["wq"])
    ('{gate,up}_proj', '{fc1,fc2}', 'wq')
    """
    if len(leaves) == 1:
        return leaves[0]
    tail = _common_end(leaves)
    starts = [tail.find(mark) for mark in "_." if mark in tail]
    tail = tail[min(starts) :] if starts else ""
    if any(len(leaf) == len(tail) for leaf in leaves):
        tail = ""
    return "{" + ",".join(leaf[: len(leaf) - len(tail)] for leaf in leaves) + "}" + tail


def _common_end(texts: Sequence[str]) -> str:
    first = texts[0]
    return next(first[i:] for i in range(len(first) + 1) if all(text.endswith(first[i:]) for text in texts))


@dataclass(frozen=True)
class Appearance:
    """An axis in a parameter: which dims it splits, and how long the first of them is."""

    parameter: str
    dims: tuple[int, ...]
    length: int


def axis_word(name: str, size: int, appearances: Sequence[Appearance]) -> str:
    """A word for an axis: what its parameters speak for, where none speaks against it; else its own short name.

    >>> axis_word("mlp.up.weight[0]", 8, [Appearance("mlp.up.weight", (0,), 8), Appearance("mlp.down.weight", (1,), 8)])
    'ffn'
    >>> axis_word("a.weight[1]", 8, [Appearance("a.weight", (1,), 8), Appearance("embed.weight", (1,), 8)])
    'hidden'
    """
    words = {_word(appearance.parameter.lower()) for appearance in appearances} - {""}
    first_dims = all(appearance.dims == (0,) for appearance in appearances)
    if words and words <= _TABLES and not first_dims:
        return "hidden"
    word = words.pop() if len(words) == 1 else ""
    if word == "experts" and not first_dims:
        word = "ffn"
    if word == "heads" and all(appearance.length == size for appearance in appearances):
        word = ""
    return word or _short(name)


def _word(parameter: str) -> str:
    return next((word for pattern, word in _WORDS if pattern.search(parameter)), "")


def _short(name: str) -> str:
    """The last module of an axis's name, and the dim.

    >>> _short("model.layers.*.k_proj.weight[0]")
    'k_proj[0]'
    """
    path, bracket, dim = name.partition("[")
    parts = [part for part in path.split(".") if part != "weight"]
    tail = parts[-2:] if parts[-1:] == ["bias"] else parts[-1:]
    return f"{'.'.join(tail) or path}{bracket}{dim}"
