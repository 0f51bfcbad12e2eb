"""The page of speeds, from numbers that are known."""

from benchmarks.speed import __main__ as speed
from benchmarks.speed import collectives, decode, planning
from benchmarks.speed.series import ratio, rotated, spread


def test_ratios_are_of_the_same_round_and_rounds_begin_with_another():
    assert ratio([1.0, 10.0, 3.0], [2.0, 20.0, 3.0]) == 2.0  # twice as fast in most rounds
    assert spread([2e-6, 1e-6, 30e-6], 1e6, "µs") == "2.00 (1.00 to 30.00) µs"
    assert [rotated(["a", "b", "c"], n)[0] for n in range(4)] == ["a", "b", "c", "a"]


def test_decode_is_told_beside_the_limit():
    def times(prefill, step):
        return {"prefill": [prefill], "decode": [step], "meetings": [0.001]}

    found = {decode.OURS: times(0.2, 0.025), decode.WITHOUT: times(0.1, 0.021), decode.LIMIT: times(0.1, 0.02)}
    text = decode.tables({"tiny": {"prompt": 8, "steps": 4, "found": found}})
    assert (
        "| axisplit, 2 ranks | 200.0 (200.0 to 200.0) ms | 50.0% | 25.0 (25.0 to 25.0) ms | 80.0% |"
        in text.splitlines()
    )
    assert "+0.0% in prefill, +5.0% in decode" in text
    assert "1.00 (1.00 to 1.00) ms" in text


def test_collectives_by_size():
    found = {name: {str(size): [size * 1e-9 + 5e-6] for size in collectives.SIZES} for name in ("ours", "theirs")}
    lines = collectives.tables(found).splitlines()
    assert lines[0] == "| bytes | ours | theirs |"
    assert "| 1,024 | 6.02 (6.02 to 6.02) µs | 6.02 (6.02 to 6.02) µs |" in lines


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
