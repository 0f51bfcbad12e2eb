"""What MODEL means: where a model comes from, how it is built or loaded, and inputs to try it on."""

from axisplit.models.cache import Progress
from axisplit.models.inputs import example_inputs
from axisplit.models.source import ModelSource, resolve_model

__all__ = ["ModelSource", "Progress", "example_inputs", "resolve_model"]
