"""Settings of who is told when something is wrong: `[notify."TARGET"]` and `[ping]`."""

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, SecretStr

from shared.host.configuration.values import Hours, Secret, Section

_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def _plain_name(value: str) -> str:
    if not _NAME.fullmatch(value):
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


class Ping(Section):
    """A web address that this host's `vmbackup-worker run` tells how it went (healthchecks)."""

    url: Secret = Field(
        default=SecretStr(""),
        description="Asked when a run begins (with /start behind it), when it went well, and when "
        f"it failed (with /fail behind it, and the last lines as body). {_WHERE} Empty: none.",
    )
