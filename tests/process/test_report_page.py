"""The report's page in a real browser, as wide as a desk's screen and as a phone's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from checkfree.report.study.write import write_report
from tests.studies import full

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTHS = (1280, 390)
PLOTS = ("curves", "gaps", "timeline", "ledger", "frontier")
PATIENCE = 20  # seconds until a condition must hold


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not (CHROMIUM and DRIVER):
        _missing("chromium and chromedriver are not on the path")
    try:
        from selenium import webdriver
    except ModuleNotFoundError:
        _missing("selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def _missing(what: str) -> None:
    if os.environ.get("CHECKFREE_NEED_BROWSER") == "1":
        pytest.fail(f"CHECKFREE_NEED_BROWSER=1, but {what}")
    pytest.skip(f"{what}: the page is not tried in a browser")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(full(), tmp_path_factory.mktemp("report")).as_uri()


@pytest.fixture(scope="module", params=WIDTHS, ids=lambda width: f"{width} px")
def opened(
    browser: Any, address: str, request: pytest.FixtureRequest
) -> tuple[Any, list[str], list[str]]:
    """The page, opened and drawn; what the console said, and what was asked for."""
    _logs(browser)
    screen = {"width": request.param, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(address)
    _until(browser, lambda: browser.execute_script("return document.documentElement.dataset.drawn"))
    return browser, *_logs(browser)


@pytest.fixture
def page(opened: tuple[Any, list[str], list[str]]) -> Any:
    """The page as it was when it opened."""
    browser = opened[0]
    browser.execute_script(
        "Object.assign(state, structuredClone(data.start)); state.hidden.clear(); press(); draw();"
    )
    return browser


def _until(browser: Any, holds: Callable[[], object]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, PATIENCE, poll_frequency=0.05).until(lambda _: holds())


def _logs(browser: Any) -> tuple[list[str], list[str]]:
    """What the console said, and which addresses were asked for, since the last call."""
    said = [entry["message"] for entry in browser.get_log("browser")]
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return said, asked


def _click(page: Any, selector: str) -> None:
    """The first that matches, once it is in view."""
    page.execute_script(
        "const e = document.querySelector(arguments[0]);"
        "e.scrollIntoView({block: 'center', behavior: 'instant'}); e.click()",
        selector,
    )


def _title(page: Any, plot: str, axis: str = "x") -> str:
    return str(page.find_element("css selector", f"#{plot} .{axis}title").text)


def _range(page: Any, plot: str = "curves") -> list[float]:
    script = f"return document.getElementById('{plot}')._fullLayout.xaxis.range"
    return list(page.execute_script(script))


def _ground(page: Any, plot: str) -> Any:
    """The area inside a plot's axes, scrolled into view."""
    ground = page.find_element("css selector", f"#{plot} .nsewdrag")
    page.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", ground
    )
    return ground


def test_it_opens_from_disk_without_a_word_or_a_request(
    opened: tuple[Any, list[str], list[str]],
) -> None:
    browser, said, asked = opened
    for plot in PLOTS:
        drawn = f"return document.querySelectorAll('#{plot} .main-svg').length"
        assert browser.execute_script(drawn) > 0
    assert said == []
    assert asked and all(url.startswith(("file:", "data:", "blob:")) for url in asked)


def test_the_page_never_scrolls_sideways_and_wide_tables_do(page: Any) -> None:
    script = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    width, room = page.execute_script(script)
    assert width <= room
    for details in page.find_elements("css selector", "details"):
        page.execute_script("arguments[0].open = true", details)
    width, room = page.execute_script(script)
    assert width <= room
    if room < 700:
        box = page.find_element("css selector", ".box")
        assert page.execute_script(
            "return arguments[0].scrollWidth > arguments[0].clientWidth", box
        )


def test_all_lines_are_there(page: Any) -> None:
    lines = "return document.querySelectorAll('#curves .scatterlayer .trace').length"
    assert page.execute_script(lines) >= 5
    assert page.execute_script("return document.querySelectorAll('#ledger .bars path').length") > 5
    assert page.execute_script("return document.querySelectorAll('#timeline .point').length") > 2


def test_the_axis_can_be_switched(page: Any) -> None:
    assert _title(page, "curves") == "iteration"
    seen = {_title(page, "curves")}
    for axis in ("tokens", "hours", "seconds", "cost"):
        _click(page, f"[data-key=axis] [data-value={axis}]")
        _until(page, lambda: _title(page, "curves") not in seen)
        seen.add(_title(page, "curves"))
    assert "simulated hours" in seen and len(seen) == 5
    assert (
        "redundant" in page.find_element("id", "curves-missing").text
        or _title(page, "curves") != "real seconds of training and repairs"
    )


def test_a_lent_curve_has_no_real_seconds_and_the_page_says_so(page: Any) -> None:
    _click(page, "[data-key=axis] [data-value=seconds]")
    _until(page, lambda: "redundant" in page.find_element("id", "curves-missing").text)


def test_hover_shows_the_numbers(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    _click(page, "[data-label=checkfree]")  # its line ends where others go on
    ground = _ground(page, "gaps")
    dots = page.find_elements("css selector", "#gaps .scatterlayer .point")
    ActionChains(page).move_to_element(ground).move_to_element(dots[1]).perform()
    found = "#gaps .hoverlayer text"
    _until(page, lambda: page.find_elements("css selector", found))
    texts = [text.text for text in page.find_elements("css selector", found)]
    assert any("n = 2" in text for text in texts), texts


def test_dragging_zooms_and_a_double_click_goes_back(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    whole = _range(page)
    ground = _ground(page, "curves")
    at = ActionChains(page).move_to_element_with_offset(ground, -60, -60)
    at.click_and_hold().move_by_offset(60, 60).move_by_offset(60, 40).release().perform()
    _until(page, lambda: _range(page) != whole)
    low, high = _range(page)
    assert whole[0] < low < high < whole[1]
    ActionChains(page).double_click(_ground(page, "curves")).perform()
    _until(page, lambda: _range(page) == whole)


def test_strategies_seeds_and_rates_can_be_chosen(page: Any) -> None:
    lines = "return document.getElementById('curves').data.map((t) => t.keys)"
    before = page.execute_script(lines)
    assert {keys["rate"] for keys in before} == {0}
    _click(page, "[data-flag=seeds]")
    _until(page, lambda: any(k["part"] == "seed" for k in page.execute_script(lines)))
    _click(page, "[data-label=redundant]")
    _until(page, lambda: all(k["label"] != "redundant" for k in page.execute_script(lines)))
    _click(page, "#failures [data-key=rate] [data-value='1']")
    _until(page, lambda: {k["rate"] for k in page.execute_script(lines)} == {1})
    pressed = page.find_elements("css selector", "[data-key=rate] [aria-pressed=true]")
    assert {button.text for button in pressed} == {"16 % per hour"}  # one choice for all plots
    _click(page, "[data-key=measure] [data-value=bytes]")
    _until(page, lambda: "GiB" in _title(page, "ledger"))
    said, _ = _logs(page)
    assert said == []
