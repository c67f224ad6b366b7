"""The page as HTML. What came from outside is escaped by the template, and visible where it is odd.

The page says itself, to whatever browser opens it, that nothing may be loaded and no script may run
but its own: by the digests of its style and its script.
"""

import base64
import hashlib
import json
from datetime import UTC, datetime
from importlib import resources
from typing import Final

from shared.copies.space_needed import human
from shared.host.duration import spoken
from shared.host.extras import require_extra
from shared.host.printable import printable
from shared.reports.page import days, drawing
from shared.reports.page.days import WORDS, DayMark
from shared.reports.page.page_parts import PageContents

#: The beginning of the element by which programs know a page, and its name.
META: Final = "vmbackup-page"
SCHEMA: Final = 1


def require_jinja() -> None:
    """Raises `ConfigurationError` if the package that writes the page is not installed."""
    require_extra("page", "jinja2", "jinja2", "the page is written by")


def rendered(page: PageContents) -> bytes:
    """The page as one HTML file. Raises `ConfigurationError` without the extra."""
    require_jinja()
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(_text),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters.update(
        size=human,
        spoken=spoken,
        moment=_moment,
        strip=drawing.strip_paths,
        curve=drawing.curve,
        counted=days.counted,
    )
    style, script = _text("page.css"), _text("page.js")
    html = environment.get_template("page.html").render(
        page=page,
        style=Markup(style),  # noqa: S704 - files of this package
        script=Markup(script),  # noqa: S704
        policy=_policy(style, script),
        about=json.dumps(about(page)),
        marks=[(mark.name.lower(), WORDS[mark]) for mark in DayMark],
        width=drawing.WIDTH,
        height=drawing.HEIGHT,
    )
    return html.encode()


def about(page: PageContents) -> dict[str, object]:
    """What the next writer, and the script of the page, need to know of it."""
    return {
        "schema": SCHEMA,
        "repository": page.repository,
        "generation": page.generation,
        "written": int(page.written),
        "valid": int(page.valid),
    }


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; style-src 'sha256-{digest(style)}'; "
        f"script-src 'sha256-{digest(script)}'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _shown(value: object) -> object:
    """Every value of the template: text from outside cannot turn around what stands beside it."""
    return printable(value) if type(value) is str else value


def _moment(when: float | str | None) -> object:
    """Seconds since the epoch, or a time of the database, as HTML and people read times."""
    from markupsafe import Markup

    try:
        text = f"{_datetime(when):%Y-%m-%d %H:%M}Z"
    except (OverflowError, ValueError, OSError):
        return "\N{EN DASH}"
    return Markup(f"<time>{text}</time>")  # noqa: S704 - digits


def _datetime(when: float | str | None) -> datetime:
    """Raises ValueError, OverflowError or OSError for what is no time."""
    if isinstance(when, str):
        return datetime.fromisoformat(when).astimezone(UTC)
    if when is None:
        raise ValueError("none")
    return datetime.fromtimestamp(when, UTC)
