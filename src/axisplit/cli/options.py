"""Options that several commands share, and how their texts become values."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from axisplit.errors import InputError

_UNITS: dict[str, float] = {"": 1.0, "B": 1.0} | {
    f"{letter}{middle}B": float(base**power)
    for power, letter in enumerate("KMGT", 1)
    for middle, base in (("", 1000), ("I", 1024))
}


def parse_bytes(text: str) -> float:
    """A size in bytes.

    Raises: InputError.
    >>> parse_bytes("24GiB") == 24 * 2**30, parse_bytes("1.5 kB"), parse_bytes("4096")
    (True, 1500.0, 4096.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None or float(found[1]) == 0:
        raise InputError(
            "this is not a size",
            where="--memory-per-rank",
            got=text,
            needed="a number and a unit",
            do="write 24GiB or 500MB",
        )
    return float(found[1]) * unit


def parse_shapes(texts: list[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by name. Raises: InputError.

    >>> parse_shapes(["X=2x4", "b=4"])
    {'X': (2, 4), 'b': (4,)}
    """
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        read = re.fullmatch(r"\s*([^\W\d]\w*)\s*=\s*(\d+(?:\s*[x×,]\s*\d+)*)\s*", text)
        sizes = tuple(map(int, re.split(r"[x×,]", read[2]))) if read else ()
        if read is None or 0 in sizes or read[1] in found:
            raise InputError(
                "this is not a shape" if read is None or 0 in sizes else "the tensor has two shapes",
                where="--shape",
                got=text,
                needed="a name and sizes of 1 or more, once for each tensor",
                do="write --shape X=2x4 W1=4x16",
            )
        found[read[1]] = sizes
    return found


def check_ranks(ranks: int) -> int:
    """The number of ranks. Raises: InputError below 1."""
    if ranks < 1:
        raise InputError(
            "the number of ranks must be at least 1",
            where="--ranks",
            got=str(ranks),
            needed="1, 2, 3, ...",
            do="--ranks 2",
        )
    return ranks


_HELP = (
    "A model directory, a config.json (planning only), a .gguf file, package.module:factory, a downloaded hub id, or a "
    "name that an installed package carries: smollm2, minilm."
)
Model = Annotated[str, typer.Argument(metavar="MODEL", help=_HELP)]
Ranks = Annotated[int, typer.Option("--ranks", metavar="N", help="How many ranks.", callback=check_ranks)]
Batch = Annotated[
    int | None, typer.Option("--batch", metavar="B", min=1, help="Rows of the example inputs; 1, or the saved plan's.")
]
Seq = Annotated[
    int | None, typer.Option("--seq", metavar="S", min=1, help="Tokens in a row of them; 32, or the saved plan's.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object; progress goes to stderr.")]
PlanFile = Annotated[str | None, typer.Option("--plan", metavar="FILE", help="A plan that was saved with --out.")]
Prompt = Annotated[str, typer.Option("--prompt", metavar="TEXT", help="What to answer.")]
NewTokens = Annotated[int, typer.Option("--max-new-tokens", metavar="K", min=1, help="At most so many tokens.")]
