"""axisplit: derive the split of any PyTorch model that moves the fewest bytes, prove it, run it.

plan = axisplit.plan(model, inputs, ranks=4)
print(plan)
verdict = axisplit.verify(model, inputs, plan)
model = axisplit.parallelize(model, plan)          # under torchrun or `axisplit run`
model = axisplit.load("checkpoint_dir", plan)      # the same without ever holding the whole model
axisplit.clip_grad_norm_(model, 1.0)               # in training: the norm of the whole model's gradients
whole = axisplit.gather_state_dict(model)          # the whole model's state dict, on rank 0
axisplit.register_backend()                        # shared memory for torch.distributed: init_process_group("axisplit")
axisplit.register_rule("mylib::linear", "... i, o i -> ... o")   # how an op of your own splits
print(axisplit.compare("gelu(X @ W1) @ W2", {"X": (2, 4), "W1": (4, 4), "W2": (4, 4)}))   # every way, judged
print(axisplit.fit(params=7e9, ranks=8, memory=80e9))             # what fits, and under which parallelism
print(axisplit.audit(model, inputs, ranks=4))      # of a plan made by hand: is it right, and what does it move?
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from axisplit.api import load, parallelize, plan, verify
    from axisplit.auditing import Audit, audit
    from axisplit.axes.register import register_rule
    from axisplit.errors import AxisplitError
    from axisplit.lesson.compare import Comparison, compare
    from axisplit.memory.fit import Fit, fit
    from axisplit.proof.verify import Verdict
    from axisplit.runtime.shared.backend import register_backend
    from axisplit.solve.plan import Plan
    from axisplit.training import clip_grad_norm_, gather_state_dict

__version__ = "0.1.0"
__all__ = [
    "Audit",
    "AxisplitError",
    "Comparison",
    "Fit",
    "Plan",
    "Verdict",
    "audit",
    "clip_grad_norm_",
    "compare",
    "fit",
    "gather_state_dict",
    "load",
    "parallelize",
    "plan",
    "register_backend",
    "register_rule",
    "verify",
]

_HOMES = {
    "Audit": "axisplit.auditing",
    "audit": "axisplit.auditing",
    "AxisplitError": "axisplit.errors",
    "clip_grad_norm_": "axisplit.training",
    "Comparison": "axisplit.lesson.compare",
    "compare": "axisplit.lesson.compare",
    "Fit": "axisplit.memory.fit",
    "fit": "axisplit.memory.fit",
    "gather_state_dict": "axisplit.training",
    "Plan": "axisplit.solve.plan",
    "Verdict": "axisplit.proof.verify",
    "load": "axisplit.api",
    "parallelize": "axisplit.api",
    "plan": "axisplit.api",
    "register_backend": "axisplit.runtime.shared.backend",
    "register_rule": "axisplit.axes.register",
    "verify": "axisplit.api",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `axisplit --help` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'axisplit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
