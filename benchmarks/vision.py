"""timm, vit-pytorch and torchvision, where torchvision's compiled ops do not fit the torch that is installed.

The wheel of torchvision on the package index is compiled against torch for CUDA. Beside torch for CPUs its library
cannot be loaded, and `import torchvision` stops where it describes the ops `nms` and `qnms`, which do not exist then.
The models here call neither. So where the library cannot be loaded, the two are declared without a kernel: to call one
is an error.

transformers imports torchvision wherever it finds it, and would not work at all beside one that cannot be imported. So
the Makefile puts these packages into a folder of their own in the environment, which only `importable` looks into.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

FOLDER = Path(sys.prefix, "vision")
DESCRIBED = ("nms", "qnms")  # what `torchvision/_meta_registrations.py` asks for, with or without the library
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # declarations last as long as this


@contextmanager
def importable() -> Iterator[None]:
    """Inside, the packages are found; processes that are started later do not look for them. What was imported inside
    stays so. Raises: ModuleNotFoundError if torchvision is not installed.
    """
    sys.path.append(str(FOLDER))
    try:
        _declare_ops()
        yield
    finally:
        sys.path.remove(str(FOLDER))


def import_timm() -> bool:
    """Import timm, so that transformers, imported after it, finds that it is there. Returns: whether it is."""
    try:
        with importable(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's, as in `_declare_ops`
            importlib.import_module("timm")
    except ModuleNotFoundError:
        return False
    return True


def _declare_ops() -> None:
    """Makes torchvision importable, its library or not."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("torchvision is not installed", name="torchvision")
    if _declared or _loads(Path(spec.origin).parent):
        return
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in DESCRIBED:
        library.define(name + _SCHEMA)  # type: ignore[no-untyped-call]
    _declared.append(library)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the library for image files cannot be loaded either
        importlib.import_module("torchvision")


def _loads(package: Path) -> bool:
    """Whether torchvision's own library of ops goes with this torch. Raises: FileNotFoundError if there is none."""
    found = sorted(package.glob("_C.*"))
    if not found:
        raise FileNotFoundError(f"{package} holds no library of ops (_C.so): torchvision is not installed completely")
    try:
        torch.ops.load_library(str(found[0]))  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return True
