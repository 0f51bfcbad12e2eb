"""Solving: splits, states and costs, the exact problem, the policy of what must be split, and the `Plan`."""
