"""The modes under which a model is traced: one sees its ops, one the integers it passes, one stands in for data."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.schema_check_mode import SchemaCheckMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from axisplit.capture.calls import autocast_device
from axisplit.capture.frames import in_autograd_function
from axisplit.capture.provenance import Dim, TracedInt
from axisplit.capture.shapes import remembered

if TYPE_CHECKING:
    from axisplit.capture.record import Recorder

aten = torch.ops.aten


class OpMode(SchemaCheckMode):  # type: ignore[no-untyped-call]
    """Torch admits only three classes of its own at the pre-dispatch key; of those, this one brings nothing along."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled inside (`uncompiled`), and skipping takes a second to import the compiler

    def __init__(self, recorder: Recorder) -> None:
        TorchDispatchMode.__init__(self)  # type: ignore[no-untyped-call]
        self._dispatch_key = torch._C.DispatchKey.PreDispatch
        self._recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not under_transform():
            return _recorded(self._recorder, func, args, kwargs)
        self._recorder.transformed = True
        try:
            with InnerOpMode(self._recorder):
                return func(*args, **kwargs)
        finally:
            self._recorder.transformed = False


class InnerOpMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the ops that a transform makes of an op, on the tensors that its own stand for."""

    _should_skip_dynamo = OpMode._should_skip_dynamo

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _recorded(self._recorder, func, args, kwargs or {})


def under_transform() -> bool:
    """Whether a transform of `torch.func` (vmap, grad) runs: its tensors stand for others and have no data."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _recorded(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An op's result; runs and records it."""
    return recorder.record(
        func, args, kwargs, lambda: remembered(func, args, kwargs, lambda: run_shaped(func, args, kwargs))
    )


def run_shaped(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An op's result; on fake tensors by a shape function of ours where torch's refuses what its kernel accepts."""
    shape = _SHAPES.get(func) if any(isinstance(a, FakeTensor) for a in args) else None
    return func(*args, **kwargs) if shape is None else shape(*args, **kwargs)


class FunctionMode(TorchFunctionMode):
    """Sees the integers that Python passes, before they become C++ integers and forget where they came from; and where
    it switches gradients off.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self._switched: dict[int, tuple[Any, bool]] = {}  # id of a switch -> itself, whether they were off before

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled:
            self._switch_gradients(args[0])
            return func(*args, **kwargs)
        if func in _SIZE_READS:
            return self._sizes(func, func(*args, **kwargs), args)
        before = self._recorder.call
        self._recorder.call = (args, kwargs)
        self._recorder.issue += 1
        self._recorder.order = 0
        if func in _NUMBER_READS and self._recorder.follows(args[0]):
            self._recorder.reads(args[0])
        try:
            return func(*args, **kwargs)
        finally:
            self._recorder.call = before

    def _switch_gradients(self, on: bool) -> None:
        """The trace itself runs without gradients, so that torch cannot say whether the model has switched them off:
        what was the case before each of torch's switches (`no_grad` and its kin) is known here until it is left. The
        forward of an autograd function always runs without: its own backward says what the gradients are.
        """
        frame = sys._getframe(2)
        if in_autograd_function(frame):
            return
        while frame.f_back is not None and frame.f_back.f_code.co_filename == frame.f_code.co_filename:
            frame = frame.f_back  # one switch is made of another
        switch = frame.f_locals.get("self")
        if frame.f_code.co_name == "__exit__":
            _, self._recorder.detached = self._switched.pop(id(switch), (switch, False))
        else:
            self._switched.setdefault(id(switch), (switch, self._recorder.detached))
            self._recorder.detached = not on

    def _sizes(self, func: Any, result: Any, args: Any) -> Any:
        """Sizes that Python reads off a tensor, as integers that remember where they came from."""
        tensor = args[0]
        if not self._recorder.follows(tensor):
            return result
        value = self._recorder.value_of(tensor)
        if isinstance(result, tuple):
            return torch.Size(TracedInt(size, Dim(value, d)) for d, size in enumerate(result))
        if len(args) == 2 and isinstance(args[1], int):
            return TracedInt(result, Dim(value, args[1] % tensor.dim()))
        return result


_NUMBER_READS = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__}
_SIZE_READS = {torch.Tensor.shape.__get__, torch.Tensor.size}  # type: ignore[attr-defined]


def _grouped_mm_shape(rows: torch.Tensor, weights: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return rows.new_empty(*rows.shape[:-1], weights.shape[-1])


# Ops whose shape function refuses dtypes that their kernels accept.
_SHAPES: dict[Any, Callable[..., torch.Tensor]] = {aten._grouped_mm.default: _grouped_mm_shape}


def fake_mode() -> Any:
    """A mode in which tensors have shapes and no data."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


@contextmanager
def swaps_allowed(mode: Any) -> Iterator[None]:
    """A forward may convert a module (`self.head.to(x.dtype)`), which swaps its parameters. Torch refuses that where
    anything refers to them weakly, as its fake mode does to what it makes for the first time: that is forgotten first.
    """
    swap = torch.utils.swap_tensors

    def swap_forgotten(left: torch.Tensor, right: torch.Tensor) -> None:
        mode.fake_tensor_converter.meta_converter.tensor_memo.clear()
        swap(left, right)  # type: ignore[no-untyped-call]

    torch.utils.swap_tensors = swap_forgotten if mode is not None else swap
    try:
        yield
    finally:
        torch.utils.swap_tensors = swap


@contextmanager
def quiet_shapes() -> Iterator[None]:
    """Torch logs every op whose shapes do not fit; whoever called it gets an error that says so."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def outside_modes() -> Iterator[None]:
    """Tracing in the middle of somebody's call: whatever modes that runs under are left for the duration, but autocast,
    which belongs to the program. Fake tensors are on the CPU, so the accelerator's is entered for the CPU.
    """
    from torch.utils._python_dispatch import _disable_current_modes

    device = autocast_device()
    dtype = torch.get_autocast_dtype(device) if device else None
    with torch.inference_mode(False), _disable_current_modes(), torch.autocast("cpu", dtype, enabled=bool(device)):
        yield


def uncompiled() -> AbstractContextManager[None]:
    """Inside, what `torch.compile` wraps runs as it was written. It wraps nothing before the compiler is imported."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


@contextmanager
def unfused() -> Iterator[None]:
    """Inside, torch's attention blocks run op by op without gradients, too, and padding is filled with nothing."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
