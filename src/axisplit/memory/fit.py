"""Which way of distributing a model fits: `fit`, and the answer `Fit`.

    contents ─parts→ what each rank holds, dtypes aside ─hold→ bytes ─rows→ one Row for each parallelism and recipe

Counted are parameters, gradients, optimizer states, activations, KV cache, what FSDP gathers, and buffers. Not counted
are what a device's own library takes (1 to 2 GiB), gaps between allocations, communication buffers and the loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from axisplit.errors import InputError
from axisplit.memory.contents import METHODS, Contents, Method, Part, ShapeContents
from axisplit.memory.formulae import INFERENCE, TRAINING, Recipe, Recompute, recipes
from axisplit.memory.shapes import decoder_shape

if TYPE_CHECKING:
    import torch

    from axisplit.capture.trace import Inputs
    from axisplit.solve.plan import Plan

DEFAULT_TOKENS = 2048
LEAST_MEMORY = 1000  # bytes: `80` was meant to be more
MOST_RANKS = 2**16
"""Where the search for the fewest ranks ends."""


@dataclass(frozen=True)
class Holding:
    """What one rank holds, in bytes. `gathered` is whole for a moment only: what FSDP computes with."""

    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    kv_cache_bytes: int
    gathered_bytes: int
    buffer_bytes: int

    @property
    def total_bytes(self) -> int:
        return sum(getattr(self, each.name) for each in fields(self))


def hold(part: Part, recipe: Recipe) -> Holding:
    """A rank's part in a recipe's bytes; frozen parameters have no gradients and no optimizer states."""
    wide = recipe.activation_bytes == 4
    sizes = (
        part.parameters * recipe.parameter_bytes,
        part.trainable * recipe.gradient_bytes,
        part.trainable * recipe.optimizer_bytes,
        part.activations[wide],
        part.caches[wide],
        part.gathered * recipe.parameter_bytes + part.gathered_gradients * recipe.gradient_bytes,
        part.fixed_bytes,
    )
    return Holding(*map(math.ceil, sizes))


@dataclass(frozen=True)
class Row:
    """One parallelism in one recipe. What is not possible has no `fullest`, and `why_not` says why."""

    parallelism: Method
    recipe: Recipe
    by_rank: tuple[Holding, ...]
    """One for each rank, or a single one for all of them where they are alike."""
    memory_bytes: int | None
    fewest_ranks: int | None
    fewest_is_estimate: bool
    why_not: str = ""
    at_best: Holding | None = None
    """Where no number of ranks fits: what the fullest rank holds over as many as the method can use."""

    @property
    def fullest(self) -> Holding | None:
        """What the rank holds that holds most; the first of them."""
        return _fullest(self.by_rank)

    @property
    def over_bytes(self) -> int | None:
        """By how much the fullest rank exceeds its memory; what is free if negative."""
        if self.fullest is None or self.memory_bytes is None:
            return None
        return self.fullest.total_bytes - self.memory_bytes

    @property
    def fits(self) -> bool | None:
        """Whether every rank's share fits; None where no memory was given. What is not offered does not fit."""
        if self.memory_bytes is None:
            return None
        return self.over_bytes is not None and self.over_bytes <= 0

    def to_json(self) -> dict[str, Any]:
        """One entry of `rows` (see `Fit.to_json`)."""
        held = self.fullest
        sizes = {f"{name}_per_rank": None if held is None else size for name, size in asdict(_or_none(held)).items()}
        return {
            "parallelism": self.parallelism,
            "dtype": self.recipe.dtype,
            "recipe": self.recipe.name,
            "offered": held is not None,
            "why_not": self.why_not,
            **sizes,
            "total_bytes_per_rank": None if held is None else held.total_bytes,
            "parameter_bytes_by_rank": [each.parameter_bytes for each in self.by_rank],
            "total_bytes_by_rank": [each.total_bytes for each in self.by_rank],
            "fits": self.fits,
            "over_bytes": self.over_bytes,
            "fewest_ranks": self.fewest_ranks,
            "fewest_ranks_is_estimate": self.fewest_is_estimate,
        }


def _fullest(by_rank: Iterable[Holding]) -> Holding | None:
    return max(by_rank, key=lambda held: held.total_bytes, default=None)


def _or_none(held: Holding | None) -> Holding:
    return held or Holding(0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Saving:
    """What 16 bit saves over 32 bit on one device: of the parameters alone, or of all states in training."""

    what: str
    from_bytes_each: int
    to_bytes_each: int
    parameters: int

    @property
    def saved_bytes(self) -> int:
        return (self.from_bytes_each - self.to_bytes_each) * self.parameters


@dataclass(frozen=True)
class Fit:
    """What each rank holds of a model by parallelism and dtype, and which of it fits."""

    model: str
    parameters: int
    trainable: int
    ranks: int
    memory_bytes: int | None
    training: bool
    recompute: Recompute
    inputs: str
    rows: tuple[Row, ...]
    helping: tuple[Method, ...]
    """Under which a rank holds fewer parameters than there are, what it gathers included."""
    notes: tuple[tuple[str, str], ...]

    def row(self, parallelism: Method, dtype: str, recipe: str | None = None) -> Row:
        """The first row of a parallelism and dtype, or that of one recipe. Raises: KeyError if there is none."""
        for row in self.rows:
            if (row.parallelism, row.recipe.dtype) == (parallelism, dtype) and recipe in (None, row.recipe.name):
                return row
        raise KeyError(f"no row {parallelism} {dtype} {recipe or ''}")

    @property
    def savings(self) -> tuple[Saving, ...]:
        """Of 16 bit over 32 bit: parameters, and states in training with mixed precision and in pure 16 bit."""
        full, mixed, pure = TRAINING[0].state_bytes, TRAINING[1].state_bytes, TRAINING[3].state_bytes
        return (
            Saving("parameters", INFERENCE[0].parameter_bytes, INFERENCE[1].parameter_bytes, self.parameters),
            Saving("training, mixed precision", full, mixed, self.trainable),
            Saving("training, pure 16 bit", full, pure, self.trainable),
        )

    @property
    def answer(self) -> tuple[str, ...]:
        """The answer in sentences."""
        from axisplit.report.fit import answer

        return answer(self)

    def to_json(self) -> dict[str, Any]:
        """The fields of `axisplit fit --json`.

        `model`, `parameters` (how many), `ranks`, `memory_bytes` (null if none was given), `training`, `recompute`,
        `inputs`;
        `rows`: for each `parallelism` (data, pipeline, tensor, fsdp) and `dtype` with its `recipe` what the fullest
        rank holds as `parameter_bytes_per_rank`, `gradient_…`, `optimizer_…`, `activation_…`, `kv_cache_…`,
        `gathered_…`, `buffer_…`, `total_bytes_per_rank` (null where it is not `offered`, for the reason `why_not`),
        `parameter_bytes_by_rank` and `total_bytes_by_rank` (a single number where all are alike), `fits`, `over_bytes`
        (negative: free), the `fewest_ranks` that fit (null: none) and `fewest_ranks_is_estimate` (tensor parallelism
        that was not planned over so many);
        `helps_if_parameters_do_not_fit` by parallelism; `saved_by_16_bit` (`what`, `bytes`, `gib`); `answer`;
        `notes` (`about`, `text`).
        """
        return {
            "model": self.model,
            "parameters": self.parameters,
            "ranks": self.ranks,
            "memory_bytes": self.memory_bytes,
            "training": self.training,
            "recompute": self.recompute,
            "inputs": self.inputs,
            "rows": [row.to_json() for row in self.rows],
            "helps_if_parameters_do_not_fit": {method: method in self.helping for method in METHODS},
            "saved_by_16_bit": [
                {"what": s.what, "bytes": s.saved_bytes, "gib": s.saved_bytes / 2**30} for s in self.savings
            ],
            "answer": " ".join(self.answer),
            "notes": [{"about": about, "text": text} for about, text in self.notes],
        }

    def __str__(self) -> str:
        from axisplit.report.fit import render_fit

        return render_fit(self)


def fit(
    model: torch.nn.Module | None = None,
    inputs: Inputs | None = None,
    *,
    params: float | None = None,
    ranks: int,
    memory: float | None = None,
    training: bool = False,
    recompute: Recompute = "none",
    batch: int | None = None,
    seq: int | None = None,
    layers: int | None = None,
    hidden: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    plan: Plan | None = None,
    name: str = "",
) -> Fit:
    """What each rank holds under data, pipeline, tensor and fully sharded data parallelism, and whether it fits.

    Args:
        model, inputs: a real model (it may be on the meta device) and what it is called with: its parameters,
            axisplit's own plan, and activations and caches of a traced forward. The inputs' rows are the batch of all
            ranks together.
        params: a number of parameters instead: a decoder by the field's formulae, without torch.
        memory: bytes of one rank; without it nothing is said to fit or not.
        training: count gradients, Adam's states and what backward needs, instead of a KV cache.
        recompute: in training, what backward computes again instead of keeping: attention's scores (with `params`; a
            model's attention is measured as it runs), or whole blocks ("full").
        batch, seq: with `params`, rows over all ranks (1) and tokens in a row (2,048).
        layers, hidden, heads, kv_heads: with `params`, the decoder's shape; else that of the nearest published model.
        plan: axisplit's plan for the same model and inputs, if it is there already.
    Raises: InputError if neither or both of model and params are given, or a number is out of range; CaptureError if
        the model does not run without values; PlanMismatchError if the plan is another's.

    >>> print(fit(params=7e9, ranks=1).row("data", "bf16").fullest.parameter_bytes)
    14000000000
    """
    sizes = {"layers": layers, "hidden": hidden, "heads": heads, "kv_heads": kv_heads, "batch": batch, "seq": seq}
    check_request(model, params, ranks, memory, sizes)
    check_recompute(recompute, training, alone=model is None)
    if model is not None and inputs is None:
        raise InputError("a model needs inputs", got="no inputs", needed="what it is called with", do="pass inputs=")
    if model is not None:
        from axisplit.memory.model import measure

        assert inputs is not None
        contents = measure(model, inputs, ranks, training=training, recompute=recompute, plan=plan, name=name)
        return judge(contents, name or type(model).__name__, ranks, memory)
    assert params is not None
    shape = decoder_shape(params, layers, hidden, heads, kv_heads)
    rows, tokens = batch or 1, seq or DEFAULT_TOKENS
    known = ShapeContents(round(params), shape, rows, tokens, training, recompute)
    called = name or f"{params / 1e9:.3g}B parameters"
    return judge(known, called, ranks, memory)


def judge(contents: Contents, model: str, ranks: int, memory: float | None) -> Fit:
    """Every parallelism in every recipe over so many ranks."""
    room = None if memory is None else math.floor(memory)
    rows = tuple(
        _row(contents, method, recipe, ranks, room) for method in METHODS for recipe in recipes(contents.training)
    )
    whole = contents.parts("data", 1)[0]
    return Fit(
        model=model,
        parameters=contents.parameters,
        trainable=int(whole.trainable),
        ranks=ranks,
        memory_bytes=room,
        training=contents.training,
        recompute=contents.recompute,
        inputs=contents.inputs,
        rows=rows,
        helping=tuple(method for method in METHODS if _helps(contents, method, ranks)),
        notes=contents.notes(),
    )


def _helps(contents: Contents, method: Method, ranks: int) -> bool:
    """Whether no rank ever has as many parameters as there are."""
    if contents.why_not(method, ranks):
        return False
    (whole,) = contents.parts("data", 1)
    return all(part.parameters + part.gathered < whole.parameters for part in contents.parts(method, ranks))


def _row(contents: Contents, method: Method, recipe: Recipe, ranks: int, memory: int | None) -> Row:
    why_not = recipe.why_not or contents.why_not(method, ranks)
    if recipe.why_not:
        return Row(method, recipe, (), memory, None, False, why_not)
    fewest = None if memory is None else fewest_ranks(contents, method, recipe, memory)
    bound = fewest is not None and not contents.exact(method, fewest)
    held = () if why_not else tuple(hold(part, recipe) for part in contents.parts(method, ranks))
    most = contents.most_ranks(method) or MOST_RANKS
    never = memory is not None and fewest is None
    at_best = None if not never else _fullest(hold(part, recipe) for part in contents.parts(method, most))
    return Row(method, recipe, held, memory, fewest, bound, why_not, at_best)


def fewest_ranks(contents: Contents, method: Method, recipe: Recipe, memory: int) -> int | None:
    """The smallest number of ranks over which the method fits; None if there is none."""

    def fits(ranks: int) -> bool:
        return all(hold(part, recipe).total_bytes <= memory for part in contents.parts(method, ranks))

    most = contents.most_ranks(method) or MOST_RANKS
    if method == "pipeline":  # stages are uneven, and the first one's activations do not shrink with their number
        return next((ranks for ranks in range(1, most + 1) if fits(ranks)), None)
    if not fits(most):
        return None
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low


def check_request(
    model: object, params: float | None, ranks: int, memory: float | None, sizes: Mapping[str, int | None]
) -> None:
    """Raise InputError unless there is one model or number of parameters, and all numbers are in range. `sizes`: those
    that go with a number of parameters only, for a model and its inputs have their own.
    """
    if (model is None) == (params is None):
        raise InputError(
            "say which model",
            where="fit",
            got="neither a model nor a number of parameters" if model is None else "a model and a number of parameters",
            needed="one of them",
            do="give MODEL, or --params 7e9",
        )
    numbers = {"ranks": ranks, "params": params, "memory": memory, **sizes}
    given = {name: value for name, value in numbers.items() if value is not None}
    least = {"memory": LEAST_MEMORY}
    low = [f"{name}={value}" for name, value in given.items() if not least.get(name, 1) <= value < float("inf")]
    if low:
        raise InputError(
            "these numbers are too small",
            where="fit",
            got=", ".join(low),
            needed="ranks, parameters and sizes of at least 1, and a kilobyte of memory",
            do="correct them; memory is in bytes, or has a unit: 80GiB",
        )
    own = [name for name in sizes if name in given]
    if own and model is not None:
        raise InputError(
            "a model has sizes of its own",
            where="fit",
            got=", ".join(own),
            needed="sizes with a number of parameters only",
            do="leave them out, or give a number of parameters (--params) instead of a model",
        )


def check_recompute(recompute: str, training: bool, *, alone: bool) -> None:
    """Raise InputError for a way to recompute that is none, or that has no meaning here."""
    if recompute not in ("none", "attention", "full"):
        raise InputError(
            "this cannot be recomputed",
            where="recompute",
            got=recompute,
            needed="none, attention or full",
            do="name one of them",
        )
    if recompute != "none" and not training:
        raise InputError(
            "only training recomputes",
            where="recompute",
            got=f"{recompute}, in inference",
            needed="training: inference keeps nothing for a backward",
            do="add --training (training=True), or leave it out",
        )
    if recompute == "attention" and not alone:
        raise InputError(
            "a model's attention is measured as it runs",
            where="recompute",
            got="attention, with a model",
            needed="none or full: a fused attention keeps no scores that could be computed again",
            do="--recompute full, or leave it out",
        )
