"""Record the ops that a model's Python issues, as a functional graph.

The recorder stands at torch's pre-dispatch key: above autograd and above composite decompositions, for Python and C++
callers alike. Below it runs a fake-tensor mode (shapes only) or, for programs whose Python looks at values, the real
kernels. In-place ops are made functional while recording:

    every tensor maps to a value; a tensor that shares storage with another remembers how it was made from it (a chain
    of view ops); a write through any of them makes new values up the chain to the owner of the storage and bumps the
    storage's version; a tensor whose version is behind is made again from its owner when it is next read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import CodeType
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, UnsupportedOperatorException

from axisplit.capture.frames import instruction, is_machinery
from axisplit.capture.graph import Call, Frame, Node, Number, Opaque, Origin, Ref, Value
from axisplit.capture.inplace import functional_form, reshapes_in_place, scatter_of, written_arguments
from axisplit.capture.integers import match_integers
from axisplit.capture.modes import FunctionMode, OpMode, under_transform
from axisplit.capture.shared import SharedModules, is_plain
from axisplit.capture.trees import leaves
from axisplit.errors import CaptureError

aten = torch.ops.aten

# Ops whose result is their first argument, value for value: they never appear in a graph.
IDENTITIES = {
    "alias",
    "clone",
    "contiguous",
    "detach_",
    "lift",
    "lift_fresh",
    "lift_fresh_copy",
    "requires_grad_",
}
_CASTS = {"to", "_to_copy", "type_as", "float", "half", "double"}
_QUERIES = {"size", "stride", "dim", "numel", "is_contiguous", "sym_size", "sym_stride", "sym_numel", "is_pinned"}


@dataclass(slots=True)
class _Tracked:
    """What is known of one live tensor."""

    tensor: torch.Tensor  # kept alive: identities must not be reused
    value: int
    version: int
    view_of: torch.Tensor | None = None
    view: tuple[Any, tuple[Any, ...], dict[str, Any], int] | None = None  # op, other arguments, output position


@dataclass
class Recording:
    """What one or several traced phases produced; `values`, `nodes` and `calls` grow."""

    values: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)  # name -> value before anything was written to it
    buffers: dict[str, int] = field(default_factory=dict)


class Recorder:
    """Follows tensors through one or several phases and appends to a `Recording`."""

    def __init__(self, not_traced: Mapping[int, str] | None = None) -> None:
        """`not_traced`: id -> name of parameters that the traced model has copies of, and must not use themselves."""
        self.recording = Recording()
        self._not_traced = not_traced or {}
        self.phase = "forward"
        self.module_stack: list[str] = [""]
        self.call: tuple[Any, Any] = ((), {})  # what Python gave the function of torch that runs
        self.issue, self.order = 0, 0
        self.caller: CodeType | None = None  # what calls the model: frames below it are nobody's model
        self.detached = False  # whether the model's Python has switched gradients off
        self.transformed = False  # whether a transform of `torch.func` made the op that runs
        self.refused = False  # whether an op raised
        self._tracked: dict[int, _Tracked] = {}
        self._versions: dict[int, int] = {}
        self._sharing: dict[int, list[torch.Tensor]] = {}
        self._attributes: set[int] = set()  # tensors that modules hold as plain attributes: others may write to them
        self._shared = SharedModules()

    def mark(self) -> tuple[int, int, int]:
        """Where the recording stands, for `forget_since`."""
        return len(self.recording.values), len(self.recording.nodes), len(self.recording.calls)

    def forget_since(self, mark: tuple[int, int, int]) -> None:
        """Take back what a pass recorded that did not run to its end."""
        values, nodes, calls = mark
        del self.recording.values[values:], self.recording.nodes[nodes:], self.recording.calls[calls:]
        self._shared.forget_since(nodes)
        gone = {key: known.tensor for key, known in self._tracked.items() if known.value >= values}
        for key, tensor in gone.items():
            del self._tracked[key]
            storage = _storage_key(tensor)
            self._sharing[storage] = [other for other in self._sharing[storage] if other is not tensor]
        self.module_stack = [""]

    # --- values -------------------------------------------------------------------------------------------------

    def define_leaves(self, model: torch.nn.Module) -> None:
        """The values of a model's parameters and buffers, ties under each of their names."""
        for name, tensor in model.named_parameters(remove_duplicate=False):
            self.recording.parameters[name] = self.define(tensor, "parameter", name)
        for name, buffer in model.named_buffers(remove_duplicate=False):
            self.recording.buffers[name] = self.define(buffer, "buffer", name)

    def watched(self) -> frozenset[int]:
        """Values for whose gradient the model's Python asked; of what parameters are in, it is there anyway."""
        asked = {k.value for k in self._tracked.values() if k.tensor.requires_grad and k.tensor.is_leaf}
        asked -= {value.index for value in self.recording.values if value.origin == "input"}
        found = set(self.recording.parameters.values())
        for node in self.recording.nodes if asked - found else ():
            if node.op._opname != "detach" and not found.isdisjoint(node.inputs()):
                found.update(node.outputs)
        return frozenset(asked - found)

    def define(self, tensor: torch.Tensor, origin: Origin, name: str = "") -> int:
        """The value of a tensor that no recorded op made; defines it at first sight."""
        known = self._tracked.get(id(tensor))
        if known is not None:
            return self.value_of(tensor)
        twin = next((t for t in self._sharing.get(_storage_key(tensor), ()) if _same_window(t, tensor)), None)
        if twin is not None and origin == "constant":
            self._alias(twin, tensor)  # C++ handed out another Python object for the same memory
            return self.value_of(tensor)
        if id(tensor) in self._not_traced:
            raise _not_the_copys(self._not_traced[id(tensor)], self.module_stack[-1])
        value = self._new_value(tensor, origin, name)
        self._track(tensor, value)
        return value

    def _track(self, tensor: torch.Tensor, value: int, view_of: torch.Tensor | None = None, view: Any = None) -> None:
        self._tracked[id(tensor)] = _Tracked(tensor, value, self._version(tensor), view_of, view)
        self._sharing.setdefault(_storage_key(tensor), []).append(tensor)

    def follows(self, tensor: torch.Tensor) -> bool:
        return id(tensor) in self._tracked

    def value_of(self, tensor: torch.Tensor) -> int:
        """The value a tensor holds now: made again from its storage's owner if that was written to."""
        known = self._tracked.get(id(tensor))
        if known is None:
            return self.define(tensor, "constant")
        if known.version != self._version(tensor) and known.view_of is not None and known.view is not None:
            op, args, kwargs, position = known.view
            if known.view is _ALIAS:
                known.value, known.version = self.value_of(known.view_of), self._version(tensor)
                return known.value
            base = Ref(self.value_of(known.view_of))
            known.version = self._version(tensor)  # before its sizes are read, which asks for its value
            known.value = self._append(op, (base, *args), kwargs, [tensor], count=position + 1)[-1]
        return known.value

    def _new_value(self, tensor: torch.Tensor, origin: Origin, name: str = "") -> int:
        index = len(self.recording.values)
        shape = tuple(int(s) for s in tensor.shape)
        written = _on_fakes() and id(tensor) not in self._attributes
        constant = _numbers(tensor, written) if origin == "constant" else None
        self.recording.values.append(Value(index, shape, tensor.dtype, origin, name, constant))
        return index

    def _version(self, tensor: torch.Tensor) -> int:
        return self._versions.get(_storage_key(tensor), 0)

    # --- ops ----------------------------------------------------------------------------------------------------

    def record(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], run: Callable[[], Any]) -> Any:
        """Run an op and record its functional form."""
        name = op._opname if getattr(op, "namespace", "") == "aten" else op.name()
        if name in _QUERIES:
            return run()
        if name not in IDENTITIES and reshapes_in_place(op):
            return self._record_reshaped(op, args, kwargs, run)
        mutated = written_arguments(op, args, kwargs)
        arguments, keywords = self._to_refs(args), self._to_refs(kwargs)
        result = self._run(op, run)
        constant = name == "detach" and self.recording.values[arguments[0].value].origin == "constant"
        if constant or name in IDENTITIES or (name in _CASTS and _same_dtype(args, result)):
            self._alias(args[0], result)
        elif mutated:
            self._record_mutation(op, arguments, keywords, args, mutated, result)
        else:
            self._record_functional(op, arguments, keywords, args, result)
        return result

    def _run(self, op: Any, run: Callable[[], Any]) -> Any:
        try:
            return run()
        except Exception as error:
            self.refused = True
            if not _on_fakes() or not _lacks_fake(error):
                raise
            raise CaptureError(
                what=f"the op {op} has no shape function",
                where=self.module_stack[-1] or "the model's forward",
                got=str(error).partition("\n")[0],
                needed="a fake implementation: models are traced without numbers",
                do="register one: torch.library.register_fake",
            ) from error

    def _to_refs(self, tree: Any) -> Any:
        if isinstance(tree, torch.Tensor):
            return Ref(self.value_of(tree))
        if isinstance(tree, (tuple, list)):
            return [self._to_refs(item) for item in tree] if isinstance(tree, list) else tuple(map(self._to_refs, tree))
        if isinstance(tree, dict):
            return {key: self._to_refs(item) for key, item in tree.items()}
        return tree

    def _alias(self, source: torch.Tensor, result: torch.Tensor) -> None:
        if result is source or id(result) in self._tracked:
            return
        value = self.value_of(source)
        shares = _storage_key(result) == _storage_key(source)
        self._track(result, value, source if shares else None, _ALIAS if shares else None)

    def _record_functional(self, op: Any, args: Any, kwargs: Any, real_args: Any, result: Any) -> None:
        tensors = list(_tensors(result))
        if not tensors:
            if torch.Tag.data_dependent_output in op.tags or op._opname == "is_nonzero":
                self.reads(*_tensors(real_args))
            return
        if all(id(t) in self._tracked and any(t is a for a in _tensors(real_args)) for t in tensors):
            return  # returned its own argument: nothing happened
        outputs = self._append(op, args, kwargs, tensors)
        owner = next((a for a in _tensors(real_args) if _storage_key(a) == _storage_key(tensors[0])), None)
        for position, (tensor, value) in enumerate(zip(tensors, outputs, strict=True)):
            view = (op, tuple(args[1:]), kwargs, position) if owner is not None else None
            self._track(tensor, value, owner, view)

    def reads(self, *tensors: torch.Tensor) -> None:
        """Python looks at the numbers of tensors. On fakes, it reads only what it wrote itself."""
        for tensor in tensors if not _on_fakes() else ():
            self._append(aten._local_scalar_dense.default, (Ref(self.value_of(tensor)),), {}, [])

    def _record_mutation(
        self, op: Any, args: Any, kwargs: Any, real_args: Any, mutated: list[torch.Tensor], result: Any
    ) -> None:
        functional = functional_form(op)
        target = mutated[0]
        alike = "out" not in kwargs or all(t.dtype == target.dtype for t in _tensors(real_args))  # else it is cast, too
        if functional is None or len(mutated) != 1 or not alike:
            raise CaptureError(
                what=f"cannot make the in-place op {op} functional",
                where=self.module_stack[-1] or "the model's forward",
                do="use its out-of-place form in the model, or report the op"
                if op.namespace == "aten"
                else "give the op a form that returns its result and writes to none of its operands, and use that",
            )
        (value,) = self._append(functional, args, {k: v for k, v in kwargs.items() if k != "out"}, [target])
        self._write(target, value)
        for tensor in _tensors(result):
            if tensor is not target and id(tensor) not in self._tracked:
                self._alias(target, tensor)

    def _record_reshaped(self, op: Any, args: Any, kwargs: Any, run: Callable[[], Any]) -> Any:
        """A tensor becomes a view of what it was, which another tensor stands for from now on."""
        target, rest = args[0], self._to_refs(args[1:])
        self.value_of(target)
        before = aten.alias.default(target)
        result = self._run(op, run)
        known = self._tracked[id(target)]
        self._tracked[id(before)] = replace(known, tensor=before)
        self._sharing[_storage_key(before)].append(before)
        for other in self._tracked.values():
            other.view_of = before if other.view_of is target else other.view_of
        view = (functional_form(op), rest, self._to_refs(kwargs), 0)
        (value,) = self._append(view[0], (Ref(known.value), *rest), view[2], [target])
        self._tracked[id(target)] = _Tracked(target, value, known.version, before, view)
        return result

    def _write(self, target: torch.Tensor, value: int) -> None:
        """A tensor's storage now holds `value` where the tensor looks: carry it up to the storage's owner."""
        chain, tensor = [], target
        while (known := self._tracked[id(tensor)]).view_of is not None:
            chain.append(tensor)
            tensor = known.view_of
        for view in chain:
            known = self._tracked[id(view)]
            assert known.view_of is not None
            assert known.view is not None
            value = self._put_back(known.view_of, known.view, value)
        owner = self._tracked[id(tensor)]
        key = _storage_key(tensor)
        self._versions[key] = self._versions.get(key, 0) + 1
        owner.value, owner.version = value, self._versions[key]
        if chain:
            self._tracked[id(target)].version = -1  # read again through its view

    def _put_back(self, base: torch.Tensor, view: tuple[Any, ...], value: int) -> int:
        """The base's new value, after what a view of it shows became `value`."""
        op, args, *_ = view
        whole, part = Ref(self._tracked[id(base)].value), Ref(value)
        if view is _ALIAS or op._opname == "detach":
            return value
        name = op._opname
        scatter = scatter_of(view, tuple(base.shape))
        if scatter is not None:
            scatter_op, given, keywords = scatter
            return self._append(scatter_op, (whole, part, *given), keywords, [base])[0]
        if name in ("view", "reshape", "squeeze", "unsqueeze", "_unsafe_view", "flatten", "unflatten"):
            return self._append(aten.reshape.default, (part, list(base.shape)), {}, [base])[0]
        if name in ("transpose", "swapaxes", "swapdims", "t"):
            dims = (0, 1) if name == "t" else args
            return self._append(aten.transpose.int, (part, *dims), {}, [base])[0]
        if name == "permute":
            order = [d % base.dim() for d in args[0]]
            inverse = sorted(range(len(order)), key=order.__getitem__)
            return self._append(aten.permute.default, (part, inverse), {}, [base])[0]
        raise CaptureError(
            what=f"a write through the view op {op} is not understood",
            where=self.module_stack[-1] or "the model's forward",
            do="write to the tensor itself rather than to this view, or report the op",
        )

    def _append(self, op: Any, args: Any, kwargs: Any, tensors: list[torch.Tensor], count: int = 0) -> tuple[int, ...]:
        outputs = tuple(self._new_value(t, "node") for t in (tensors * count if count else tensors))
        index = len(self.recording.nodes)
        traced, given = match_integers(self.call, (args, kwargs))
        node = Node(
            index, op, tuple(args), kwargs, outputs, self.module_stack[-1], self.phase, traced, self._frames(),
            self.issue, self.order, given, self.detached or torch.is_inference_mode_enabled(),
        )  # fmt: skip
        self.order += 1
        self.recording.nodes.append(node)
        return outputs

    def _frames(self) -> tuple[Frame, ...]:
        """The model's own Python frames, from the op outwards to the method that the innermost module was called by.
        None under a transform of `torch.func`: what is put around an expression there would see its stand-ins.
        """
        if self.transformed:
            return ()
        frames: list[Frame] = []
        frame, inside = sys._getframe(1), False
        while frame is not None and len(frames) < 12 and frame.f_code is not self.caller:
            code = frame.f_code
            if not is_machinery(code):
                first = code.co_varnames[0] if code.co_argcount else ""  # `self`, whatever its name
                is_module = isinstance(frame.f_locals.get(first), torch.nn.Module)
                inside = inside or is_module
                frames.append(Frame(code, instruction(frame), self.module_stack[-1] if is_module else None))
            elif inside and code.co_filename.endswith("nn/modules/module.py"):
                break
            frame = frame.f_back  # type: ignore[assignment]
        return tuple(frames)

    # --- module calls ---------------------------------------------------------------------------------------------

    @contextmanager
    def watch(self, model: torch.nn.Module) -> Iterator[None]:
        """Record the calls of a model's modules (hooks for the duration). One that is called under a transform of
        `torch.func` is a part of what called the transform: no value of the graph goes in or out.
        """
        open_calls: list[tuple[str, int, tuple[tuple[str, int], ...], Any, tuple[Frame, ...]]] = []

        def entering(path: str, plain: bool) -> Callable[..., None]:
            def hook(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
                if under_transform():
                    return
                given = tuple(leaves({**dict(enumerate(args)), **kwargs}, self.value_of))
                frames = self._frames() if plain else ()
                open_calls.append((path, len(self.recording.nodes), given, self._tree((args, kwargs)), frames))
                self.module_stack.append(path)

            return hook

        def leaving(path: str) -> Callable[..., None]:
            def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
                if under_transform():
                    return
                self.module_stack.pop()
                name, first, inputs, arguments, frames = open_calls.pop()
                outputs = tuple(leaves(output, self.value_of))
                end = len(self.recording.nodes)
                result = self._tree(output)
                call = Call(name, self.phase, first, end, inputs, outputs, arguments, result, module.training)
                self.recording.calls.append(call)
                if frames:
                    self._shared.add(call, self.recording.nodes, self.module_stack[-1], frames)

            return hook

        with ExitStack() as stack:
            for path, module in model.named_modules():
                self._attributes.update(id(held) for held in vars(module).values() if isinstance(held, torch.Tensor))
                entered = entering(path, is_plain(module))
                before = module.register_forward_pre_hook(entered, with_kwargs=True, prepend=False)
                after = module.register_forward_hook(leaving(path), prepend=True)
                stack.callback(before.remove)
                stack.callback(after.remove)
            yield
        self._shared.give_to_callers(self.recording.nodes)

    def _tree(self, tree: Any) -> Any:
        """Arguments or a result with tensors as references."""
        if isinstance(tree, torch.Tensor):
            return Ref(self.value_of(tree))
        if type(tree) in (tuple, list):
            return type(tree)(self._tree(item) for item in tree)
        if type(tree) is dict:
            return {key: self._tree(item) for key, item in tree.items()}
        if tree is None or isinstance(tree, (bool, int, float, str)):
            return tree
        return Opaque(type(tree).__name__)

    @contextmanager
    def recording_ops(self) -> Iterator[None]:
        """Record every op that is issued inside."""
        with torch.no_grad(), enable_python_dispatcher(), OpMode(self), FunctionMode(self):
            yield


_ALIAS: Any = ("alias", (), {}, 0)


def _storage_key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _numbers(tensor: torch.Tensor, written: bool) -> tuple[Number, ...] | None:
    """The numbers of a small vector, where they are known: integers, and of a tensor that is written in the model's
    Python all kinds.
    """
    known = tensor.constant if isinstance(tensor, FakeTensor) else tensor
    if known is None or known.dim() > 1 or known.numel() > 16 or known.is_complex():
        return None
    if not written and (known.is_floating_point() or known.dtype == torch.bool):
        return None
    with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
        return tuple(_shortest(x, known.dtype) for x in known.reshape(-1).tolist())


def _on_fakes() -> bool:
    """Whether tensors have no data: then no number in a tensor can have come from any."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


def _lacks_fake(error: Exception) -> bool:
    """Whether an op failed because nothing says which shapes it makes."""
    return isinstance(error, UnsupportedOperatorException) or "There was no fake impl registered" in str(error)


def _shortest(number: Number, dtype: torch.dtype) -> Number:
    """The shortest decimal that the dtype rounds to the same number: what was written, so that it holds for wider
    dtypes too.

    >>> _shortest(0.10000000149011612, torch.float32)
    0.1
    """
    if not isinstance(number, float):
        return number
    rounded = (float(f"{number:.{digits}g}") for digits in range(1, 17))
    return next((short for short in rounded if torch.tensor(short, dtype=dtype).item() == number), number)


def _same_window(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors on one storage show the same elements."""
    same_shape = a.shape == b.shape and a.dtype == b.dtype and a.storage_offset() == b.storage_offset()
    return same_shape and a.stride() == b.stride()


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from _tensors(item)


def _same_dtype(args: Any, result: Any) -> bool:
    return isinstance(result, torch.Tensor) and result.dtype == args[0].dtype and result.shape == args[0].shape


def _not_the_copys(name: str, module: str) -> CaptureError:
    return CaptureError(
        what="the model's Python uses a parameter of the model itself where a copy of the model runs",
        where=module or "the model's forward",
        got=name,
        needed="layers and tensors that are reached through `self`, or by functions that the model keeps",
        do="keep the layer on the module that uses it, rather than in a global variable",
    )
