"""Whether the targets and the ping of a configuration can be used from here. Sends nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from shared.host import secret_values
from shared.host.configuration import Configuration
from shared.host.errors import ConfigurationError
from shared.notices import sending

if TYPE_CHECKING:
    from pydantic import SecretStr


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a setting, which `what` names, and what helps.

    `refused`: no program will ever take what stands in the configuration. `unusable`: what it names
    is not there, or wrong, for this user on this host. `exposed`: other users can read the secret.
    """

    kind: Literal["refused", "unusable", "exposed"]
    what: str
    hint: str = ""


def faults(configuration: Configuration) -> Iterator[Fault]:
    """All that is wrong. Each target takes a child process, and at most as long as a message."""
    if configuration.notify:
        try:
            sending.require_apprise()
        except ConfigurationError as error:
            yield Fault("unusable", error.message, error.hint)
    for name, target in configuration.notify.items():
        yield from _of_secret(target.url, f"notify.{name}.url", ping=False)
    if configuration.ping.url.get_secret_value():
        yield from _of_secret(configuration.ping.url, "ping.url", ping=True)


def _of_secret(secret: "SecretStr", setting: str, *, ping: bool) -> Iterator[Fault]:
    try:
        url = secret_values.revealed(secret, setting)
    except ConfigurationError as error:
        yield Fault("unusable", error.message, error.hint)
        return
    if exposed := secret_values.exposed_file(secret):
        what = f"{setting}: other users can read the secret in {exposed}"
        yield Fault("exposed", what, f"chmod 600 {exposed}")
    problem = sending.not_a_ping(url) if ping else sending.not_understood(url)
    if problem:
        literal = url == secret.get_secret_value()
        yield Fault("refused" if literal else "unusable", f"{setting}: {problem}")
