"""The work file: a line of JSON for each finished case, appended as it comes, so that a run can be resumed."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.coverage.record import Case, Record


def append(path: Path, record: Record) -> None:
    """Add a record to the file, on a line of its own even where the last one was cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
    with path.open("a") as file:
        file.write(("" if whole else "\n") + json.dumps(record.to_json()) + "\n")


def load(path: Path) -> dict[Case, Record]:
    """The latest record of every case; a line that was cut off when the run was stopped is left out."""
    if not path.exists():
        return {}
    found: dict[Case, Record] = {}
    for line in path.read_text().splitlines():
        try:
            record = Record.from_json(json.loads(line))
        except ValueError:
            continue
        found[record.case] = record
    return found
