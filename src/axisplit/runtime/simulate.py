"""Simulated ranks: threads of one process, one of them running at a time.

A rank runs until it meets a collective, then hands over to the next one; the last to arrive computes the result of
all, in rank order, and rank 0 goes on. So the order of everything is fixed, nothing competes for the cores, model
code need not be thread-safe, and what would hang among processes is seen at once: a rank that ended, or that waits in
another collective. Each rank has its own state of torch's CPU random generator, which starts as the caller's, as
processes with one seed have; rank 0's last state is the
caller's afterwards.

    simulate        starts the threads, ends them, returns or raises
    _World.meet     hands over and waits
    _World._settle  compares what the ranks called, computes the results

Example: 2 ranks calling `group.all_reduce_sum(torch.tensor([group.rank + 1.0]))` both get [3.0].
"""

from __future__ import annotations

import contextvars
import json
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from axisplit.errors import CollectiveError, InputError
from axisplit.runtime.signature import disagreement, signature_of
from axisplit.runtime.sites import own_registry
from axisplit.runtime.sums import max_over_ranks, sum_in_rank_order
from axisplit.runtime.turns import InTurns

__all__ = ["SimulatedGroup", "simulate"]

T = TypeVar("T")
P = TypeVar("P")


def simulate(num_ranks: int, fn: Callable[[SimulatedGroup], T]) -> list[T]:
    """Run `fn(group)` on simulated ranks and return every rank's result.

    Each rank has its own registry of contexts (sites.py), so all may register the same model key. The caller's grad
    mode, inference mode, autocast, default device and context variables hold in every rank; its dispatch modes do not.

    Raises: the first rank's own error, with a note that names the rank; CollectiveError if ranks disagree.
    """
    if num_ranks < 1:
        raise InputError("no ranks to simulate", got=str(num_ranks), needed="1 or more")
    world = _World(num_ranks)
    modes = _Modes.of_caller()
    results: list[Any] = [None] * num_ranks

    def run(rank: int) -> None:
        failure: BaseException | None = None
        try:
            world.enter(rank)
            with modes.entered():
                own_registry()
                results[rank] = fn(SimulatedGroup(world, rank))
        except _Stopped:
            pass
        except BaseException as error:  # raised again by world.run, in the caller's thread
            failure = error
        world.leave(rank, failure)

    contexts = [contextvars.copy_context() for _ in range(num_ranks)]
    threads = [
        threading.Thread(target=contexts[rank].run, args=(run, rank), name=f"simulated rank {rank}", daemon=True)
        for rank in range(num_ranks)
    ]
    world.run(threads)
    return results


class SimulatedGroup(InTurns):
    """One simulated rank's view of the group; `simulate` makes it."""

    def __init__(self, world: _World, rank: int) -> None:
        self._world = world
        self.rank = rank
        self.size = world.size

    def all_reduce_sum(self, x: Tensor, site: str = "") -> Tensor:
        signature = signature_of("all_reduce_sum", site, str(x.dtype), str(list(x.shape))).text
        return self._meet(
            signature, site, x.detach().contiguous(), lambda parts: _copies(sum_in_rank_order(parts), len(parts))
        )

    def all_reduce_max(self, x: Tensor, site: str = "") -> Tensor:
        signature = signature_of("all_reduce_max", site, str(x.dtype), str(list(x.shape))).text
        return self._meet(
            signature, site, x.detach().contiguous(), lambda parts: _copies(max_over_ranks(parts), len(parts))
        )

    def all_gather(self, x: Tensor, shapes: Sequence[Sequence[int]], site: str = "") -> list[Tensor]:
        declared = [list(shape) for shape in shapes]
        own = "" if list(x.shape) == declared[self.rank] else f"but sends {list(x.shape)}"
        signature = signature_of("all_gather", site, str(x.dtype), str(declared), own).text
        return self._meet(
            signature, site, x.detach().contiguous(), lambda parts: [[part.clone() for part in parts] for _ in parts]
        )

    def all_to_all(
        self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], site: str = "", sides: object = None
    ) -> list[Tensor]:
        signature = signature_of("all_to_all", site, str(parts[0].dtype), str(sides)).text
        given = [part.detach().contiguous() for part in parts]
        received = self._meet(
            signature, site, given, lambda rows: [[row[to].clone() for row in rows] for to in range(self.size)]
        )
        for rank, (part, shape) in enumerate(zip(received, shapes, strict=True)):
            if rank != self.rank and list(part.shape) != list(shape):
                raise CollectiveError(
                    "ranks disagree at a collective",
                    where=site or None,
                    got=f"rank {rank} sends {list(part.shape)}",
                    needed=f"{list(shape)}, as rank {self.rank} expects",
                )
        return received

    def broadcast(self, x: Tensor, src: int, site: str = "") -> Tensor:
        signature = signature_of("broadcast", site, str(x.dtype), str([list(x.shape), src])).text
        return self._meet(signature, site, x.detach().contiguous(), lambda parts: _copies(parts[src], len(parts)))

    def broadcast_object(self, value: Any, src: int = 0, site: str = "") -> Any:
        text = json.dumps(value) if self.rank == src else ""
        signature = signature_of("broadcast_object", site, str(src)).text
        return json.loads(self._meet(signature, site, text, lambda texts: [texts[src]] * len(texts)))

    def barrier(self) -> None:
        self._meet("barrier", "", None, lambda nothing: list(nothing))

    def _meet(self, signature: str, site: str, payload: P, combine: Callable[[list[P]], list[T]]) -> T:
        result: T = self._world.meet(self.rank, _Call(signature, site, payload, combine))
        return result


def _copies(x: Tensor, num: int) -> list[Tensor]:
    return [x.clone() for _ in range(num)]


@dataclass
class _Call:
    """What one rank brings to a collective; `combine` maps all payloads to all results."""

    signature: str
    site: str
    payload: Any
    combine: Callable[[list[Any]], list[Any]]


class _Stopped(BaseException):
    """Ends a rank's thread because another rank failed; not an Exception, so that no model code catches it."""


class _World:
    """The ranks of one simulation: whose turn it is, who waits in which collective, who ended."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.error: BaseException | None = None
        self._turns = [threading.Semaphore(0) for _ in range(size)]
        self._calls: list[_Call | None] = [None] * size
        self._results: list[Any] = [None] * size
        self._ended = [False] * size
        self._generator = torch.default_generator.get_state()

    def run(self, threads: Sequence[threading.Thread]) -> None:
        """Start all threads, wait for their end, raise the first error."""
        for thread in threads:
            thread.start()
        self._turns[0].release()
        try:
            for thread in threads:
                thread.join()
        except BaseException as error:
            self._stop(error)
            raise
        torch.default_generator.set_state(self._generator)
        if self.error is not None:
            raise self.error

    def enter(self, rank: int) -> None:
        self._wait(rank, self._generator)

    def meet(self, rank: int, call: _Call) -> Any:
        """Wait until every rank is in a collective; the result of this one for this rank."""
        if self.error is not None:
            raise _Stopped
        if self._ended[rank]:
            raise CollectiveError("the simulation is over", where=call.site or None, got=call.signature)
        generator = torch.default_generator.get_state()
        self._calls[rank] = call
        self._hand_over(rank)
        self._wait(rank, generator)
        result, self._results[rank] = self._results[rank], None
        return result

    def leave(self, rank: int, error: BaseException | None) -> None:
        self._ended[rank] = True
        if rank == 0:
            self._generator = torch.default_generator.get_state()
        if error is not None and self.error is None:
            error.add_note(f"raised on simulated rank {rank} of {self.size}")
            self._stop(error)
        if self.error is None:
            self._hand_over(rank)

    def _wait(self, rank: int, generator: Tensor) -> None:
        self._turns[rank].acquire()
        if self.error is not None:
            raise _Stopped
        torch.default_generator.set_state(generator)

    def _hand_over(self, rank: int) -> None:
        """Wake the next rank that can run; with none left that can, settle the collective first."""
        order = [(rank + step) % self.size for step in range(1, self.size + 1)]
        ready = [r for r in order if self._calls[r] is None and not self._ended[r]]
        if not ready and not all(self._ended):
            ready = self._settle()
        if ready:
            self._turns[ready[0]].release()

    def _settle(self) -> list[int]:
        """All ranks wait in a collective or ended: compute the results, or fail. Returns who can run now."""
        calls = [call for call in self._calls if call is not None]
        sides = [call.signature if call else "ended without it" for call in self._calls]
        try:
            if len(calls) < self.size or len(set(sides)) > 1:
                raise disagreement(sides, calls[0].site)
            self._results = calls[0].combine([call.payload for call in calls])
        except Exception as error:
            self._stop(error)
            return []
        self._calls = [None] * self.size
        return list(range(self.size))

    def _stop(self, error: BaseException) -> None:
        self.error = self.error or error
        for turn in self._turns:
            turn.release()


@dataclass(frozen=True)
class _Modes:
    """Torch's thread-local modes, taken from the caller's thread."""

    grad: bool
    inference: bool
    device: torch.device
    autocast: bool
    autocast_dtype: torch.dtype

    @classmethod
    def of_caller(cls) -> _Modes:
        return cls(
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_device(),
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
        )

    def entered(self) -> ExitStack:
        """Enter them; backward runs on the rank's own thread, where its registry is."""
        stack = ExitStack()
        stack.enter_context(torch.inference_mode(self.inference))
        stack.enter_context(torch.set_grad_enabled(self.grad))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        if self.device.type != "cpu":
            stack.enter_context(self.device)
        if self.autocast:
            stack.enter_context(torch.autocast("cpu", self.autocast_dtype))
        return stack
