"""A tiny, randomly initialised instance of every transformers model type, with inputs on which it runs.

    default config ─shrink, correct→ tiny config ─perturb→ model whose every parameter counts ─find_inputs→ inputs

Everything is generic (names of fields, names of arguments) but `corrections` and `own_inputs`, which are
data about single types.
`build` goes through `fields.LEVELS`, ever milder, until a model is built and runs.
"""

from benchmarks.zoo import environment  # noqa: F401  # before anything that imports transformers

# isort: split
from benchmarks.zoo.model import build, model_types

__all__ = ["build", "model_types"]
