"""Checkpoints on disk: what they hold, any slice of it, and whose tensor is whose."""

from axisplit.checkpoint.manifest import manifest_problems, write_manifest
from axisplit.checkpoint.names import compare_model, match_model, match_names, model_tensors, transformers_renamer
from axisplit.checkpoint.stream import Checkpoint, open_checkpoint

__all__ = [
    "Checkpoint",
    "compare_model",
    "manifest_problems",
    "match_model",
    "match_names",
    "model_tensors",
    "open_checkpoint",
    "transformers_renamer",
    "write_manifest",
]
