"""The page: a template with every value escaped, style and script inline, and a policy that allows nothing else.

The policy (`Content-Security-Policy`) forbids every source and names style and script by the hash of their text, so a
name that got out of its quotes could neither run nor load anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from axisplit.report.page.view import MoveView, PillView, RowView, StackView, view_of
from axisplit.report.text import bytes_text, clean, percent_text
from axisplit.report.verdict import verdict_rows

if TYPE_CHECKING:
    from jinja2 import Template

    from axisplit.proof.verify import Verdict
    from axisplit.solve.plan import Plan


def render_page(plan: Plan, verdict: Verdict | None = None) -> str:
    """The plan, and the verdict on it if there is one, as one HTML document."""
    view = view_of(plan)
    style, script = _asset("page.css"), _asset("page.js")
    return _template().render(
        view=view,
        plan=plan,
        verdict=None if verdict is None else verdict_rows(verdict),
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; "
        "form-action 'none'",
        details=as_json(view.details),
    )


def as_json(data: Sequence[Any]) -> str:
    """JSON that ends no script element, whatever it holds."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


@cache
def _asset(name: str) -> str:
    return files("axisplit.report.page").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    import jinja2

    made = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    made.filters.update(bytes=bytes_text, percent=percent_text, clean=clean)
    kinds = {"stack": StackView, "row": RowView, "move": MoveView, "pill": PillView}
    made.tests.update({name: _is(kind) for name, kind in kinds.items()})
    return made.from_string(_asset("page.html.j2"))


def _is(kind: type) -> Any:
    return lambda value: isinstance(value, kind)
