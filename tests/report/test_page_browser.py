"""The page as people use it, in a real headless Chromium: pointed at, typed into, on a phone, in the dark.

Where Chromium is missing these tests fail: a page that nobody opened is not tested. `make test` installs it.
"""

import shutil
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect, sync_playwright

from axisplit.report.table import split_dims
from report.plans import deep, hand_made
from report.test_page import hostile

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
NAMES = """elements => {
    const details = JSON.parse(document.getElementById("details").textContent);
    return elements.map(element => details[Number(element.dataset.n)].name);
}"""
expect.set_options(timeout=20_000)  # a busy machine starts Chromium's processes slowly
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser():
    found = shutil.which("chromium")
    if found is None:
        pytest.fail(
            "Chromium is not installed: `apt-get install --no-install-recommends chromium`, as `make test` does"
        )
    with sync_playwright() as driver:  # its profile is a new folder
        running = driver.chromium.launch(executable_path=found, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Open a plan's page; what it asks of the network, and what it says on the console, must be nothing."""

    @contextmanager
    def visit(plan, viewport=DESK, dark=False):
        path = tmp_path / "plan.html"
        path.write_text(plan.to_html(), encoding="utf-8")
        context = browser.new_context(viewport=viewport, color_scheme="dark" if dark else "light")
        page, asked, said = context.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.goto(path.as_uri())
        try:
            yield page
            assert asked == [path.as_uri()]
            assert said == []
        finally:
            context.close()

    return visit


def names(page, selector):
    return set(page.locator(selector).evaluate_all(NAMES))


def appearances(plan, axis):
    """Where a plan says that an axis is: parameters of the first block, and in how many dims of them."""
    found = {p.name: split_dims(p) for p in plan.parameters if p.axis == axis and not p.name.startswith("h.1.")}
    return {name for name, dims in found.items() if dims}, sum(map(len, found.values()))


def test_an_axis_lights_up_exactly_where_it_appears(opened):
    plan = hand_made()
    with opened(plan) as page:
        buttons = page.locator("button.axis")
        assert buttons.count() == len(plan.axes)
        for number, axis in enumerate(plan.axes):
            buttons.nth(number).hover()
            expected, dims = appearances(plan, axis.name)
            tied = {name for name, other in plan.tied.items() if other in expected}
            assert expected
            assert names(page, "figure.m.lit") == expected | tied
            assert page.locator(".edge.lit").count() == dims + len(tied)
        page.mouse.move(0, 0)
        expect(page.locator(".lit")).to_have_count(0)


def test_an_axis_is_pinned_and_let_go_by_keyboard(opened):
    with opened(hand_made()) as page:
        second = page.locator("button.axis").nth(1)
        page.locator("button.axis").first.focus()
        page.keyboard.press("Tab")
        expect(second).to_be_focused()
        pointed = names(page, "figure.m.lit")
        page.keyboard.press("Enter")
        expect(second).to_have_attribute("aria-pressed", "true")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert names(page, "figure.m.lit") == pointed != set()
        page.keyboard.press("Escape")
        expect(page.locator(".lit")).to_have_count(0)
        expect(second).to_have_attribute("aria-pressed", "false")


def test_the_search_leaves_what_has_the_words_in_its_name(opened):
    with opened(hand_made()) as page:
        page.keyboard.press("/")
        page.keyboard.type("MLP fc2")
        assert names(page, "figure.m:visible") == {"h.0.mlp.fc2.weight"}
        expect(page.locator("#found")).to_have_text("1 found")
        page.fill("#search", "nowhere")
        expect(page.locator("#nothing")).to_be_visible()
        page.locator("#search").press("Escape")
        assert "embed.weight" in names(page, "figure.m:visible")


def test_a_matrix_tells_each_ranks_ranges(opened):
    plan = hand_made()
    wanted = next(p for p in plan.parameters if p.name == "h.0.attn.q.weight")
    with opened(plan) as page:
        page.locator("figure.m[data-search='h.0.attn.q.weight']").focus()
        rows = page.locator("#detail tr")
        assert rows.count() == plan.ranks
        for rank in range(plan.ranks):
            ((start, end),) = wanted.ranges[rank][0]
            expect(rows.nth(rank)).to_contain_text(f"dim 0: {start}:{end}")
        page.locator("#search").focus()
        expect(page.locator("#detail")).to_be_hidden()


def test_light_and_dark(opened):
    def paper(page):
        return sum(map(int, page.evaluate("getComputedStyle(document.body).backgroundColor").strip("rgb()").split(",")))

    with opened(hand_made(), dark=True) as page:
        assert paper(page) < 150
        page.locator("#theme").click()
        assert paper(page) > 600
    with opened(hand_made()) as page:
        assert paper(page) > 600
        page.locator("#theme").press("Enter")
        assert paper(page) < 150


@pytest.mark.parametrize("plan", [hand_made(), deep(layers=126, ranks=16), hostile()], ids=["small", "deep", "hostile"])
def test_a_phone_does_not_scroll_sideways(opened, plan):
    with opened(plan, viewport=PHONE) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_hostile_names_are_text(opened):
    plan = hostile()
    with opened(plan) as page:
        page.locator("figure.m").first.focus()
        expect(page.locator("#detail b")).to_contain_text("</script><img src=x onerror=alert(1)>")
        assert page.locator("img").count() == 0
        page.fill("#search", "<img")
        assert names(page, "figure.m:visible") == names(page, "figure.m"), "the parameter, and what is tied to it"
