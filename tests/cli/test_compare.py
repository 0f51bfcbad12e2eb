"""`axisplit compare` as a learner meets it."""

import json

EXERCISE = ("compare", "gelu(X @ W1) @ W2", "--shape", "X=2x4", "W1=4x4", "W2=4x4", "--ranks", "2", "--seed", "42")
FIELDS = {"name", "steps", "valid", "reason", "collectives", "comm_bytes_per_rank", "max_error", "splits_every_weight"}


def test_the_exercise(axisplit_main):
    ran = axisplit_main(*EXERCISE)
    assert ran.code == 0
    assert "y = tensor([[-1.5733,  0.9400, -0.9233,  0.3600],\n" in ran.out
    assert "\nBEST  column-wise W1, row-wise W2\n" in ran.out


def test_json_has_the_fields_others_rely_on(axisplit_main):
    steps = "column-wise-split -> distributed-matmul -> gelu -> distributed-matmul -> all-reduce"
    gathers = "column-wise-split -> distributed-matmul -> all-gather"
    ran = axisplit_main(*EXERCISE, "--strategy", f"{gathers} -> gelu -> {gathers}", "--strategy", steps, "--json")
    fields = json.loads(ran.out)
    assert [s["comm_bytes_per_rank"] for s in fields["strategies"]] == [32, 32]
    assert all(s.keys() == FIELDS for s in fields["strategies"])
    assert fields["best"] == fields["strategies"][1]["name"] == steps
    assert fields["strategies"][1]["collectives"] == [{"kind": "all_reduce", "where": "gelu(X @ W1) @ W2", "bytes": 32}]


def test_trace_prints_values_under_the_exercises_names(axisplit_main):
    ran = axisplit_main(
        *EXERCISE, "--trace", "--strategy", "column-wise-split -> matmul -> gelu -> matmul -> all-reduce"
    )
    assert "  y_GPU0 = X @ W1_0\n  y_GPU1 = X @ W1_1\n    y_GPU0  tensor([[0.7019, 0.3987],\n" in ran.out


def test_bad_input_says_what_was_needed(axisplit_main):
    ran = axisplit_main("compare", "X @ W", "--shape", "X=2y4", "W=4x4")
    assert ran == (2, "", (
        "axisplit: this is not a shape\n"
        "  where: --shape\n"
        "  got: X=2y4\n"
        "  needed: a name and sizes of 1 or more, once for each tensor\n"
        "  do: write --shape X=2x4 W1=4x16\n"
    ))  # fmt: skip
    assert axisplit_main("compare", "X @ W", "--shape", "X=2x4", "X=2x4").err.startswith(
        "axisplit: the tensor has two shapes\n"
    )
