"""What collectives of backward deliver, where no gradient notices that one is missing: as delivered.py does in forward.

A cotangent that is put together may move no gradient by enough: it passes through values that are almost zero, or adds
little to what arrives on another way. So it is compared itself, call by call:

    whole    the cotangent of what passes in the whole model where a rank's part has the collective's forward op
    ranks    what the collective returns: that cotangent; of a reduce_scatter the rank's own part of it
    bound    how far rounding moves that cotangent in the perturbed whole model
    control  with the collective left out what it returns must be off by ten times that bound, or in float64 by ten
             times what is tolerated there

Calls of one site are counted as backward comes to them: autograd runs ops in the reverse of the order in which forward
made them, in the whole model as on a rank. Sums of parameters' gradients deliver what is compared anyway; captured
programs have no place in the whole model's Python: both stay unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from axisplit.capture.trace import Inputs, shadow_copy
from axisplit.lower.apply import apply_probes, sites_of
from axisplit.proof.backward import on_ranks, pinned_gradients, recorded_gradients
from axisplit.proof.choices import Recorded
from axisplit.proof.delivered import Delivery, Mode, Seen, Watch, compared, placed
from axisplit.proof.numbers import Outputs, Widened, widened, widened_inputs
from axisplit.runtime.sites import BACKWARD, Site, twin_of
from axisplit.solve.plan import Plan


def compare_cotangents(
    model: torch.nn.Module, inputs: Inputs, plan: Plan, unnoticed: Mapping[str, tuple[str, ...]]
) -> tuple[Delivery, ...]:
    """What these collectives of backward (name -> sites) deliver: those that have a place in the model's Python."""
    at_places = {site + BACKWARD for site in placed(plan)}
    chosen = {name: sites for name, sites in unnoticed.items() if at_places.issuperset(sites)}
    if not chosen:
        return ()
    native = _Backward(model, inputs, plan, tuple(site for sites in chosen.values() for site in sites))
    wide = replace(native, model=widened(model), inputs=widened_inputs(inputs), mode=Widened)
    return compared(chosen, native, wide)


@dataclass(frozen=True)
class _Backward:
    """Runs of the whole model and of its ranks in which the cotangents at `sites` are kept."""

    model: torch.nn.Module
    inputs: Inputs
    plan: Plan
    sites: tuple[str, ...]
    mode: Mode = nullcontext

    @cached_property
    def recorded(self) -> Recorded:
        with self.mode():
            return recorded_gradients(self.model, self.inputs)[1]

    @cached_property
    def twins(self) -> dict[str, Site]:
        """Each site's op in backward, by name."""
        found = (twin_of(site) for site in sites_of(self.plan))
        return {twin.name: twin for twin in found if twin is not None}

    def whole(self) -> Outputs:
        seen, recorded = Seen(self.sites), self.recorded

        def probe(site: str, value: torch.Tensor) -> torch.Tensor:
            if not value.requires_grad:
                return value
            passed = value.clone()  # its cotangent is that of what comes behind this place
            passed.register_hook(lambda cotangent: seen.show(site + BACKWARD, cotangent))  # type: ignore[no-untyped-call]
            return passed

        probed = shadow_copy(self.model, lambda name, tensor: tensor.detach(), None)
        apply_probes(probed, self.plan, {site.removesuffix(BACKWARD) for site in self.sites}, probe)
        with self.mode():
            pinned_gradients(probed, self.inputs, recorded)
        return seen.values

    def ranks(self, drop: tuple[str, ...] = ()) -> list[Outputs]:
        watch = Watch(self.sites, self.mode)
        on_ranks(self.model, self.inputs, self.plan, self.recorded, drop, watch.rank)
        return watch.values

    def wanted(self, whole: Outputs, rank: int) -> Outputs:
        return {at: self._part(at.partition(" ")[0], cotangent, rank) for at, cotangent in whole.items()}

    def _part(self, site: str, cotangent: torch.Tensor, rank: int) -> torch.Tensor:
        twin = self.twins[site]
        if twin.kind != "reduce_scatter":
            return cotangent
        assert twin.layout is not None  # check_site
        return twin.layout.keep_owned(cotangent, rank)
