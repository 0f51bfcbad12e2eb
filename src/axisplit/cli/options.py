"""Options that several commands share, and how their texts become values."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from axisplit.errors import InputError


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
ModelOrNone = Annotated[str | None, typer.Argument(metavar="MODEL", help=f"{_HELP} Or --params without a model.")]
Ranks = Annotated[int, typer.Option("--ranks", metavar="N", help="How many ranks.", callback=check_ranks)]
Batch = Annotated[
    int | None, typer.Option("--batch", metavar="B", min=1, help="Rows of the example inputs; 1, or the saved plan's.")
]
Seq = Annotated[
    int | None, typer.Option("--seq", metavar="S", min=1, help="Tokens in a row of them; 32, or the saved plan's.")
]
Rows = Annotated[
    int | None, typer.Option("--batch", metavar="B", min=1, help="Rows over all ranks together; 1 by default.")
]
Tokens = Annotated[
    int | None,
    typer.Option(
        "--seq", metavar="S", min=1, help="Tokens in a row, answers included; 2048, or the model's positions."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object; progress goes to stderr.")]
PlanFile = Annotated[str | None, typer.Option("--plan", metavar="FILE", help="A plan that was saved with --out.")]
Prompt = Annotated[str, typer.Option("--prompt", metavar="TEXT", help="What to answer.")]
NewTokens = Annotated[int, typer.Option("--max-new-tokens", metavar="K", min=1, help="At most so many tokens.")]
