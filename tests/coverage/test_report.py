"""The page that is made of records."""

from __future__ import annotations

import json

from benchmarks.coverage import hand, report
from benchmarks.coverage.group import shortfalls, signature
from benchmarks.coverage.hand import HandPlan
from benchmarks.coverage.record import Case, Record

GOOD = {"split_fraction": 0.99, "collectives": 6, "comm_bytes_per_rank": 57376.0, "payload_bytes": 38928, "cpu_s": 2.0}
MISMATCH = "2 mismatches, first: rank {}: aten.mul.Tensor in model.layers.0.attn has other {}, needed 0.5"
RECORDS = [
    Record("gpt2", "causal", 2, "equal", generate_equal=True, tiers={"native": 8, "attributes": 6}, **GOOD),
    Record("gpt2", "causal", 3, "equal", generate_equal=False, generate_reason="other tokens on ranks [1]", **GOOD),
    Record("axk2", "causal", 2, "different", MISMATCH.format(0, 0.7), "verify", **GOOD),
    Record("deep", "causal", 2, "different", MISMATCH.format(1, 1.0), "verify", **GOOD),
    Record("bitnet", "causal", 2, "equal", **{**GOOD, "split_fraction": 0.3}, kept_whole=("70.0% a.b [2]: no axis",)),
    Record("timm", "base", 2, "does not run", "ImportError: timm", "build"),
]
HAND = {
    Case("gpt2", "causal", 2): HandPlan("equal", 2 * 38928, 0.9),
    Case("deep", "causal", 2): HandPlan("raises", error="shape"),
    Case("axk2", "causal", 2): HandPlan("no plan"),
}


def test_page(tmp_path):
    report.write(tmp_path, {"date": "2020-01-01"}, RECORDS, ("measured apart", HAND))
    lines = (tmp_path / "coverage.md").read_text().splitlines()
    assert lines[0] == "# Coverage"
    for line in (
        "- date: 2020-01-01",
        "| causal | 2 | 4 of 4 | 2 | 2 |  |  |  | 1 of 1 | 1 of 2 tried | fewer 1, same 0, more 0; 0.50 of theirs |",
        "| base | 2 | 0 of 1 |  |  |  |  |  |  | not measured |  |",
        "- 1: `70.0% a.b [2]: no axis` — bitnet at 2",
        "- 1: `ImportError: timm` — timm (base) at 2",
        "| gpt2 | 2 3 | equal | 99.0 | 6 | 57,376 | equal 90.0 77,856 / 38,928 · – | 6a 8n · – | yes · no | 4 |",
    ):
        assert line in lines, line
    assert any(
        line.startswith("- 2 in verify: `2 mismatches") and line.endswith("— axk2 at 2, deep at 2") for line in lines
    )
    data = json.loads((tmp_path / "coverage.json").read_text())
    assert data["about"] == {"date": "2020-01-01", "hand_plans": "measured apart"}
    assert [Record.from_json(entry) for entry in data["records"]] == [RECORDS[i] for i in (2, 4, 3, 0, 1, 5)]
    hands = [entry["hand_plan"] and entry["hand_plan"]["outcome"] for entry in data["records"]]
    assert hands == ["no plan", None, "raises", "equal", None, None]


def test_one_cause_is_one_group():
    found = {(s.kind, tuple(s.models)) for s in shortfalls(RECORDS)}
    assert found == {
        ("different", ("axk2", "deep")),
        ("does not run", ("timm (base)",)),
        ("generates otherwise", ("gpt2",)),
        ("little is split", ("bitnet",)),
    }
    assert signature("aten.mul.Tensor has other 1") != signature("aten.add.Tensor has other 1")


def test_hand_plans_are_there():
    about, plans = hand.load()
    assert "transformers" in about
    assert plans[Case("llama", "causal", 2)] == HandPlan("equal", 43008, 0.997)
    assert {plan.outcome for plan in plans.values()} == {"equal", "raises", "load error", "SILENTLY WRONG", "no plan"}
