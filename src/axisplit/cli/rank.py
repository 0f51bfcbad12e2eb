"""What each process of `axisplit generate` does: load its part, generate, measure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axisplit.cli.measure import PrivateMemory, peak_resident_bytes, resident_bytes

if TYPE_CHECKING:
    from torch import nn

    from axisplit.solve.plan import Plan


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from the logits; greedy unless `sample`."""

    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Request:
    """What every rank is asked to do; without a plan each holds the whole model."""

    checkpoint: Path
    plan: Plan | None
    token_ids: tuple[int, ...]
    eos_token_ids: frozenset[int]
    max_new_tokens: int
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class RankReport:
    """What a rank did. Decode steps are those after the first new token, which prefill gives.

    `idle_bytes` were resident before loading, `peak_bytes` at most; `private_bytes` is that without file pages.
    """

    token_ids: list[int]
    load_s: float
    prefill_s: float
    decode_s: float
    prefill_comm_bytes: float
    decode_comm_bytes: float
    parameter_bytes: int
    idle_bytes: int | None
    peak_bytes: int
    private_bytes: int | None


@dataclass
class _Clock:
    """Notes when tokens come; prefill and decode steps are counted apart."""

    context: Any
    emit: Callable[[int], None]
    times: list[float] = field(default_factory=list)
    prefill_bytes: float = 0.0

    def tick(self, token: int) -> None:
        self.times.append(time.monotonic())
        if len(self.times) == 1 and self.context is not None:
            self.prefill_bytes = self.context.comm_bytes
            self.context.reset_counters()
        self.emit(token)

    @property
    def decode_bytes(self) -> float:
        return float(self.context.comm_bytes) if self.context is not None else 0.0


def generate_on_rank(rank: int, world_size: int, emit: Callable[[int], None], request: Request) -> RankReport:
    """Load this rank's part, generate, and report; the first rank emits each token as it comes."""
    import torch

    from axisplit.models.libraries import quiet
    from axisplit.runtime.decode import generate

    started, idle = time.monotonic(), resident_bytes()
    with PrivateMemory() as memory, quiet():
        model = _load(request)
        clock = _Clock(getattr(model, "axisplit_context", None), emit)
        loaded = time.monotonic()
        token_ids = generate(
            model,
            torch.tensor([request.token_ids]),
            max_new_tokens=request.max_new_tokens,
            eos_token_ids=set(request.eos_token_ids),
            on_token=clock.tick,
            **vars(request.sampling),
        )
    return RankReport(
        token_ids=list(token_ids),
        load_s=loaded - started,
        prefill_s=clock.times[0] - loaded,
        decode_s=clock.times[-1] - clock.times[0],
        prefill_comm_bytes=clock.prefill_bytes,
        decode_comm_bytes=clock.decode_bytes,
        parameter_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        idle_bytes=idle,
        peak_bytes=peak_resident_bytes(),
        private_bytes=memory.peak,
    )


def _load(request: Request) -> nn.Module:
    if request.plan is None:
        from axisplit.models.pretrained import load_directory

        return load_directory(request.checkpoint)
    from axisplit.api import load

    return load(request.checkpoint, request.plan)
