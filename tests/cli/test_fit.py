"""`axisplit fit` as a user meets it."""

import json
import subprocess
import sys

ROW = {
    "parallelism", "dtype", "recipe", "offered", "why_not", "parameter_bytes_per_rank", "gradient_bytes_per_rank",
    "optimizer_bytes_per_rank", "activation_bytes_per_rank", "kv_cache_bytes_per_rank", "gathered_bytes_per_rank",
    "buffer_bytes_per_rank", "total_bytes_per_rank", "parameter_bytes_by_rank", "total_bytes_by_rank", "fits",
    "over_bytes", "fewest_ranks", "fewest_ranks_is_estimate",
}  # fmt: skip
FIELDS = {
    "model", "parameters", "ranks", "memory_bytes", "training", "recompute", "inputs", "rows",
    "helps_if_parameters_do_not_fit", "saved_by_16_bit", "answer", "notes",
}  # fmt: skip


def test_a_number_of_parameters_needs_no_torch():
    code = (
        "import sys; sys.argv = 'axisplit fit --params 7e9 --ranks 8 --memory 80GiB --json'.split()\n"
        "from axisplit.cli import main\n"
        "try: main()\n"
        "except SystemExit: print({'torch', 'transformers', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr == "set()\n"
    found = json.loads(ran.stdout)
    assert found.keys() == FIELDS
    assert all(row.keys() == ROW for row in found["rows"])
    assert [(row["parallelism"], row["dtype"]) for row in found["rows"][:5]] == [
        ("data", "fp32"), ("data", "bf16"), ("data", "fp16"), ("data", "int8"), ("pipeline", "fp32"),
    ]  # fmt: skip


def test_a_model_by_its_config(axisplit_main, llama_dir):
    ran = axisplit_main(
        "fit", llama_dir / "config.json", "--ranks", "2", "--memory", "100kB", "--batch", "2", "--seq", "16", "--json"
    )
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    planned = json.loads(axisplit_main("plan", llama_dir / "config.json", "--ranks", "2", "--json").out)
    (row,) = [row for row in found["rows"] if (row["parallelism"], row["dtype"]) == ("tensor", "fp32")]
    assert row["parameter_bytes_by_rank"] == planned["parameters"]["bytes_per_rank"]
    assert found["inputs"] == "input_ids [2, 16]"
    assert "deriving the plan for 2 ranks" in ran.err


def test_requests_that_cannot_be_answered(axisplit_main, llama_dir):
    assert axisplit_main("fit", "--ranks", "2").err.startswith("axisplit: say which model\n")
    assert axisplit_main("fit", llama_dir, "--params", "7B", "--ranks", "2").code == 2
    number = axisplit_main("fit", "7B", "--ranks", "2")
    assert number.err.endswith("  got: 7B\n  needed: a model\n  do: --params 7B\n")
    wrong = axisplit_main("fit", llama_dir, "--heads", "2", "--ranks", "2")
    assert wrong == (2, "", (
        "axisplit: a model has sizes of its own\n"
        "  where: fit\n"
        "  got: heads\n"
        "  needed: sizes with a number of parameters only\n"
        "  do: leave them out, or give a number of parameters (--params) instead of a model\n"
    ))  # fmt: skip
    size = axisplit_main("fit", "--params", "7B", "--ranks", "2", "--memory", "lots")
    assert size.err.startswith("axisplit: this is not a size\n  where: --memory\n  got: lots\n")
