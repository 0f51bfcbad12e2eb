"""The ops: simulated and real ranks give the same bits and bytes; drops, argmax, fakes, gradients."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import gelu
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from axisplit.errors import CollectiveError, InputError, LayoutError
from axisplit.runtime import collectives as ops
from axisplit.runtime import definition
from axisplit.runtime.costs import all_gather_bytes, all_reduce_bytes
from axisplit.runtime.groups import FakeGroup, Group, ProcessGroup, SingleGroup
from axisplit.runtime.layout import Layout
from axisplit.runtime.pool import RankPool
from axisplit.runtime.simulate import simulate
from axisplit.runtime.sites import CollectiveContext, Site, lookup, register, registered, unregister

UNEVEN = {2: (6, 3), 3: (4, 0, 5)}
REPEATED = {2: (2, 1), 3: (1, 3, 2)}


def sites(n: int) -> list[Site]:
    sizes = UNEVEN[n]
    twice = Layout(0, 4, (((0, 4),), *[((1, 3),)] * (n - 1)))
    return [
        Site("sum", "all_reduce"),
        Site("uneven", "all_gather", Layout.of_sizes(-1, sizes)),
        Site("repeated", "all_gather", Layout.of_sizes(0, REPEATED[n])),
        Site("twice", "all_gather", twice),
        Site("take", "take", Layout.of_sizes(-1, sizes)),
        Site("bias", "only_first"),
        Site("mean", "scale", weights=tuple(size / sum(sizes) for size in sizes)),
        Site("token", "argmax", Layout.of_sizes(-1, sizes)),
    ]


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def everything(group: Group) -> tuple[dict[str, Tensor], dict[str, tuple[int, float]]]:
    """Each op once or more; the same function on simulated and on real ranks."""
    context = CollectiveContext(group, sites(group.size))
    layouts = {name: site.layout for name, site in context.sites.items() if site.layout}
    results = {}
    with registered("m", context), torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.complex64):
            mine = (seeded(5, 7, seed=group.rank) * 10).to(dtype)
            results[f"sum {dtype}"] = ops.all_reduce(mine.t(), "m/sum")
        results["sum of one"] = ops.all_reduce(seeded(1, seed=group.rank), "m/sum")
        results["sum of none"] = ops.all_reduce(torch.empty(0, 3), "m/sum")
        whole = seeded(2, 9)
        for dtype in (torch.float32, torch.bfloat16, torch.bool):
            part = layouts["uneven"].take(whole, group.rank).to(dtype)
            results[f"uneven {dtype}"] = ops.all_gather(part, "m/uneven")
        rows = seeded(3 * layouts["repeated"].period, 2)
        results["repeated"] = ops.all_gather(layouts["repeated"].take(rows, group.rank), "m/repeated")
        results["twice"] = ops.all_gather(layouts["twice"].take(seeded(8), group.rank), "m/twice")
        assert torch.equal(results["repeated"], rows)
        assert torch.equal(results["uneven torch.float32"], whole)
        assert torch.equal(results["twice"], seeded(8))
        results["bias"] = ops.all_reduce(ops.only_first(whole, "m/bias"), "m/sum")
        assert torch.equal(results["bias"], whole)
        results["token"] = ops.argmax(ops.take(whole, "m/take"), "m/token")
        assert torch.equal(results["token"], whole.argmax(-1))
    return results, context.counters


def on_real_ranks(rank: int, world_size: int, shared_memory: bool) -> Any:
    return everything(ProcessGroup(None, shared_memory=shared_memory))


@pytest.mark.parametrize("shared_memory", [True, False])
def test_simulated_and_real_ranks_agree_bit_for_bit_and_byte_for_byte(pool: RankPool, shared_memory: bool) -> None:
    n = pool.num_ranks
    real, simulated = pool.run(on_real_ranks, shared_memory), simulate(n, everything)
    for rank in range(n):
        assert real[rank][1] == simulated[rank][1]
        assert real[rank][0].keys() == simulated[rank][0].keys()
        for name, value in real[rank][0].items():
            assert torch.equal(value, simulated[0][0][name]), name
            assert torch.equal(value, simulated[rank][0][name]), name


def changes_modes(rank: int, world_size: int) -> None:
    group, x = ProcessGroup(None), torch.ones(2, requires_grad=True)
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with mode():
            total = group.all_reduce_sum(x, "m/s")
            assert total.tolist() == [world_size] * 2
            assert not total.requires_grad
            gathered = group.all_gather(x * rank, [[2]] * world_size)
            group.all_gather(x * 9, [[2]] * world_size)
            assert [part.tolist() for part in gathered] == [[r, r] for r in range(world_size)]


def test_kept_buffers_serve_every_mode_and_never_show_in_results(pool: RankPool) -> None:
    pool.run(changes_modes)


@pytest.mark.parametrize("n", [2, 3])
def test_counted_bytes_are_the_formulae(n: int) -> None:
    whole_bytes = 2 * 9 * (4 + 2 + 1)
    sum_bytes = 35 * (4 + 2 + 2 + 8 + 8 + 8) + 4 + 0 + 2 * 9 * 4
    owned = {2: [3, 1], 3: [2, 1, 1]}[n]  # 0:4 and 1:3: the shared part is halved
    for rank, (_, counters) in enumerate(simulate(n, everything)):
        assert counters["sum"] == (9, all_reduce_bytes(sum_bytes, n))
        shares = [whole_bytes // 9 * size for size in UNEVEN[n]]
        assert counters["uneven"] == (3, all_gather_bytes(shares, rank))
        shares = [3 * 2 * 4 * size for size in REPEATED[n]]
        assert counters["repeated"] == (1, all_gather_bytes(shares, rank))
        assert counters["twice"] == (1, all_gather_bytes([2 * 4 * size for size in owned], rank))
        assert counters["token"] == (1, all_reduce_bytes(2 * 8, n))
        assert counters["take"] == (1, 0.0)


def test_low_precision_sums_are_rounded_once() -> None:
    def run(group: Group) -> Tensor:
        with registered("m", CollectiveContext(group, [Site("sum", "all_reduce")])):
            return ops.all_reduce(torch.tensor([256.0 if group.rank == 0 else 1.0], dtype=torch.bfloat16), "m/sum")

    assert simulate(5, run)[0].item() == 260.0  # each 256 + 1 alone would round back to 256


def test_a_mean_over_uneven_shares_is_the_mean() -> None:
    x = seeded(4, 9).double()

    def run(group: Group) -> Tensor:
        context = CollectiveContext(group, sites(group.size))
        with registered("m", context):
            return ops.all_reduce(ops.scale(ops.take(x, "m/take").mean(-1), "m/mean"), "m/sum")

    torch.testing.assert_close(simulate(2, run)[1], x.mean(-1), rtol=1e-15, atol=1e-15)


def test_dropped_collectives_keep_shapes_and_lose_the_others_parts() -> None:
    whole = seeded(2, 9)

    def run(group: Group) -> None:
        context = CollectiveContext(group, sites(3))
        part = Layout.of_sizes(-1, UNEVEN[3]).take(whole, group.rank)
        with registered("m", context), context.dropping("sum", "uneven", "token"):
            assert torch.equal(ops.all_reduce(whole * group.rank, "m/sum"), whole * group.rank)
            assert torch.equal(ops.all_gather(part, "m/uneven"), Layout.of_sizes(-1, UNEVEN[3]).pad(part, group.rank))
            assert ops.argmax(part, "m/token").shape == (2,)
            assert torch.equal(ops.take(whole, "m/take"), part)
        assert not any(bound.dropped for bound in context.bound.values())
        with pytest.raises(InputError, match="no such collective"):
            context.drop(["bias"])

    simulate(3, run)


NEGATIVE_NAN = math.copysign(math.nan, -1.0)
FIRST = Layout.of_sizes(-1, (4, 0, 5))


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@example(torch.float32, [[-1.0, -0.0, -1.0, -1.0, 0.0, -1.0, -1.0, -1.0, -1.0]], FIRST)
@example(torch.float64, [[-1.0, -0.0, -1.0, -1.0, 0.0, -1.0, -1.0, -1.0, -1.0]], FIRST)
@example(torch.float32, [[1.0, NEGATIVE_NAN, 1.0, 1.0, math.inf, 1.0, math.nan, 1.0, 1.0]], FIRST)
@example(torch.float64, [[1.0, 1.0, 1.0, 1.0, math.inf, 1.0, NEGATIVE_NAN, 1.0, 1.0]], FIRST)
@given(
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    st.lists(
        st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.5, 3.0, float("inf"), -float("inf"), float("nan")]),
                 min_size=9, max_size=9),
        min_size=1, max_size=3,
    ),
    st.sampled_from([FIRST, Layout(-1, 9, (((0, 1), (5, 9)), ((1, 2),), ((2, 5),)))]),
)  # fmt: skip
def test_argmax_takes_the_first_of_equals_and_nan_above_all(
    dtype: torch.dtype, rows: list[list[float]], layout: Layout
) -> None:
    logits = torch.tensor(rows, dtype=dtype)

    def run(group: Group) -> Tensor:
        with registered("m", CollectiveContext(group, [Site("token", "argmax", layout)])):
            return ops.argmax(layout.take(logits, group.rank), "m/token")

    for result in simulate(3, run):
        assert result.tolist() == logits.argmax(-1).tolist()


def test_gradients_are_those_of_the_whole_computation() -> None:
    """Column-wise, gelu, row-wise, all_reduce; then split, scaled and gathered again."""
    x, w1, w2, bias = (seeded(*shape, seed=i).double() for i, shape in enumerate([(2, 9), (9, 9), (9, 9), (9,)]))
    layout = Layout.of_sizes(0, UNEVEN[2])
    leaves = [x.requires_grad_(), w1.requires_grad_(), w2.requires_grad_(), bias.requires_grad_()]
    y = gelu(x @ w1) @ w2 + bias
    loss = y.sin().sum() + y.mean(-1).exp().sum()
    whole = torch.autograd.grad(loss, leaves)

    def run(group: Group) -> tuple[list[Tensor], dict[str, tuple[int, float]]]:
        context = CollectiveContext(group, sites(2))
        with registered("m", context):
            own = [
                x.detach().clone(),
                Layout(1, layout.period, layout.ranges).take(w1.detach(), group.rank),
                layout.take(w2.detach(), group.rank),
                bias.detach().clone(),
            ]
            for leaf in own:
                leaf.requires_grad_()
            partial = gelu(own[0] @ own[1]) @ own[2] + ops.only_first(own[3], "m/bias")
            y = ops.all_reduce(partial, "m/sum")
            part = ops.take(y, "m/take")
            mean = ops.all_reduce(ops.scale(part.mean(-1), "m/mean"), "m/sum")
            loss = ops.all_gather(part.sin(), "m/uneven").sum() + mean.exp().sum()
            return list(torch.autograd.grad(loss, own)), context.counters

    ranks = [grads for grads, _ in simulate(2, run)]
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(ranks[0][0] + ranks[1][0], whole[0], **close)  # whole x into a split: Partial
    torch.testing.assert_close(torch.cat([grads[1] for grads in ranks], 1), whole[1], **close)
    torch.testing.assert_close(torch.cat([grads[2] for grads in ranks], 0), whole[2], **close)
    for grads in ranks:
        torch.testing.assert_close(grads[3], whole[3], **close)  # replicated: whole on each rank
    counters = simulate(2, run)[1][1]
    assert counters["take@backward"] == (1, 2 * 8 * 3.0)
    assert counters["uneven@backward"] == (1, 0.0)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_fake_tensors_need_no_group_and_have_the_real_shapes(rank: int) -> None:
    n = 3
    context = CollectiveContext(FakeGroup(rank, n), sites(n), count_fake=True)
    real = simulate(n, everything)[rank][1]
    with FakeTensorMode(), registered("m", context):
        part = torch.empty(2, UNEVEN[n][rank])
        for op, x, shape in [
            (ops.all_reduce, torch.empty(5, 7), (5, 7)),
            (ops.all_gather, part, (2, 9)),
            (ops.take, torch.empty(2, 9), (2, UNEVEN[n][rank])),
            (ops.only_first, torch.empty(4), (4,)),
            (ops.scale, torch.empty(4), (4,)),
            (ops.argmax, part, (2,)),
        ]:
            names = {"all_reduce": "sum", "all_gather": "uneven", "only_first": "bias", "scale": "mean"}
            name = op._schema.name.removeprefix("axisplit::")
            result = op(x, "m/" + names.get(name, {"argmax": "token"}.get(name, name)))
            assert tuple(result.shape) == shape
            assert result.is_contiguous()
    assert context.counters["token"] == real["token"]
    assert context.counters["sum"] == (1, all_reduce_bytes(35 * 4, n))


def test_the_ops_are_sound_for_tracing_and_compilation() -> None:
    layout = Layout.of_sizes(-1, (9,))
    context = CollectiveContext(
        SingleGroup(),
        [
            Site("all_reduce", "all_reduce"),
            Site("all_gather", "all_gather", layout),
            Site("take", "take", layout),
            Site("only_first", "only_first"),
            Site("scale", "scale", weights=(0.5,)),
            Site("argmax", "argmax", layout),
        ],
    )
    x = seeded(2, 9).requires_grad_()
    with registered("m", context):
        for name in context.sites:
            if "@" not in name:
                torch.library.opcheck(getattr(torch.ops.axisplit, name).default, (x, f"m/{name}"))
        compiled = torch.compile(lambda x: ops.all_reduce(x, "m/all_reduce") * 2, backend="aot_eager", fullgraph=True)
        compiled(x).sum().backward()
        assert x.grad is not None
        assert torch.equal(x.grad, torch.full_like(x, 2.0))


class Seen(TorchDispatchMode):
    """The names of the ops that pass."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class SeenFunctions(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_step_passes_the_dispatcher_only_where_something_looks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    name, x = "axisplit.all_reduce.default", seeded(3)
    passed: list[str] = []
    op = definition.DEFINED["all_reduce"]
    monkeypatch.setitem(definition.DEFINED, "all_reduce", lambda x, site: passed.append(site) or op(x, site))  # type: ignore[misc]
    with registered("m", CollectiveContext(SingleGroup(), [Site("s", "all_reduce", partial=True)])) as context:
        step = definition.step_at("all_reduce", "m/s")
        assert torch.equal(step(x), x)
        with torch.no_grad():
            step(x.clone().requires_grad_())
        with torch.inference_mode():
            step(x)
        assert not passed
        assert context.counters["s"] == (3, 0.0)
        with Seen() as seen, torch.no_grad():
            step(x)
        assert seen.names.count(name) == 1
        with SeenFunctions() as functions:
            step(x)
        assert any("all_reduce" in each for each in functions.names)
        trained = x.clone().requires_grad_()
        step(trained).sum().backward()
        assert trained.grad is not None
        assert context.counters["s@backward"][0] == 1
        with FakeTensorMode() as mode:
            step(mode.from_tensor(x))
        step(torch.nn.Parameter(x, requires_grad=False))
        assert [site for site in passed if "@" not in site] == ["m/s"] * 5
        monkeypatch.undo()
        step = definition.step_at("all_reduce", "m/s")
        assert "axisplit::all_reduce" in str(torch.jit.trace(step, x, check_trace=False).graph)
        with torch.profiler.profile() as profile:
            step(x)
        assert "axisplit::all_reduce" in {event.key for event in profile.key_averages()}
        assert "axisplit.all_reduce" in make_fx(step)(x).code
        torch.compile(step, backend="aot_eager", fullgraph=True)(x)
        with pytest.raises(CollectiveError, match=r"(?s)no forward-mode derivatives.*where: m/s.*do: use reverse mode"):
            torch.func.jvp(step, (x,), (x,))
        with torch.no_grad(), forward_ad.dual_level(), pytest.raises(CollectiveError, match="forward-mode"):
            step(forward_ad.make_dual(x, x))
        before = context.counters["s"][0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that it calls the op for each
            assert torch.equal(torch.vmap(step)(x), x)
        assert context.counters["s"][0] == before + 3


def test_a_symbolic_batch_stays_symbolic() -> None:
    layout = Layout.of_sizes(0, (2, 1))
    context = CollectiveContext(FakeGroup(0, 2), [Site("t", "take", layout), Site("g", "all_gather", layout)])

    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            heads = x.repeat_interleave(3, 0)
            return ops.all_gather(ops.take(heads, "m/t"), "m/g")

    with registered("m", context):
        batch = torch.export.Dim("batch", min=2)
        program = torch.export.export(Model(), (torch.zeros(4, 5),), dynamic_shapes=({0: batch},))
    nodes = [str(node.target) for node in program.graph.nodes]
    assert "axisplit.take.default" in nodes
    assert "axisplit.all_gather.default" in nodes


def test_lookup_errors_name_the_site() -> None:
    x = torch.zeros(2)
    with pytest.raises(CollectiveError, match=r"(?s)no group is registered.*where: nowhere/s"):
        ops.all_reduce(x, "nowhere/s")
    context = CollectiveContext(SingleGroup(), [Site("s", "all_reduce")])
    register("m", context)
    try:
        with pytest.raises(InputError, match="registered already"):
            register("m", context)
        with pytest.raises(CollectiveError, match=r"(?s)another op's site.*got: only_first.*needed: all_reduce"):
            ops.only_first(x, "m/s")
        assert lookup("m/s", "all_reduce").calls == 0
    finally:
        unregister("m")
    with (
        pytest.raises(CollectiveError, match="cannot communicate"),
        registered("m", CollectiveContext(FakeGroup(0, 2), [Site("s", "all_reduce")])),
    ):
        ops.all_reduce(x, "m/s")


@pytest.mark.parametrize(
    ("site", "text"),
    [
        (Site("g", "all_gather"), "got: no layout"),
        (Site("g", "take", Layout.of_sizes(0, (1, 1, 1))), "got: layout for 3 ranks"),
        (Site("g", "scale", weights=(1.0,)), "needed: no layout, weights for 2 ranks"),
        (Site("g", "take", Layout(0, 2, (((0, 1),), ((0, 1),)))), "indices 1:2 on no rank"),
    ],
)
def test_sites_are_checked_when_they_are_bound(site: Site, text: str) -> None:
    with pytest.raises(LayoutError) as caught:
        CollectiveContext(FakeGroup(0, 2), [site])
    assert text in str(caught.value)


def test_site_names_must_be_unique_and_ours() -> None:
    make: Callable[..., CollectiveContext] = CollectiveContext
    with pytest.raises(InputError, match=r"(?s)unique.*got: a, b@backward"):
        make(SingleGroup(), [Site("a", "all_reduce"), Site("a", "only_first"), Site("b@backward", "all_reduce")])
