"""`vmbackup-admin notify`."""

from typing import TYPE_CHECKING, Any

import click

from coordinator import text
from shared.command_line import Invocation, documented, json_option, pass_invocation
from shared.host.errors import ConfigurationError, ExitCode, UsageError
from shared.output import print_json, say

if TYPE_CHECKING:
    from shared.host.configuration import Configuration
    from shared.state.contents import Contents
    from shared.state.records import EventRecord
    from shared.state.rules.events import EventKey

_NOBODY = "nobody is told when something is wrong: the configuration has no [notify.…]"


@documented(
    example="""
        vmbackup-admin notify
        vmbackup-admin notify --test
        vmbackup-admin notify --test mail
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.NAS],
)
@click.argument("target", required=False)
@click.option("--test", is_flag=True, help="Send a message to TARGET, or to all targets.")
@json_option
@pass_invocation
def command(
    invocation: Invocation, *, target: str | None, test: bool, as_json: bool
) -> ExitCode | None:
    """Who is told when something is wrong, and of what.

    Shows the targets of this host's configuration, and what is told of at present: since when,
    whom, and who tells it now. With --test sends a message, needs neither NAS nor database, and
    ends with 1 if a target does not take it.
    """
    configuration = invocation.configuration()
    if target is not None and target not in configuration.notify:
        known = ", ".join(sorted(configuration.notify)) or "none"
        raise UsageError(f"there is no target {target}", hint=f"in the configuration: {known}")
    if test:
        return _test(
            configuration, [target] if target else [*configuration.notify], as_json=as_json
        )
    if target is not None:
        raise UsageError("a target is named with --test only")
    contents = invocation.site(reading=True).database.head().contents
    _show(configuration, contents, as_json=as_json)
    return None


def _test(configuration: "Configuration", names: list[str], *, as_json: bool) -> ExitCode:
    from shared.host.secret_values import revealed
    from shared.notices.notice import Notice
    from shared.notices.sending import require_apprise, send

    if not names:
        raise ConfigurationError(_NOBODY, hint="docs/monitoring.md says how to name one")
    require_apprise()
    node = configuration.host.node
    notice = Notice.of(
        f"vmbackup: a test from {node}",
        [f"{node} can tell you when something is wrong.", "Nothing is wrong because of this."],
    )
    problems: dict[str, str] = {}
    for name in names:
        try:
            url = revealed(configuration.notify[name].url, f"notify.{name}.url")
            problems[name] = send(url, notice)
        except ConfigurationError as error:
            problems[name] = error.message
        if not as_json:
            say(f"{name}: {problems[name] or 'took the message'}")
    if as_json:
        rows = [
            {"name": name, "taken": not problem, "problem": problem or None}
            for name, problem in problems.items()
        ]
        print_json({"schema": 1, "targets": rows})
    return ExitCode.FAILURE if any(problems.values()) else ExitCode.DONE


def _show(configuration: "Configuration", contents: "Contents", *, as_json: bool) -> None:
    from shared.state.rules import events, report_turns

    found = sorted(events.all_events(contents), key=lambda pair: pair[0])
    if as_json:
        targets = [
            {"name": name, **target.model_dump(mode="json")}
            for name, target in configuration.notify.items()
        ]
        rows = [_row(contents, key, event) for key, event in found]
        print_json({"schema": 1, "targets": targets, "events": rows})
        return
    for name, target in configuration.notify.items():
        quiet = f", quiet {target.quiet}" if target.quiet else ""
        say(f"{name}: {', '.join(target.severities)}{quiet}, again after {target.repeat_hours:g} h")
        if target.report:
            last = report_turns.last(contents, name).told
            sent = f"the last one {text.local(last)}" if last else "none yet"
            say(f"    a report {target.report} from {target.report_hour}:00 on, {sent}")
    if not configuration.notify:
        say(_NOBODY)
    if not found:
        say("Nothing is told of at present.")
        return
    rows = [_row(contents, key, event) for key, event in found]
    text.print_table(
        ["ABOUT", "EVENT", "LEVEL", "SINCE", "OVER", "TOLD"],
        [
            [
                row["name"],
                row["kind"],
                row["level"],
                text.local(row["begun"]),
                text.local(row["ended"]) if row["ended"] else "",
                ", ".join(f"{name} {_how(told)}" for name, told in row["targets"].items()),
            ]
            for row in rows
        ],
    )


def _how(told: dict[str, Any]) -> str:
    if told["teller"]:
        return f"({told['teller']} tells it now)"
    if told["failures"]:
        return f"(took nothing, {told['failures']} times)"
    return text.local(told["told"]) if told["told"] else "(not yet)"


def _row(contents: "Contents", key: "EventKey", event: "EventRecord") -> dict[str, Any]:
    from shared.state.rules import event_telling

    return {
        "about": "vm" if key.section == "vms" else "host",
        "name": key.subject,
        "kind": key.kind,
        "level": event.level,
        "begun": event.begun,
        "ended": event.ended or None,
        "found_by": event.node,
        "targets": {
            name: {
                "told": told.told or None,
                "failures": told.failures,
                "teller": contents.sessions[told.session].node
                if event_telling.is_live(contents, told.session)
                else None,
            }
            for name, told in event.targets.items()
        },
    }
