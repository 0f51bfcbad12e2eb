"""The page and the notebook's drawings as text: nothing leaves its quotes, nothing is loaded, no number differs."""

import base64
import hashlib
import re
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from axisplit.proof.verify import Proof, Verdict
from axisplit.report.drawing import Edge
from axisplit.report.page.figures import details, matrix_of
from axisplit.report.page.notebook import plan_html, verdict_html
from axisplit.report.page.render import as_json
from axisplit.solve.plan import AxisPlan, CollectivePlan, EditPlan, ParameterPlan
from report.plans import deep, hand_made, split

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&{{7*7}}\u202e\x1b[31m"
VERDICT = Verdict(None, None, None, None, Proof(3, 2, (HOSTILE,)), None)


class Read(HTMLParser):
    """Tags with their attributes, text of script and style, and numbers in <data>, each with the sections around it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.numbers, self.raw, self._open = [], {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        if tag == "section":
            self._open.append(found.get("id"))
        if tag == "data":
            where = self._open[0] if self._open else "head"
            self.numbers.setdefault(where, []).append(float(found["value"]))
        if tag in ("script", "style"):
            self.raw.append((tag, found, ""))

    def handle_endtag(self, tag):
        if tag == "section":
            self._open.pop()

    def handle_data(self, data):
        if self.raw and not self.raw[-1][2] and self.tags[-1][0] in ("script", "style"):
            self.raw[-1] = (*self.raw[-1][:2], data)


def hostile():
    """Every name and text of a plan that could come from a file, as bad as can be."""
    name = f"h.0.{HOSTILE.replace('.', '')}.weight"
    return replace(
        hand_made(), model=HOSTILE, parameters=(split(name, (6, 4), HOSTILE, (0, 0, 2), (0, 2, 4), (0, 4, 6)),
        ParameterPlan(f"{HOSTILE}.b", (4,), "float32", "whole", reason=HOSTILE)),
        axes=(AxisPlan(HOSTILE, 6, (HOSTILE,) * 3, (name,)),), tied={HOSTILE: name}, fingerprint=HOSTILE,
        versions={HOSTILE: HOSTILE}, sizes={f"prefill:{HOSTILE}": [1, 2]}, tiers={HOSTILE: HOSTILE}, captured=(),
        edits=(EditPlan(HOSTILE, HOSTILE, 4, (1, 1, 2)),), warnings=(HOSTILE,), excluded=(HOSTILE,),
        assumed=(HOSTILE,), constraints=(HOSTILE,), domain=(HOSTILE,),
        collectives=(CollectivePlan(HOSTILE, HOSTILE, HOSTILE, 1, 1.0),),
    )  # fmt: skip


@pytest.mark.parametrize("text", [hostile().to_html(VERDICT), plan_html(hostile()), verdict_html(VERDICT)])
def test_no_name_gets_out_of_its_quotes(text):
    read = Read(text)
    assert not {"img", "iframe", "object", "link"} & {tag for tag, _ in read.tags}
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    assert len(read.raw) == (3 if "<html" in text else 0)
    assert "&lt;img src=x" in text, "the name is there, as text"
    assert "49" not in re.sub(r"[\d.]{4,}", "", text) or "{{7*7}}" in text
    assert not [c for c in text if unicodedata.category(c) in ("Cf", "Cs") or (ord(c) < 32 and c != "\n")]


def test_data_ends_no_script_element():
    assert as_json(["</script >", "&lt;"]) == r'["\u003c/script \u003e","\u0026lt;"]'


def test_nothing_is_loaded_and_only_our_own_style_and_script_are_allowed():
    text = hand_made().to_html()
    assert not re.search(r"https?:|//\w|url\(|@import|\bsrc=|<link|<iframe|\bfetch\(|XMLHttp", text)
    read = Read(text)
    policy = next(a["content"] for _, a in read.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag, attributes, body in read.raw:
        if attributes.get("type") != "application/json":
            digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not [a for _, a in read.tags if "style" in a], "the policy forbids style attributes"


def test_the_numbers_are_those_of_the_data():
    plan = hand_made()
    fields, numbers = plan.to_json(), Read(plan.to_html()).numbers
    parameters, moved = fields["parameters"], fields["collectives"]
    assert numbers["head"] == [
        max(parameters["bytes_per_rank"]), parameters["total_bytes"], fields["comm_bytes_per_rank"],
        sum(c["bytes"] for c in moved if c["phase"] == "decode"), fields["lower_bound_bytes"],
    ]  # fmt: skip
    assert numbers["memory"] == parameters["bytes_per_rank"]
    assert set(numbers["kept"]) == {entry["bytes"] for entry in fields["kept_whole"]}
    assert set(numbers["collectives"]) >= {c["bytes"] for c in moved if c["phase"] != "prefill masked"}
    assert numbers["bound"] == [fields["comm_bytes_per_rank"], fields["lower_bound_bytes"]]
    per_call = {c["bytes"] / c["count"] for c in moved if "masked" not in c["phase"]}
    assert set(numbers["model"]) == per_call


def test_a_page_is_small_and_always_the_same():
    plan = deep(layers=126, ranks=16)
    text = plan.to_html()
    assert len(text.encode()) < 100_000
    assert text == deep(layers=126, ranks=16).to_html()
    assert "<b>0–125</b>" in text


def test_882_drawings_that_cannot_be_folded_take_a_few_megabytes():
    plan = deep(layers=126, ranks=8)
    uneven = [replace(p, reason=str(i)) for i, p in enumerate(plan.parameters)]
    assert len(replace(plan, parameters=tuple(uneven)).to_html().encode()) < 3_000_000


def test_a_block_that_differs_is_drawn_by_itself():
    plan = deep(layers=5, ranks=2)
    odd = [replace(p, ranges=p.ranges[::-1]) if p.name == "h.2.mlp.up.weight" else p for p in plan.parameters]
    text = replace(plan, parameters=tuple(odd)).to_html()
    assert re.findall(r"<b>(\d+–\d+)</b>", text) == ["0–1", "3–4"]
    assert 'data-search="h.2.mlp.up.weight"' in text


def test_a_collective_stands_at_the_blocks_of_its_class():
    moves = [("h.*.attn.o", 2), ("h.*2.attn.o", 2), ("h.4.mlp.down", 1)]
    plan = deep(layers=5, ranks=2)
    whole = ParameterPlan("", (512, 512), "float32", "whole", reason="not split here")
    kept = [replace(whole, name=p.name) if p.name.startswith("h.4.attn") else p for p in plan.parameters]
    named = [replace(p, axis=p.axis.replace("*", "*2")) if p.name[:3] in ("h.2", "h.3") else p for p in kept]
    axes = (*plan.axes, *(replace(a, name=a.name.replace("*", "*2"), split=a.split[::-1]) for a in plan.axes))
    text = replace(
        plan, parameters=tuple(named), axes=axes,
        collectives=tuple(CollectivePlan("all_reduce", w, "forward", n, 10.0 * n) for w, n in moves),
    ).to_html()  # fmt: skip
    assert re.findall(r"<b>(\d+–\d+)</b>", text) == ["0–1", "2–3"]
    assert re.findall(r'class="move" data-search="all_reduce (.*?)"', text) == [where for where, _ in moves]


def test_experts_are_sheets_one_behind_the_other():
    ranges = tuple((((2 * rank, 2 * rank + 2),), ((0, 16),), ((0, 32),)) for rank in range(3))
    experts = ParameterPlan("experts.up", (6, 16, 32), "float32", "split", ranges, "experts.up[0]")
    drawn = matrix_of(experts, 3, {"experts.up[0]": Edge("experts", "a0")})
    assert (drawn.rows, drawn.cols, drawn.depth) == (16, 32, ((0,), (0,), (1,), (1,), (2,), (2,)))
    assert drawn.depth_edge == Edge("experts", "a0")
    assert details(experts, 3)["ranks"][1] == ["dim 0: 2:4", "4.10 kB"]


def test_nothing_to_split():
    one = replace(hand_made(), ranks=1, axes=(), collectives=(), parameters=(), edits=(), tiers={}, constraints=())
    text = replace(one, optimal=True, comm_bytes_per_rank=0.0, lower_bound_bytes=0.0, excluded=()).to_html()
    assert "the model runs whole on every rank" in text
    assert "Nothing moves between them." in text


def test_several_drawings_fit_in_one_notebook():
    text = hand_made()._repr_html_()
    assert "<svg" in text
    assert not re.search(r"\bid=|<script|<style", text)
    assert "COULD NOT" in VERDICT._repr_html_()
