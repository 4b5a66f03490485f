"""The page: self-contained, safe against names, and in a browser without errors at every width and appearance."""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import hesse
from hesse._report import page

from .spectra import spectrum

LONG_NAME = "a/rather/long/path/to/the/problem_file.py"
UNCONVERGED = {
    "max_products": 16,
    "name": "<b>bold</b>.py",
    "command": "hesse spectrum 'a <b>.py' --seed 7",
    "seed": 7,
}


@functools.cache
def rendered(**words) -> str:
    """The page of a spectrum: four pictures, which take a second or two."""
    return page.render(spectrum(**words))


def test_the_page_needs_nothing_else():
    text = rendered()
    links = re.findall(r'(?:src|srcset|href)="([^"]*)"', text)
    assert len(links) == 5
    assert all(link.startswith("data:") for link in links)
    assert "http" not in re.sub(r'"data:[^"]*"', "", text)
    assert text.count("<script") == text.count("<script>") == 1


def test_what_has_not_converged_is_marked():
    text = rendered(**UNCONVERGED)
    assert "eigenvalues have converged within 16 products" in text
    assert 'class="open"' in text
    assert "or less: not converged" in text
    assert 'class="open"' not in rendered()
    # Of neither end the first one has converged.
    text = page.render(spectrum(np.linspace(0.1, 1, 300), max_products=16))
    assert "or more: not converged" in text
    assert "or less: not converged" in text
    assert re.search("the largest eigenvalue is at least 0[.]9[0-9]*[.]", text)


def test_names_are_escaped_and_its_foot_says_how_it_was_made():
    text = rendered(**UNCONVERGED)
    assert "<b>" not in text
    foot = text.partition("<footer>")[2]
    assert "<code>hesse spectrum &#39;a &lt;b&gt;.py&#39; --seed 7</code>" in foot
    versions = (f"hesse {hesse.__version__}", f"torch {torch.__version__}", f"python {platform.python_version()}")
    assert all(word in foot for word in (*versions, "seed 7"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in found:
        assert not os.environ.get("HESSE_REQUIRE_BROWSER"), "chromium and chromedriver must be installed"
        pytest.skip("needs chromium and chromedriver, which only CI must have")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=found[1]))
    yield driver
    driver.quit()


def _show(browser, path: Path, width: int, appearance: str) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": appearance}]}
    )
    browser.get(path.as_uri())


@pytest.mark.parametrize("appearance", ["light", "dark"])
@pytest.mark.parametrize("width", [360, pytest.param(800, marks=pytest.mark.exhaustive), 1400])
@pytest.mark.parametrize("products", [pytest.param(16, marks=pytest.mark.exhaustive), 300])
def test_a_browser_shows_it(browser, tmp_path, width, appearance, products):
    path = tmp_path / "index.html"
    path.write_text(rendered(max_products=products, name=LONG_NAME))
    _show(browser, path, width, appearance)
    assert browser.get_log("browser") == []
    (picture,) = browser.find_elements("css selector", "img")
    assert browser.execute_script("return arguments[0].complete && arguments[0].naturalWidth", picture) > 100
    # The picture made for that width and appearance was taken.
    taken = browser.execute_script("return arguments[0].currentSrc", picture)
    sources = browser.find_elements("css selector", "source")
    expected = {
        (True, "dark"): sources[0].get_attribute("srcset"),
        (True, "light"): sources[1].get_attribute("srcset"),
        (False, "dark"): sources[2].get_attribute("srcset"),
        (False, "light"): picture.get_attribute("src"),
    }[width <= 640, appearance]
    assert taken == expected
    # Nothing sticks out to the right.
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if appearance == "light" else "rgb(20, 24, 29)")


def test_numbers_are_sorted_by_a_click_on_their_head(browser, tmp_path):
    path = tmp_path / "index.html"
    # Values that text sorts otherwise than numbers: 1.6e-05 and -0.3, 90 and 9.
    found = spectrum(values=np.array([90.0, 9.0, 1.6e-5, -0.3, -0.02]))
    path.write_text(page.render(found))
    _show(browser, path, 800, "light")
    values = [pair.value for pair in found.top]

    def column():
        cells = browser.find_elements("css selector", "table tbody td:nth-child(2)")
        return [float(cell.get_attribute("data-value")) for cell in cells]

    assert column() == values
    button = browser.find_elements("css selector", "th button")[1]
    button.click()
    assert column() == sorted(values)
    button.click()
    assert column() == sorted(values, reverse=True)
    (head,) = browser.find_elements("css selector", "th[aria-sort]")
    assert head.get_attribute("aria-sort") == "descending"


def test_paper_is_light_on_a_dark_screen_too(browser, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(rendered())
    _show(browser, path, 800, "dark")
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    try:
        paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        (picture,) = browser.find_elements("css selector", "img")
        assert paper == "rgb(255, 255, 255)"
        assert browser.execute_script("return arguments[0].currentSrc", picture) == picture.get_attribute("src")
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": dark})


def test_a_missing_picture_would_be_noticed(browser, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(re.sub(r'src(set)?="data:[^"]*"', r'src\1="missing.svg"', rendered()))
    _show(browser, path, 800, "light")
    (picture,) = browser.find_elements("css selector", "img")
    assert browser.execute_script("return arguments[0].naturalWidth", picture) == 0
    assert browser.get_log("browser")
