"""The page in a real browser: what a person sees, and what the browser does behind it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.reports.page.page_parts import page
from shared.reports.page.rendering import rendered
from tests.support.chromium import Chromium, axe, chromium
from tests.support.pages import HOSTILE, known

HOUR = 3600.0


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of VMs that are called what no VM should be called."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_bytes(rendered(page(known(40, names=HOSTILE))))
    return path


def texts(browser: Chromium, selector: str) -> list[str]:
    script = (
        "return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText.trim())"
    )
    found: list[str] = browser.run(script, selector)
    return found


@pytest.mark.parametrize("width", [400, 1300])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_hinders_nobody_and_asks_nobody(
    browser: Chromium, hostile: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    browser.requests()
    browser.show(hostile, width, dark=dark)
    (tmp_path / "page.png").write_bytes(browser.screenshot())
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("return window.injected ?? 0") == 0
    assert texts(browser, "tbody th")[0].startswith(HOSTILE[9])
    assert set(browser.requests()) - {"data:,"} == {hostile.as_uri()}
    assert browser.complaints() == []
    browser.develop("Runtime.evaluate", expression=axe())
    faults = browser.run(
        """
        const found = await axe.run(document);
        return found.violations
          .filter((each) => ["serious", "critical", "moderate"].includes(each.impact))
          .map((each) => each.id + ": " + each.nodes[0].html + " " + each.nodes[0].failureSummary);
        """
    )
    assert faults == []


def test_axe_would_find_a_fault(browser: Chromium, hostile: Path) -> None:
    browser.show(hostile)
    browser.develop("Runtime.evaluate", expression=axe())
    faults = browser.run(
        """
        document.querySelector("label").replaceWith(document.getElementById("text"));
        document.getElementById("text").removeAttribute("placeholder");
        return (await axe.run(document)).violations.map((each) => each.id);
        """
    )
    assert "label" in faults


def test_a_request_would_be_seen(browser: Chromium, hostile: Path, tmp_path: Path) -> None:
    other = tmp_path / "page.html"
    text = hostile.read_text(encoding="utf-8")
    other.write_text(text.replace("</main>", '<img src="loaded.png"></main>'), encoding="utf-8")
    browser.complaints()
    browser.show(other)
    assert any("Content Security Policy" in said for said in browser.complaints())


def test_an_old_page_says_that_nobody_has_looked(browser: Chromium, hostile: Path) -> None:
    browser.show(hostile)
    assert "OK" in texts(browser, ".vm .chip")
    browser.show(hostile, at=2 * HOUR)
    chips = texts(browser, ".chip")
    assert "OK" not in chips
    assert sum(chip.startswith("nobody has looked since 20") for chip in chips) > 20
    assert texts(browser, "#answer .chip") == ["UNKNOWN"]
    assert texts(browser, "#said")[0].startswith("nobody has looked since ")
    assert browser.run("return document.title").startswith("UNKNOWN: nobody has looked since")


def test_a_reader_whose_clock_is_behind_is_not_told_that_all_is_well(
    browser: Chromium, hostile: Path
) -> None:
    browser.show(hostile, at=-2 * HOUR)
    assert "OK" not in texts(browser, ".chip")
    assert "This computer's clock is before" in texts(browser, "#said")[0]


def test_search_sort_and_keyboard(browser: Chromium, hostile: Path) -> None:
    browser.show(hostile)
    shown = """
        document.getElementById("text").value = arguments[0];
        document.getElementById("text").dispatchEvent(new Event("input"));
        if (arguments[1]) document.getElementById("only").click();
        return [...document.querySelectorAll(".vm:not(.gone) th")].map((each) => each.innerText);
    """
    assert [name.split()[0] for name in browser.run(shown, "VM012", False)] == ["vm012"]
    assert browser.run(shown, "no such vm", False) == []
    assert texts(browser, "#count") == ["0 of 40 VMs"]
    assert 0 < len(browser.run(shown, "", True)) < 10
    browser.show(hostile)
    for _ in range(5):  # to the VMs, the search, the box, and the heads of the first columns
        browser.key("\ue004")
    assert browser.run("return document.activeElement.textContent") == "State"
    browser.key("\ue007")
    assert browser.run("return document.activeElement.parentElement.ariaSort") == "ascending"
    states = texts(browser, "tbody td:nth-child(2)")
    assert states[0].startswith("CRITICAL")
    assert states[-1].startswith("WARNING")
