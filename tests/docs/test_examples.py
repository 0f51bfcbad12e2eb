"""Every Python example of the docs runs, and prints what its page says; `--regenerate` writes that anew.

Blocks of a page share their names. A block with a title is a script: it runs on two local processes, in the end.
"""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted([DOCS / "index.md", *(DOCS / "concepts").glob("*.md"), *(DOCS / "howto").glob("*.md")])
FENCE = re.compile(r"^```python(?: title=\"(\S+)\")?\n(.*?)^```\n(?:\n```\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_examples_run_and_print_what_the_page_says(page: Path, tmp_path: Path, regenerate: bool) -> None:
    text = page.read_text(encoding="utf-8")
    place: dict[str, object] = {"__name__": page.stem}
    written = text
    for title, code, said in FENCE.findall(text):
        if title:
            (tmp_path / title).write_text(code)
            run_script(tmp_path / title, str(place.get("directory", "")))
            continue
        printed = io.StringIO()
        source = tmp_path / f"{page.stem}_{text.index(code)}.py"
        source.write_text(code)  # lowering reads the source of what it runs
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(source), "exec"), place)
        if regenerate:
            block = f"{code}```\n\n```\n"
            written = written.replace(f"{block}{said}```", f"{block}{printed.getvalue()}```")
        else:
            assert printed.getvalue() == said
    if written != text:
        page.write_text(written, encoding="utf-8")


def run_script(script: Path, argument: str) -> None:
    command = [sys.executable, "-m", "axisplit", "run", "--ranks", "2", str(script), *filter(None, [argument])]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout, "the first rank prints"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    ran = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=False, timeout=240)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    pages = [page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")]
    assert len(pages) > 10
    loaded = [
        url
        for page in pages
        for url in re.findall(r"(?:src|href)=\"(https?://[^\"]+)\"[^>]*(?:stylesheet|script)", page)
    ]
    assert not loaded, "pages load nothing from elsewhere"
