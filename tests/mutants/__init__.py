"""Are the tests able to fail? `python -m tests.mutants` breaks a copy of the package, a line at a time, and asks."""
