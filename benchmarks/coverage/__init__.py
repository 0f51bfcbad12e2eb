"""Plan and verify every transformers architecture at several numbers of ranks; see `__main__`."""
