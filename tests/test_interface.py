"""What the package offers."""

import axisplit


def test_the_public_names() -> None:
    names = [
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
    assert axisplit.__all__ == names
    assert all(getattr(axisplit, name).__module__.startswith("axisplit.") for name in names)
