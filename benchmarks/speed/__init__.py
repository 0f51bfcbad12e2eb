"""How fast: ratios of contenders that are measured in turns, in one run. `python -m benchmarks.speed`."""
