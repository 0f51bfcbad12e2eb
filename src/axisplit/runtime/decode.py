"""Generate tokens with a whole model or with a rank's part of one, the same way.

Greedy decoding on split logits never gathers them: each rank takes the maximum of its part, and one reduction of
(value, index) pairs finds the winner, 8 bytes a row in place of the row. When sampling, the logits are gathered, rank 0
draws and the others are told: equal seeds drift apart with one differing bit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from axisplit.capture.trace import recurrent_state
from axisplit.errors import InputError
from axisplit.runtime.definition import step_at
from axisplit.runtime.sites import CollectiveContext

__all__ = ["generate"]


def generate(
    model: torch.nn.Module,
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    eos_token_ids: frozenset[int] | set[int] = frozenset(),
    sample: bool = False,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    on_token: Callable[[int], None] | None = None,
) -> list[int]:
    """The tokens that follow a prompt, up to and with the first end token.

    Args:
        model: whole, or a rank's part (then every rank calls this alike and gets the same tokens).
        input_ids: int64 [1, S], S at least 1.
        sample: draw from the distribution (temperature, top_k, top_p, seed) instead of taking the most likely token.
        on_token: called with each token as it comes.
    Raises: InputError if the model does not generate, or the prompt or a number is out of range.
    """
    _check(model, input_ids, max_new_tokens, temperature, top_p)
    choose = _Sampler(model, temperature, top_k, top_p, seed) if sample else _Greedy(model)
    tokens: list[int] = []
    with torch.inference_mode(), choose.outputs():
        for logits in _steps(model, input_ids, tokens):
            tokens.append(choose(logits))
            if on_token is not None:
                on_token(tokens[-1])
            if tokens[-1] in eos_token_ids or len(tokens) == max_new_tokens:
                break
    return tokens


def _steps(model: torch.nn.Module, input_ids: Tensor, tokens: list[int]) -> Iterator[Tensor]:
    """The last position's logits [V], or a rank's part of them: of the prompt, then of each token in `tokens`."""
    accepted = inspect.signature(model.forward).parameters
    given: dict[str, Any] = {"use_cache": True} if "use_cache" in accepted else {}
    if "logits_to_keep" in accepted:
        given["logits_to_keep"] = 1
    ids, state = input_ids, dict[str, Any]()
    while True:
        result = model(input_ids=ids, **given, **state)
        yield result["logits"][0, -1]
        state = recurrent_state(result, accepted)
        latest = torch.tensor([tokens[-1:]], dtype=input_ids.dtype, device=input_ids.device)
        ids = latest if state else torch.cat([ids, latest], dim=1)


class _Greedy:
    """The most likely token; ties go to the lowest."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._local = model.__dict__.get("axisplit_outputs")
        self._site = None if self._local is None else self._local.argmax_site("logits")
        self._argmax = torch.argmax if self._site is None else step_at("argmax", self._site)

    @contextmanager
    def outputs(self) -> Iterator[None]:
        """Logits stay split inside the block, where they are."""
        if self._local is None or self._site is None:
            yield
            return
        with self._local.kept("logits"):
            yield

    def __call__(self, logits: Tensor) -> int:
        return int(self._argmax(logits.unsqueeze(0)))


class _Sampler:
    """Draws on rank 0 (or on the only process) and tells the others."""

    def __init__(self, model: torch.nn.Module, temperature: float, top_k: int, top_p: float, seed: int) -> None:
        self._context: CollectiveContext | None = model.__dict__.get("axisplit_context")
        self._temperature, self._top_k, self._top_p = temperature, top_k, top_p
        self._generator = torch.Generator().manual_seed(seed)

    @contextmanager
    def outputs(self) -> Iterator[None]:
        yield

    def __call__(self, logits: Tensor) -> int:
        group = None if self._context is None else self._context.group
        token = torch.zeros(1, dtype=torch.int64, device=logits.device)
        if group is None or group.rank == 0:
            token.fill_(self._draw(logits.float().cpu()))
        return int(token if group is None else group.broadcast(token, 0, "sampled token"))

    def _draw(self, logits: Tensor) -> int:
        scores, order = torch.sort(logits / self._temperature, descending=True, stable=True)
        probabilities = scores.softmax(-1)
        if self._top_k:
            probabilities[self._top_k :] = 0
        before = probabilities.cumsum(-1) - probabilities
        probabilities[before > self._top_p] = 0
        return int(order[torch.multinomial(probabilities, 1, generator=self._generator)])


def _check(model: torch.nn.Module, input_ids: Tensor, count: int, temperature: float, top_p: float) -> None:
    accepted = inspect.signature(model.forward).parameters
    if not getattr(model, "can_generate", bool)() or "decoder_input_ids" in accepted:
        raise InputError(
            "this model does not generate text",
            got=type(model).__name__,
            needed="a causal language model",
            do="call the model itself, or its own generate method",
        )
    if input_ids.dim() != 2 or input_ids.shape[0] != 1 or not input_ids.shape[1]:
        raise InputError(
            "the prompt does not fit", got=f"tokens of shape {list(input_ids.shape)}", needed="[1, S], S >= 1"
        )
    for name, wrong, got, needed in (
        ("max_new_tokens", count < 1, count, "at least 1"),
        ("temperature", temperature <= 0, temperature, "above 0"),
        ("top_p", not 0 < top_p <= 1, top_p, "above 0, at most 1"),
    ):
        if wrong:
            raise InputError(f"{name} is out of range", got=str(got), needed=needed)
