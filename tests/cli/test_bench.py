"""`axisplit bench`: what runs is the checkout's."""

import subprocess
from pathlib import Path

from axisplit.cli import bench


def test_arguments_and_exit_code_pass_through(axisplit_main, monkeypatch):
    def run(command, env):
        ran.append((command[1:], env["PYTHONPATH"].split(":")[0]))
        return subprocess.CompletedProcess(command, 3)

    ran: list[object] = []
    monkeypatch.setattr(bench.subprocess, "run", run)
    assert axisplit_main("bench", "coverage", "--ranks", "2,3", "--help").code == 3
    assert axisplit_main("bench", "speed", "decode", "--rounds", "3").code == 3
    checkout = str(Path(__file__).parents[2])
    assert ran == [
        (["-m", "benchmarks.coverage", "--ranks", "2,3", "--help"], checkout),
        (["-m", "benchmarks.speed", "decode", "--rounds", "3"], checkout),
    ]


def test_without_a_checkout(axisplit_main, monkeypatch, tmp_path):
    installed = tmp_path / "lib" / "site-packages" / "axisplit" / "cli" / "bench.py"
    monkeypatch.setattr(bench, "__file__", str(installed))
    monkeypatch.chdir(tmp_path)
    assert axisplit_main("bench", "coverage") == (2, "", (
        "axisplit: the benchmarks are not part of the installed package\n"
        f"  where: {tmp_path / 'lib'} and {tmp_path}\n"
        "  got: no benchmarks/coverage\n"
        "  needed: a checkout of the repository\n"
        "  do: call this inside one\n"
    ))  # fmt: skip
