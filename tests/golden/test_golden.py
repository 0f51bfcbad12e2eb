"""The plans of a dozen models at 2 ranks, as text. `pytest tests/golden --regenerate` writes them; read the diff."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import axisplit
from models_zoo.tiny import ZOO, build

FOLDER = Path(__file__).parent / "plans"
NAMES = (
    "mlp",
    "self attention",
    "conv net",
    "llama",
    "llama 9 heads",
    "gpt2",
    "bert",
    "gpt_neox",
    "t5",
    "mixtral",
    "olmo2",
    "mamba",
)


@pytest.mark.parametrize("name", NAMES)
def test_plan_reads_as_it_did(name: str, regenerate: bool) -> None:
    plan = axisplit.plan(build(name), ZOO[name].inputs(2, 12), ranks=2, name=name)
    text = str(replace(plan, versions=dict.fromkeys(plan.versions, "*"))) + "\n"
    path = FOLDER / f"{name.replace(' ', '_')}.txt"
    if regenerate:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text.splitlines() == path.read_text(encoding="utf-8").splitlines()


def test_nothing_else_lies_there() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {name.replace(" ", "_") for name in NAMES}
