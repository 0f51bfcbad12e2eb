"""How fast: ratios of contenders that are measured in turns, in one run.

python -m benchmarks.speed [PART,…] [--rounds N] [--out DIR]      parts: collectives, decode, loading, planning
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
}


def main() -> int:
    options = parse(sys.argv[1:])
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
    from benchmarks.coverage import machine

    about, raw, sections = machine.about(), dict[str, Any](), []
    for part in options.parts:
        module = import_module(f"benchmarks.speed.{part}")
        raw[part] = module.measure(options)
        sections.append(f"## {PARTS[part]}\n\n{module.tables(raw[part])}\n")
    facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
    page = "\n".join(["# Benchmarks", "", __doc__.splitlines()[0], "", facts, "", *sections])
    if options.out is None:
        print(page)
    else:
        (options.out / "benchmarks.md").write_text(page, encoding="utf-8")
        data = json.dumps({"about": about, **raw}, indent=1)
        (options.out / "benchmarks.json").write_text(data + "\n", encoding="utf-8")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("parts", nargs="?", type=parts, default=tuple(PARTS), metavar="PART,…", help=", ".join(PARTS))
    add("--rounds", type=int, default=20, metavar="N", help="20")
    add("--ranks", type=int, default=2, metavar="N", help="of the collectives; 2")
    add("--steps", type=int, default=16, metavar="N", help="decode steps in each round; 16")
    add("--prompt", type=int, default=256, metavar="N", help="tokens; 256")
    add("--checkpoint-gb", type=float, default=4.0, metavar="GB", help="to load; 4")
    add("--out", type=Path, metavar="DIR", help="write benchmarks.md and benchmarks.json there")
    return parser.parse_args(arguments)


def parts(text: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    if unknown := set(found) - PARTS.keys():
        raise argparse.ArgumentTypeError(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
