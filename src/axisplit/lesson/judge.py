"""A way, run on simulated ranks: what it moves, how far it is from the whole computation, and what is wrong in it.

Whether a way is right is settled by the rules alone; the numbers show it. A right way whose result is not the whole
computation's in float64 would be a fault of the rules, and raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from axisplit.errors import ProofError
from axisplit.lesson.formula import Name
from axisplit.lesson.setting import Fault, Setting
from axisplit.lesson.ways import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    REDUCE_SCATTER,
    Action,
    Collect,
    Compute,
    Way,
    state_after,
    way_bytes,
)
from axisplit.solve.states import PARTIAL, WHOLE

SLACK = 64  # times float64's rounding, the longest sum, the ops and the largest value: sums in another order


@dataclass(frozen=True)
class Step:
    """What one action did: Python statements as a learner would write them, and what each rank then has."""

    action: Action
    code: tuple[str, ...]
    values: tuple[torch.Tensor, ...]  # of each rank
    name: str  # of the value, without the rank


@dataclass(frozen=True)
class Difference:
    """Two numbers that should be equal, and are not, at one index of one op's result."""

    op: int
    index: tuple[int, ...]
    parts: tuple[float, ...]  # what each rank puts into the op there; empty where ranks put in other parts
    got: float
    needed: float


@dataclass(frozen=True)
class Judged:
    """A way and what came of it. `max_error` is None where the result has another shape or nothing could be run."""

    way: Way
    steps: tuple[Step, ...]
    fault: Fault
    at: int | None  # position in `way` of the first fault
    comm_bytes: float
    max_error: float | None
    difference: Difference | None = None
    result: torch.Tensor | None = None
    why_not_run: str = ""

    @property
    def valid(self) -> bool:
        return not self.fault


def judge(setting: Setting, way: Way, tensors: Mapping[str, torch.Tensor] | None) -> Judged:
    """Run a way on simulated ranks.

    Args:
        tensors: the named tensors, whole; None: nothing is run, and the rules alone say whether it is right.
    Raises: ProofError if a right way's result is not the whole one.
    """
    at = next((position for position, action in enumerate(way) if action.fault), None)
    fault = Fault.none if at is None else way[at].fault
    if not fault and state_after(way[-1]) != WHOLE:
        fault = Fault.unfinished
    moved = way_bytes(setting, way)
    if tensors is None:
        return Judged(way, (), fault, at, moved, None)
    ranks = Ranks(setting, tensors)
    try:
        for action in way:
            ranks.do(action)
    except RuntimeError as error:  # shapes that do not fit: only where something is wrong
        if not fault:
            raise
        return Judged(
            way, tuple(ranks.steps), fault, at, moved, None, ranks.difference, None, str(error).split("\n")[0]
        )
    whole, got = setting.formula.evaluate(tensors), ranks.result
    apart = (got - whole).abs().max().item() if got.shape == whole.shape else None
    if not fault:
        _check_exact(setting, way, tensors)
    return Judged(way, tuple(ranks.steps), fault, at, moved, apart, ranks.difference, got)


def _check_exact(setting: Setting, way: Way, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise unless a right way gives the whole result in float64, on every rank."""
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    ranks, whole = Ranks(setting, wide), setting.formula.evaluate(wide)
    for action in way:
        ranks.do(action)
    largest = max(part.abs().max().item() for step in ranks.steps for part in step.values)
    longest = max(max(shape, default=1) for shape in setting.shapes.values())
    bound = SLACK * torch.finfo(torch.float64).eps * longest * len(setting.formula.ops) * largest
    worst = max((part - whole).abs().max().item() for part in ranks.last.parts)
    if worst > bound:
        raise ProofError(
            "a way that the rules call right gives another result",
            where=setting.formula.text,
            got=f"an error of {worst:.3g} in float64",
            needed=f"at most {bound:.3g}",
            do="report this expression: a rule is wrong",
        )


@dataclass
class Held:
    """What the ranks have of a value, and what it is taken for."""

    parts: list[torch.Tensor]
    state: str


@dataclass
class Ranks:
    """Ranks that are simulated in one process."""

    setting: Setting
    tensors: Mapping[str, torch.Tensor]
    steps: list[Step] = field(default_factory=list)
    difference: Difference | None = None
    made: dict[int, Held] = field(default_factory=dict)

    @property
    def last(self) -> Held:
        return self.made[self.steps[-1].action.op]

    @property
    def result(self) -> torch.Tensor:
        """What rank 0 has in the end."""
        return self.last.parts[0]

    def do(self, action: Action) -> None:
        """Run one action."""
        code = self._collect(action) if isinstance(action, Collect) else self._compute(action)
        values = tuple(self.made[action.op].parts)
        self.steps.append(Step(action, tuple(code), values, self.name(action.op)))

    def name(self, op: int) -> str:
        """What an op's result is called: the result's own name along the chain, others while that waits."""
        slot = self.setting.formula.slots[op]
        return self.setting.formula.result + ("" if slot == 0 else f"_{slot + 1}")

    def _compute(self, step: Compute) -> list[str]:
        op = self.setting.formula.ops[step.op]
        code: list[str] = []
        operands: list[list[torch.Tensor]] = []
        texts: list[list[str]] = []
        for operand, state in zip(op.operands, step.run.inputs, strict=True):
            if isinstance(operand, Name):
                parts, names = self._named(operand.name, state, code)
            else:
                parts, names = self._made(operand.op, state, step.fault, code)
            operands.append(parts)
            texts.append(names)
        each = list(zip(*operands, strict=True))
        for rank, names_of_rank in enumerate(zip(*texts, strict=True)):
            code.append(f"{self.name(step.op)}_GPU{rank} = {op.pattern.format(*names_of_rank)}")
        found = [op.apply(*parts) for parts in each]
        self.made[step.op] = Held(found, step.run.output)
        if step.fault and self.difference is None:
            self.difference = self._differing(step, operands, found)
        return code

    def _named(self, name: str, state: str, code: list[str]) -> tuple[list[torch.Tensor], list[str]]:
        """A named tensor in a state, which each rank can take by itself."""
        whole, ranks = self.tensors[name], range(self.setting.ranks)
        if state == WHOLE:
            return [whole for _ in ranks], [name for _ in ranks]
        names = [f"{name}_{rank}" for rank in ranks]
        if state == PARTIAL:
            code.append(f"{', '.join(names)} = {name}{f', torch.zeros_like({name})' * (len(names) - 1)}")
            return [whole if rank == 0 else torch.zeros_like(whole) for rank in ranks], names
        parts, text = self._cut(name, name, whole, state)
        code.append(f"{', '.join(names)} = {text}")
        return parts, names

    def _made(self, op: int, state: str, fault: Fault, code: list[str]) -> tuple[list[torch.Tensor], list[str]]:
        held, name = self.made[op], self.name(op)
        names = [f"{name}_GPU{rank}" for rank in range(self.setting.ranks)]
        if held.state == state or state[0] != "S" or fault is Fault.missing:
            return held.parts, names
        found = self.setting.ranges(op, state)
        assert found is not None
        dim, ranges = found
        place = ":, " * dim if dim < 3 else "..., "
        code += [f"{n} = {n}[{place}{a}:{b}]" for n, (a, b) in zip(names, ranges, strict=True)]
        return [part.narrow(dim, a, b - a) for part, (a, b) in zip(held.parts, ranges, strict=True)], names

    def _cut(self, value: str | int, name: str, whole: torch.Tensor, state: str) -> tuple[list[torch.Tensor], str]:
        """Parts of a whole tensor, and the expression that makes them."""
        found = self.setting.ranges(value, state)
        assert found is not None
        dim, ranges = found
        sizes = [b - a for a, b in ranges]
        even = len(set(sizes)) == 1
        text = f"{name}.chunk({len(sizes)}, dim={dim})" if even else f"{name}.split({sizes}, dim={dim})"
        return list(torch.split(whole, sizes, dim)), text

    def _collect(self, step: Collect) -> list[str]:
        held, name = self.made[step.op], self.name(step.op)
        names = [f"{name}_GPU{rank}" for rank in range(self.setting.ranks)]
        dim = self._dim_joined(step)
        whole, text = (
            _added(held.parts, names) if step.kind in (ALL_REDUCE, REDUCE_SCATTER) else _joined(held.parts, names, dim)
        )
        if step.fault and self.difference is None:
            self.difference = self._differing(step, [held.parts], [whole])
        if step.kind in (ALL_REDUCE, ALL_GATHER):
            self.made[step.op] = Held([whole for _ in names], step.target)
            return [f"{' = '.join(names)} = {text}"]
        assert step.kind in (REDUCE_SCATTER, ALL_TO_ALL)
        parts, cut = self._cut(step.op, name, whole, step.target)
        self.made[step.op] = Held(parts, step.target)
        return [f"{name} = {text}", f"{', '.join(names)} = {cut}"]

    def _dim_joined(self, step: Collect) -> int:
        """The dim along which parts are put side by side; the last one where there is none."""
        found = self.setting.ranges(step.op, step.source) if step.source[0] == "S" else None
        return len(self.setting.shape(step.op)) - 1 if found is None else found[0]

    def _differing(self, step: Action, operands: list[list[Any]], found: Sequence[torch.Tensor]) -> Difference | None:
        """Where the ranks' results together differ most from the op on what the ranks' operands mean together."""
        whole = self.setting.formula.results(self.tensors)[step.op]
        if isinstance(step, Compute) and step.fault in (Fault.partial, Fault.counted):
            got = sum(found[1:], start=found[0])
        elif isinstance(step, Compute) and step.fault is Fault.parts:
            where = self.setting.ranges(step.op, step.run.output)
            assert where is not None
            got = torch.cat(list(found), where[0])
        else:
            got = found[0]
        if got.shape != whole.shape or not whole.numel():
            return None
        flat = int((got - whole).abs().argmax())
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), whole.shape))
        if got[index] == whole[index]:
            return None
        alone = len(operands) == 1 and operands[0][0].shape == whole.shape
        parts = tuple(float(part[index]) for part in operands[0]) if alone else ()
        return Difference(step.op, index, parts, float(got[index]), float(whole[index]))


def _added(parts: Sequence[torch.Tensor], names: Sequence[str]) -> tuple[torch.Tensor, str]:
    return sum(parts[1:], start=parts[0]), " + ".join(names)


def _joined(parts: Sequence[torch.Tensor], names: Sequence[str], dim: int) -> tuple[torch.Tensor, str]:
    return torch.cat(list(parts), dim), f"torch.cat([{', '.join(names)}], dim={dim})"
