"""What has to be so before transformers is imported: it stays offline, and it finds timm, which it looks for only once.

Without timm the types that need it raise ImportError.
"""

from __future__ import annotations

import os

from benchmarks.vision import import_timm

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
HAS_TIMM = import_timm()
