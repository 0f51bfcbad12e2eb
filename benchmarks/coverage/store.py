"""The work file: a line of JSON for each finished case, appended as it comes, so that a run can be resumed."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.coverage.record import Case, Record


def append(path: Path, record: Record) -> None:
    """Add a record to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record.to_json()) + "\n")


def load(path: Path) -> dict[Case, Record]:
    """The latest record of every case; a last line that was cut off in the middle is left out."""
    if not path.exists():
        return {}
    found: dict[Case, Record] = {}
    for line in path.read_text().splitlines():
        if line.endswith("}"):
            record = Record.from_json(json.loads(line))
            found[record.case] = record
    return found
