"""Other people's plans, judged: run on real ranks beside the whole model, and every value and gradient told apart.

plan (styles by name, or ParallelStyle objects) ─styles→ each rank's part, by the library's own code
whole model, parts ─observe→ every module's values and cotangents ─states→ whole, part, partial or wrong
states ─judge→ Audit: where it first goes wrong, which gradients lack what, bytes beyond the optimum
"""

from axisplit.auditing.judge import Audit, audit

__all__ = ["Audit", "audit"]
