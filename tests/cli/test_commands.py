"""The commands as a user meets them: exit codes, exact words, the fields of --json."""

import json
import subprocess
import sys

import pytest

PLAN_FIELDS = {
    "model", "ranks", "axes", "parameters", "kept_whole", "collectives", "comm_bytes_per_rank", "lower_bound_bytes",
    "optimal",
}  # fmt: skip
VERDICT_FIELDS = {"equal", "max_error", "bound", "proof", "control_caught", "gradients"}
GENERATE_FIELDS = {"text", "token_ids", "ranks", "tokens_per_s", "comm_bytes_per_token", "peak_bytes_per_rank"}


def test_the_command_line_starts_without_torch():
    code = (
        "import sys, axisplit.cli.commands as _; print({'torch', 'transformers', 'numpy', 'rich'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_help_names_every_command(axisplit_main):
    ran = axisplit_main("--help")
    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.partition("Commands:\n")[2].splitlines()] == [
        "plan", "verify", "fit", "audit", "export", "generate", "compare", "run", "demo", "bench",
    ]  # fmt: skip


def test_plan_prints_saves_and_loads(axisplit_main, llama_dir, tmp_path):
    files = ("--out", tmp_path / "plan.json", "--html", tmp_path / "plan.html")
    ran = axisplit_main("plan", llama_dir, "--ranks", "2", *files, "--json")
    assert (tmp_path / "plan.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    fields = json.loads(ran.out)
    assert ran.code == 0
    assert fields.keys() >= PLAN_FIELDS
    assert [axis["split"] for axis in fields["axes"] if axis["size"] == 3] == [["0:2", "2:3"]]
    assert "deriving the plan for 2 ranks" in ran.err
    other = axisplit_main("verify", llama_dir, "--ranks", "3", "--plan", tmp_path / "plan.json")
    assert other == (2, "", (
        "axisplit: the plan is for another number of ranks\n"
        f"  where: {tmp_path / 'plan.json'}\n"
        "  got: --ranks 3\n"
        "  needed: 2\n"
        "  do: --ranks 2, or plan for 3\n"
    ))  # fmt: skip
    (tmp_path / "plan.json").write_text((tmp_path / "plan.json").read_text()[:-100])
    damaged = axisplit_main("verify", llama_dir, "--ranks", "2", "--plan", tmp_path / "plan.json")
    assert damaged.code == 2
    assert damaged.err.startswith("axisplit: the plan is not JSON\n")


def test_keep_and_uneven_reach_the_plan(axisplit_main, llama_dir):
    ran = axisplit_main("plan", llama_dir, "--ranks", "2", "--no-uneven", "--keep", "*.mlp.*", "--json")
    fields = json.loads(ran.out)
    assert all(axis["size"] != 3 for axis in fields["axes"])
    assert {entry["parameter"] for entry in fields["kept_whole"]} >= {"model.layers.0.mlp.up_proj.weight"}


@pytest.mark.slow
def test_verify_on_real_processes(axisplit_main, llama_dir):
    ran = axisplit_main("verify", llama_dir, "--ranks", "2", "--processes", "--json")
    fields = json.loads(ran.out)
    assert ran.code == 0, ran.err
    assert fields.keys() >= VERDICT_FIELDS
    assert fields["proof"].keys() == {"ops", "proved", "assumed"}
    assert fields["gradients"] is None
    assert 0 < fields["processes"]["max_error"] <= fields["bound"]


def test_a_config_alone_can_be_planned_but_not_verified(axisplit_main, llama_dir, tmp_path):
    ran = axisplit_main("verify", llama_dir / "config.json", "--ranks", "2", "--html", tmp_path / "seen.html")
    assert ran.code == 2
    assert ran.out.startswith("COULD NOT  no weights, so no numbers were run")
    assert "COULD NOT  no weights" in (tmp_path / "seen.html").read_text(encoding="utf-8")


FACTORY = """
import torch

def same():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 4)), (torch.randn(2, 4),)

def broken():
    return {}["missing"]
"""


def test_a_factory(axisplit_main, tmp_path, monkeypatch):
    (tmp_path / "home_made.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    ran = axisplit_main("verify", "home_made:same", "--ranks", "2", "--processes")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("EQUAL")
    assert "2 real ones: largest error" in ran.out
    failed = axisplit_main("plan", "home_made:broken", "--ranks", "2")
    assert failed.code == 2
    assert "axisplit: the factory failed\n  where: home_made:broken\n  got: KeyError: 'missing'\n" in failed.err


def test_a_model_that_is_not_there(axisplit_main):
    assert axisplit_main("plan", "smollm3", "--ranks", "2") == (2, "", (
        "axisplit: cannot find the model 'smollm3'\n"
        "  where: MODEL\n"
        "  got: no such file, and nothing of that name in the hub's local cache\n"
        "  needed: a model directory, a config.json, a .gguf file, module:factory, a downloaded hub id, "
        "or smollm2 or minilm\n"
        "  do: did you mean smollm2?\n"
    ))  # fmt: skip


def test_errors_cannot_speak_to_the_terminal(axisplit_main):
    ran = axisplit_main("plan", "x\x1b[31m\u202ey", "--ranks", "2")
    assert ran.code == 2
    assert [c for c in ran.err if not c.isprintable() and c != "\n"] == []


@pytest.mark.parametrize("command", ["plan", "verify", "run"])
def test_no_ranks(axisplit_main, command):
    assert axisplit_main(command, "--ranks", "0", "smollm2") == (2, "", (
        "axisplit: the number of ranks must be at least 1\n"
        "  where: --ranks\n"
        "  got: 0\n"
        "  needed: 1, 2, 3, ...\n"
        "  do: --ranks 2\n"
    ))  # fmt: skip


def test_a_size_that_is_none(axisplit_main):
    ran = axisplit_main("plan", "smollm2", "--ranks", "2", "--memory-per-rank", "lots")
    assert ran.code == 2
    assert ran.err.startswith("axisplit: this is not a size\n  where: --memory-per-rank\n  got: lots\n")


@pytest.mark.parametrize("command", [("verify",), ("generate", "--prompt", "w2")])
def test_damaged_weights(axisplit_main, llama_dir, tmp_path, command):
    for path in llama_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    ran = axisplit_main(command[0], tmp_path, "--ranks", "2", *command[1:])
    assert ran.code == 2
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert "model.safetensors" in ran.err


def test_our_own_faults_keep_their_traceback(axisplit_main, monkeypatch):
    def fail(text):
        raise KeyError("a fault")

    monkeypatch.setattr("axisplit.models.source.resolve_model", fail)
    monkeypatch.setattr("axisplit.cli.planning.resolve_model", fail)
    ran = axisplit_main("plan", "x", "--ranks", "2")
    assert ran.code == 70
    assert "Traceback" in ran.err
    assert "KeyError: 'a fault'" in ran.err


SCRIPT = """
import os, sys
sys.stdout.write(f"{sys.argv[1:]} {os.environ['WORLD_SIZE']}\\n")
sys.exit(int(sys.argv[2]))
"""


def test_run_gives_a_script_its_arguments_and_its_exit_code(axisplit_main, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ran = axisplit_main("run", "--ranks", "2", script, "--code", "0", "--help")
    assert ran.code == 0
    assert ran.out == "['--code', '0', '--help'] 2\n" * 2
    assert axisplit_main("run", "--ranks", "2", script, "--code", "7").code == 7


@pytest.mark.slow
def test_two_processes_generate_what_one_model_does(axisplit_main, llama_dir):
    import torch

    from axisplit.models import resolve_model
    from axisplit.runtime.decode import generate

    model = resolve_model(str(llama_dir)).load()
    expected = list(generate(model, torch.tensor([[5, 6, 7]]), max_new_tokens=12, eos_token_ids={0}))
    arguments = ("generate", llama_dir, "--ranks", "2", "--prompt", "w5 w6 w7", "--max-new-tokens", "12")
    ran = axisplit_main(*arguments, "--json")
    fields = json.loads(ran.out)
    assert ran.code == 0, ran.err
    assert fields.keys() >= GENERATE_FIELDS
    assert fields["token_ids"] == expected
    assert len(expected) > 2
    assert fields["comm_bytes_per_token"] > 0
    assert fields["tokens_per_s"] > 0
    assert len(fields["peak_bytes_per_rank"]) == 2
    assert sum(fields["parameter_bytes_per_rank"]) < 1.1 * sum(p.numel() * 4 for p in model.parameters())
    again = axisplit_main(*arguments)  # with the plan of before, and text instead of fields
    assert "deriving" not in again.err
    assert again.out.split() == fields["text"].split() == [f"w{token}" for token in expected if token]
    assert f"{len(expected)} tokens on 2 ranks" in again.err
