"""The page in a real browser: complete, quiet, fetching nothing, and no wider than a phone."""

import shutil

import pytest

from layer_folding.report import page, run_folder, runs_frontier
from tests.report.conftest import write
from tests.report.test_page import HOSTILE, SECTIONS

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(NAMES)} is on the PATH: apt install chromium")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """Open a file at a width and in a colour scheme; what went wrong there is in ``.complaints``."""
    contexts = []

    def open_page(path, width=1200, scheme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme))
        tab = contexts[-1].new_page()
        tab.complaints = []
        tab.on("console", lambda message: tab.complaints.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: tab.complaints.append(f"error: {error}"))
        tab.on("request", lambda request: request.url != path.as_uri() and tab.complaints.append(request.url))
        tab.goto(path.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def written(tmp_path):
    folder = write(tmp_path / "run", [f"{HOSTILE}{part}" for part in "123"])
    path = folder / "report.html"
    path.write_text(page.render(run_folder.run(folder)), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (390, "light"), (390, "dark")])
def test_it_opens_complete_and_quiet(visit, written, width, scheme):
    tab = visit(written, width, scheme)
    assert all(tab.locator(f"#{name}").is_visible() for name in SECTIONS)
    assert all(chart.bounding_box()["height"] > 100 for chart in tab.locator("svg:visible").all())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.complaints == []


@pytest.mark.slow
def test_charts_fit_a_phone(visit, written):
    tab = visit(written, 390)
    charts = tab.locator("figure svg").all()
    assert len(charts) >= 3 and all(chart.bounding_box()["width"] <= 390 - 2 * 16 for chart in charts)


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_and_both_networks_are_seen(visit, written, width):
    tab = visit(written, width)
    wider = (
        "[...document.querySelectorAll('.scroll, figure, td, dd, h1')].filter(e => e.scrollWidth > e.clientWidth + 1)"
    )
    assert tab.evaluate(f"{wider}.filter(e => e.clientWidth).map(e => e.textContent.trim())") == []
    heads = [head.bounding_box() for head in tab.locator(".network:visible .head").all()]
    assert len(heads) == 2 and all(head["x"] + head["width"] <= width for head in heads)


def test_charts_follow_light_and_dark(visit, written):
    script = "getComputedStyle(document.querySelector('#accuracy svg text')).fill"
    light, dark = (visit(written, scheme=scheme).evaluate(script) for scheme in ("light", "dark"))
    assert light != dark


def test_hostile_names_stay_text(visit, written):
    tab = visit(written)
    assert tab.locator("script").count() == 0
    assert HOSTILE in tab.locator("#layers").inner_text()
    assert any(HOSTILE in text for text in tab.locator("svg title").all_text_contents())
    assert tab.complaints == []


def test_it_prints(visit, written):
    assert visit(written).pdf(format="A4").startswith(b"%PDF")


def test_the_index_opens_and_its_links_lead_on(visit, written):
    folder = written.parent
    other = write(folder.parent / "other")
    index = folder.parent / "frontier.html"
    index.write_text(
        runs_frontier.render([run_folder.run(folder), run_folder.run(other)], folder.parent), encoding="utf-8"
    )
    tab = visit(index, 390)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390 and tab.complaints == []
    tab.get_by_role("link", name="run").first.click()
    assert tab.url == written.as_uri()
