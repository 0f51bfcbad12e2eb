"""How fast, beside what others do: `python -m benchmarks.speed` writes docs/benchmarks.md.

series.py           numbers of rounds: medians, spreads, ratios
contenders.py       ways to run one model, each in processes of its own
decode.py           prefill and decode, beside the limit
collectives.py      all-reduce by size, beside gloo and MPICH (collectives_mpi.py is its ranks)
loading.py          a checkpoint's parts, beside reading as many bytes
planning.py         CPU and memory of `plan` by layers and ranks; how long commands take
scaling.py          time and bytes by ranks, batch, sequence and layers, with their bounds; plot.py draws them
silent.py           a group that sends nothing, for what a rank computes
"""
