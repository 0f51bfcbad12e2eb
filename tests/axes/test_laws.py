"""The laws: every legal split of every op that has a rule is run on parts, and must give the whole op's result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from axes.law_cases import CASES, Case, f, n, s, u
from axes.law_check import candidate_splits, failures, roles, trace
from axisplit.axes.law import RULES, Law, NodeView


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small ops are faster without threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:The use of .x.T. on tensors:UserWarning")
@pytest.mark.filterwarnings("ignore:at..frobenius_norm is deprecated:UserWarning")
def test_law(case: Case) -> None:
    traced = trace(case.run, case.tensors())
    assert roles(traced) == case.roles
    assert list(failures(traced)) == []


def test_every_rule_is_run() -> None:
    issued = {node.op for case in CASES for node in trace(case.run, case.tensors()).graph.nodes}
    names = {op._opname for op in issued} | {f"{op._opname}.{op._overloadname}" for op in issued}
    assert sorted(RULES.keys() - names) == []


def test_case_names_are_unique() -> None:
    names = [case.name for case in CASES]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_an_op_without_a_rule_is_whole() -> None:
    traced = trace(lambda x: torch.cov(x) * torch.cov(x), [f(4, 3)(torch.Generator())])
    assert traced.derived.laws[0].family == "unknown"
    assert "cov" in traced.derived.laws[0].reason
    assert roles(traced).startswith("..; ..; ")  # nothing of what it reads is split, nor (no "+") what it makes
    assert list(failures(traced)) == []


def test_padding_row_gets_no_gradient_on_the_rank_that_holds_it() -> None:
    """The row number of `padding_idx` changes only gradients: the local one must be the rank's own."""
    rng = torch.Generator().manual_seed(0)
    table, ids = f(7, 4)(rng), n(7, 12)(rng)
    traced = trace(lambda w, x: functional.embedding(x, w, padding_idx=5), [table, ids])
    (law,), axes = traced.derived.laws, traced.derived.dims[0]
    (split,) = [x for x in candidate_splits(traced, 2) if x.axes == (traced.keys[axes[0]],)]

    def gradient(weight: torch.Tensor, rows: torch.Tensor, row: int) -> torch.Tensor:
        weight = weight.clone().requires_grad_()
        functional.embedding(rows, weight, padding_idx=row if row >= 0 else None).sum().backward()
        assert weight.grad is not None
        return weight.grad

    whole = gradient(table, ids, 5)
    assert not whole[5].any()
    (rewrite,) = law.rewrites.values()
    for a, b in (box[0] for box in split.boxes):

        def local(axis: object, size: int = b - a) -> int:
            return size

        local.start = lambda axis, first=a: first  # type: ignore[attr-defined]
        mine = ids[(ids >= a) & (ids < b)] - a
        assert torch.equal(gradient(table[a:b], mine, rewrite(local)), whole[a:b])


def test_grouped_products_are_cut_in_the_kernels_steps() -> None:
    case = next(case for case in CASES if case.name == "_grouped_mm")
    traced = trace(case.run, case.tensors())
    assert {multiple for _, multiple in traced.derived.laws[0].multiples} == {4}  # 16 bytes of float32
    cut = [b - a for split in candidate_splits(traced, 3) if len(split.axes) == 1 for ((a, b),) in split.boxes]
    assert {4, 8} <= set(cut)


# --- a wrong claim is caught --------------------------------------------------------------------------------------


def with_axes(**claims: object) -> Callable[[NodeView, Law], Law]:
    return lambda view, law: replace(law, **claims)


def nothing_whole(view: NodeView, law: Law) -> Law:
    return replace(law, whole=[], made=[axis for dims in law.outputs for axis in dims])


def linear_in(*positions: int) -> Callable[[NodeView, Law], Law]:
    return with_axes(linear=(frozenset(positions),))


WRONG: list[tuple[str, str, Callable[[NodeView, Law], Law]]] = [
    ("softmax", "softmax", nothing_whole),
    ("cumsum", "cumsum", nothing_whole),
    ("sort", "sort", nothing_whole),
    ("layer_norm", "layer_norm", nothing_whole),
    ("group_norm", "group_norm", with_axes(rewrites={})),
    ("batch_norm", "batch_norm in training", nothing_whole),
    ("gelu", "gelu", linear_in(0)),
    ("relu", "relu", linear_in(0)),
    ("add", "add a number", linear_in(0)),
    ("add", "add", linear_in(0)),
    ("div", "div", linear_in(1)),
    ("maximum", "maximum", linear_in(0, 1)),
    ("nansum", "nansum of nothing", linear_in(0)),
    ("linear", "linear with bias", with_axes(additive=frozenset())),
    ("linear", "linear", with_axes(reduce=[])),
    ("linear", "linear with bias", linear_in(0)),
    ("matmul", "matmul 2 2", linear_in(0, 1)),
    ("addmm", "addmm", with_axes(additive=frozenset())),
    ("conv1d", "conv1d with bias", with_axes(additive=frozenset())),
    ("conv1d", "conv1d grouped", with_axes(rewrites={})),
    ("conv1d", "conv1d", nothing_whole),
    ("max_pool1d", "max_pool1d", nothing_whole),
    ("mean", "mean of a dim", with_axes(mean=False)),
    ("sum", "sum", with_axes(mean=True)),
    ("amax", "amax of a dim", lambda view, law: replace(law, reduce=law.whole, whole=[])),
    ("var", "var", lambda view, law: replace(law, reduce=law.whole, whole=[], mean=True)),
    ("scaled_dot_product_attention", "scaled_dot_product_attention", nothing_whole),
    ("scaled_dot_product_attention", "sdpa causal", lambda view, law: replace(law, whole=law.whole[:-1])),
    ("scaled_dot_product_attention", "scaled_dot_product_attention", linear_in(1)),
    ("scaled_dot_product_attention", "sdpa grouped", with_axes(no_effect={"enable_gqa": lambda local: True})),
    ("view", "view to heads", with_axes(rewrites={})),
    ("expand", "expand", with_axes(rewrites={})),
    ("repeat", "repeat", with_axes(rewrites={})),
    ("split", "split, parts multiplied", with_axes(rewrites={})),
    ("chunk", "chunk with a rest", with_axes(fits=[])),
    ("slice", "slice inside", with_axes(rewrites={})),
    ("slice", "slice with steps", nothing_whole),
    ("squeeze", "squeeze of short dims", with_axes(fits=[])),
    ("select", "select", nothing_whole),
    ("flip", "flip", nothing_whole),
    ("tril", "tril", nothing_whole),
    ("constant_pad_nd", "constant_pad_nd", nothing_whole),
    ("constant_pad_nd", "constant_pad_nd of ones", linear_in(0)),
    ("unfold", "unfold", nothing_whole),
    ("cat", "cat", linear_in(0)),
    ("stack", "stack", nothing_whole),
    ("slice_scatter", "slice_scatter", linear_in(1)),
    ("embedding", "embedding", with_axes(lookup=None)),
    ("embedding", "embedding of packed rows", with_axes(fits=[])),
    ("index", "index", nothing_whole),
    ("index", "index by constants", nothing_whole),
    ("gather", "gather", nothing_whole),
    ("scatter_add", "scatter_add", nothing_whole),
    ("index_add", "index_add", linear_in(0)),
    ("index_put", "index_put", linear_in(0)),
    ("arange", "arange", nothing_whole),
    ("zeros", "zeros", with_axes(rewrites={})),
    ("transpose", "transpose", with_axes(linear=(), rewrites={1: lambda local: 0, 2: lambda local: 0})),
]


@pytest.mark.parametrize(("op", "name", "claim"), WRONG, ids=[f"{name} {i}" for i, (_, name, _) in enumerate(WRONG)])
def test_a_wrong_law_is_caught(
    op: str, name: str, claim: Callable[[NodeView, Law], Law], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, right = next(case for case in CASES if case.name == name), RULES[op]
    monkeypatch.setitem(RULES, op, lambda view: claim(view, right(view)))
    assert list(failures(trace(case.run, case.tensors())))


def test_a_range_held_twice_is_not_counted_twice() -> None:
    """3 ranks on 2 x 2: of the inner axis alone ranks hold [0, 1), [1, 2) and [0, 2), so its sum has no split."""

    def run(pair: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
        return (pair * inner).sum(0) * inner.sum()

    rng = torch.Generator().manual_seed(0)
    traced = trace(run, [f(2, 2)(rng), f(2)(rng)])
    assert [x for x in candidate_splits(traced, 3) if len(x.axes) == 2]
    assert list(failures(traced)) == []
    joined = trace(lambda x, y: torch.cat([x, y]).sum(), [f(2)(rng), f(2)(rng)])
    assert list(failures(joined)) == []


def test_tolerance_is_of_few_ulp() -> None:
    """What is compared within ulp is compared: an error of 1e-12 in float64 is seen, one of 1e-4 in float32."""
    for make, error in ((u, 1e-12), (s, 1e-4)):
        value = make(4, 3)(torch.Generator().manual_seed(0))
        traced = trace(torch.exp, [value])
        assert not list(failures(traced))
        traced.values[traced.graph.nodes[0].outputs[0]] *= 1 + error
        assert list(failures(traced))
