"""The pages in a real browser."""

from __future__ import annotations

import pytest

from tests.support.browser import accessibility_faults, opened, overflowing


@pytest.fixture(scope="module")
def shown(browser, report):
    """The page, opened once; what a test does to it changes nothing that another looks at."""
    with opened(browser, report) as shown:
        yield shown
        assert shown.errors == []


def test_a_page_opens_without_an_error_or_a_request_and_nothing_of_a_name_runs(shown):
    assert (shown.errors, shown.requests) == ([], [])
    assert shown.page.title() == "mmdit report"
    assert shown.page.locator("script").count() == 1 + shown.page.locator(".plot").count()


def test_a_table_is_sorted_by_a_click_and_by_the_keyboard(shown):
    table = shown.page.locator("table.sortable", has_text="feedforward").first
    heading = table.locator("th[scope=col]", has_text="share").first

    def values():
        column = heading.evaluate("each => each.cellIndex")
        return table.evaluate(f"each => [...each.tBodies[0].rows].map(row => Number(row.cells[{column}].dataset.v))")

    before = values()
    heading.locator("button").click()
    assert values() == sorted(before) and heading.get_attribute("aria-sort") == "ascending"
    heading.locator("button").focus()
    shown.page.keyboard.press("Enter")
    assert values() == sorted(before, reverse=True) and heading.get_attribute("aria-sort") == "descending"


def test_every_plot_is_drawn_and_shows_a_value_under_the_pointer(shown):
    plots = shown.page.locator(".plot svg[role=application]")
    assert plots.count() == shown.page.locator(".plot").count() == 9
    drawn = plots.evaluate_all("all => all.map(each => each.querySelectorAll('.curve, .mark, .part').length)")
    assert all(drawn), drawn
    tip = shown.page.locator("#tip")
    for target in (shown.page.locator(".mark").last, shown.page.locator(".part").first):  # over the last lies no other
        target.scroll_into_view_if_needed()
        target.hover()
        assert tip.is_visible() and any(sign.isdigit() for sign in tip.inner_text())
        shown.page.mouse.move(0, 0)
        assert tip.is_hidden()


def test_a_plot_is_read_and_zoomed_by_the_keyboard(shown):
    plot = shown.page.locator(".plot", has_text="roofline").first.locator("svg[role=application]")
    said, ticks = shown.page.locator("#said"), lambda: plot.locator("text").all_inner_texts()
    plot.focus()
    shown.page.keyboard.press("ArrowDown")
    first = said.inner_text()
    shown.page.keyboard.press("ArrowRight")
    assert "FLOP/s" in first and said.inner_text() not in ("", first)
    whole = ticks()
    shown.page.keyboard.press("+")
    assert ticks() != whole
    shown.page.keyboard.press("0")
    assert ticks() == whole


def test_a_rectangle_zooms_and_a_double_click_shows_all(shown):
    plot = shown.page.locator(".plot", has_text="loss").first.locator("svg[role=application]")
    plot.scroll_into_view_if_needed()
    box, whole = plot.bounding_box(), plot.locator("text").all_inner_texts()
    shown.page.mouse.move(box["x"] + 100, box["y"] + 60)
    shown.page.mouse.down()
    shown.page.mouse.move(box["x"] + 250, box["y"] + 160, steps=3)
    shown.page.mouse.up()
    assert plot.locator("text").all_inner_texts() != whole
    plot.dblclick()
    assert plot.locator("text").all_inner_texts() == whole


@pytest.mark.slow
def test_nothing_overflows_a_phone(browser, report):
    with opened(browser, report, 360, "dark") as shown:
        shown.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert overflowing(shown.page) == []
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.slow
def test_axe_finds_no_fault(browser, report):
    with opened(browser, report, policy=False) as shown:
        assert accessibility_faults(shown.page) == []


@pytest.mark.slow
@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_every_kind_of_result_is_shown_without_a_fault(width, colours, browser, full_report):
    with opened(browser, full_report, width, colours, policy=False) as shown:
        assert (shown.errors, shown.requests) == ([], [])
        plots = shown.page.locator(".plot svg[role=application]")
        assert plots.count() == shown.page.locator(".plot").count() > 15
        shown.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert overflowing(shown.page) == []
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
        assert accessibility_faults(shown.page) == []


@pytest.mark.slow
def test_the_button_changes_the_colours_and_paper_is_light_with_everything_open(browser, report):
    with opened(browser, report, colours="dark") as shown:
        ground = "getComputedStyle(document.documentElement).backgroundColor"
        dark = shown.page.evaluate(ground)
        shown.page.locator("#theme").click()
        light = shown.page.evaluate(ground)
        shown.page.locator("#theme").click()
        assert light == "rgb(255, 255, 255)" and shown.page.evaluate(ground) == dark != light
        shown.page.emulate_media(media="print")
        assert shown.page.evaluate(ground) == light
        shown.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert shown.page.locator("details:not([open])").count() == 0
