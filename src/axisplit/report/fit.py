"""What each rank holds, by parallelism and dtype, as a table to look at; which of it fits, and the answer in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from axisplit.memory.contents import METHODS, Method
from axisplit.report.text import bytes_text, clean, columns, hang, shorten

if TYPE_CHECKING:
    from axisplit.memory.fit import Fit, Holding, Row, Saving

_COLUMNS = (
    ("parameters", "parameter_bytes"),
    ("gradients", "gradient_bytes"),
    ("optimizer", "optimizer_bytes"),
    ("activations", "activation_bytes"),
    ("KV cache", "kv_cache_bytes"),
    ("gathered", "gathered_bytes"),
    ("buffers", "buffer_bytes"),
)
_HOW: dict[Method, str] = {
    "data": "every rank holds all parameters; the rows of the batch are shared out",
    "pipeline": "each rank holds a run of blocks",
    "tensor": "each rank holds a part of every matrix",
    "fsdp": "each rank holds a part of everything, and gathers the blocks that it computes",
}
_ROWS: dict[Method, str] = {
    "pipeline": "; 1F1B: a row at a time, and as many in flight as there are stages",
    "tensor": "; all rows at once",
}
_WORD: dict[Method, str] = {"data": "data", "pipeline": "pipeline", "tensor": "tensor", "fsdp": "FSDP"}
_SHORT = {"mixed precision": " mixed", "pure 16 bit": " pure", "single precision": "", "weights only": " weights"}
_STATES = {"optimizer": "optimizer states", "gathered": "gathered parameters"}
_NOTHING_SAVED = (
    "saves nothing of the states (2 + 2 + 12 bytes each instead of 4 + 4 + 8): float32 master weights and Adam's "
    "states stay; activations halve"
)
SMALL_SHARE = 0.001
"""Buffers below this share of the sum have no column of their own."""


def render_fit(fit: Fit) -> str:
    """The fit as text, for people."""
    sections = (_headline(fit), _table(fit), _question_of_fit(fit), _question_of_bits(fit), _answer(fit))
    return "\n\n".join("\n".join(section) for section in sections if section)


def size_text(size: float) -> str:
    """Bytes in the unit in which memory is sold, GiB, where it is a round number of them; else decimal.

    >>> size_text(80 * 2**30), size_text(80e9)
    ('80 GiB', '80.0 GB')
    """
    gib = size / 2**30
    return f"{gib:.4g} GiB" if (gib * 4).is_integer() else bytes_text(size)


def gib_text(size: float) -> str:
    """Bytes in decimal and in binary units.

    >>> gib_text(14e9)
    '14.0 GB = 13.04 GiB'
    """
    if size < 2**20:
        return bytes_text(size)
    unit, name = (2**30, "GiB") if size >= 2**30 else (2**20, "MiB")
    return f"{bytes_text(size)} = {size / unit:.2f} {name}"


def _headline(fit: Fit) -> list[str]:
    ranks = "1 rank" if fit.ranks == 1 else f"{fit.ranks:,} ranks"
    memory = "" if fit.memory_bytes is None else f" of {size_text(fit.memory_bytes)}"
    sold = "" if "GiB" not in memory else f" ({bytes_text(fit.memory_bytes or 0)})"
    purpose = "training with Adam" if fit.training else "inference"
    facts = [
        ("parameters", f"{fit.parameters:,}" + (f", {fit.trainable:,} of them trained" if _frozen(fit) else "")),
        ("batch", f"{clean(fit.inputs)}, all ranks together"),
        *((label, clean(text)) for label, text in fit.notes),
        (
            "not counted",
            "the device library's own 1 to 2 GiB, gaps between allocations, communication buffers, the loss",
        ),
    ]
    return [f"{shorten(clean(fit.model), 60)} over {ranks}{memory}{sold}, {purpose}", *columns(facts, "lw")]


def _frozen(fit: Fit) -> bool:
    return fit.training and fit.trainable != fit.parameters


# --- the table ----------------------------------------------------------------------------------------------------


def _table(fit: Fit) -> list[str]:
    shown = [column for column in _COLUMNS if _has(fit, *column)]
    memory = [] if fit.memory_bytes is None else [f"{size_text(fit.memory_bytes)}?", "needs"]
    groups = [(method, list(rows)) for method, rows in groupby(fit.rows, key=lambda row: row.parallelism)]
    alone = fit.ranks == 1
    groups = groups[:1] if alone else groups
    body: list[tuple[str, ...]] = [("", *(label for label, _ in shown), "together", *memory)]
    starts = []
    for method, rows in groups:
        starts.append((len(body), method))
        possible = [(names, row) for names, row in _merged(rows) if row.fullest is not None]
        body += [_cells(names, row, shown, _needs(fit, row)) for names, row in possible]
    lines = columns(body, "l" + "r" * (len(shown) + 1) + "l" * len(memory), indent=4, gap=2)
    for at, method in reversed(starts):
        lines[at:at] = ["  on one rank"] if alone else hang(f"  {_WORD[method]}: ", _method_text(fit, method))
    return ["HELD BY THE FULLEST RANK", *lines, *_not_offered(fit)]


def _method_text(fit: Fit, method: Method) -> str:
    """What a rank holds, or why there is none of it."""
    rows = _ROWS.get(method, "") if fit.training and fit.ranks > 1 else ""
    reasons = {row.why_not for row in fit.rows if row.parallelism == method and not row.recipe.why_not}
    (reason,) = reasons
    return f"not possible, {reason}" if reason else _HOW[method] + rows + _unevenness(fit, method)


def _unevenness(fit: Fit, method: Method) -> str:
    """Where ranks hold unequal parameters: the least beside the most."""
    by_rank = fit.row(method, "bf16").by_rank
    sizes = [held.parameter_bytes for held in by_rank]
    least, most = bytes_text(min(sizes)), bytes_text(max(sizes))
    return "" if least == most else f"; parameters in bf16 {least} to {most}"


def _has(fit: Fit, label: str, field: str) -> bool:
    held = [row.fullest for row in fit.rows if row.fullest is not None]
    least = SMALL_SHARE if label == "buffers" else 0.0
    return any(getattr(part, field) > least * part.total_bytes for part in held)


def _merged(rows: Iterable[Row]) -> list[tuple[str, Row]]:
    """Rows with their names; those of the same numbers (bf16 and fp16) are one."""
    found: dict[tuple[object, ...], tuple[list[str], Row]] = {}
    for row in rows:
        key = (row.recipe.name, row.by_rank, row.why_not)
        found.setdefault(key, ([], row))[0].append(row.recipe.dtype)
    return [("/".join(names) + _SHORT.get(row.recipe.name, ""), row) for names, row in found.values()]


def _cells(names: str, row: Row, shown: Sequence[tuple[str, str]], needs: str) -> tuple[str, ...]:
    held = row.fullest
    assert held is not None
    sizes = [getattr(held, field) for _, field in shown]
    cells = [names, *(bytes_text(size) if size else "–" for size in sizes), bytes_text(held.total_bytes)]
    if row.over_bytes is None:
        return tuple(cells)
    verdict = "fits" if row.fits else f"{bytes_text(row.over_bytes)} over"
    return (*cells, verdict, needs)


def _needs(fit: Fit, row: Row) -> str:
    """The fewest ranks; on one rank all ways are one, and it is of the others that more ranks would help."""
    if fit.ranks > 1 or row.fits:
        return "never fits" if row.fewest_ranks is None else f"{_fewest(row)} rank{'s' if row.fewest_ranks > 1 else ''}"
    others = [fit.row(method, row.recipe.dtype, row.recipe.name) for method in METHODS[1:]]
    found = [f"{_WORD[other.parallelism]} {_fewest(other)}" for other in others if other.fewest_ranks is not None]
    return f"{', '.join(found)} ranks" if found else "never fits"


def _fewest(row: Row) -> str:
    return f"{'≈ ' if row.fewest_is_estimate else ''}{row.fewest_ranks:,}"


def _not_offered(fit: Fit) -> list[str]:
    rows = [(row.recipe.dtype + _SHORT[row.recipe.name], row.recipe.why_not) for row in fit.rows if row.recipe.why_not]
    return ["  not offered", *columns(list(dict.fromkeys(rows)), "lw", indent=4, gap=2)] if rows else []


# --- the questions ------------------------------------------------------------------------------------------------


def _question_of_fit(fit: Fit) -> list[str]:
    """Which parallelism helps where the parameters do not fit on one rank."""
    if fit.ranks == 1:
        return []
    rows = [(_WORD[method], _help(fit, method)) for method in METHODS]
    return ["IF THE PARAMETERS DO NOT FIT ON ONE RANK", *columns(rows, "lw")]


def _help(fit: Fit, method: Method) -> str:
    row = fit.row(method, "bf16")
    if row.fullest is None:
        return f"not possible here: {row.why_not}"
    whole, own = bytes_text(2 * fit.parameters), bytes_text(row.fullest.parameter_bytes)
    if method == "data":
        return f"does not help: each of the {fit.ranks:,} ranks holds all of them, {whole} in bf16"
    if method not in fit.helping:
        return f"does not help here: a rank holds {own} of {whole} in bf16, and gathers the rest, or nearly"
    though = ", though it is a form of data parallelism" if method == "fsdp" else ""
    gathers = f", and {bytes_text(row.fullest.gathered_bytes)} at a time while it computes" if method == "fsdp" else ""
    return f"helps{though}: a rank holds at most {own} of {whole} in bf16{gathers}"


def _question_of_bits(fit: Fit) -> list[str]:
    """What is saved by 16 bit."""
    return ["FROM 32 TO 16 BIT, on one device", *columns([_saving(saving) for saving in fit.savings], "llw")]


def _saving(saving: Saving) -> tuple[str, str, str]:
    before, after = saving.from_bytes_each * saving.parameters, saving.to_bytes_each * saving.parameters
    sizes = f"{bytes_text(before)} → {bytes_text(after)}"
    if not saving.saved_bytes:
        return saving.what, sizes, _NOTHING_SAVED
    each = f"{saving.from_bytes_each} → {saving.to_bytes_each} bytes each"
    return saving.what, sizes, f"saves {gib_text(saving.saved_bytes)} ({each})"


# --- the answer ---------------------------------------------------------------------------------------------------


def _answer(fit: Fit) -> list[str]:
    return ["ANSWER", *hang("  ", " ".join(answer(fit)))]


def answer(fit: Fit) -> tuple[str, ...]:
    """In sentences: what fits, from how many ranks on it would, and what to do with parameters that do not."""
    return (*_what_fits(fit), *_how_many(fit), *_what_helps(fit), _what_is_saved(fit))


def _what_fits(fit: Fit) -> tuple[str, ...]:
    if fit.memory_bytes is None:
        return ()
    alone = fit.ranks == 1
    found: dict[tuple[str, ...], list[str]] = {}
    for method in METHODS[:1] if alone else METHODS:
        rows = [row for row in fit.rows if row.parallelism == method and row.fits]
        found.setdefault(tuple(name for name, _ in _merged(rows)), []).append("it" if alone else _WORD[method])
    offered = tuple(name for name, row in _merged(r for r in fit.rows if r.parallelism == "data") if not row.why_not)
    where = f"On one rank of {size_text(fit.memory_bytes)}" if alone else _over(fit)
    return (f"{where}, {'; '.join(_fitting(names, who, offered) for names, who in found.items())}.",)


def _fitting(names: tuple[str, ...], who: Sequence[str], offered: tuple[str, ...]) -> str:
    """Who fits in which dtypes.

    >>> _fitting((), ["data"], ("fp32",)), _fitting(("fp32",), ["tensor", "FSDP"], ("fp32",))
    ('data does not fit in any dtype', 'tensor and FSDP fit in every dtype')
    """
    one = len(who) == 1
    if not names:
        return f"{_and(who)} {'does' if one else 'do'} not fit in any dtype"
    return f"{_and(who)} {'fits' if one else 'fit'} in {'every dtype' if names == offered else _and(names)}"


def _over(fit: Fit) -> str:
    return f"Over {fit.ranks:,} ranks of {size_text(fit.memory_bytes or 0)}"


def _how_many(fit: Fit) -> tuple[str, ...]:
    """The fewest ranks in bf16, where one is not enough."""
    rows = {method: fit.row(method, "bf16") for method in METHODS}
    if fit.memory_bytes is None or rows["data"].fewest_ranks == 1:
        return ()
    needed = [f"{_WORD[method]} {_fewest(row)}" for method, row in rows.items() if row.fewest_ranks is not None]
    never = [_WORD[method] + _largest(row.at_best) for method, row in rows.items() if row.fewest_ranks is None]
    recipe = _SHORT.get(rows["data"].recipe.name, "")
    start = [f"In bf16{recipe} the fewest ranks that fit are: {', '.join(needed)}"] if needed else []
    fits = "fits" if len(never) == 1 else "fit"
    where = "" if needed else f" in bf16{recipe}"
    end = [f"{_and(never)} never {fits}{where}, over however many ranks"] if never else []
    again = fit.training and fit.recompute != "full" and any(part.endswith("of activations)") for part in never)
    hint = ("Activations computed again instead of kept (--recompute full) take far less.",) if again else ()
    return (f"{'; '.join([*start, *end])}.", *hint)


def _largest(held: Holding | None) -> str:
    """What takes most of a rank's memory."""
    if held is None:
        return ""
    label, field = max(_COLUMNS, key=lambda column: int(getattr(held, column[1])))
    return f" ({bytes_text(getattr(held, field))} of {_STATES.get(label, label)})"


def _what_helps(fit: Fit) -> tuple[str, ...]:
    """The answer for parameters that do not fit on one rank; whether these do is said where a memory is given."""
    if fit.ranks == 1:
        return ()
    whole, helping = 2 * fit.parameters, [_WORD[method] for method in fit.helping]
    does = f"; {_and(helping)} {'does' if len(helping) == 1 else 'do'}" if helping else ""
    alone = "data parallelism alone does not help, as every rank holds all of them"
    if fit.memory_bytes is not None and whole > fit.memory_bytes:
        return (f"The parameters ({bytes_text(whole)} in bf16) do not fit on one rank: {alone}{does}.",)
    return (f"If the parameters did not fit on one rank: {alone}{does}.",)


def _what_is_saved(fit: Fit) -> str:
    saving = fit.savings[0]
    text = f"16 bit instead of 32 saves {gib_text(saving.saved_bytes)} of parameters"
    return f"{text}; in mixed-precision training the states save nothing." if fit.training else f"{text}."


def _and(items: Sequence[str]) -> str:
    """Words in a row.

    >>> _and(["a", "b", "c"]), _and(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
