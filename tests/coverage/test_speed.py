"""The page of speeds, from numbers that are known."""

from xml.etree import ElementTree

import pytest

from benchmarks.speed import __main__ as speed
from benchmarks.speed import collectives, decode, planning, scaling
from benchmarks.speed.series import ratio, rotated, spread


def test_ratios_are_of_the_same_round_and_rounds_begin_with_another():
    assert ratio([1.0, 10.0, 3.0], [2.0, 20.0, 3.0]) == 2.0  # twice as fast in most rounds
    assert spread([2e-6, 1e-6, 30e-6], 1e6, "µs") == "2.00 (1.00 to 30.00) µs"
    assert [rotated(["a", "b", "c"], n)[0] for n in range(4)] == ["a", "b", "c", "a"]


def test_decode_is_told_beside_the_limit():
    def times(prefill, step):
        return {"prefill": [prefill], "decode": [step], "meetings": [0.001], "waiting": [0.003]}

    found = {decode.OURS: times(0.2, 0.025), decode.WITHOUT: times(0.1, 0.021), decode.LIMIT: times(0.1, 0.02)}
    steps, refused = [(0.020, 0.021), (0.040, 0.042)], {"DeepSpeed": "ModuleNotFoundError: No module named 'deepspeed'"}
    about = {"prompt": 8, "steps": 4, "refused": refused}
    text = decode.tables({"tiny": {**about, "found": found, "lowering": steps}})
    assert (
        "| axisplit, 2 ranks | 200.0 (200.0 to 200.0) ms | 50.0% | 25.0 (25.0 to 25.0) ms | 80.0% |"
        in text.splitlines()
    )
    assert "| DeepSpeed | does not run: ModuleNotFoundError: No module named 'deepspeed' | | | |" in text
    assert "in turns: +5.0% of CPU time in 2 decode steps" in text
    assert "1.00 (1.00 to 1.00) ms on the rank that is there less" in text
    assert "3.00 (3.00 to 3.00) ms on the other" in text


def test_collectives_by_size():
    found = {name: {str(size): [size * 1e-9 + 5e-6] for size in collectives.SIZES} for name in ("ours", "theirs")}
    lines = collectives.tables(found).splitlines()
    assert lines[0] == "| bytes | ours | theirs |"
    assert "| 1,024 | 6.02 (6.02 to 6.02) µs | 6.02 (6.02 to 6.02) µs |" in lines


def test_growth_is_drawn_with_its_bounds(tmp_path):
    def point(value, ranks, seconds, sent):
        return {"value": value, "ranks": ranks, "part_s": [seconds], "whole_s": [1.0], "sent": sent, "bound": sent}

    found = {"ranks": [point(1, 1, 1.0, 0.0), point(2, 2, 0.6, 4e6), point(4, 4, 0.3, 6e6)]}
    text = scaling.tables(found)
    assert "| ranks | 4 | 300.0 ms | 250.0 ms | 6,000,000 | 6,000,000 |" in text
    assert "![ranks](benchmarks/ranks.svg)" in text
    scaling.draw(found, tmp_path)
    drawn = ElementTree.parse(tmp_path / "ranks.svg").getroot()
    name = "{http://www.w3.org/2000/svg}"
    assert len(drawn.findall(f".//{name}circle")) == 3 + 2  # nothing is sent by one rank
    heights = [float(c.get("cy")) for c in drawn.findall(f".//{name}circle")][:3]
    assert heights == sorted(heights)
    assert {t.text for t in drawn.iter(f"{name}text")} >= {"ranks", "whole model / ranks", "the solver's bound", "1024"}


def test_a_measured_point_is_the_plans():
    point = scaling._measured(scaling.Case(ranks=3, batch=1, sequence=8, layers=2), rounds=1)
    assert point["sent"] == pytest.approx(point["bound"], rel=0.1)  # the fullest rank need not be the busiest
    assert len(point["part_s"]) == len(point["whole_s"]) == 1


def test_planning_for_each_layer():
    plan = {"cpu_s": 1.6, "import_cpu_s": 2.0, "kept_bytes": 2**28, "peak_bytes": 2**29}
    plans = {str(case): [plan] for case in planning.CASES}
    text = planning.tables({"plans": plans, "commands": {"--help": [0.2]}})
    cells = "1.60 (1.60 to 1.60) s | 100.0 (100.0 to 100.0) ms | 256.0 (256.0 to 256.0) MiB"
    assert f"| 16 layers, 4096 wide, 8 ranks | {cells} |" in text
    assert "| `axisplit --help` | 0.20 (0.20 to 0.20) s |" in text


def test_the_page_keeps_parts_that_were_measured_before(tmp_path, monkeypatch):
    found = {name: {str(size): [1e-6] for size in collectives.SIZES} for name in ("ours", "MPICH")}
    monkeypatch.setattr(collectives, "measure", lambda options: found)
    plan = {"cpu_s": 1.6, "import_cpu_s": 2.0, "kept_bytes": 2**28, "peak_bytes": 2**29}
    plans = {str(case): [plan] for case in planning.CASES}
    monkeypatch.setattr(planning, "measure", lambda options: {"plans": plans, "commands": {}})
    for part in ("planning", "collectives"):
        monkeypatch.setattr(speed.sys, "argv", ["speed", part, "--out", str(tmp_path)])
        assert speed.main() == 0
    page = (tmp_path / "benchmarks.md").read_text()
    assert page.index("## Collectives") < page.index("## Planning")
    assert "| 1,024 | 1.00 (1.00 to 1.00) µs |" in page
