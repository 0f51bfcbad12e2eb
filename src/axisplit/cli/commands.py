"""The commands. What does the work is imported inside them: `axisplit --help` must not wait for torch."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import axisplit
from axisplit.cli.options import (
    Batch,
    Json,
    Model,
    ModelOrNone,
    NewTokens,
    PlanFile,
    Prompt,
    Ranks,
    Rows,
    Seq,
    Tokens,
    check_ranks,
    parse_shapes,
)
from axisplit.cli.output import show, show_json
from axisplit.memory.quantities import parse_bytes, parse_count

if TYPE_CHECKING:
    from axisplit.solve.plan import Plan

app = typer.Typer(
    name="axisplit",
    help="Derive the split of a PyTorch model that moves the fewest bytes between ranks, prove it, run it.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Recomputed(StrEnum):
    """What backward computes again instead of keeping it."""

    none = "none"
    attention = "attention"
    full = "full"


class ExportFormat(StrEnum):
    """Whose words a plan is exported in."""

    hf = "hf"
    torch = "torch"


def _version(asked: bool) -> None:
    if asked:
        show(f"axisplit {axisplit.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


@app.command()
def plan(
    model: Model,
    ranks: Ranks,
    batch: Batch = None,
    seq: Seq = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Parameters, or positions (inputs.*), to leave whole; may be repeated."),
    ] = None,
    memory_per_rank: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Most bytes of parameters a rank may hold, as 24GiB.")
    ] = None,
    uneven: Annotated[bool, typer.Option("--uneven/--no-uneven", help="Whether parts may differ in size.")] = True,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Save the plan.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the plan as one HTML page.")] = None,
    as_json: Json = False,
) -> None:
    """Derive the plan and print it."""
    from axisplit.cli.planning import derive

    memory = None if memory_per_rank is None else parse_bytes(memory_per_rank)
    found = derive(model, ranks, batch, seq, keep=tuple(keep or ()), memory_per_rank=memory, uneven=uneven)
    if out is not None:
        found.save(out)
    if html is not None:
        html.write_text(found.to_html(), encoding="utf-8")
    _print(found, found.to_json(), as_json)


@app.command()
def verify(
    model: Model,
    ranks: Ranks,
    batch: Batch = None,
    seq: Seq = None,
    plan_file: PlanFile = None,
    processes: Annotated[bool, typer.Option("--processes", help="Run on real local processes too.")] = False,
    gradients: Annotated[bool, typer.Option("--gradients", help="Compare every gradient too.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the plan and the verdict on it.")] = None,
    as_json: Json = False,
) -> None:
    """Prove the plan and measure it: exit code 0 if equal, 1 if different, 2 if it could not be told."""
    from axisplit.cli.planning import prove

    plan = _load_plan(plan_file, ranks)
    judged = prove(model, ranks, batch, seq, plan, gradients=gradients, processes=processes)
    if html is not None:
        html.write_text(judged.plan.to_html(judged.verdict), encoding="utf-8")
    _print(judged, judged.to_json(), as_json)
    raise typer.Exit(judged.exit_code)


@app.command()
def fit(
    ranks: Ranks,
    model: ModelOrNone = None,
    params: Annotated[
        str | None, typer.Option(metavar="COUNT", help="A decoder of so many parameters, as 7e9 or 7B.")
    ] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="What a rank has, as 80GiB or 80GB.")] = None,
    training: Annotated[
        bool, typer.Option("--training", help="Gradients, Adam's states and what backward needs too.")
    ] = False,
    recompute: Annotated[
        Recomputed, typer.Option(help="In training, what is computed again: attention's scores, or full layers.")
    ] = Recomputed.none,
    batch: Rows = None,
    seq: Tokens = None,
    layers: Annotated[int | None, typer.Option(metavar="L", min=1, help="With --params: layers.")] = None,
    hidden: Annotated[int | None, typer.Option(metavar="H", min=1, help="With --params: width.")] = None,
    heads: Annotated[int | None, typer.Option(metavar="A", min=1, help="With --params: attention heads.")] = None,
    kv_heads: Annotated[int | None, typer.Option(metavar="K", min=1, help="With --params: kv heads.")] = None,
    as_json: Json = False,
) -> None:
    """What each rank would hold under data, pipeline, tensor and fully sharded data parallelism, and what fits."""
    from axisplit.cli.fitting import find_fit

    shape = {"layers": layers, "hidden": hidden, "heads": heads, "kv_heads": kv_heads}
    found = find_fit(
        model,
        None if params is None else parse_count(params),
        ranks,
        None if memory is None else parse_bytes(memory, "--memory"),
        training=training,
        recompute=recompute.value,
        batch=batch,
        seq=seq,
        shape=shape,
    )
    _print(found, found.to_json(), as_json)


@app.command()
def audit(
    model: Model,
    ranks: Ranks,
    batch: Batch = None,
    seq: Seq = None,
    tp_plan: Annotated[
        str | None, typer.Option(metavar="FILE", help="JSON of transformers' styles by module; else the model's own.")
    ] = None,
    optimum: Annotated[bool, typer.Option("--optimum/--no-optimum", help="Derive our plan too, to compare.")] = True,
    as_json: Json = False,
) -> None:
    """Judge a plan made by hand: exit code 0 if it is right, 1 if it is wrong, 2 if it could not be told."""
    from axisplit.cli.planning import judge, read_rules

    rules = None if tp_plan is None else read_rules(tp_plan)
    judged = judge(model, ranks, batch, seq, rules, optimum=optimum)
    _print(judged, judged.to_json(), as_json)
    raise typer.Exit(0 if judged.right else 1)


@app.command()
def export(
    plan_file: Annotated[str, typer.Argument(metavar="PLAN", help="A plan that was saved with --out.")],
    form: Annotated[
        ExportFormat, typer.Option("--format", help="hf: a tp_plan of transformers, as JSON; torch: Python source.")
    ],
    inference: Annotated[
        bool, typer.Option("--inference", help="For inference alone: gradients may be wrong with it.")
    ] = False,
) -> None:
    """Print a plan in the words of transformers or torch, or say what they cannot express."""
    from axisplit.export import SUMMED
    from axisplit.solve.plan import Plan

    found = Plan.load(plan_file)
    if form is ExportFormat.hf:
        styles = found.to_hf_tp_plan(training=not inference)
        if SUMMED in styles.values():
            typer.echo(f"{SUMMED} sums .grad itself: zero gradients before each backward, do not accumulate", err=True)
        show_json(styles)
    else:
        show(found.to_parallelize_plan(training=not inference))


@app.command()
def generate(
    model: Model,
    ranks: Ranks,
    prompt: Prompt,
    max_new_tokens: NewTokens = 64,
    sample: Annotated[bool, typer.Option("--sample", help="Draw tokens; else the likeliest is taken.")] = False,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of drawing.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from so many likeliest; 0 from all.")] = 0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Draw from the likeliest that hold so much.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of drawing.")] = 0,
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="Use the chat template; by default if there is one.")
    ] = None,
    plan_file: PlanFile = None,
    as_json: Json = False,
) -> None:
    """Generate text on real local processes, streaming it."""
    from axisplit.cli import generation
    from axisplit.cli.rank import Sampling
    from axisplit.models import resolve_model

    sampling = Sampling(sample, temperature, top_k, top_p, seed)
    saved = _load_plan(plan_file, ranks)
    ready = generation.prepare(resolve_model(model), ranks, prompt, max_new_tokens, sampling, chat=chat, plan=saved)
    out = sys.stderr if as_json else sys.stdout
    made = generation.generate(ranks, ready.request, ready.tokenizer, generation.threads_for(ranks), _writer(out))
    out.write("\n")
    sys.stderr.write(f"{generation.summary(made)}\n")
    if as_json:
        show_json(made.to_json())


@app.command()
def compare(
    expression: Annotated[str, typer.Argument(metavar="EXPR", help='Such as "gelu(X @ W1) @ W2".')],
    more: Annotated[list[str] | None, typer.Argument(metavar="[NAME=AxB]...", help="More shapes.")] = None,
    shape: Annotated[
        list[str] | None, typer.Option("--shape", metavar="NAME=AxB", help="Of each tensor: --shape X=2x4 W1=4x4.")
    ] = None,
    ranks: Annotated[int, typer.Option("--ranks", metavar="N", help="How many ranks.", callback=check_ranks)] = 2,
    strategy: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Judge this one: steps with -> between them; may be given again."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME", help="Not a weight; the first tensor if none is named."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random values.")] = 0,
    trace: Annotated[bool, typer.Option("--trace", help="Print each rank's values, step by step.")] = False,
    as_json: Json = False,
) -> None:
    """Judge every way to distribute an expression: legal or not, bytes, error, and which is best."""
    from axisplit.lesson.compare import compare as judge_ways

    shapes = parse_shapes([*(shape or ()), *(more or ())])
    found = judge_ways(expression, shapes, ranks, strategies=strategy or (), inputs=inputs or (), seed=seed)
    if trace and not as_json:
        show(found.trace())
        show()
    _print(found, found.to_json(), as_json)


@app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
def run(
    ranks: Ranks,
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="A Python file.")],
    args: Annotated[list[str] | None, typer.Argument(metavar="ARGS...", help="Passed on as they are.")] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each rank.")] = 1,
) -> None:
    """Run a script on local ranks, like torchrun, on loopback only; the first rank that fails ends the others."""
    from axisplit.runtime.script import run_script

    raise typer.Exit(run_script(ranks, script, args or (), threads_per_rank=threads))


@app.command()
def demo(
    ranks: Annotated[int, typer.Option("--ranks", metavar="N", help="How many ranks.", callback=check_ranks)] = 2,
    prompt: Prompt = "Why is the sky blue? Answer in two sentences.",
    max_new_tokens: NewTokens = 48,
    as_json: Json = False,
) -> None:
    """Split a real model, prove the split, run it on real processes and compare with one process, token by token."""
    from axisplit.cli.demo import run_demo

    result = run_demo(
        ranks, prompt, max_new_tokens, _note if as_json else show, _writer(sys.stderr if as_json else sys.stdout)
    )
    if as_json:
        show_json(result.to_json())
    raise typer.Exit(result.exit_code)


bench = typer.Typer(help="Measurements; they need a checkout of the repository.", no_args_is_help=True)
app.add_typer(bench, name="bench")


_PASSED_ON = {"allow_interspersed_args": False, "ignore_unknown_options": True, "help_option_names": []}


@bench.command(context_settings=_PASSED_ON)
def coverage(
    args: Annotated[list[str] | None, typer.Argument(metavar="ARGS...", help="--help lists them.")] = None,
) -> None:
    """Every transformers architecture, tiny and random, through plan and verify."""
    from axisplit.cli.bench import run_benchmark

    raise typer.Exit(run_benchmark("coverage", args or ()))


@bench.command(context_settings=_PASSED_ON)
def speed(
    args: Annotated[list[str] | None, typer.Argument(metavar="ARGS...", help="--help lists them.")] = None,
) -> None:
    """Collectives, prefill, decode and planning, in turns with what others do."""
    from axisplit.cli.bench import run_benchmark

    raise typer.Exit(run_benchmark("speed", args or ()))


def _note(text: str = "") -> None:
    sys.stderr.write(f"{text}\n")


def _writer(out: Any) -> Any:
    def write(text: str) -> None:
        out.write(text)
        out.flush()

    return write


def _print(what: object, fields: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(fields)
    else:
        show(str(what))


def _load_plan(file: str | None, ranks: int) -> Plan | None:
    """A saved plan. Raises: InputError if it is damaged, PlanMismatchError if it is for another number of ranks."""
    if file is None:
        return None
    from axisplit.errors import PlanMismatchError
    from axisplit.solve.plan import Plan

    found = Plan.load(file)
    if found.ranks != ranks:
        raise PlanMismatchError(
            "the plan is for another number of ranks",
            where=file,
            got=f"--ranks {ranks}",
            needed=str(found.ranks),
            do=f"--ranks {found.ranks}, or plan for {ranks}",
        )
    return found
