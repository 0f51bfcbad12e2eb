"""Golden texts; `--regenerate` writes them anew."""

from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "golden"


@pytest.fixture
def golden(regenerate: bool) -> Callable[[str, str], None]:
    def check(name: str, text: str) -> None:
        path = FOLDER / f"{name}.txt"
        if regenerate:
            path.write_text(text + "\n", encoding="utf-8")
        assert text + "\n" == path.read_text(encoding="utf-8")

    return check
