"""The zoo: what is large by default is small, and timm is found without being on the path."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.vision import FOLDER
from benchmarks.zoo import build

TIMM = """
import sys
from benchmarks.zoo import build
model, inputs = build("detr", "base")
assert any(type(module).__module__.startswith("timm.") for module in model.modules())
assert not any(path.endswith("vision") for path in sys.path)
"""


@pytest.mark.parametrize("model_type", ["efficientnet", "sam2", "mimi", "clap"])
def test_sizes_that_are_in_lists(model_type):
    model, _ = build(model_type, "base")
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000


@pytest.mark.slow
@pytest.mark.skipif(not (FOLDER / "timm").is_dir(), reason="timm is not installed")
def test_types_that_need_timm():
    """In a process of its own: here transformers may have looked for timm already."""
    ran = subprocess.run([sys.executable, "-c", TIMM], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
