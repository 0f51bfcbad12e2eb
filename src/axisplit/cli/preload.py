"""Start ranks quickly: a fork server that has imported what every rank needs (seconds of CPU, most of them
transformers'), started while this process still reads, plans and proves.
"""

from __future__ import annotations

import multiprocessing

_WANTED = [
    "torch.distributed",
    "transformers.modeling_utils",
    "transformers.models.llama.modeling_llama",
    "axisplit.api",
]


def start_fork_server() -> None:
    """Let runtime/launch.py find a fork server that is ready; nothing where there is none.

    Modules that are not installed are passed over. Returns at once.
    """
    if "forkserver" in multiprocessing.get_all_start_methods():
        from multiprocessing import forkserver

        multiprocessing.get_context("forkserver").set_forkserver_preload(_WANTED)
        forkserver.ensure_running()
