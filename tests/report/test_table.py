"""What people look at, letter by letter."""

from dataclasses import replace

import pytest

from axisplit.proof.choices import Choices
from axisplit.proof.numbers import Numbers
from axisplit.proof.program import Mismatch
from axisplit.proof.verify import Proof, Verdict
from axisplit.report.table import render_plan, render_verdict
from axisplit.solve.plan import AxisPlan, CollectivePlan, EditPlan, ParameterPlan, check_plan
from report.plans import hand_made, split

WIDTH = 110


def test_a_plan_in_full(golden):
    plan = hand_made()
    check_plan(plan)
    golden("hand_made", render_plan(plan))


@pytest.mark.slow
def test_the_plan_of_a_tiny_llama(golden):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import axisplit

    config = LlamaConfig(
        hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=3,
        head_dim=8, vocab_size=64, tie_word_embeddings=True,
    )  # fmt: skip
    plan = axisplit.plan(LlamaForCausalLM(config).eval(), {"input_ids": torch.zeros(1, 16, dtype=torch.long)}, ranks=2)
    golden("tiny_llama", str(replace(plan, versions={}, fingerprint="not compared")))


def test_nothing_to_split():
    one = replace(hand_made(), ranks=1, axes=(), collectives=(), parameters=(), edits=(), tiers={}, constraints=())
    text = render_plan(replace(one, optimal=True, comm_bytes_per_rank=0.0, lower_bound_bytes=0.0, excluded=()))
    assert text.startswith("hand-made over 1 rank\n")
    assert "AXES  none is split" in text
    assert "COLLECTIVES  none: nothing moves" in text


def test_lines_are_not_too_long_for_many_ranks_and_long_names():
    name = "model." + "very_long_container." * 9 + "weight"
    parts = tuple(f"{4 * i}:{4 * i + 4}" for i in range(64))
    parameter = split(name, (256, 4), "a", *((0, 4 * i, 4 * i + 4) for i in range(64)))
    big = replace(
        hand_made(), model="m" * 300, ranks=64, parameters=(parameter,), axes=(AxisPlan("a", 256, parts, (name,)),),
        collectives=(CollectivePlan("all_reduce", name, "prefill", 1, 1.0),), edits=(), excluded=(name * 3,),
        warnings=("word " * 60,),
    )  # fmt: skip
    text = render_plan(big)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "64 parts of 4" in text
    assert "ranks 0 to 63, each" in text


def test_names_cannot_speak_to_the_terminal():
    evil = "w\x1b[31m\x1b]0;title\x07\u202e\u2066\r\n\x00.weight"
    parameter = split(evil, (4, 4), evil, (0, 0, 2), (0, 2, 3), (0, 3, 4))
    whole = ParameterPlan(evil + "2", (4,), "float32", "whole", reason=evil)
    plan = replace(
        hand_made(), model=evil, parameters=(parameter, whole), axes=(AxisPlan(evil, 4, (evil,) * 3, (evil,)),),
        collectives=(CollectivePlan(evil, evil, evil, 1, 1.0),), edits=(EditPlan(evil, evil, 1, (1, 1, 1)),),
        tiers={evil: evil}, tied={evil: evil}, sizes={evil: [1]}, versions={evil: evil}, constraints=(evil,),
        excluded=(evil,), assumed=(evil,), domain=(evil,), warnings=(evil,), fingerprint=evil,
    )  # fmt: skip
    verdict = Verdict(False, 1.0, 0.1, 1.0, Proof(1, 0, (evil,)), True, (Mismatch(0, None, evil),))
    text = render_plan(plan) + render_verdict(verdict)
    assert [c for c in text if not c.isprintable() and c != "\n"] == []
    assert "\u202e" not in text


PROOF = Proof(6456, 6456, ())
NUMBERS = Numbers(2.1e-12, 1.5e-6, 3.2e-4, {"all_reduce at h.*.o (output 0)": 54.9, "all_gather at head": 7.0}, [1.0])


def test_equal():
    assert render_verdict(Verdict(True, 1.5e-6, 3.2e-4, 2.1e-12, PROOF, True, (), NUMBERS)).splitlines() == [
        "EQUAL  the parts give the whole model's answer",
        "  laws         6,456 of 6,456 ops are proved to split by a stated rule",
        "  program      every rank's program is the split of the whole one, op for op, in every argument",
        "  exact        float64 throughout: error 2.1e-12, relative to the output's scale",
        "  numbers      the model's own dtype: largest error 1.5e-06, within the rounding bound 0.00032",
        "  control      each collective left out in turn: each is noticed",
        "                    54.9  without all_reduce at h.*.o (output 0)",
        "                       7  without all_gather at head",
        "  assumed      nothing",
        "  mismatches   none",
    ]


def test_choices_and_their_margin():
    choices = Choices(30, 2, 1, margin=2e-7, rounding=1.5e-7, max_error=4e-8, bound=3e-7)
    verdict = Verdict(True, 1.5e-6, 3.2e-4, 2.1e-12, PROOF, True, (), replace(NUMBERS, choices=choices))
    assert render_verdict(verdict).splitlines()[5:9] == [
        "  choices      30 of 32 decisions (top-k, argmax, sort) pinned to the whole model's; 2 left as they fall",
        "               made otherwise if not pinned: 1",
        "               what they are made from: largest error 4e-08, within the rounding bound 3e-07",
        "               closest one: margin 2e-07; rounding moves its scores by up to 1.5e-07 and CAN flip it",
    ]


def test_different():
    mismatches = tuple(Mismatch(rank, 3, "relu is missing") for rank in range(20))
    verdict = Verdict(False, 2.0, 1e-4, 0.5, Proof(10, 0, ("a rule that was found",)), True, mismatches, NUMBERS)
    lines = render_verdict(verdict).splitlines()
    assert lines[0] == "DIFFERENT  the parts do not give the whole model's answer"
    assert "ABOVE the rounding bound 0.0001" in lines[4]
    assert "  mismatches   rank 0: relu is missing" in lines
    assert lines[-1].strip() == "and 8 more"


def test_could_not_say():
    uncaught = Verdict(True, 1.5e-6, 40.0, 2.1e-12, PROOF, False, (), NUMBERS)
    assert render_verdict(uncaught).startswith("COULD NOT  the comparison would not notice")
    assert "NOT each is noticed" in render_verdict(uncaught)
    unmeasured = Verdict(None, None, None, None, PROOF, None)
    assert render_verdict(unmeasured).startswith("COULD NOT  no weights, so no numbers were run")
