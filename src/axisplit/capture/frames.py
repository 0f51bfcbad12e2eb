"""Frames of the Python stack while a model is traced: whose they are, and where they stand."""

from __future__ import annotations

import dis
from functools import cache
from types import CodeType, FrameType

import torch

_PRECALL = dis.opmap.get("PRECALL", -1)  # Python 3.11
_TORCH_FOLDER = torch.__path__[0]
_OWN_FOLDER = __file__.rsplit("capture", 1)[0]
_NN_FOLDER = f"{_TORCH_FOLDER}/nn/modules/"
_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]


def instruction(frame: FrameType) -> int:
    """Index of the instruction that a frame is at. Once `tuple(…)` and the like have run a few times, Python 3.11 does
    the call in the PRECALL, two units (it has a cache behind it) before the CALL: both are the CALL here.
    """
    index = frame.f_lasti // 2
    return index + 2 if frame.f_code.co_code[2 * index] == _PRECALL else index


@cache
def is_machinery(code: CodeType) -> bool:
    """Frames that are nobody's model: torch outside `torch.nn`'s modules, module dispatch, axisplit itself."""
    file = code.co_filename
    own = file.startswith(_OWN_FOLDER) or (file.startswith(_TORCH_FOLDER) and not file.startswith(_NN_FOLDER))
    return own or file.endswith("nn/modules/module.py")


def in_autograd_function(frame: FrameType | None) -> bool:
    """Whether a frame runs on behalf of a `torch.autograd.Function`."""
    while frame is not None:
        if frame.f_code is _APPLY:
            return True
        frame = frame.f_back
    return False
