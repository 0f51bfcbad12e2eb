"""The plan: everything a rank needs to become its part of the model, as plain data that prints, saves and loads.

Invariants (`check_plan`): every rank's ranges lie inside the tensor; ranks together hold every index; places name
steps for all ranks; planned bytes are those of the listed collectives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from axisplit.errors import InputError

if TYPE_CHECKING:
    from axisplit.proof.verify import Verdict

SCHEMA_VERSION = 2
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ParameterPlan:
    """How one parameter or buffer is held. `ranges[rank][dim]` are index ranges; `first`: only rank 0 has the values,
    the others hold zeros (a bias that is added once).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    held: Literal["split", "whole", "first"]
    ranges: tuple[tuple[Ranges, ...], ...] = ()
    axis: str = ""
    reason: str = ""
    kind: Literal["parameter", "buffer"] = "parameter"
    gradient: Literal["own", "sum", "shared", "first"] = "own"
    """What backward leaves on a rank is the gradient of what it holds (own), or to be summed over all ranks (sum) or
    those that hold the same (shared), or counts on rank 0 only (first).
    """

    def local_shape(self, rank: int) -> tuple[int, ...]:
        if self.held != "split":
            return self.shape
        return tuple(sum(b - a for a, b in dim) for dim in self.ranges[rank])

    @property
    def bytes(self) -> int:
        return _bytes(self.shape, self.dtype)

    def local_bytes(self, rank: int) -> int:
        return _bytes(self.local_shape(rank), self.dtype)


@dataclass(frozen=True)
class StepPlan:
    """One op at a place: a collective or a local slice. `dim`, `period` and `ranges` are its layout."""

    name: str
    kind: str
    dim: int | None = None
    period: int = 0
    ranges: tuple[Ranges, ...] = ()
    weights: tuple[float, ...] | None = None
    partial: bool = False  # whether the cotangent of the whole value here is partial (see `runtime.sites`)
    follows: str = ""  # the index of the inputs that the layout is of, "" if none (see `solve.following`)


@dataclass(frozen=True)
class PlacePlan:
    """A point of one module where steps are applied to a value, or a share is taken of a size."""

    module: str
    where: Literal["output", "input", "result", "operand", "lookup", "call", "size"]
    leaf: str
    steps: tuple[StepPlan, ...]
    function: str = ""
    position: tuple[int, int, int, int] | None = None
    operand: int = -1
    reads: str = ""  # the output of the whole model that is made here, and nowhere read inside
    through: tuple[tuple[str, tuple[int, int, int, int]], ...] = ()  # calls on the way to the function (lower.insert)
    argument: tuple[int | str, ...] = ()  # of the call that stands there: its number or keyword, and the item in it
    shares: tuple[tuple[int, int], ...] = ()  # what each rank makes of an integer there: value * n // d of (n, d)


@dataclass(frozen=True)
class CapturedPlan:
    """The program that takes the place of a module's forward, for one way of calling it (see `lower.captured`)."""

    module: str
    training: bool
    arguments: Mapping[str, Any]
    result: Any
    programs: tuple[tuple[Any, ...], ...]  # for each rank: [op, args, kwargs, outputs], ...
    steps: tuple[StepPlan, ...] = ()

    @property
    def signature(self) -> str:
        return json.dumps([self.training, self.arguments], sort_keys=True)


@dataclass(frozen=True)
class EditPlan:
    """An integer attribute of one module, rewritten for each rank."""

    module: str
    attribute: str
    whole: int
    values: tuple[int | None, ...]


@dataclass(frozen=True)
class CollectivePlan:
    """One collective of one phase: `bytes` is what the busiest rank sends for all its calls."""

    kind: str
    where: str
    phase: str
    count: int
    bytes: float


@dataclass(frozen=True)
class AxisPlan:
    """A split that parameters are held in, or an index of the inputs that values are held in between reductions."""

    name: str
    size: int
    split: tuple[str, ...]  # each rank's part, as "start:end"; of an index of the inputs, taken in turns, "start::step"
    parameters: tuple[str, ...]  # none of an index of the inputs


@dataclass(frozen=True)
class CotangentPlan:
    """What backward does with what is whole in forward (classes of ops and values, as in `Plan.choices`): the ops that
    run whole on partial cotangents, and the parameters whose gradients come out partial.
    """

    ops: tuple[str, ...]
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class ReadsPlan:
    """Where ops on parts read what every rank holds whole (`lower.reads`): the modules that read activations so, the
    parameters that are read only so, and those that are read otherwise too.
    """

    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    mixed: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A way to split one model over `ranks` ranks."""

    model: str
    ranks: int
    fingerprint: str
    versions: Mapping[str, str]
    sizes: Mapping[str, Any]
    parameters: tuple[ParameterPlan, ...]
    tied: Mapping[str, str]
    places: tuple[PlacePlan, ...]
    edits: tuple[EditPlan, ...]
    captured: tuple[CapturedPlan, ...]
    tiers: Mapping[str, str]
    collectives: tuple[CollectivePlan, ...]
    axes: tuple[AxisPlan, ...]
    comm_bytes_per_rank: float
    lower_bound_bytes: float
    optimal: bool
    choices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # op -> strategy, stored value -> state
    constraints: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    domain: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()  # the calls whose programs were proved, as texts (see `capture.calls`)
    schema_version: int = SCHEMA_VERSION
    warnings: tuple[str, ...] = field(default=())
    no_backward: str = ""  # why gradients could not be derived; "" where they are
    states: tuple[str, ...] = ()  # attributes in which modules keep state; parts begin without
    cotangents: CotangentPlan | None = None  # None without backward, and in files from before it was kept
    reads: ReadsPlan | None = None  # None in files from before it was kept
    following: tuple[str, ...] = ()  # indices of the inputs of which ranks hold parts (see `solve.following`)
    on_values: bool = False  # traced on the tensors themselves: the path that the Python takes depends on them

    # --- figures --------------------------------------------------------------------------------------------------

    @property
    def total_bytes(self) -> int:
        return sum(p.bytes for p in self.parameters if p.kind == "parameter")

    @property
    def bytes_per_rank(self) -> list[int]:
        own = [p for p in self.parameters if p.kind == "parameter"]
        return [sum(p.local_bytes(rank) for p in own) for rank in range(self.ranks)]

    @property
    def split_fraction(self) -> float:
        """Share of the parameter bytes that no rank holds whole."""
        own = [p for p in self.parameters if p.kind == "parameter"]
        split = sum(p.bytes for p in own if p.held == "split")
        return split / self.total_bytes if self.total_bytes else 0.0

    @property
    def captured_fraction(self) -> float:
        """Share of the parameter bytes in modules that run a captured program."""
        modules = {c.module for c in self.captured}
        own = [p for p in self.parameters if p.kind == "parameter"]
        inside = sum(p.bytes for p in own if any(p.name.startswith(f"{m}.") or not m for m in modules))
        return inside / self.total_bytes if self.total_bytes else 0.0

    def to_json(self) -> dict[str, Any]:
        """The fields of `axisplit plan --json`."""
        own = [p for p in self.parameters if p.kind == "parameter"]
        return {
            "model": self.model,
            "ranks": self.ranks,
            "axes": [
                {"name": a.name, "size": a.size, "split": list(a.split), "parameters": list(a.parameters)}
                for a in self.axes
            ],
            "parameters": {
                "total_bytes": self.total_bytes,
                "bytes_per_rank": self.bytes_per_rank,
                "split_fraction": self.split_fraction,
            },
            "kept_whole": [
                {"parameter": p.name, "bytes": p.bytes, "reason": p.reason} for p in own if p.held != "split"
            ],
            "collectives": [
                {"kind": c.kind, "where": c.where, "bytes": c.bytes, "phase": c.phase, "count": c.count}
                for c in self.collectives
            ],
            "comm_bytes_per_rank": self.comm_bytes_per_rank,
            "lower_bound_bytes": self.lower_bound_bytes,
            "optimal": self.optimal,
            "constraints": list(self.constraints),
            "tiers": dict(self.tiers),
            "captured_fraction": self.captured_fraction,
            "assumed": list(self.assumed),
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        from axisplit.report.table import render_plan

        return render_plan(self)

    def _repr_html_(self) -> str:
        from axisplit.report.page.notebook import plan_html

        return plan_html(self)

    def to_html(self, verdict: Verdict | None = None) -> str:
        """The plan, and the verdict on it where there is one, as one HTML page that needs no network."""
        from axisplit.report.page import render_page

        return render_page(self, verdict)

    def to_hf_tp_plan(self, training: bool = True) -> dict[str, str]:
        """As a `tp_plan` of transformers, with right gradients unless only inference is wanted (`training=False`).
        Raises: LayoutError that names everything its styles cannot express.
        """
        from axisplit.export import to_hf_tp_plan

        return to_hf_tp_plan(self, training)

    def to_parallelize_plan(self, training: bool = True) -> str:
        """As Python source of a dict for torch's `parallelize_module`. Raises: LayoutError as `to_hf_tp_plan`."""
        from axisplit.export import to_parallelize_plan

        return to_parallelize_plan(self, training)

    # --- files ----------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, whole or not at all."""
        target = Path(path)
        scratch = target.with_name(target.name + ".partial")
        scratch.write_text(json.dumps(asdict(self), indent=1) + "\n")
        scratch.replace(target)

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan. Raises: InputError if the file is missing, damaged or of another schema version."""
        try:
            data = json.loads(Path(path).read_text())
        except OSError as error:
            raise InputError(
                "cannot read the plan", where=str(path), got=str(error.strerror), do="check the path"
            ) from None
        except ValueError as error:
            raise InputError("the plan is not JSON", where=str(path), got=str(error), do="make it again") from None
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise InputError(
                "the plan has another schema version",
                where=str(path),
                got=str(version),
                needed=str(SCHEMA_VERSION),
                do="make it again with `axisplit plan`",
            )
        return _from_json(data, str(path))


def _from_json(data: dict[str, Any], path: str) -> Plan:
    try:
        made = dict(data)
        made["parameters"] = tuple(ParameterPlan(**_tuples(p)) for p in data["parameters"])
        made["places"] = tuple(
            PlacePlan(**{**_tuples(p), "steps": tuple(StepPlan(**_tuples(s)) for s in p["steps"])})
            for p in data["places"]
        )
        made["captured"] = tuple(
            CapturedPlan(**{**c, "steps": tuple(StepPlan(**_tuples(s)) for s in c["steps"])}) for c in data["captured"]
        )
        made["edits"] = tuple(EditPlan(**_tuples(e)) for e in data["edits"])
        made["collectives"] = tuple(CollectivePlan(**c) for c in data["collectives"])
        made["axes"] = tuple(AxisPlan(**_tuples(a)) for a in data["axes"])
        for name in ("constraints", "excluded", "assumed", "domain", "calls", "warnings"):
            made[name] = tuple(data[name])
        made.update({name: tuple(data.get(name, ())) for name in ("states", "following")})
        later = {"cotangents": CotangentPlan, "reads": ReadsPlan}
        made.update({key: kind(**_tuples(data[key])) for key, kind in later.items() if data.get(key) is not None})
        return Plan(**made)
    except (KeyError, TypeError) as error:
        raise InputError(
            "the plan is damaged", where=path, got=str(error), do="make it again with `axisplit plan`"
        ) from None


def _tuples(record: dict[str, Any]) -> dict[str, Any]:
    def convert(value: Any) -> Any:
        return tuple(convert(item) for item in value) if isinstance(value, list) else value

    return {key: convert(value) for key, value in record.items()}


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    size = ITEM_BYTES[dtype]
    for length in shape:
        size *= length
    return size


ITEM_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
    "bool": 1, "complex64": 8, "complex128": 16, "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip


def check_plan(plan: Plan) -> None:
    """Assert the invariants of this file's header."""
    for parameter in plan.parameters:
        if parameter.held != "split":
            continue
        assert len(parameter.ranges) == plan.ranks
        for dim, size in enumerate(parameter.shape):
            covered = set[int]()
            for start, end in {span for held in parameter.ranges for span in held[dim]}:
                some = start < end or not size  # an option that is off may leave a dim empty
                fits = start >= 0 and end <= size and some
                assert fits, f"{parameter.name}: range {start}:{end} of dim {dim} ({size})"
                covered.update(range(start, end)) if size <= 4096 else covered.update((start, end))
            assert size > 4096 or len(covered) == size, f"{parameter.name}: dim {dim} is not covered by the ranks"
    for place in plan.places:
        for step in place.steps:
            assert not step.ranges or len(step.ranges) == plan.ranks
        assert len(place.shares) == (plan.ranks if place.where == "size" else 0)
    first = plan.collectives[0].phase if plan.collectives else ""
    total = sum(c.bytes for c in plan.collectives if c.phase == first)
    assert abs(total - plan.comm_bytes_per_rank) <= 1e-6 * max(total, 1.0)
