"""Collectives between ranks of one machine, over memory that they share.

    segment.py  `Segment`: the memory, the doorbells, who is alive; nameless as soon as all have opened it
    board.py    `Board`: every rank writes, all meet, every rank reads
    wire.py     `SharedWire`: exchanges and reductions of any size, in chunks
    spanning.py `SpanningWire`: the same among ranks of several machines, sockets between them
    connect.py  which of them a rank has
    backend.py  `register_backend`: the same as a backend of torch.distributed

Import from the files: this package imports nothing.
"""
