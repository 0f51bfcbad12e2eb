"""Collectives, process groups and ranks: the only folder that communicates.

    costs.py        bytes that a collective moves (imports no torch)
    aligned.py      memory for a rank's weights
    layout.py       `Layout`: which index ranges of one dim each rank holds
    groups.py       `Group`: ranks that communicate, over torch.distributed or alone
    sums.py         reductions in rank order
    signature.py    what a rank is about to do, told with every message
    wire.py         messages between processes over sockets: exact shares
    shared/         the same over memory that ranks of one machine share
    simulate.py     `simulate`: the same ranks as threads of one process, deterministic
    sites.py        `Site`, `CollectiveContext`: where a collective is issued, counted and dropped
    collectives.py  the `torch.ops.axisplit` ops
    lookup.py       two more, for a table split by rows
    worker.py       what a started rank does
    launch.py       `launch`, `launch_stream`: start local ranks, notice how they end
    pool.py         `RankPool`: long-lived local ranks for tests
    script.py       `run_script`: torchrun with safe defaults (bootstrap.py is its child side)

Import from the files: this package imports nothing, so that `costs` stays free of torch.
"""
