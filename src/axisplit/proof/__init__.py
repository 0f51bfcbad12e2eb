"""Proof: each rank's program against the split of the whole (`program`), and the numbers beside the whole
(`numbers`).
"""
