"""Settings of who is told how things stand: `[notify."TARGET"]`, `[ping]`, `[metrics]`, `[page]`.

People, and programs that watch.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator

from shared.host.configuration.values import (
    PLAIN_NAME,
    Hours,
    Secret,
    Section,
    without_null,
)


def _plain_name(value: str) -> str:
    if not PLAIN_NAME.fullmatch(value):
        raise ValueError(
            "the name of a target may only have letters, digits, dots, hyphens and underscores, "
            "63 at most"
        )
    return value


#: The name under which hosts know a target: it stands in the database.
TargetName = Annotated[str, AfterValidator(_plain_name)]
_WHERE: Final = (
    "Better than the URL itself: env:NAME, file:/path, or credential:NAME (of systemd: a file in "
    "$CREDENTIALS_DIRECTORY)."
)


class NotifyTarget(Section):
    """A target that is told when something is wrong, and when it is well again."""

    url: Secret = Field(
        description="Where messages go, as Apprise writes it, like mailto://… or ntfy://…. "
        f"{_WHERE}"
    )
    severities: list[Literal["warning", "unknown", "critical"]] = Field(
        ["warning", "unknown", "critical"],
        min_length=1,
        description="Which events it is told of. Whoever was told that one began is told its end.",
    )
    quiet: Hours = Field(
        "",
        description="In these hours of local time, like 22:00-06:00, it is told nothing: what "
        "still stands afterwards is told then.",
    )
    repeat_hours: float = Field(
        24, ge=1, le=24, description="What goes on is told again after so long: a day at most."
    )
    report: Literal["", "daily", "weekly"] = Field(
        "",
        description="How often it gets a report of all backups, as `vmbackup-admin report` prints: "
        "every day, or on Mondays. Empty: never.",
    )
    report_hour: int = Field(
        7, ge=0, le=23, description="From which hour on, in local time, it gets the report."
    )


class Metrics(Section):
    """Metrics for Prometheus, by the textfile collector of node_exporter."""

    file: Path = Field(
        Path(),
        description="Where this host's `database` worker writes the metrics of all hosts and VMs "
        "at each tick: an absolute path that ends in .prom, in the directory of the textfile "
        "collector. One or two hosts are enough. Empty: nowhere. Needs the extra `metrics`.",
    )

    @field_validator("file")
    @classmethod
    def _prom_file(cls, value: Path) -> Path:
        if value == Path():
            return value
        if not value.is_absolute() or value.suffix != ".prom":
            raise ValueError("must be an absolute path that ends in .prom")
        return without_null(value)


class Page(Section):
    """The page: all backups at a glance, as one HTML file for a browser."""

    file: Path = Field(
        Path("vmbackup.html"),
        description="Where `database` workers write the page, when something has changed: a plain "
        "name beside the database, or an absolute path; it ends in .html. Hosts that have the same "
        "one take turns. Empty: nowhere. Needs the extra `page`.",
    )
    minutes: float = Field(
        30,
        ge=1,
        le=24 * 60,
        description="The page is written again after so many minutes, also if nothing changed.",
    )

    @field_validator("file", mode="after")
    @classmethod
    def _html_file(cls, value: Path) -> Path:
        if value == Path():
            return value
        if value.suffix != ".html" or not (value.is_absolute() or len(value.parts) == 1):
            raise ValueError("must be a plain name or an absolute path that ends in .html")
        return without_null(value)


class Ping(Section):
    """A web address that this host's `vmbackup-worker run` tells how it went (healthchecks)."""

    url: Secret = Field(
        default=SecretStr(""),
        description="Asked when a run begins (with /start behind it), when it went well, and when "
        f"it failed (with /fail behind it, and the last lines as body). {_WHERE} Empty: none.",
    )
