"""The formulae and what is made of them, by hand; no torch."""

from itertools import combinations, pairwise

import pytest

import axisplit
from axisplit.errors import InputError
from axisplit.memory.contents import ShapeContents, rows_in_flight
from axisplit.memory.formulae import layer_activation_bytes
from axisplit.memory.quantities import parse_bytes, parse_count
from axisplit.memory.shapes import decoder_shape
from axisplit.memory.stages import assign_stages

GIB = 2**30


def test_sixteen_bit_saves_fourteen_gb_of_seven_billion_parameters():
    found = axisplit.fit(params=7e9, ranks=1)
    held = {dtype: found.row("data", dtype).fullest.parameter_bytes for dtype in ("fp32", "bf16", "fp16", "int8")}
    assert held == {"fp32": 28 * 10**9, "bf16": 14 * 10**9, "fp16": 14 * 10**9, "int8": 7 * 10**9}
    assert [saving.saved_bytes for saving in found.savings] == [14 * 10**9, 0, 56 * 10**9]
    assert found.to_json()["saved_by_16_bit"][0]["gib"] == pytest.approx(13.04, abs=0.005)


def test_states_of_zero_3_are_those_of_its_paper():
    """Rajbhandari et al. 2020, figure 1: 7.5e9 parameters take 120 GB, and 1.9 GB on each of 64 ranks."""
    found = axisplit.fit(params=7.5e9, ranks=64, training=True)

    def states(parallelism, recipe):
        held = found.row(parallelism, "bf16", recipe).fullest
        return (held.parameter_bytes, held.gradient_bytes, held.optimizer_bytes)

    assert states("data", "mixed precision") == (15e9, 15e9, 90e9)
    assert sum(states("fsdp", "mixed precision")) == 120e9 / 64
    assert states("data", "pure 16 bit") == (15e9, 15e9, 30e9)
    assert found.row("tensor", "bf16").why_not == "there are 32 heads, fewer than ranks"


@pytest.mark.parametrize(
    ("heads", "hidden", "of_scores"),
    [(96, 12288, 80), (128, 20480, 64)],  # GPT-3 175B and MT-NLG 530B: 5 a s / h in Korthikanti et al. 2022, section 5
)
def test_activations_of_a_layer_are_those_of_their_paper(heads, hidden, of_scores):
    s, unit = 2048, 2048 * hidden
    assert layer_activation_bytes(s, 1, hidden, heads) == unit * (34 + of_scores)
    assert layer_activation_bytes(s, 1, hidden, heads, t=8) == unit * (10 + 24 / 8 + of_scores / 8)
    assert layer_activation_bytes(s, 1, hidden, heads, w=4) == unit * (2 * 32 + 2 + of_scores / 5 * 9)  # masks: a byte


GPT3 = {"layers": 96, "hidden": 12288, "heads": 96, "kv_heads": 96}


def test_activations_of_gpt_3_by_parallelism():
    one_layer = 2048 * 12288 * 114
    found = axisplit.fit(params=175e9, ranks=8, training=True, batch=16, **GPT3)
    held = {method: found.row(method, "bf16").fullest.activation_bytes for method in ("data", "tensor", "fsdp")}
    assert held == {
        "data": 96 * 2 * one_layer,  # 16 rows on 8 ranks
        "tensor": 96 * 16 * 2048 * 12288 * (10 + 3 + 10),
        "fsdp": 96 * 2 * one_layer,
    }
    stages = found.row("pipeline", "bf16").by_rank
    assert [held.activation_bytes for held in stages] == [12 * rows * one_layer for rows in range(8, 0, -1)]


def test_recomputation_keeps_less():
    unit = 2048 * 12288

    def held(recompute, method="data"):
        asked = {"training": True, "batch": 8, "recompute": recompute, **GPT3}
        return axisplit.fit(params=175e9, ranks=8, **asked).row(method, "bf16").fullest.activation_bytes / unit

    assert [held(recompute) for recompute in ("none", "attention", "full")] == [96 * 114, 96 * 34, 96 * 2 + 114]
    assert held("attention", "tensor") == 8 * 96 * (10 + 3)
    assert held("full", "tensor") == 8 * (96 * 2 + 10 + 3 + 10)
    assert held("full", "pipeline") == 12 * 8 * 2 + 114


def test_fsdp_gathers_two_layers_and_one_of_gradients():
    found = axisplit.fit(params=96e9, ranks=8, training=True, **GPT3)
    assert found.row("fsdp", "bf16").fullest.gathered_bytes == 2 * 1e9 * 2 + 1e9 * 2
    assert found.row("fsdp", "fp32").fullest.gathered_bytes == 2 * 1e9 * 4 + 1e9 * 4
    alone = axisplit.fit(params=96e9, ranks=1, training=True, **GPT3)
    assert alone.row("fsdp", "bf16").by_rank == alone.row("data", "bf16").by_rank


def test_caches_are_split_by_heads_layers_or_rows():
    shape = {"layers": 80, "hidden": 8192, "heads": 64, "kv_heads": 8}
    whole = 2 * 80 * 8 * 128 * 4096 * 2  # of a row, in 16 bit
    # 16 ranks share 8 kv heads, each held by two
    for batch, ranks, data, pipeline, tensor in ((1, 8, 1, 1 / 8, 1 / 8), (4, 2, 2, 2, 2), (1, 16, 1, 1 / 16, 1 / 8)):
        found = axisplit.fit(params=70e9, ranks=ranks, batch=batch, seq=4096, **shape)
        held = [found.row(method, "bf16").fullest.kv_cache_bytes / whole for method in ("data", "pipeline", "tensor")]
        assert held == [data, pipeline, tensor]
    assert found.row("data", "int8").fullest.kv_cache_bytes == whole
    assert found.row("data", "fp32").fullest.kv_cache_bytes == 2 * whole


def test_the_question_of_the_lesson():
    """Which parallelism helps if the parameters do not fit on one device?"""
    found = axisplit.fit(params=70e9, ranks=8, memory=80 * GIB)
    assert found.to_json()["helps_if_parameters_do_not_fit"] == {
        "data": False, "pipeline": True, "tensor": True, "fsdp": True,
    }  # fmt: skip
    fits = {method: found.row(method, "bf16").fits for method in ("data", "pipeline", "tensor", "fsdp")}
    assert fits == {"data": False, "pipeline": True, "tensor": True, "fsdp": True}
    assert found.row("data", "bf16").fewest_ranks is None
    assert any("do not fit on one rank: data parallelism alone does not help" in text for text in found.answer)


@pytest.mark.parametrize("training", [False, True])
def test_the_fewest_ranks_fit_and_one_fewer_do_not(training):
    memory, checked = 80 * GIB, 0
    for row in axisplit.fit(params=30e9, ranks=4, memory=memory, training=training, batch=4).rows:
        if row.fewest_ranks is None or row.fewest_ranks == 1:
            continue
        checked += 1
        for ranks, fits in ((row.fewest_ranks, True), (row.fewest_ranks - 1, False)):
            found = axisplit.fit(params=30e9, ranks=ranks, memory=memory, training=training, batch=4)
            assert found.row(row.parallelism, row.recipe.dtype, row.recipe.name).fits is fits
    assert checked >= 3


def test_memory_is_compared_to_the_byte():
    held = axisplit.fit(params=7e9, ranks=2).row("tensor", "bf16").fullest.total_bytes
    for memory, over in ((held, 0), (held - 1, 1), (held + 1, -1)):
        row = axisplit.fit(params=7e9, ranks=2, memory=memory).row("tensor", "bf16")
        assert (row.over_bytes, row.fits) == (over, over <= 0)
    assert axisplit.fit(params=7e9, ranks=2).row("tensor", "bf16").fits is None


def test_what_is_not_offered_says_why():
    found = axisplit.fit(params=7e9, ranks=64, memory=80 * GIB, training=True)
    assert found.row("data", "int8").why_not.startswith("int8 is for weights at inference")
    assert found.row("data", "fp16", "pure 16 bit").why_not.startswith("in fp16 Adam's squares")
    pipeline = found.row("pipeline", "bf16")
    assert (pipeline.fullest, pipeline.fits) == (None, False)
    assert pipeline.why_not == "there are 32 layers, fewer than ranks"
    assert pipeline.to_json()["parameter_bytes_per_rank"] is None


def test_shapes_are_those_of_the_nearest_model_or_in_its_proportions():
    assert (decoder_shape(70e9).layers, decoder_shape(70e9).kv_heads) == (80, 8)
    small = decoder_shape(1e6)
    assert (small.layers, small.hidden % 64, small.hidden // small.heads) == (12, 0, 64)
    assert not small.basis.startswith("as in")
    given = decoder_shape(7e9, hidden=5000)
    assert (given.hidden, given.hidden % given.heads, given.basis[:12]) == (5000, 0, "partly given")


def test_stages_are_as_even_as_the_blocks_allow():
    for sizes in ([3, 1, 4, 1, 5, 9, 2, 6], [1] * 7, [10, 1, 1, 1, 1, 10], [0, 0, 5, 0], [7]):
        for stages in range(1, len(sizes) + 1):
            found = assign_stages(sizes, stages)
            assert [a for a, _ in found] == [0, *(b for _, b in found[:-1])]
            assert (len(found), found[-1][1], all(a < b for a, b in found)) == (stages, len(sizes), True)
            cuts = [(0, *c, len(sizes)) for c in combinations(range(1, len(sizes)), stages - 1)]
            best = min(max(sum(sizes[a:b]) for a, b in pairwise(c)) for c in cuts)
            assert max(sum(sizes[a:b]) for a, b in found) == best
    assert [b - a for a, b in assign_stages([1.0] * 10, 4)] == [2, 3, 2, 3]


def test_pipeline_stages_hold_all_layers_once():
    contents = ShapeContents(7_000_000_000, decoder_shape(7e9), 1, 128, False)
    for ranks in (1, 3, 5, 32):
        assert sum(part.parameters for part in contents.parts("pipeline", ranks)) == pytest.approx(7e9)
    assert rows_in_flight(100, 4, 1) == 3


@pytest.mark.parametrize("text", ["", "x", "7Q", "-7B", "0", "7e", "B"])
def test_numbers_that_are_none(text):
    with pytest.raises(InputError, match="this is not a number of parameters"):
        parse_count(text)
    if text != "7Q":
        with pytest.raises(InputError) as raised:
            parse_bytes(text, "--memory")
        assert raised.value.where == "--memory"


def test_requests_that_cannot_be_answered():
    with pytest.raises(InputError) as raised:
        axisplit.fit(ranks=2)
    assert str(raised.value) == (
        "say which model\n"
        "  where: fit\n"
        "  got: neither a model nor a number of parameters\n"
        "  needed: one of them\n"
        "  do: give MODEL, or --params 7e9"
    )
    with pytest.raises(InputError) as raised:
        axisplit.fit(params=7e9, ranks=0, memory=80, layers=0)
    assert raised.value.got == "ranks=0, memory=80, layers=0"
    with pytest.raises(InputError, match="the shape is not a decoder's"):
        axisplit.fit(params=7e9, ranks=2, heads=32, kv_heads=5)
    with pytest.raises(InputError, match="a model has sizes of its own"):
        axisplit.fit(object(), (), ranks=2, layers=3)
    with pytest.raises(InputError, match="only training recomputes"):
        axisplit.fit(params=7e9, ranks=2, recompute="full")
    with pytest.raises(InputError, match="a model's attention is measured as it runs"):
        axisplit.fit(object(), (), ranks=2, recompute="attention", training=True)
    with pytest.raises(InputError, match="this cannot be recomputed"):
        axisplit.fit(params=7e9, ranks=2, recompute="some", training=True)
    with pytest.raises(InputError, match="a model needs inputs"):
        axisplit.fit(object(), ranks=2)
