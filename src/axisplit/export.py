"""A plan in other people's words: transformers' style names, or torch's ParallelStyle objects as Python source.

Their vocabulary is smaller. A style is one module's: a matrix or table, split in equal parts in the order of ranks,
summed or gathered right at that module.

    weight's split dim    place at the module        style                   torch
    0, and a look-up      sum                        embedding_rowwise       Rowwise, input Replicate
    1, of a table         pad or gather its output   embedding_colwise       Colwise, output Replicate
    0                     -                          colwise                 Colwise
    0                     gather its output          colwise_gather_output   Colwise, output Replicate
    1                     -                          rowwise                 Rowwise
    1                     slice its input            rowwise_split_input     Rowwise, input Replicate

Backward, a column-wise module sums its input's gradient, and transformers has a style for a module whose parameters
every rank holds whole but uses on its own part (norms of split heads): replicated_with_grad_allreduce. It sums `.grad`
itself after each backward, so gradients must not be accumulated with it. torch has none.

What these cannot say is refused, all of it at once: an exported plan that leaves it out would be silently wrong. Sums
move to where the style puts them, which may move more bytes than the plan. A plan does not know what else a style asks
of a module (its class, its first argument, no writing into its result): `axisplit audit` runs what was exported.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, cast, get_args

from axisplit.errors import LayoutError
from axisplit.solve.plan import ParameterPlan, PlacePlan, Plan, Ranges

Style = Literal[
    "embedding_rowwise", "embedding_colwise", "colwise", "colwise_gather_output", "rowwise", "rowwise_split_input"
]
_TORCH: dict[Style, str] = {
    "embedding_rowwise": "RowwiseParallel(input_layouts=Replicate())",
    "embedding_colwise": "ColwiseParallel(output_layouts=Replicate())",
    "colwise": "ColwiseParallel()",
    "colwise_gather_output": "ColwiseParallel(output_layouts=Replicate())",
    "rowwise": "RowwiseParallel()",
    "rowwise_split_input": "RowwiseParallel(input_layouts=Replicate())",
}
SUMMED = "replicated_with_grad_allreduce"
_ROWS = ("embedding_rowwise", "rowwise", "rowwise_split_input")
_LAYER_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_MOST_LINES = 20


def starred(name: str) -> str:
    """A name with its layer numbers as `*`.

    >>> starred("model.layers.3.w1")
    'model.layers.*.w1'
    """
    return _LAYER_NUMBER.sub("*", name)


def to_hf_tp_plan(plan: Plan, training: bool = True) -> dict[str, str]:
    """Module pattern -> name of transformers' style.

    Args:
        training: gradients must be right too; else only what is returned.
    Raises: LayoutError that names everything they cannot express.
    """
    target = "transformers' styles"
    styles: dict[str, str] = dict(_styles(plan, target, _no_backward(plan) if training else None))
    if training:
        styles |= _summing(plan, styles, target)
    found: dict[str, set[str]] = defaultdict(set)
    for module in dict.fromkeys(p.name.rpartition(".")[0] for p in _with_tied(plan) if p.kind == "parameter"):
        found[starred(module)].add(styles.get(module, ""))
    for name in plan.tied.values():  # loading ties after it has split: what is tied must be split by itself too
        held = next(p for p in plan.parameters if p.name == name)
        if held.kind == "parameter" and held.held == "split" and not _follows(held, plan.ranks, styles):
            found[starred(name)].add("colwise")
    mixed = [
        f"{pattern}: not alike in all layers ({', '.join(sorted(filter(None, kinds)))})"
        for pattern, kinds in found.items()
        if len(kinds) > 1
    ]
    if mixed:
        raise _refusal(plan, target, mixed)
    return {pattern: style for pattern, (style,) in found.items() if style}


def to_parallelize_plan(plan: Plan, training: bool = True) -> str:
    """Python source of the dict that torch's `parallelize_module` takes, by module path.

    Args:
        training: gradients must be right too; else only what is returned.
    Raises: LayoutError that names everything it cannot express.
    """
    wrong = [*_no_backward(plan), *_unsummed(plan)] if training else None
    styles = _styles(plan, "ParallelStyle objects", wrong)
    lines = [f"    {module!r}: {_TORCH[style]}," for module, style in styles.items()]
    return "\n".join(
        [
            "from torch.distributed.tensor import Replicate",
            "from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel",
            "",
            f"# {plan.model}, {plan.ranks} ranks, fingerprint {plan.fingerprint}",
            *([] if training else ["# for inference: whether gradients are right was not asked"]),
            "parallelize_plan = {",
            *lines,
            "}",
            "",
        ]
    )


def _no_backward(plan: Plan) -> list[str]:
    """Why nothing can be said about gradients."""
    if plan.reads is None:
        return ["gradients: the plan is from before what they need was kept in it; make it again"]
    return [f"gradients: {plan.no_backward}"] if plan.no_backward else []


def _unsummed(plan: Plan) -> Iterator[str]:
    """Parameters whose gradients torch would leave as each rank's own."""
    for name in (*plan.reads.parameters, *plan.reads.mixed) if plan.reads is not None else ():
        yield f"{name}: whole, and used on each rank's own part: no style sums its gradient over ranks"


def _summing(plan: Plan, styles: Mapping[str, str], target: str) -> dict[str, str]:
    """Modules whose parameters' gradients transformers must sum. Raises: LayoutError for what its style cannot do."""
    assert plan.reads is not None  # _no_backward
    modules = {name.rpartition(".")[0] for name in plan.reads.parameters}
    problems = [
        f"{name}: used on each rank's own part and otherwise: its gradient is neither" for name in plan.reads.mixed
    ]
    for parameter in plan.parameters:
        module = parameter.name.rpartition(".")[0]
        if parameter.kind == "parameter" and module in modules:
            if module in styles:
                problems.append(f"{module}: {styles[module]}, and a gradient to be summed too: a module has one style")
            elif parameter.name not in plan.reads.parameters:
                problems.append(f"{parameter.name}: its gradient is whole, beside one that must be summed")
    if "" in modules:
        problems.append(
            "the model's own parameters: used on each rank's own part, and styles are for modules inside it"
        )
    if problems:
        raise _refusal(plan, target, [], problems)
    return dict.fromkeys(sorted(modules), SUMMED)


def _entered(plan: Plan, styles: Mapping[str, Style]) -> Iterator[str]:
    """Places where an activation's gradient would stay each rank's own."""
    for module in plan.reads.modules if plan.reads is not None else ():
        if styles.get(module) not in ("colwise", "colwise_gather_output"):
            yield f"{module or 'the model'}: reads what is whole on its own part, and no style sums that gradient there"


def _styles(plan: Plan, target: str, wrong: list[str] | None) -> dict[str, Style]:
    """Module -> style. `wrong`: what is known to be wrong in training; None if nobody wants to train. Raises:
    LayoutError.
    """
    places: dict[str, list[PlacePlan]] = defaultdict(list)
    for place in plan.places:
        places[place.module].append(place)
    styles: dict[str, Style] = {}
    problems = []
    for parameter in _with_tied(plan):
        module, _, leaf = parameter.name.rpartition(".")
        if parameter.held == "split" and leaf == "weight" and parameter.kind == "parameter":
            style = _style(parameter, plan.ranks, places[module])
            if style in get_args(Style):
                styles[module] = cast(Style, style)
            else:
                problems.append(f"{parameter.name}: {style}")
    problems += _parameters(plan, styles)
    problems += [text for place in plan.places for text in _place(place, styles)]
    problems += [
        f"{edit.module}.{edit.attribute} must be {'/'.join(map(str, edit.values))} on the ranks, not {edit.whole}"
        for edit in plan.edits
        if edit.module not in styles
    ]
    problems += [f"{captured.module or 'the model'}: runs as a captured program" for captured in plan.captured]
    if wrong is not None:
        wrong = [*wrong, *_entered(plan, styles)]
    if problems or wrong:
        raise _refusal(plan, target, problems, wrong or [])
    return styles


def _with_tied(plan: Plan) -> Iterator[ParameterPlan]:
    """Parameters and, under their own names, those that share them."""
    by_name = {p.name: p for p in plan.parameters}
    yield from plan.parameters
    for other, name in plan.tied.items():
        shared = by_name[name]
        yield ParameterPlan(
            other, shared.shape, shared.dtype, shared.held, shared.ranges, shared.axis, kind=shared.kind
        )


def _style(weight: ParameterPlan, ranks: int, places: list[PlacePlan]) -> str:
    """The style's name, or what no style can say."""
    dims = [dim for dim in range(len(weight.shape)) if any(r[dim] != ((0, weight.shape[dim]),) for r in weight.ranges)]
    if len(weight.shape) != 2 or len(dims) != 1:
        return f"split in dim {', '.join(map(str, dims))} of {list(weight.shape)}: only matrices and tables, in one dim"
    if not _is_chunked([r[dims[0]] for r in weight.ranges], weight.shape[dims[0]], ranks):
        held = " | ".join(",".join(f"{a}:{b}" for a, b in r[dims[0]]) for r in weight.ranges)
        return f"dim {dims[0]} as {held}: only one equal part after the other"
    kinds = {(place.where, step.kind) for place in places for step in place.steps}
    if dims[0] == 0:
        if any(kind == "lookup" for _, kind in kinds):
            return "embedding_rowwise"
        return "colwise_gather_output" if ("output", "all_gather") in kinds else "colwise"
    if kinds & {("output", "pad"), ("output", "all_gather")}:
        return "embedding_colwise"
    return "rowwise_split_input" if ("input", "take") in kinds else "rowwise"


def _is_chunked(parts: list[Ranges], size: int, ranks: int) -> bool:
    """Whether parts are equal, one after the other.

    >>> _is_chunked([((0, 2),), ((2, 4),)], 4, 2), _is_chunked([((0, 2),), ((2, 3),)], 3, 2)
    (True, False)
    """
    step = size // ranks
    return size % ranks == 0 and parts == [((rank * step, (rank + 1) * step),) for rank in range(ranks)]


def _parameters(plan: Plan, styles: Mapping[str, Style]) -> Iterator[str]:
    """What is held in a way that follows from no style of its module, nor of one it is tied to."""
    aliases: dict[str, list[str]] = defaultdict(list)
    for other, name in plan.tied.items():
        aliases[name].append(other)
    for parameter in plan.parameters:
        names = [parameter.name, *aliases[parameter.name]]
        if parameter.held == "whole" or any(_follows(replace(parameter, name=n), plan.ranks, styles) for n in names):
            continue
        if parameter.held == "first":
            yield f"{parameter.name}: only rank 0 adds it"
        elif parameter.kind == "buffer":
            yield f"{parameter.name}: a buffer that is split"
        elif not parameter.name.endswith(".weight"):
            yield f"{parameter.name}: split, and not the bias of a column-wise matrix in the same parts"


def _follows(parameter: ParameterPlan, ranks: int, styles: Mapping[str, str]) -> bool:
    """Whether the style of its module holds it so."""
    module, _, leaf = parameter.name.rpartition(".")
    style = styles.get(module)
    if parameter.held == "first":
        return leaf == "bias" and style in ("rowwise", "rowwise_split_input")
    if parameter.kind == "buffer":
        return "int" in parameter.dtype and _all_share(parameter)
    if leaf != "bias":
        return leaf == "weight" and style is not None
    chunked = _is_chunked([r[0] for r in parameter.ranges], parameter.shape[0], ranks)
    return chunked and style in ("colwise", "colwise_gather_output")


def _all_share(buffer: ParameterPlan) -> bool:
    """Whether all ranks hold some same indices of a table of positions: those in use, the rest is never looked up."""
    return all(max(r[dim][0][0] for r in buffer.ranges) == 0 for dim in range(len(buffer.shape)))


def _place(place: PlacePlan, styles: Mapping[str, Style]) -> Iterator[str]:
    """Steps of a place that no style takes; sums are those of the row-wise modules, wherever the plan puts them. Where
    gradients are summed is another matter (`_entered`).
    """
    style = styles.get(place.module)
    if place.where == "size":
        yield f"a size in a call of {place.module or 'the model'} ({place.function})"
    for step in place.steps:
        own = {
            ("lookup", "lookup"): style == "embedding_rowwise",
            ("call", "lookup"): style == "embedding_rowwise",  # inside the module, whose result is summed all the same
            ("output", "pad"): style == "embedding_colwise",
            ("output", "all_gather"): style in ("colwise_gather_output", "embedding_colwise"),
            ("input", "take"): style == "rowwise_split_input",
        }
        on_module = place.where in ("input", "output")
        summed = step.kind == "all_reduce" and on_module and any(kept in _ROWS for kept in styles.values())
        if not (summed or step.kind in ("enter", "leave") or own.get((place.where, step.kind), False)):
            function = f" ({place.function})" if place.function else ""
            yield f"{step.kind} at {place.where} of {place.module or 'the model'}{function}"


def _refusal(plan: Plan, target: str, problems: list[str], wrong: Sequence[str] = ()) -> LayoutError:
    """`wrong`: what is wrong in training only."""
    lines = [*problems, *(f"in training: {text}" for text in wrong)]
    folded = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=[.:( ]|$)", "*", line) for line in lines))
    more = [f"and {len(folded) - _MOST_LINES} more"] if len(folded) > _MOST_LINES else []
    return LayoutError(
        f"{target} cannot express this plan",
        where=f"{plan.model} on {plan.ranks} ranks",
        got="\n".join(folded[:_MOST_LINES] + more),
        needed="matrices and tables in equal parts, nothing rewritten inside modules"
        if problems
        else "gradients that are whole, or summed by the styles of their modules",
        do=("plan with keep=['inputs.*'], " if plan.following else "")
        + "run it with axisplit, or leave these modules whole: keep=['*.self_attn.*', ...]"
        + ("" if problems else "; for inference alone: training=False (--inference)"),
    )
