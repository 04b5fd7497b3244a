import re
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from scripts import chromium
from tests.helpers.pages import opened, serious_violations
from tests.helpers.reviews import Reviewer, corrections

ROWS = 61


def open_page(browser: Browser, reviewer: Reviewer, **options: object) -> Page:
    page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
    page.goto(reviewer.address)
    return page


def expect_decided(page: Page, number: int) -> None:
    expect(page.locator("#count")).to_have_text(f"{number} of {ROWS}")


def predicted(page: Page) -> int:
    [digit] = re.findall(r"Predicted (\d)", page.locator("#about").inner_text())
    return int(digit)


def test_fifty_corrections_by_keyboard_survive_killed_browsers_and_servers(output):
    path = chromium.find_program()
    if path is None:
        pytest.skip("needs Chromium; `make test-browser` installs it")
    wanted: list[int | None] = []
    reviewer = Reviewer(output)

    # A browser for each 25 decisions; it and the server are killed after them.
    for start in (0, 25):
        if start > 0:
            reviewer.kill()
            reviewer = Reviewer(output)
        with chromium.launch(path) as browser:
            page = open_page(browser, reviewer)
            for number in range(start, start + 25):
                expect_decided(page, number)
                label, key = [
                    (number % 10, str(number % 10)), (predicted(page), "Space"), (None, "n"),
                    (number % 10, f"Numpad{number % 10}"),
                ][number % 4]  # fmt: skip
                page.keyboard.press(key)
                wanted.append(label)
            expect_decided(page, len(wanted))
            session = browser.new_browser_cdp_session()
            with pytest.raises(Exception, match="closed"):
                session.send("Browser.crash")
    line, _ = reviewer.end()

    assert [row["label"] for row in corrections(output)] == wanted
    assert (line["reviewed"], line["left"]) == (50, ROWS - 50)


def test_keys_undo_and_repeat_and_keys_of_the_browser(browser, output, reviewer):
    page = open_page(browser, reviewer)
    first = page.locator("#picture").get_attribute("src")
    page.keyboard.press("Control+0")
    page.keyboard.press("x")
    page.keyboard.down("7")
    expect_decided(page, 1)
    page.keyboard.down("7")  # the key is held
    page.keyboard.up("7")
    assert page.locator("#picture").get_attribute("src") != first

    for key in ("u", "Backspace", "3"):
        page.keyboard.press(key)
        expect_decided(page, int(key == "3"))
    page.reload()
    expect_decided(page, 1)
    page.keyboard.press("u")
    expect_decided(page, 0)
    page.keyboard.press("?")

    expect(page.locator("#help dl")).to_be_visible()
    assert page.locator("#picture").get_attribute("src") == first
    assert corrections(output) == []


def test_buttons_by_touch_by_tab_and_by_double_click(browser, output, reviewer):
    page = open_page(browser, reviewer, viewport={"width": 390, "height": 844}, has_touch=True)
    buttons = page.locator("button").all()
    for each in buttons:
        box = each.bounding_box()
        assert box
        assert min(box["width"], box["height"]) >= 48
        assert box["y"] + box["height"] <= 844

    labels: list[int | None] = [4, predicted(page), None]
    for number, name in enumerate(("[data-key='4']", "#confirm", "#none")):
        if number == 1:
            labels[1] = predicted(page)
        page.tap(name)
        expect_decided(page, number + 1)
    page.tap("#undo")
    expect_decided(page, 2)
    page.focus("[data-key='9']")
    page.keyboard.press("Space")
    expect_decided(page, 3)
    digit = predicted(page)
    page.keyboard.press("Space")  # confirms: the focus has left the button
    expect_decided(page, 4)
    page.dblclick("[data-key='5']")
    expect_decided(page, 5)
    page.keyboard.press("0")
    expect_decided(page, 6)

    assert [row["label"] for row in corrections(output)] == [*labels[:2], 9, digit, 5, 0]


def test_last_decision_can_be_undone_when_all_are_done(browser, output, reviewer):
    for row in range(ROWS - 1):
        reviewer.send(row=row, label=7)
    page = open_page(browser, reviewer)
    expect(page.locator("#done")).to_be_hidden()
    page.keyboard.press("1")
    expect(page.locator("#done")).to_be_visible()
    expect_decided(page, ROWS)
    page.keyboard.press("1")
    page.keyboard.press("Space")
    page.keyboard.press("u")
    expect_decided(page, ROWS - 1)

    assert len(corrections(output)) == ROWS - 1


def test_second_window_is_told_and_ended_server_too(browser, reviewer):
    one, two = open_page(browser, reviewer), open_page(browser, reviewer)
    one.keyboard.press("1")
    expect_decided(one, 1)
    two.keyboard.press("2")
    expect(two.locator("#status")).to_contain_text("Another window")
    expect_decided(two, 1)
    assert two.locator("#place").inner_text() == one.locator("#place").inner_text()

    reviewer.kill()
    two.keyboard.press("2")

    expect(two.locator("#status")).to_contain_text("Not saved")
    expect_decided(two, 1)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_page_is_accessible_and_loads_nothing(browser, reviewer, scheme, width):
    seen: dict[str, list[Any]] = {"request": [], "console": [], "pageerror": []}
    size = {"width": width, "height": 844}
    with opened(browser, reviewer.address, seen, viewport=size, color_scheme=scheme) as page:
        page.keyboard.press("7")
        expect_decided(page, 1)
        page.keyboard.press("?")
        urls = {request.url for request in seen.pop("request")}

        assert {url for url in urls if not url.startswith("data:")} == {reviewer.address}
        assert seen == {"console": [], "pageerror": []}
        assert serious_violations(page) == []
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert (max(int(each) for each in paper[4:-1].split(",")) < 64) == (scheme == "dark")
