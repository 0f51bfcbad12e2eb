"""Indices of the inputs (the sequence) that ranks hold in parts between two reductions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import axisplit
from axisplit.axes.derive import derive_axes
from axisplit.capture.trace import capture
from axisplit.errors import CollectiveError, LayoutError
from axisplit.lower.apply import make_rank, take_shard
from axisplit.lower.lowering import prove_programs
from axisplit.lower.planning import _Planner, begin_search, decision_of
from axisplit.runtime.following import Lengths
from axisplit.runtime.groups import Group
from axisplit.runtime.simulate import simulate
from axisplit.runtime.sites import unregister
from axisplit.solve.build import build_problem
from axisplit.solve.following import find_following, followed
from axisplit.solve.states import PARTIAL, WHOLE
from axisplit.solve.ties import find_ties
from lower.test_guard import on_guarded_ranks, refusal
from models_zoo.tiny import ZOO, build, ids, perturb

WIDTH, VOCABULARY = 32, 48
SEQUENCE = ("inputs.input_ids[1]",)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(functional.gelu(self.up(self.norm(x))))


class Stream(nn.Module):
    """A residual stream from a table to logits made with it."""

    def __init__(self, repeated: bool = False) -> None:
        super().__init__()
        self.table, self.norm, self.repeated = nn.Embedding(VOCABULARY, WIDTH), nn.LayerNorm(WIDTH), repeated
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.table(input_ids)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.repeated else block(x)
        return functional.linear(self.norm(x), self.table.weight)


def tokens(batch: int, length: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(length))


@pytest.fixture
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collective is worth no more than a byte, so that tiny models are cut, too."""
    for module in ("following", "build"):
        monkeypatch.setattr(f"axisplit.solve.{module}.COLLECTIVE_BYTES", 1)


def stream(repeated: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return perturb(Stream(repeated)).eval()


def kinds(plan: axisplit.Plan) -> list[tuple[str, int]]:
    found: dict[str, int] = {}
    for c in plan.collectives:
        if c.phase == plan.collectives[0].phase:
            found[c.kind] = found.get(c.kind, 0) + c.count
    return sorted(found.items())


class Various(nn.Module):
    """Ops that take each position by itself, and ops that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.matrix = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, 8)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        x = self.table(input_ids)
        x = functional.layer_norm(x + torch.arange(x.shape[1])[:, None], (WIDTH,))
        heads = x.view(*x.shape[:-1], 4, 8).sin()
        return heads, x.cumsum(1), x.sum(1).cos(), (x @ x.mT).exp(), self.matrix(x).tanh(), x.flatten(0, 1).neg()


def test_what_takes_each_position_by_itself() -> None:
    graph = capture(Various().eval(), (tokens(2, 12),)).graph
    derived = derive_axes(graph)
    (split,) = find_following(derived, find_ties(derived), 2, ("inputs.input_ids[1]",))  # given by its position
    index = followed(derived, split)
    assert [graph.nodes[node].op._opname for node in sorted(index.passing)] == [
        "unsqueeze",
        "add",
        "layer_norm",
        "mT",
        "tanh",
    ]
    assert index.size == 12
    cut = {v.name or graph.producer[v.index].op._opname for v in graph.values if index.is_cut(v.index, 2)}
    assert {"add", "linear", "forward:0"} <= cut
    assert not {"matmul", "flatten", "cumsum", "sum"} & cut  # [12, 12], [2 * 12], other lengths


def test_large_values_are_cut_for_the_same_bytes() -> None:
    """[2, 8192, 32] float32 is 2 MiB: half of a sum and of a norm of it is worth a collective more."""
    model, inputs = stream(), {"input_ids": tokens(2, 8192)}
    plan, other = (axisplit.plan(model, inputs, ranks=2, keep=keep) for keep in ((), ("inputs.*",)))
    assert (plan.following, other.following) == (SEQUENCE, ())
    assert kinds(plan) == [("all_gather", 5), ("reduce_scatter", 4)]  # of which one gathers the logits
    assert kinds(other) == [("all_gather", 1), ("all_reduce", 4)]
    assert plan.comm_bytes_per_rank == other.comm_bytes_per_rank == plan.lower_bound_bytes
    assert plan.optimal
    assert other.optimal


def test_small_values_are_not_cut() -> None:
    derived = derive_axes(capture(stream(), (tokens(2, 64),)).graph)
    assert find_following(derived, find_ties(derived), 2, None) == []  # nor is the solver asked
    assert len(find_following(derived, find_ties(derived), 2, ("inputs.0[1]",))) == 1


@pytest.mark.usefixtures("worth_it")
def test_what_generates_is_not_cut() -> None:
    model, inputs = perturb(tied_llama()), {"input_ids": ids(2, 12), "use_cache": True}
    assert axisplit.plan(model, inputs, ranks=2).following == ()
    derived = derive_axes(capture(model, inputs).graph)
    assert find_following(derived, find_ties(derived), 2, None) == []  # nor is the solver asked


def test_what_a_weight_has_is_no_index_of_the_inputs() -> None:
    derived = derive_axes(capture(Block().eval(), (torch.randn(2, 12, WIDTH),)).graph)
    found = [find_following(derived, find_ties(derived), 2, (f"inputs.0[{dim}]",)) for dim in (1, 2)]
    assert [len(splits) for splits in found] == [1, 0]


@pytest.mark.usefixtures("worth_it")
def test_what_does_not_divide_is_not_cut() -> None:
    assert axisplit.plan(stream(), {"input_ids": tokens(1, 13)}, ranks=2).following == ()
    derived = derive_axes(capture(stream(), (tokens(1, 13),)).graph)
    assert find_following(derived, find_ties(derived), 2, None) == []  # nor is the solver asked


@pytest.mark.usefixtures("worth_it")
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_every_length_is_right(ranks: int) -> None:
    model = stream()
    plan = axisplit.plan(model, {"input_ids": tokens(2, 12)}, ranks=ranks)
    assert plan.following == SEQUENCE
    for length in (12, 13, 24, 1):
        verdict = axisplit.verify(model, {"input_ids": tokens(2, length)}, plan, gradients=True)
        assert verdict.equal, str(verdict)
        assert verdict.control_caught
        assert verdict.gradients is not None
        assert verdict.gradients.equal
        whole = [name.endswith(":whole") for name in verdict.numbers.control_errors if "logits" not in name]
        assert any(whole) == (length % ranks != 0)


@pytest.mark.usefixtures("worth_it")
@pytest.mark.parametrize(("name", "ranks"), [("gpt2", 2), ("bert", 3), ("llama", 4), ("t5", 2), ("cohere", 3)])
def test_transformers_are_cut(name: str, ranks: int) -> None:
    """Positions looked up or cut out of a table, masks, norms in front and behind, encoders, parallel blocks."""
    model, inputs = build(name), ZOO[name].inputs(2, 12)
    inputs = inputs if name == "bert" else {**inputs, "use_cache": False}
    plan = axisplit.plan(model, inputs, ranks=ranks)
    assert plan.following == SEQUENCE
    for batch, length in ((2, 12), (2, 7)):
        other = {**inputs, **{k: v[:batch, :length] for k, v in inputs.items() if isinstance(v, Tensor)}}
        verdict = axisplit.verify(model, other, plan, gradients=True)
        assert verdict.equal, str(verdict)
        assert verdict.gradients is not None
        assert verdict.gradients.equal


@pytest.mark.usefixtures("worth_it")
def test_a_saved_plan_is_proved_for_other_lengths(tmp_path: Any) -> None:
    model, inputs = stream(), {"input_ids": tokens(2, 12)}
    axisplit.plan(model, inputs, ranks=3).save(tmp_path / "plan.json")
    plan = axisplit.Plan.load(tmp_path / "plan.json")
    assert plan.following == SEQUENCE
    with pytest.raises(LayoutError, match=r"reduce_scatter at output of blocks\.\*\.down"):
        plan.to_hf_tp_plan()
    with pytest.raises(LayoutError, match=r"do: plan with keep=\['inputs\.\*'\], run it with axisplit"):
        plan.to_parallelize_plan()
    for length in (12, 8):
        other = {"input_ids": tokens(1, length)}
        captured = capture(model, other)
        decision = decision_of(plan, captured)
        assert prove_programs(decision, plan, captured, model, other) == []
        acting = [p for p in plan.places if length == 12 or p.steps[0].kind != "all_gather"]
        for place in [p for p in acting if p.steps[0].follows]:
            less = replace(plan, places=tuple(p for p in plan.places if p is not place))
            assert prove_programs(decision, less, captured, model, other), place


@pytest.mark.usefixtures("worth_it")
def test_calls_of_other_kinds_and_lengths_are_proved_when_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan without a cache is called with one, at a length that does not divide, and steps on from it. It is found at
    once, although Python reads lengths off what is cut: behind that.
    """
    torch.manual_seed(0)
    model, tries = perturb(tied_llama()), []
    monkeypatch.setattr(_Planner, "_try", lambda *given, _try=_Planner._try: tries.append(_try(*given)) or tries[-1])
    plan = axisplit.plan(model, {"input_ids": ids(2, 12), "use_cache": False}, ranks=2)
    assert plan.following == SEQUENCE
    assert len(tries) == 1

    def calls(model: nn.Module) -> list[Tensor]:
        first = model(input_ids=ids(2, 7), use_cache=True)
        step = model(input_ids=ids(2, 1), use_cache=True, cache=first.cache)
        return [first.logits, step.logits, model(input_ids=ids(1, 8), use_cache=False).logits]

    with torch.no_grad():
        whole = calls(model)
    for found in on_guarded_ranks(plan, model, lambda part, guard: calls(part)):
        for ours, theirs in zip(found, whole, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    embedded = {"inputs_embeds": torch.randn(1, 8, 64), "use_cache": False}  # it is sums of tables that are cut
    for said in on_guarded_ranks(plan, model, lambda part, guard: refusal(part, **embedded)):
        assert "reads no value of the split program" in said


def tied_llama() -> nn.Module:
    model = copy.deepcopy(ZOO["llama"].make())
    model.lm_head.weight = model.model.embed_tokens.weight
    model.config.tie_word_embeddings = True
    return model.eval()


def on_ranks(plan: axisplit.Plan, model: nn.Module, fn: Callable[[nn.Module], Any]) -> list[Any]:
    def rank(group: Group) -> Any:
        part, _ = make_rank(model, plan, group, "following")
        try:
            return fn(part)
        finally:
            unregister("following")

    return simulate(plan.ranks, rank)


@pytest.mark.usefixtures("worth_it")
def test_what_backward_computes_again_is_cut_again() -> None:
    """Also behind another forward whose length is whole; where a length then means two things, it is an error."""
    model = stream(repeated=True).double()
    plan = axisplit.plan(model, {"input_ids": tokens(2, 12)}, ranks=2)
    assert plan.following == SEQUENCE

    def gradients(model: nn.Module, between: int) -> dict[str, Tensor]:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        loss = model(tokens(2, 6)).square().mean()
        with torch.no_grad():
            model(tokens(1, between))
        loss.backward()
        return {name: p.grad for name, p in model.named_parameters()}

    whole = gradients(copy.deepcopy(model), 5)
    shards = {p.name: p for p in plan.parameters}
    for rank, found in enumerate(on_ranks(plan, model, lambda part: gradients(part, 5))):
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, take_shard(shards[name], whole[name], rank), rtol=1e-9, atol=1e-12)
    with pytest.raises(CollectiveError) as raised:
        on_ranks(plan, model, lambda part: gradients(part, 3))
    assert str(raised.value).splitlines() == [
        "it cannot be told whether these are a rank's part of the values or all of them",
        "  where: inputs.input_ids[1]",
        "  got: length 3 in what backward computes again",
        "  needed: not both of 3 and 6 in use",
        "  do: go backward before the next forward, or pad one of the two",
    ]


@pytest.mark.usefixtures("worth_it")
def test_ranks_keep_less_until_backward() -> None:
    model, inputs = stream(), {"input_ids": tokens(2, 12)}

    def kept(plan: axisplit.Plan) -> int:
        """Bytes of values that a rank keeps for its backward, parameters not counted."""

        def run(part: nn.Module) -> int:
            sizes: dict[int, int] = {}
            own = {p.data_ptr() for p in part.parameters()}

            def pack(x: Tensor) -> Tensor:
                if x.data_ptr() not in own:
                    sizes[x.data_ptr()] = x.nbytes
                return x

            for parameter in part.parameters():
                parameter.requires_grad_(True)
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
                result = part(**inputs)
            assert result.requires_grad
            return sum(sizes.values())

        return max(on_ranks(plan, model, run))

    cut, whole = (kept(axisplit.plan(model, inputs, ranks=4, keep=keep)) for keep in ((), ("inputs.*",)))
    assert cut < 0.8 * whole


@pytest.mark.usefixtures("worth_it")
def test_compiled_code_cuts_what_divides() -> None:
    """Lengths change from call to call, and come back."""
    model, lengths = stream(), (12, 7, 12, 3)
    plan = axisplit.plan(model, {"input_ids": tokens(2, 12)}, ranks=2)
    assert plan.following == SEQUENCE
    with torch.no_grad():
        whole = [model(tokens(2, length)) for length in lengths]

    def compiled(part: nn.Module) -> list[Tensor]:
        run = torch.compile(part, backend="eager")
        with torch.no_grad():
            return [run(tokens(2, length)) for length in lengths]

    for found in on_ranks(plan, model, compiled):
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-4)


def test_lengths() -> None:
    lengths = Lengths("inputs.x[1]", 3)
    assert [lengths.cut(n) for n in (6, 7, 3)] == [True, False, True]
    assert lengths.is_part(1)
    with pytest.raises(CollectiveError) as raised:
        lengths.is_part(7)
    assert str(raised.value).splitlines() == [
        "it cannot be told whether these are a rank's part of the values or all of them",
        "  where: inputs.x[1]",
        "  got: length 7 in a call of a part of the model",
        "  needed: a call of the whole model",
        "  do: call the whole model",
    ]


@pytest.mark.usefixtures("worth_it")
@pytest.mark.parametrize("given", ["position", "name"])
def test_calls_are_proved_whether_inputs_have_names_or_not(given: str) -> None:
    model, x = stream(), tokens(2, 12)
    plan = axisplit.plan(model, (x,) if given == "position" else {"input_ids": x}, ranks=2)
    assert plan.following == (("inputs.0[1]",) if given == "position" else SEQUENCE)
    with torch.no_grad():
        whole = [model(x), model(tokens(2, 9))]
    for found in on_guarded_ranks(
        replace(plan, calls=()), model, lambda part, guard: [part(x), part(input_ids=tokens(2, 9))]
    ):
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("worth_it")
def test_parts_become_no_partial_sums() -> None:
    """Zeros around a part are right for a part: of a length that does not divide every rank would add all."""
    search = begin_search(capture(stream(), (tokens(2, 12),)), 2)
    conversions = build_problem(search).conversions
    cut = {(source, target) for _, source, target in conversions if "inputs." in source + target}
    split = "S:inputs.0[1]"
    assert {(PARTIAL, split), (split, WHOLE), (WHOLE, split)} <= cut
    assert (split, PARTIAL) not in cut
