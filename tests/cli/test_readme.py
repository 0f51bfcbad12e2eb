"""The README's examples run, and give what it says, digits of errors and versions aside."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
VARIES = re.compile(r"fingerprint|torch \d|^  exact|^  numbers|without ")


def blocks(language):
    """The fenced blocks of a language, in order."""
    fenced = README.read_text(encoding="utf-8").split("\n```")[1:]
    opened = [part.partition("\n") for part in fenced[::2]]
    return [f"{code}\n" for name, _, code in opened if name == language]


def steady(text):
    return [line for line in text.splitlines() if not VARIES.search(line)]


@pytest.mark.slow
def test_the_python_example(capsys):
    exec(compile(blocks("python")[0], "README.md", "exec"), {})
    said = next(block for block in blocks("") if block.startswith("gelu(x @ W1) @ W2 over 2 ranks"))
    assert steady(capsys.readouterr().out) == steady(said)


@pytest.mark.slow
def test_the_example_on_two_processes(tmp_path):
    script = tmp_path / "example.py"
    script.write_text(blocks("python")[1])
    command = [sys.executable, "-m", "axisplit", "run", "--ranks", "2", script]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(r"torch\.Size\(\[1024, 512\]\) [\d.e-]+ 16384\.0\n", ran.stdout)


def test_the_example_of_an_op_without_a_rule(capsys):
    exec(compile(blocks("python")[2], "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out in blocks("")


def test_the_best_way_of_the_example(axisplit_main):
    shown = next(block for block in blocks("") if block.startswith("$ axisplit compare"))
    command, _, said = shown.partition("\n…\n")
    assert command == '$ axisplit compare "gelu(X @ W1) @ W2" --shape X=2x4 W1=4x4 W2=4x4 --ranks 2'
    shapes = ("--shape", "X=2x4", "W1=4x4", "W2=4x4")
    assert axisplit_main("compare", "gelu(X @ W1) @ W2", *shapes, "--ranks", "2").out.endswith(said)
