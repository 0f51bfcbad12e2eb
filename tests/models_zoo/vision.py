"""timm, vit-pytorch and torchvision, where torchvision's compiled ops do not fit the torch that is installed.

The wheel of torchvision on the package index is compiled against torch for CUDA. Beside torch for CPUs its library
cannot be loaded, and `import torchvision` stops where it describes the ops `nms` and `qnms`, which do not exist then.
The models here call neither. So where the library cannot be loaded, the two are declared without a kernel: to call one
is an error.

transformers imports torchvision wherever it finds it, and would not work at all beside one that cannot be imported. So
the Makefile puts these packages into a folder of their own in the environment, which only these tests look into.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models_zoo.tiny import perturb

Made = tuple[nn.Module, Any, float]  # model, inputs, least share of the parameter bytes that is split

FOLDER = Path(sys.prefix, "vision")
DESCRIBED = ("nms", "qnms")  # what `torchvision/_meta_registrations.py` asks for, with or without the library
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # declarations last as long as this


@contextmanager
def importable() -> Iterator[None]:
    """Inside, the packages are found; processes that are started later do not look for them. Skips a test without
    torchvision.
    """
    sys.path.append(str(FOLDER))
    try:
        _declare_ops()
        yield
    finally:
        sys.path.remove(str(FOLDER))


def _declare_ops() -> None:
    """Makes torchvision importable, its library or not."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchvision is not installed")
    if _declared or _loads(Path(spec.origin).parent):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in DESCRIBED:
        library.define(name + _SCHEMA)
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
        torch.ops.load_library(str(found[0]))
    except OSError:
        return False
    return True


def _made(module: str, name: str, size: int, split: float, **sizes: Any) -> Callable[[], Made]:
    """A class or function of one of these packages, called with `sizes`, and two images."""

    def make() -> Made:
        with importable():
            pytest.importorskip(module.partition(".")[0])
            model = getattr(importlib.import_module(module), name)(**sizes)
        return perturb(model).eval(), (torch.randn(2, 3, size, size),), split

    return make


VISION: dict[str, Callable[[], Made]] = {
    "timm eva": _made(
        "timm.models.eva", "Eva", 16, 0.95,
        num_classes=11, use_rot_pos_emb=True, swiglu_mlp=True, img_size=16, patch_size=4, embed_dim=60, depth=1,
        num_heads=5,
    ),
    "timm swin": _made(
        "timm.models.swin_transformer", "SwinTransformer", 16, 0.95,
        num_classes=11, img_size=16, patch_size=2, embed_dim=24, depths=(1, 2), num_heads=(3, 6), window_size=4,
    ),
    "timm convnext": _made(
        "timm.models.convnext", "ConvNeXt", 32, 0.85,
        num_classes=11, patch_size=2, depths=(1, 1, 1, 1), dims=(10, 20, 30, 50), use_grn=True,
    ),
    "vit-pytorch vit": _made(
        "vit_pytorch.vit", "ViT", 16, 0.9,
        num_classes=11, image_size=16, patch_size=4, dim=60, depth=2, heads=5, dim_head=12, mlp_dim=130,
    ),
    "torchvision mobilenet": _made(
        "torchvision.models", "MobileNetV2", 32, 0.95,
        num_classes=11, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2]], width_mult=0.5,
    ),
}  # fmt: skip
