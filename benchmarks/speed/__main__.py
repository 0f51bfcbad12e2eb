"""How fast: ratios of contenders that are measured in turns, in one run.

python -m benchmarks.speed [PART,…] [--rounds N] [--out DIR]      parts: collectives, decode, loading, planning, scaling
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

PARTS = {
    "collectives": "Collectives between processes of one machine",
    "decode": "Prefill and decode",
    "loading": "Loading",
    "planning": "Planning, and starting",
    "scaling": "How it grows",
}


def main() -> int:
    options = parse(sys.argv[1:])
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
    from benchmarks.coverage import machine

    file = None if options.out is None else options.out / "benchmarks.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file is not None and file.exists() else {}
    for part in options.parts:
        measured = import_module(f"benchmarks.speed.{part}").measure(options)
        found[part] = json.loads(json.dumps({"about": machine.about(), "measured": measured}))
    if file is None:
        print(page(found))
    else:
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        file.with_suffix(".md").write_text(page(found), encoding="utf-8")
        for part in options.parts:
            draw = getattr(import_module(f"benchmarks.speed.{part}"), "draw", None)
            if draw is not None:
                draw(found[part]["measured"], options.out / "benchmarks")
    return 0


def page(found: dict[str, Any]) -> str:
    """Every part that was measured, each with when and where."""
    sections = ["# Benchmarks", "How fast, in ratios: contenders are measured in turns, in one run for each part."]
    for part, title in PARTS.items():
        if part in found:
            about = " · ".join(found[part]["about"].values())
            table = import_module(f"benchmarks.speed.{part}").tables(found[part]["measured"])
            sections += [f"## {title}", about, table.strip()]
    return "\n\n".join(sections) + "\n"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("parts", nargs="?", type=parts, default=tuple(PARTS), metavar="PART,…", help=", ".join(PARTS))
    add("--rounds", type=int, default=20, metavar="N", help="20")
    add("--ranks", type=int, default=2, metavar="N", help="of the collectives; 2")
    add("--steps", type=int, default=16, metavar="N", help="decode steps in each round; 16")
    add("--prompt", type=int, default=256, metavar="N", help="tokens; 256")
    add("--device", default="cpu", choices=("cpu", "cuda"), help="of prefill, decode and collectives; cpu")
    add("--checkpoint-gb", type=float, default=4.0, metavar="GB", help="to load; 4")
    add("--out", type=Path, metavar="DIR", help="write benchmarks.md and .json there; parts not run stay")
    return parser.parse_args(arguments)


def parts(text: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    if unknown := set(found) - PARTS.keys():
        raise argparse.ArgumentTypeError(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
