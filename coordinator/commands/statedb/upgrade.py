"""`vmbackup-admin statedb upgrade`."""

from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.host.errors import ExitCode
from shared.output import answer


@documented(
    example="""
        vmbackup-admin statedb upgrade --dry-run
        vmbackup-admin statedb upgrade
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.LOCKED, ExitCode.NAS],
)
@json_option
@dry_run_option
@pass_invocation
def upgrade(invocation: Invocation, *, as_json: bool, dry_run: bool) -> None:
    """Bring the database into the newest version, when vmbackup is updated on all hosts.

    Until then updated hosts work in the old one, with those that are not. Afterwards older programs
    refuse, and change nothing. Refused (11) while an older program is at work. Interrupted, the
    same command finishes; there is no way back.
    """
    from shared.state.formats import NEWEST
    from shared.state.store import upgrade as upgrading

    site = invocation.site(reading=dry_run)
    site.database.require_writable()
    before = upgrading.state(site.database)
    if before.is_done:
        line = f"the state database is of version {before.generation} already"
    elif dry_run:
        upgrading.require_no_older_program(site.database.head().contents)
        line = f"would upgrade the state database from version {before.generation} to {NEWEST}"
    else:
        upgrading.upgrade(site.database, site.prepare_archive)
        site.database.keep_reserve(site.configuration.nas.reserve)
        line = f"the state database is of version {NEWEST} now; older programs refuse it"
    after = before.generation if before.is_done else NEWEST
    upgraded = not (before.is_done or dry_run)
    answer(
        {"from": before.generation, "to": after, "upgraded": upgraded, "dry_run": dry_run},
        line,
        as_json=as_json,
    )
