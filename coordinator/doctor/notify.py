"""Is anybody told when something is wrong, or when this host is silent?"""

from collections.abc import Iterator

from coordinator.doctor.result import Check
from shared.host.configuration import Configuration
from shared.notices import usable

_NAME = "notify"


def examine(configuration: Configuration) -> Iterator[Check]:
    """Targets and ping: whether there are any, and whether they can be told from here.

    Sends nothing: `vmbackup-admin notify --test` does.
    """
    targets, ping = configuration.notify, configuration.ping.url
    if not targets and not ping.get_secret_value():
        yield Check(
            _NAME,
            "warn",
            "nobody is told when something is wrong: neither a target nor a ping is configured",
            'add [notify."NAME"] or [ping] to the configuration: docs/monitoring.md',
        )
        return
    found = list(usable.faults(configuration))
    for fault in found:
        yield Check(_NAME, "warn" if fault.kind == "exposed" else "fail", fault.what, fault.hint)
    if found:
        return
    if not ping.get_secret_value():
        yield Check(
            _NAME,
            "warn",
            f"{_count(len(targets))}, and no ping: if all hosts are off, nobody says so",
            "add [ping] to the configuration of one host at least: docs/monitoring.md",
        )
        return
    yield Check(_NAME, "ok", f"{_count(len(targets))} and a ping")


def _count(number: int) -> str:
    return "1 target" if number == 1 else f"{number} targets"
