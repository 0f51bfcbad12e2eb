"""The page that is made of records."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.coverage import hand, report
from benchmarks.coverage.group import shortfalls, signature
from benchmarks.coverage.hand import HandPlan, comm_bytes, standing
from benchmarks.coverage.record import Case, Record

GOOD = {
    "split_fraction": 0.99, "total_bytes": 1000, "collectives": 6, "comm_bytes_per_rank": 57376.0, "max_error": 1e-6,
    "bound": 1e-4, "cpu_s": 2.0, "exact_error": 1.23412e-15,
}  # fmt: skip
MISMATCH = "2 mismatches, first: rank {}: aten.mul.Tensor in model.layers.0.attn has other {}, needed 0.5"
RECORDS = [
    Record(
        "gpt2", "causal", 2, "equal", generate_equal=True, gradients_equal=True, tiers={"native": 8, "attributes": 6},
        family="text", real_equal=True, **GOOD,
    ),
    Record(
        "gpt2", "causal", 3, "equal", generate_equal=False, generate_reason="other tokens on ranks [1]",
        gradients_reason="100 s of CPU passed in gradients", captured_fraction=0.5, **GOOD,
    ),
    Record(
        "axk2", "causal", 2, "different", MISMATCH.format(0, 0.7), stage="verify",
        stage_cpu_s={"plan": 45.0, "verify": 15.0}, **GOOD,
    ),
    Record("deep", "causal", 2, "different", MISMATCH.format(1, 1.0), stage="verify", gradients_equal=False, **GOOD),
    Record("bitnet", "causal", 2, "equal", **{**GOOD, "split_fraction": 0.3}, kept_whole=("70.0% a.b [2]: no axis",)),
    Record("timm", "base", 2, "does not run", "ImportError: timm", stage="build"),
]  # fmt: skip
HAND = {
    Case("gpt2", "causal", 2): HandPlan("equal", 2 * 57376.0, 0.99),
    Case("bitnet", "causal", 2): HandPlan("equal", 57376.0, 0.5),
    Case("deep", "causal", 2): HandPlan("raises", error="shape"),
    Case("axk2", "causal", 2): HandPlan("no plan"),
}


def test_page(tmp_path):
    report.write(tmp_path, {"date": "2020-01-01"}, RECORDS, ("measured apart", HAND))
    lines = (tmp_path / "coverage.md").read_text().splitlines()
    late = "yes · no | yes · – | yes | 4 |"
    assert lines[0] == "# Coverage"
    for line in (
        "- date: 2020-01-01",
        "| causal | 2 | 2 | 2 |  |  |  |  | 1 of 2 | 81.8 % | 0.00 % | 1 of 1 | 1 of 2 | 0 |",
        "| base | 2 |  |  |  |  |  | 1 |  | – | – |  |  | 0 |",
        "Modules that need a captured program hold 10.00 % of all parameter bytes, in 1 of 4 models: gpt2 50.0 %",
        "| causal | 2 | 2 of 3 | 2 | 1 | 0 | 0 | 0 | 0 | 1 |",
        "- bitnet at 2: 57,376 bytes, 30.0 %; by hand 57,376 bytes, 50.0 %",
        "| text | 1 of 1 | gpt2 |",
        "- 1: `70.0% a.b [2]: no axis` — bitnet at 2",
        "- 1: `100 s of CPU passed in gradients` — gpt2 at 3",
        "- 1: `ImportError: timm` — timm (base) at 2",
        "CPU time, without building models: 1 min: plan 75 %, verify 25 %.",
        "Silently wrong by hand: none.",
        "| gpt2 | 2 3 | equal | 1e-06 / 1e-04 | 99.0 | 6 | 57,376 | 99.0, 114,752 · – | 6a 8n · – | " + late,
    ):
        assert line in lines, line
    assert any(
        line.startswith("- 2 in verify: `2 mismatches") and line.endswith("— axk2 at 2, deep at 2") for line in lines
    )
    data = json.loads((tmp_path / "coverage.json").read_text())
    assert data["about"] == {"date": "2020-01-01", "hand_plans": "measured apart"}
    assert data["totals"][0]["outcomes"]["different"] == 2
    wanted = [
        RECORDS[i] if RECORDS[i].bound is None else replace(RECORDS[i], exact_error=1.234e-15)
        for i in (2, 4, 3, 0, 1, 5)
    ]
    assert [Record.from_json(entry) for entry in data["records"]] == wanted
    hands = [entry.get("hand_plan") for entry in data["records"]]
    assert hands[3] == {
        "outcome": "equal", "comm_bytes": 114752.0, "split_fraction": 0.99, "standing": "fewer bytes at an equal split"
    }  # fmt: skip
    assert [hand and hand["outcome"] for hand in hands] == [None, "equal", "raises", "equal", None, None]


def test_one_cause_is_one_group():
    found = {(s.kind, tuple(s.models)) for s in shortfalls(RECORDS)}
    assert found == {
        ("different", ("axk2", "deep")),
        ("does not run", ("timm (base)",)),
        ("generates otherwise", ("gpt2",)),
        ("gradients not compared", ("gpt2",)),
        ("gradients differ", ("deep",)),
        ("little is split", ("bitnet",)),
    }
    assert signature("aten.mul.Tensor has other 1") != signature("aten.add.Tensor has other 1")


@pytest.mark.parametrize(
    ("sent", "split", "found"),
    [
        (90, 0.9, "fewer bytes at an equal split"),
        (100, 0.901, "the same"),
        (101, 0.899, "worse"),
        (100, 0.95, "no more bytes, more split"),
        (101, 0.95, "more bytes, more split"),
        (99, 0.85, "fewer bytes, less split"),
        (100, 0.85, "worse"),
    ],
)
def test_ours_beside_a_plan_made_by_hand(sent, split, found):
    ours = Record("a", "base", 2, "equal", comm_bytes_per_rank=sent, split_fraction=split)
    assert standing(ours, HandPlan("equal", 100.0, 0.9)) == found
    assert standing(ours, HandPlan("SILENTLY WRONG", 100.0, 0.9)) is None
    assert standing(replace(ours, outcome="different"), HandPlan("equal", 100.0, 0.9)) is None


def test_what_a_hand_plan_sends():
    """An all-reduce of 120 bytes and an all-gather of 240, as payload at 2, 3 and 4 ranks."""
    payload = {ranks: 120 + 240 / ranks for ranks in (2, 3, 4)}
    for ranks in (2, 3, 4):
        sent = (2 * 120 + 240) * (ranks - 1) / ranks
        assert comm_bytes(ranks, payload[ranks], payload[2]) == pytest.approx(sent)
    assert comm_bytes(4, payload[2] + 1, payload[2]) is None, "other collectives than at 2 ranks"
    assert comm_bytes(4, payload[4], None) is None


def test_hand_plans_are_there():
    about, plans = hand.load()
    assert "transformers" in about
    assert plans[Case("llama", "causal", 2)] == HandPlan("equal", 43008, 0.997)
    assert {plan.outcome for plan in plans.values()} == {"equal", "raises", "load error", "SILENTLY WRONG", "no plan"}
    assert all(plan.comm_bytes is not None for plan in plans.values() if plan.outcome == "equal")
