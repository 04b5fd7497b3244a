from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.helpers.pages import opened, serious_violations


@pytest.fixture(scope="module")
def reports(address: str, predictions: dict[str, str]) -> dict[str, str]:
    return {"training": address, **predictions}


@pytest.fixture(scope="module", params=["training", "labelled", "unlabelled"])
def report(request: pytest.FixtureRequest, reports: dict[str, str]) -> str:
    return reports[request.param]


# All that a report without labels shows, one with labels shows, too.
@pytest.fixture(
    scope="module",
    params=["training light", "training dark", "labelled dark", "unlabelled light"],
)
def page(
    request: pytest.FixtureRequest, browser: Browser, reports: dict[str, str]
) -> Iterator[Page]:
    name, scheme = request.param.split()
    size = {"width": 360, "height": 780}
    with opened(browser, reports[name], viewport=size, color_scheme=scheme, offline=True) as page:
        yield page


def test_page_requests_nothing_and_logs_no_error(browser, report):
    seen: dict[str, list[Any]] = {"request": [], "console": [], "pageerror": []}

    with opened(browser, report, seen, offline=True):
        pass

    urls = [request.url for request in seen.pop("request")]
    assert [url for url in urls if not url.startswith("data:")] == [report]
    assert seen == {"console": [], "pageerror": []}


def test_accessibility_checker_reports_nothing_serious(page):
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")

    assert serious_violations(page) == []


def test_confusion_matrix_is_whole_and_legible_on_a_phone(browser, address):
    with opened(browser, address, viewport={"width": 390, "height": 780}) as page:
        boxes = page.evaluate("""[...document.querySelectorAll('#digits figure text')].map((each) =>
            { const box = each.getBoundingClientRect(); return [box.left, box.right, box.height]; })
        """)

    assert len(boxes) > 20
    for left, right, height in boxes:
        assert 0 <= left <= right <= 390
        assert height > 12


@pytest.mark.parametrize("width", [360, 390])
def test_pad_input_and_verdict_are_on_one_screen_of_a_phone(browser, address, width):
    with opened(browser, address, viewport={"width": width, "height": 700}) as page:
        page.evaluate("document.getElementById('draw').scrollIntoView()")
        boxes = [page.locator(each).bounding_box() for each in ("#pad", "#input", "#status")]

    assert all(box and box["y"] >= 0 and box["y"] + box["height"] <= 700 for box in boxes)


def test_charts_have_one_size_and_fill_their_rows(browser, report):
    with opened(browser, report, viewport={"width": 1280, "height": 800}) as page:
        charts = page.evaluate("""[...document.querySelectorAll('svg')].map((each) => {
          const box = each.getBoundingClientRect();
          return [Math.round(box.width), Math.round(box.height)];
        })""")
        ends = page.evaluate("""[...document.querySelectorAll('.plots')].map((each) => {
          const box = each.getBoundingClientRect(), last = each.lastElementChild;
          return Math.round(box.right - last.getBoundingClientRect().right);
        })""")

    assert len({tuple(each) for each in charts}) == 1
    assert set(ends) == {0}


def test_keyboard_reaches_every_link_and_every_wide_table(page):
    found = "[...document.querySelectorAll('a, summary, [tabindex=\"0\"]')]"
    closed = 'details:not([open]) [tabindex="0"]'  # what is in one cannot be reached
    wanted, hidden = page.evaluate(
        f"[{found}.length, document.querySelectorAll(`{closed}`).length]"
    )
    reached = set()

    for _ in range(3 * wanted):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(f"{found}.indexOf(document.activeElement)"))

    assert len(reached - {-1}) == wanted - hidden


def test_page_is_not_wider_than_a_phone_and_follows_the_colour_scheme(page):
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert (max(int(each) for each in paper[4:-1].split(",")) < 64) == dark


def test_name_from_right_to_left_does_not_turn_the_text_beside_it(page):
    styles = page.evaluate("""[...document.querySelectorAll('b, code, span, td')].map(
      (each) => getComputedStyle(each).unicodeBidi)""")

    assert set(styles) == {"isolate"}
