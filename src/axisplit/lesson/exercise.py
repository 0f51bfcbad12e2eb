"""A learner's solution of the exercise, checked: is it right, what moves between GPUs, and what to think of next.

The solution is a function of the named tensors. Its variables that end in `_GPU0`, `_GPU1` … are on that GPU, as in

    def solution(X, W1, W2):
        W1_0, W1_1 = W1.chunk(2, dim=1)
        y_GPU0 = gelu(X @ W1_0)
        y_GPU1 = gelu(X @ W1_1)
        return torch.cat([y_GPU0, y_GPU1], dim=1) @ W2

Its statements are run one by one, in a namespace that notes on which GPU a value was stored. An op that reads values of
several GPUs is an exchange (an addition is an all-reduce, putting side by side an all-gather), and so is storing on one
GPU what was computed on another. Tensors under other names (the given ones and their pieces) are wherever they are
needed, as weights are loaded where they belong; which pieces of a weight each GPU reads is noted.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from axisplit.errors import InputError
from axisplit.lesson.compare import Comparison, Strategy, judge_steps
from axisplit.runtime.costs import all_gather_bytes, all_reduce_bytes

_ON_GPU = re.compile(r".*_GPU(\d+)$")
_RESULT = "__returned__"
Piece = tuple[str, int, tuple[int, ...]]  # of a weight: its name, where it begins, its shape
_CUTS = {"chunk", "split", "tensor_split", "getitem", "narrow", "unbind"}
_SUMS = {"add", "radd", "iadd", "add_", "sum", "sub", "rsub"}
_JOINS = {"cat", "concat", "concatenate", "hstack", "vstack", "stack", "column_stack", "row_stack"}
TOLERANCE = 1e-5  # as in the exercise: absolute and relative


@dataclass(frozen=True)
class Exchange:
    """What moved between GPUs in one statement."""

    kind: str  # all_reduce, all_gather, or copy
    line: int
    statement: str
    bytes: float  # that the busiest GPU sends


@dataclass(frozen=True)
class Checked:
    """What came of a learner's solution."""

    right: bool
    max_error: float | None  # None where the shape is another
    exchanges: tuple[Exchange, ...]
    kept_whole: tuple[str, ...]  # weights that some GPU reads whole
    hint: str

    @property
    def comm_bytes(self) -> float:
        return sum(exchange.bytes for exchange in self.exchanges)

    @property
    def best(self) -> bool:
        """Whether nothing is left to do."""
        return not self.hint

    def __str__(self) -> str:
        answer = "right" if self.right else "wrong"
        error = "another shape" if self.max_error is None else f"largest error {self.max_error:.1e}"
        moved = [
            f"  line {e.line}: {e.kind.replace('_', '-')}, {e.bytes:g} bytes   {e.statement}" for e in self.exchanges
        ]
        total = f"{len(self.exchanges)} exchanged, {self.comm_bytes:g} bytes from each GPU"
        return "\n".join([f"{answer}: {error}; {total}", *moved, f"  {self.hint or 'this is the best there is'}"])


def check(solution: Callable[..., torch.Tensor], comparison: Comparison) -> Checked:
    """Run a learner's solution and say what it is worth beside the ways of a comparison.

    Args:
        solution: a function of the comparison's named tensors; see this file's header.
        comparison: what `axisplit.compare` found of the same expression, on values.
    Raises: InputError if the solution's source cannot be read, it does not run, or returns no tensor, and if the
        comparison's tensors were too large to be run.
    """
    if comparison.tensors is None or comparison.result is None:
        raise InputError(
            "the comparison's tensors are too large to run a solution on", needed="values", do="compare smaller shapes"
        )
    watch = Watch(comparison)
    got, whole = watch.run(solution), comparison.result
    error = (got - whole).abs().max().item() if got.shape == whole.shape else None
    right = error is not None and torch.allclose(got, whole, rtol=TOLERANCE, atol=TOLERANCE)
    kept = watch.held_whole()
    found = Checked(right, error, tuple(watch.exchanges), kept, "")
    return replace(found, hint=hint(found, got, comparison, bool(watch.gpus)))


class Watch(TorchFunctionMode):
    """Runs a solution and notes on which GPUs each tensor is; one that is on all, or wherever it is needed, on none."""

    def __init__(self, comparison: Comparison) -> None:
        super().__init__()
        self._comparison = comparison
        self._gpus_of: dict[int, frozenset[int]] = {}
        self._pieces_in: dict[int, frozenset[Piece]] = {}  # of weights, that a tensor is or is computed from
        self._held: dict[int, set[Piece]] = defaultdict(set)  # by each GPU
        self._alive: list[torch.Tensor] = []  # so that no id is given to another tensor
        self._statement: tuple[int, str] = (0, "")
        self.exchanges: list[Exchange] = []
        self.gpus: set[int] = set()

    def run(self, solution: Callable[..., torch.Tensor]) -> torch.Tensor:
        """What the solution returns. Raises: InputError."""
        body, parameters = _source(solution)
        given = self._given(parameters)
        place = _Namespace(self, {**solution.__globals__, **inspect.getclosurevars(solution).nonlocals})
        for name, tensor in given.items():
            place[name] = tensor
        for statement in body:
            self._statement = (statement.lineno, ast.unparse(statement))
            try:
                with self:
                    exec(compile(ast.Module([_stored(statement)], []), "<solution>", "exec"), place)
            except Exception as error:
                raise _does_not_run(self._statement, error) from error
            if _RESULT in place:
                break
        found = place.get(_RESULT)
        if not isinstance(found, torch.Tensor):
            raise _returns_nothing(solution, found)
        for gpu in self.gpus:  # what was computed on no GPU in particular is computed on each
            self._held[gpu] |= self._pieces_in.get(id(found), frozenset())
        return found

    def held_whole(self) -> tuple[str, ...]:
        """Weights of which some GPU reads everything."""
        sizes = {name: math.prod(self._comparison.setting.shapes[name]) for name in self._comparison.setting.weights}
        counts = [Counter({p: math.prod(p[2]) for p in held}) for held in self._held.values()]
        read = [{name: sum(n for p, n in count.items() if p[0] == name) for name in sizes} for count in counts]
        return tuple(name for name, size in sizes.items() if any(of[name] >= size for of in read))

    def _given(self, parameters: Sequence[str]) -> dict[str, torch.Tensor]:
        tensors = self._comparison.tensors or {}
        if set(parameters) != set(tensors):
            raise InputError(
                "the solution takes other tensors",
                got=", ".join(parameters) or "none",
                needed=", ".join(tensors),
                do=f"write def solution({', '.join(tensors)}):",
            )
        given = {name: tensors[name].clone() for name in parameters}
        for name in self._comparison.setting.weights:
            self._pieces_in[id(given[name])] = frozenset({(name, 0, tuple(given[name].shape))})
        self._alive += given.values()
        return given

    def stored(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A tensor as it is stored under a name that says on which GPU it is."""
        found = _ON_GPU.match(name)
        if found is None:
            return value
        gpu, before = int(found[1]), self._gpus_of.get(id(value), frozenset())
        if before and gpu not in before:
            self._note("copy", value.nbytes)
        with torch._C.DisableTorchFunction():
            alias = value.view_as(value)
        self._held[gpu] |= self._pieces_in.get(id(value), frozenset())
        self.gpus.add(gpu)
        self._place(alias, frozenset({gpu}))
        return alias

    def _place(self, tensor: torch.Tensor, gpus: frozenset[int]) -> None:
        self._alive.append(tensor)
        self._gpus_of[id(tensor)] = gpus if len(gpus) < self._comparison.setting.ranks else frozenset()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        word = getattr(func, "__name__", "").strip("_")
        sets = {self._gpus_of.get(id(tensor), frozenset()) for tensor in read} - {frozenset()}
        gpus: frozenset[int] = frozenset().union(*sets)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if len(sets) > 1 and made:
            self._exchange(word, read, made[0], any(len(each) > 1 for each in sets))
        pieces: frozenset[Piece] = frozenset().union(*(self._pieces_in.get(id(tensor), frozenset()) for tensor in read))
        if len(gpus) == 1:
            self._held[min(gpus)] |= pieces
            pieces = frozenset()
        for tensor in made:
            self._place(tensor, gpus)
            self._pieces_in[id(tensor)] = _cut(pieces, tensor) if word in _CUTS else pieces
        return result

    def _exchange(self, word: str, read: Sequence[torch.Tensor], made: torch.Tensor, goes_on: bool) -> None:
        ranks = self._comparison.setting.ranks
        if word in _SUMS:
            moved, kind = all_reduce_bytes(made.nbytes, ranks), "all_reduce"
        elif word in _JOINS:
            moved, kind = (
                max(all_gather_bytes([t.nbytes for t in read], rank) for rank in range(len(read))),
                "all_gather",
            )
        else:
            moved, kind = float(max(tensor.nbytes for tensor in read)), "copy"
        if goes_on and self.exchanges and self.exchanges[-1].kind == kind == "all_reduce":
            return  # a + b + c is one sum
        self._note(kind, moved)

    def _note(self, kind: str, moved: float) -> None:
        self.exchanges.append(Exchange(kind, *self._statement, float(moved)))


def _cut(pieces: frozenset[Piece], tensor: torch.Tensor) -> frozenset[Piece]:
    """The pieces of weights that a piece of them is."""
    return frozenset((name, int(tensor.storage_offset()), tuple(tensor.shape)) for name, _, _ in pieces)


class _Namespace(dict[str, Any]):
    """The solution's variables; tensors are stored by way of the watch."""

    def __init__(self, watch: Watch, start: Mapping[str, Any]) -> None:
        super().__init__(start)
        self._watch = watch

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, self._watch.stored(name, value) if isinstance(value, torch.Tensor) else value)


def _source(solution: Callable[..., torch.Tensor]) -> tuple[list[ast.stmt], tuple[str, ...]]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(solution))).body[0]
    except (OSError, TypeError, SyntaxError) as error:
        raise InputError(
            "the solution's source cannot be read", got=str(error), do="write it as a function in a cell or a file"
        ) from error
    if not isinstance(tree, ast.FunctionDef):
        raise InputError("the solution is no function", got=type(tree).__name__, do="write def solution(X, W1, W2):")
    return tree.body, tuple(argument.arg for argument in tree.args.args)


def _stored(statement: ast.stmt) -> ast.stmt:
    """A statement of a function as one of a module: what it returns is stored."""
    if not isinstance(statement, ast.Return):
        return statement
    value = statement.value or ast.Constant(None)
    return ast.fix_missing_locations(ast.copy_location(ast.Assign([ast.Name(_RESULT, ast.Store())], value), statement))


def _does_not_run(statement: tuple[int, str], error: Exception) -> InputError:
    line, text = statement
    return InputError(
        "the solution does not run",
        where=f"line {line}: {text}",
        got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
        do="print the shapes of what the statement reads",
    )


def _returns_nothing(solution: Callable[..., torch.Tensor], found: object) -> InputError:
    return InputError(
        "the solution returns no tensor",
        where=solution.__name__,
        got=type(found).__name__,
        needed="y, equal to the computation on one GPU",
        do="end with return",
    )


def hint(found: Checked, got: torch.Tensor, comparison: Comparison, distributed: bool) -> str:
    """What to think of next; nothing where the solution is as good as the best."""
    best = comparison.best
    if not distributed:
        return "nothing is distributed yet: name what each GPU computes y_GPU0, y_GPU1"
    if not found.right:
        return _why_wrong(got, comparison)
    if found.kept_whole:
        kept = " and ".join(found.kept_whole)
        return f"right, but a GPU reads {kept} whole: weights that fit no single GPU have to be split"
    if best is None or (round(found.comm_bytes, 3), len(found.exchanges)) <= best.cost:
        return ""
    least = f"{best.comm_bytes:g} bytes in {len(best.collectives)}"
    moved = f"{found.comm_bytes:g} bytes in {len(found.exchanges)}"
    return (
        f"right, but {moved} exchanges, where {least} would do: is there a split of the next weight that can use what "
        "each GPU already has?"
    )


def _why_wrong(got: torch.Tensor, comparison: Comparison) -> str:
    """The reason of a known mistake that gives the same numbers; else what to look at."""
    for strategy in (*comparison.strategies, *_unfinished(comparison)):
        result = strategy.judged.result
        same = result is not None and result.shape == got.shape and torch.allclose(got, result, TOLERANCE, TOLERANCE)
        if same and not strategy.valid:
            return strategy.reason
    assert comparison.result is not None
    if got.shape != comparison.result.shape:
        shapes = f"{list(got.shape)} instead of {list(comparison.result.shape)}"
        return f"the shape is {shapes}: are terms of a sum put side by side, or parts added?"
    return "what should each GPU's values add up to, or be a part of? Compare them with print(comparison.trace())"


def _unfinished(comparison: Comparison) -> list[Strategy]:
    """The right ways without their last collective."""
    texts = [
        s.steps[:-1] for s in comparison.strategies if s.valid and s.collectives and s.steps[-1].startswith("all-")
    ]
    return [judge_steps(comparison.setting, " -> ".join(steps), comparison.tensors) for steps in dict.fromkeys(texts)]
