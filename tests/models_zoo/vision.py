"""timm, vit-pytorch and torchvision, where torchvision's compiled ops do not fit the torch that is installed.

The wheel of torchvision on the package index is compiled against torch for CUDA. Beside torch for CPUs its library
cannot be loaded, and `import torchvision` stops where it describes the ops `nms` and `qnms`, which do not exist then.
The models here call neither. So where the library cannot be loaded, the two are declared without a kernel: to call one
is an error.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

DESCRIBED = ("nms", "qnms")  # what `torchvision/_meta_registrations.py` asks for, with or without the library
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # declarations last as long as this


def importable() -> None:
    """Declares what `import torchvision` asks for if its library cannot be loaded. Skips a test without torchvision."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchvision is not installed")
    if _declared or _loads(Path(spec.origin).parent):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in DESCRIBED:
        library.define(name + _SCHEMA)
    _declared.append(library)


def _loads(package: Path) -> bool:
    """Whether torchvision's own library of ops goes with this torch. Raises: FileNotFoundError if there is none."""
    found = sorted(package.glob("_C.*"))
    if not found:
        raise FileNotFoundError(f"{package} holds no library of ops (_C.so): torchvision is not installed completely")
    try:
        torch.ops.load_library(str(found[0]))
    except OSError:
        return False
    return True
