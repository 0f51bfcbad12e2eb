"""Models of timm, vit-pytorch and torchvision, found as `benchmarks/vision.py` says."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.vision import importable
from models_zoo.tiny import perturb

Made = tuple[nn.Module, Any, float]  # model, inputs, least share of the parameter bytes that is split


def _made(module: str, name: str, size: int, split: float, **sizes: Any) -> Callable[[], Made]:
    """A class or function of one of these packages, called with `sizes`, and two images."""

    def make() -> Made:
        try:
            with importable():
                model = getattr(importlib.import_module(module), name)(**sizes)
        except ModuleNotFoundError as error:
            pytest.skip(f"{error.name} is not installed")
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
