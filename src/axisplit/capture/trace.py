"""Model and example inputs -> `Graph`: run the model's Python once for each phase under the recorder.

A copy of the model is traced whose parameters are fake (shapes, no data), so a model of any size is captured in the
memory of its Python objects. Where the Python looks at values (data-dependent loops), the real tensors are used
instead and the graph says so in `assumed`.

Phases: a plain module has one, `forward`. A module whose output carries recurrent state that its own forward accepts
(a KV cache, an SSM state) has `prefill` and `decode`; where it takes an attention mask, both are also traced with one
that hides something (`prefill masked`, `decode masked`), because masks change the path that attention takes. Where
the model's own `generate` passes float tensors that nobody gave, its call is traced too (`prefill generated`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from axisplit.capture.calls import CallText, is_state
from axisplit.capture.copies import copy_model
from axisplit.capture.fold import Fold, close_gaps, drop_blocks, find_folds, traced_name
from axisplit.capture.graph import Graph, build_uses, check_graph
from axisplit.capture.kept import attributes_of, forget, state_put_back, states_kept
from axisplit.capture.memos import memos_aside
from axisplit.capture.modes import fake_mode, quiet_shapes, swaps_allowed, uncompiled
from axisplit.capture.provenance import Attribute, trace_attributes
from axisplit.capture.record import Recorder
from axisplit.capture.trees import leaves, map_items
from axisplit.errors import AxisplitError, CaptureError, InputError

Inputs = tuple[Any, ...] | Mapping[str, Any] | torch.Tensor


@dataclass(frozen=True)
class Captured:
    """A graph, the integer attributes its Python may have read, and how it was traced."""

    graph: Graph
    attributes: dict[Attribute, int]
    fake: bool
    model: torch.nn.Module  # the copy that was traced, folded as `folds` says
    folds: tuple[Fold, ...] = ()
    calls: tuple[str, ...] = ()  # texts of the calls that were traced (see `capture.calls`)
    states: tuple[str, ...] = ()  # attributes in which modules keep state (see `capture.kept`)


def normalize_inputs(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A tuple is positional, a mapping is keywords, a lone tensor is one positional argument."""
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    raise InputError(
        what="inputs are not usable",
        got=type(inputs).__name__,
        needed="a tensor, a tuple of positional arguments or a dict of keyword arguments",
        do="pass what the model is called with, e.g. {'input_ids': ids}",
    )


def own_inputs(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of one call, in tensors and caches of its own: a model may write to what it is given, and ranks of
    one process run at the same time. What is one tensor stays one.
    """
    copies: dict[int, torch.Tensor] = {}

    def own(tree: Any) -> Any:
        if isinstance(tree, torch.Tensor):
            made = tree.detach().clone().requires_grad_(tree.requires_grad)
            return copies.setdefault(id(tree), made)
        return copy.deepcopy(tree) if is_state(tree) else map_items(tree, own)

    args, kwargs = normalize_inputs(inputs)
    return own(args), own(kwargs)


def capture(model: torch.nn.Module, inputs: Inputs, only: tuple[str, ...] = (), *, on_values: bool = False) -> Captured:
    """Trace a model on example inputs: every phase that runs, or exactly those in `only`.

    Args:
        on_values: run it on the values; for what is small, as fake tensors take a second to import.
    Raises: InputError if the model does not run on the inputs; CaptureError if an op cannot be represented.
    """
    folds = () if on_values else find_folds(model)
    if folds:
        found = _capture_folded(model, inputs, folds, only)
        if found is not None:
            return found
    try:
        return _capture(model, inputs, fake=not on_values, only=only)
    except AxisplitError:
        raise
    except Exception as error:
        if not _needs_values(error):
            raise _does_not_run(model, inputs, error) from error
        if any(p.is_meta for p in model.parameters()):
            raise CaptureError(
                "the model's Python looks at values, and there are none",
                where=type(model).__name__,
                got=str(error).partition("\n")[0],
                needed="weights: the path taken depends on data",
                do="plan the loaded model rather than its config",
            ) from error
    try:
        return _capture(model, inputs, fake=False, only=only)
    except AxisplitError:
        raise
    except Exception as error:
        raise _does_not_run(model, inputs, error) from error


def path_on_values(model: torch.nn.Module, inputs: Inputs, captured: Captured) -> tuple[Captured | None, str]:
    """How the Python runs on the inputs' values, where it goes another way there than in a trace on fake tensors (None
    where it does not): there are models that leave out a mask that hides nothing, but keep it where they cannot see
    that. And why it could not be run; a model without values is not.
    """
    if not captured.fake or any(p.is_meta for p in model.parameters()):
        return None, ""
    try:
        with torch.random.fork_rng(devices=[]), state_put_back(model):
            found = _capture(model, inputs, fake=False, folds=captured.folds, only=captured.graph.phases)
    except Exception as error:
        text = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return None, f"not run on the inputs' values, which may take another path than the trace: {text}"
    return (None if _issued(found.graph) == _issued(captured.graph) else found), ""


def _issued(graph: Graph) -> list[tuple[object, ...]]:
    """The ops of every phase and the expressions that issue them; but those by which Python looks at inputs, which are
    only in a trace on values (whether a mask hides anything).
    """
    compared = set(graph.parameters.values())
    for node in graph.nodes:
        if not compared.isdisjoint(node.inputs()):
            compared.update(node.outputs)
    compared.update(value for _, value in graph.outputs)
    found: list[tuple[object, ...]] = []
    for node in reversed(graph.nodes):
        if not compared.isdisjoint(node.outputs):
            compared.update(node.inputs())
            frames = ((f.code, f.instruction, f.inner) for f in node.frames)
            found.append((node.phase, node.module, node.name, *frames))
    return found


def _does_not_run(model: torch.nn.Module, inputs: Inputs, error: Exception) -> InputError:
    args, kwargs = normalize_inputs(inputs)
    given = {**{str(i): a for i, a in enumerate(args)}, **kwargs}
    shapes = [
        f"{n} {list(v.shape)} {v.dtype}" if isinstance(v, torch.Tensor) else f"{n}={v!r:.40}" for n, v in given.items()
    ]
    return InputError(
        "the model does not run on these inputs",
        where=type(model).__name__,
        got=f"{', '.join(shapes) or 'nothing'}: {type(error).__name__}: {str(error).partition(chr(10))[0]}",
        needed=f"what its forward takes: {inspect.signature(model.forward)}"[:400],
        do="try the call itself first: model(*inputs) or model(**inputs)",
    )


def _returns_nothing(model: torch.nn.Module, result: Any) -> InputError:
    return InputError(
        "the model returns no tensor",
        where=type(model).__name__,
        got=type(result).__name__,
        needed="a tensor, or tensors in tuples, lists, dicts or dataclasses: they are what a split must keep",
        do="return such a container",
    )


def _capture_folded(
    model: torch.nn.Module, inputs: Inputs, folds: tuple[Fold, ...], only: tuple[str, ...]
) -> Captured | None:
    """The folded model's graph; None if it does not run so, or returns something for each block."""
    try:
        found = _capture(model, inputs, fake=True, folds=folds, only=only)
    except Exception:  # whatever went wrong, the whole model is traced next and says so itself
        return None
    for path, _ in found.graph.outputs:
        if any(part.isdigit() and int(part) >= 2 for part in path.partition(":")[2].split(".")):
            return None
    return found


_READS_OF_FAKES = (
    "numpy() is not supported for tensor subclasses",
    "tolist() is not supported for tensor subclasses",
    "its data is not allocated yet",  # in C++, as an index
)


def _needs_values(error: BaseException) -> bool:
    """Whether tracing failed because the model's Python looked at values."""
    if any(text in str(error) for text in _READS_OF_FAKES):
        return True
    names = {"DataDependentOutputException", "DynamicOutputShapeException", "GuardOnDataDependentSymNode"}
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__name__ in names:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _capture(
    model: torch.nn.Module, inputs: Inputs, fake: bool, folds: tuple[Fold, ...] = (), only: tuple[str, ...] = ()
) -> Captured:
    mode = fake_mode() if fake else None
    copied = shadow_copy(model, (lambda _, t: t) if mode is None else (lambda _, t: imitate(t)), mode, folds)
    attributes, before = trace_attributes(copied), attributes_of(copied)
    recorder, text, calls = Recorder({id(p): n for n, p in model.named_parameters()}), CallText(model), list[str]()
    outputs = run_phases(
        copied, inputs, recorder, mode, only, lambda args, kwargs: calls.append(text.of(args, kwargs, model.training))
    )
    recording = recorder.recording
    graph = Graph(
        values=tuple(recording.values),
        nodes=tuple(recording.nodes),
        calls=tuple(recording.calls),
        parameters=recording.parameters,
        buffers=recording.buffers,
        outputs=tuple(outputs),
        phases=tuple(dict.fromkeys(node.phase for node in recording.nodes)),
        assumed=_assumed(fake, recorder, copied),
        watched=recorder.watched(),
        uses=build_uses(tuple(recording.nodes)),
    )
    check_graph(graph)
    states = states_kept(before, copied, recorder)
    forget(copied, states)
    return Captured(graph, attributes, fake, copied, folds, tuple(dict.fromkeys(calls)), states)


def _assumed(fake: bool, recorder: Recorder, model: torch.nn.Module) -> tuple[str, ...]:
    """What the graph does not say about the model."""
    found = [] if fake else ["traced on real values: the path taken depends on data"]
    traced = {node.phase for node in recorder.recording.nodes}
    if "prefill" in traced and "decode" not in traced:
        found.append(f"{type(model).__name__} does not continue from its own state: only the first pass is traced")
    return tuple(found)


def imitate(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape, strides and dtype, to be made inside a fake mode."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)


def shadow_copy(
    model: torch.nn.Module,
    convert: Callable[[str, torch.Tensor], torch.Tensor],
    mode: AbstractContextManager[Any] | None,
    folds: tuple[Fold, ...] = (),
) -> torch.nn.Module:
    """A copy of the model's Python objects with every parameter and buffer converted by (name, tensor), ties kept.
    With folds, of long runs of equal blocks only those that are traced; names are the traced ones.
    """
    memo: dict[int, Any] = {}
    drop_blocks(model, folds, memo)
    with mode or nullcontext(), torch.no_grad():
        for real, tensor in [*model.named_parameters(), *model.named_buffers()]:
            name = traced_name(folds, real)
            if name is None:
                continue
            made = convert(name, tensor)
            if isinstance(tensor, torch.nn.Parameter):
                made = torch.nn.Parameter(made, requires_grad=tensor.requires_grad)
            memo[id(tensor)] = made
    copied = copy_model(model, memo)
    close_gaps(copied, folds)
    return copied


def run_phases(
    model: torch.nn.Module,
    inputs: Inputs,
    recorder: Recorder,
    mode: Any,
    only: tuple[str, ...] = (),
    called: Callable[[tuple[Any, ...], dict[str, Any]], None] = lambda args, kwargs: None,
) -> list[tuple[str, int]]:
    """Run every phase (or exactly those in `only`) under the recorder; returns output leaves as (phase:path, value).
    `called` hears of the arguments of each that ran to its end.
    """
    recorder.define_leaves(model)

    def run(phase: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        recorder.phase = phase
        mark = recorder.mark()
        for path, value in _named_tensors((args, kwargs)):
            recorder.define(value, "input", f"{phase}:{path}")
        try:
            with recorder.recording_ops():
                result = model(*args, **kwargs)
        except Exception:
            if not only:
                recorder.forget_since(mark)
            raise
        called(args, kwargs)
        return result

    recorder.caller = run.__code__
    outputs: list[tuple[str, int]] = []
    args, kwargs = own_inputs(inputs) if mode is None else _imitated(normalize_inputs(inputs), mode)
    with mode or nullcontext(), swaps_allowed(mode), quiet_shapes(), uncompiled(), memos_aside(), recorder.watch(model):
        for phase, result in phases(model, args, kwargs, run, only):
            found = [(f"{phase}:{path}", value) for path, value in leaves(result, recorder.value_of)]
            if not found:
                raise _returns_nothing(model, result)
            outputs += found
    return outputs


GENERATED = " generated"  # ends the phases of calls as the model's own `generate` makes them
Run = Callable[[str, tuple[Any, ...], dict[str, Any]], Any]


def phases(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], run: Run, only: tuple[str, ...] = ()
) -> Iterator[tuple[str, Any]]:
    """Run each phase by `run(phase, args, kwargs)` and yield (phase, result).

    The first phase must run. A later one that does not (a model that cannot continue from its own state, or takes no
    such mask) is left out; with `only`, exactly those phases are run, and an error in them is an error.
    """
    accepted = inspect.signature(model.forward).parameters
    recurrent = bool(getattr(model, "can_generate", bool)())
    if not recurrent:
        yield "forward", run("forward", args, kwargs)
        return
    token_input = next((n for n in ("decoder_input_ids", "input_ids") if n in kwargs), None)
    variants = [("", kwargs)]
    if token_input is not None and "attention_mask" in accepted and "attention_mask" not in kwargs:
        source = kwargs["input_ids"] if "input_ids" in kwargs else kwargs[token_input]
        variants.append((" masked", {**kwargs, "attention_mask": _hiding_mask(source)}))
    if token_input is not None:
        variants += [(GENERATED, prepared) for prepared in _as_generate_calls(model, kwargs, token_input)]
    for suffix, given in variants:
        given = {"use_cache": True, **given} if "use_cache" in accepted and suffix != GENERATED else given
        result = _attempt(run, "prefill" + suffix, args, given, only)
        if result is None:
            continue
        yield "prefill" + suffix, result
        state = recurrent_state(result, accepted)
        if token_input is not None and state and suffix != GENERATED:  # which prepares each step anew
            step = _decode_inputs(given, token_input, state, result, accepted)
            decoded = _attempt(run, "decode" + suffix, (), step, only)
            if decoded is not None:
                yield "decode" + suffix, decoded


def _as_generate_calls(model: torch.nn.Module, given: dict[str, Any], token_input: str) -> list[dict[str, Any]]:
    """What the model's own `generate` makes of the inputs, where that holds float tensors that were not given (xlnet's
    target mapping): no other call runs the code that they need. Positions and masks are proved when they come.
    """
    prepare = getattr(model, "prepare_inputs_for_generation", None)
    if prepare is None or token_input != "input_ids":
        return []
    try:
        prepared = prepare(
            given["input_ids"], is_first_iteration=True, **{k: v for k, v in given.items() if k != "input_ids"}
        )
    except Exception:  # it asks for what only `generate` has
        return []
    made = [name for name, x in prepared.items() if isinstance(x, torch.Tensor) and x.is_floating_point()]
    return [prepared] if set(made) - given.keys() else []


def _attempt(run: Run, phase: str, args: tuple[Any, ...], kwargs: dict[str, Any], only: tuple[str, ...]) -> Any:
    """The result of a phase; None if it is not wanted, or is optional and does not run."""
    if only and phase not in only:
        return None
    try:
        return run(phase, args, kwargs)
    except Exception:
        if only or phase == "prefill":
            raise
        return None


def recurrent_state(result: Any, accepted: Mapping[str, Any]) -> dict[str, Any]:
    """What a forward returned and itself accepts by the same name: caches and states, not tensors."""
    return {k: v for k, v in _items(result) if k in accepted and v is not None and not isinstance(v, torch.Tensor)}


def _decode_inputs(
    given: dict[str, Any], token_input: str, state: dict[str, Any], result: Any, accepted: Any
) -> dict[str, Any]:
    """The inputs of the step after `given`: one more token, the state so far, positions and mask one further."""
    step = {k: v for k, v in given.items() if k != "inputs_embeds"}
    step[token_input] = given[token_input][:, -1:]
    decoder_only = token_input == "input_ids"
    for name in ("position_ids", "cache_position", "token_type_ids"):
        if isinstance(positions := step.pop(name, None), torch.Tensor) and decoder_only:
            step[name] = positions[..., -1:] + (name != "token_type_ids")
    if given.get("attention_mask") is not None and decoder_only:
        step["attention_mask"] = _next_mask(given["attention_mask"])
    if not decoder_only and "encoder_outputs" in accepted and "encoder_outputs" not in given:
        step["encoder_outputs"] = (result.encoder_last_hidden_state,)
    return {**step, **state}


def _next_mask(mask: Any) -> Any:
    """The mask of the step after: one of [B, S] grows by a token; one of [B, H, S, T] over a cache of T places, or a
    dict of such, keeps its last row.
    """
    if isinstance(mask, Mapping):
        return {name: _next_mask(item) for name, item in mask.items()}
    if not isinstance(mask, torch.Tensor):
        return mask
    return torch.cat([mask, mask[:, -1:]], dim=1) if mask.dim() == 2 else mask[..., -1:, :]


def _hiding_mask(tokens: torch.Tensor) -> torch.Tensor:
    """An attention mask over [B, S] tokens that hides the first row's first token."""
    mask = torch.ones(tokens.shape, dtype=torch.long, device=tokens.device)
    mask[0, 0] = 0
    return mask


def _items(result: Any) -> list[tuple[str, Any]]:
    return list(result.items()) if isinstance(result, Mapping) else []


def _named_tensors(inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> Iterator[tuple[str, torch.Tensor]]:
    args, kwargs = inputs
    return leaves({**{str(i): item for i, item in enumerate(args)}, **kwargs}, lambda tensor: tensor)


def _imitated(tree: Any, mode: AbstractContextManager[Any]) -> Any:
    """Arguments with fake tensors in place of tensors, and caches of their own: they are written to."""
    if isinstance(tree, torch.Tensor):
        with mode:
            return imitate(tree)
    return copy.deepcopy(tree) if is_state(tree) else map_items(tree, lambda item: _imitated(item, mode))
