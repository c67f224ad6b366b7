"""The page as HTML: whole, small, and the same whatever VMs are called."""

import html
import time
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from shared.reports.page.file import former
from shared.reports.page.page_parts import page
from shared.reports.page.rendering import rendered
from tests.support.pages import HOSTILE, known

WRITTEN = 1795990400.0
VOID = {"meta", "link", "input", "path"}


class Read(HTMLParser):
    """A page that is read strictly: its elements, and the text in each kind of them."""

    def __init__(self, data: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(data.decode())
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def of(self, tag: str) -> list[str]:
        return [text for within, text in self.texts if within == tag]


@pytest.mark.broad
def test_everything_stands_in_it() -> None:
    made = known(30, WRITTEN, ["web01"])
    text = " ".join(text for _, text in Read(rendered(page(made))).texts)
    text = " ".join(text.split())
    for said in (
        "VMs",
        "vm009: 1 copy is damaged",
        "vmbackup-admin verify vm009",
        "in use, not copied since 2026-11-29 16:38Z ; allowed: 26 h",
        "good, pinned",
        "rehearsed: good, booted,",
        "42 %",
        "900.0 GiB free of 3.9 TiB; 10.0 GiB stay free.",
        "It fills by 21.0 GiB a week (20 looks in 19 days): full on about 2027-09-22.",
        "15 VMs; looked 2026-11-29 22:11Z",
        "10 copies of web01",
    ):
        assert said in text, said


def test_it_says_when_it_was_written_and_for_how_long_it_counts() -> None:
    made = page(known(3, WRITTEN))
    assert made.valid == 30 * 60 + 2 * 600, "an interval of ten minutes, of which two may be missed"
    assert "Written <time>2026-11-29 22:13Z</time>" in rendered(made).decode()


def test_the_worst_is_first_and_each_problem_has_its_command() -> None:
    made = page(known(30, WRITTEN))
    levels = [problem.level for problem in made.problems]
    assert levels == sorted(levels, key=["CRITICAL", "WARNING"].index)
    assert all(problem.remedy for problem in made.problems)
    assert [row.level for row in made.vms][:4] == ["CRITICAL", "WARNING", "WARNING", "OK"]


@pytest.mark.broad
def test_hostile_names_are_text_and_nothing_else() -> None:
    plain = Read(rendered(page(known(len(HOSTILE), WRITTEN))))
    hostile = Read(rendered(page(known(len(HOSTILE), WRITTEN, HOSTILE))))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    assert [sorted(each) for _, each in hostile.elements] == [
        sorted(each) for _, each in plain.elements
    ]
    names = hostile.of("th")
    assert HOSTILE[0] in names
    assert "a\\u202egpj.exe" in names, "what turns text around is shown and does not work"
    assert "\\x1b[31mred\\n" in names


@pytest.mark.broad
def test_nothing_is_loaded_and_only_its_own_script_runs() -> None:
    read = Read(rendered(page(known(3, WRITTEN, HOSTILE))))
    loading = [
        (tag, name, value)
        for tag, attributes in read.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "data", "srcset", "style") or name.startswith("on")
    ]
    assert loading == [("link", "href", "data:,"), ("a", "href", "#h-vms")]
    (policy,) = (
        each["content"] for _, each in read.elements if each.get("http-equiv")
    )  # fmt: skip
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


@pytest.mark.broad
@pytest.mark.parametrize(
    ("count", "bytes_", "seconds"),
    [(100, 300_000, 0.5), pytest.param(1000, 3e6, 5, marks=pytest.mark.slow)],
)
def test_it_is_small_and_made_at_once(count: int, bytes_: float, seconds: float) -> None:
    made = known(count, WRITTEN, kept=14)
    began = time.process_time()
    data = rendered(page(made))
    assert time.process_time() - began < seconds
    assert len(data) < bytes_


def test_the_next_writer_reads_what_was_noted(tmp_path: Any) -> None:
    path = tmp_path / "page.html"
    made = page(known(3, WRITTEN, HOSTILE))
    path.write_bytes(rendered(made))
    found = former(path)
    assert found is not None
    assert (found.generation, found.written) == (4711, WRITTEN)


@pytest.mark.broad
@pytest.mark.parametrize(
    "change",
    [
        ("schema&#34;: 1", "schema&#34;: 2"),
        ("4711", "-1"),
        ("4711", "1e999"),
        ("&#34;valid", "&#34;invalid"),
        ("vmbackup-page", "other"),
    ],
)
def test_what_no_writer_notes_is_nothing(tmp_path: Any, change: tuple[str, str]) -> None:
    path = tmp_path / "page.html"
    text = rendered(page(known(3, WRITTEN))).decode()
    assert change[0] in text
    path.write_text(text.replace(*change), encoding="utf-8")
    assert former(path) is None
    assert former(tmp_path / "none.html") is None


def test_without_any_vm_that_is_said() -> None:
    bare = known(0, WRITTEN)
    text = rendered(page(replace(bare, samples=()))).decode()
    assert "no VM is known" in html.unescape(text)
    assert "No VM is known." in text
    assert "too little history" in text
