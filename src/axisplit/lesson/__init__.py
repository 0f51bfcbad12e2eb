"""The lesson: every way to distribute an expression over ranks, judged.

formula -> legal ways to run each op (by the same rules as models) -> ways to run all of it -> judged on simulated ranks
"""
