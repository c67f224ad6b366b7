"""`vmbackup-admin mount` and `vmbackup-admin umount`."""

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coordinator import dead_sessions, vm_argument
from coordinator.copies_site import open_copies
from coordinator.options import FiniteRange, UnseenPath, copy_option
from shared.command_line import Invocation, documented, dry_run_option, json_option, pass_invocation
from shared.completion import VM
from shared.host.errors import ExitCode, LockedError, UsageError, VmBackupError
from shared.output import answer, warn

if TYPE_CHECKING:
    from shared.copies.catalogue import Copy
    from shared.serving.asking import Life
    from shared.serving.places import MountedCopy
    from shared.serving.starting import Started
    from shared.state.records import VmRecord


@documented(
    example="""
        vmbackup-admin mount web01 /tmp/web01
        mount -o ro,loop,nosuid,nodev,norecovery /tmp/web01/disk1.part2.img /mnt
        vmbackup-admin umount /tmp/web01
    """,
    codes=[ExitCode.NO_DATABASE, ExitCode.LOCKED, ExitCode.NAS],
)
@click.argument("vm", type=VM)
@click.argument("directory", type=UnseenPath())
@copy_option
@click.option(
    "--idle",
    type=FiniteRange(0.01, 10080),
    default=60,
    show_default=True,
    metavar="MINUTES",
    help="Unmount by itself when no file was open and nothing asked for so long.",
)
@json_option
@dry_run_option
@pass_invocation
def mount(
    invocation: Invocation,
    *,
    vm: str,
    directory: Path,
    which: str,
    idle: float,
    as_json: bool,
    dry_run: bool,
) -> ExitCode:
    """Show a copy as read-only files in DIRECTORY, which must be empty.

    Each disk is a file, each partition, and each linear or striped volume of LVM (GROUP-NAME.img),
    to be mounted with `-o ro,loop,nosuid,nodev`; the settings, the firmware variables and the
    description are files, too. Where mfusepy is not installed, and nbdfuse and qemu-nbd are, these
    show the disks: without volumes of LVM, and no block is compared with its digest.

    Runs as an ordinary user, who alone can read them. The server is a process that goes on until
    `umount`, or until nobody has used it for so long. It holds the copy by a session, which
    `vmbackup-lock list` shows: the copy is not removed or moved meanwhile; without a usable
    database it is not held. VM is a name, a UUID, or a directory with copies.
    """
    from coordinator.restore import choice
    from shared.host.processes import SubprocessRunner
    from shared.serving import places, starting, ways

    way = ways.choose()
    runner = SubprocessRunner()
    if not dry_run:
        places.clean_up(runner)
    opened = open_copies(invocation)
    record = vm_argument.choose(opened.site, opened.contents, vm)
    chosen = choice.look_for(opened.site, record, which)
    warnings = [chosen.doubt] if chosen.doubt else []
    hold = opened.usable and _may_write(invocation, warnings, dry_run=dry_run)
    warnings += choice.unread(record, chosen.copy, compared=way is ways.MountWay.OWN)
    for warning in warnings:
        warn(warning)
    copy = chosen.copy
    document = {"vm": vm, "stamp": copy.stamp, "place": str(directory), "held": hold, "way": way}
    document |= {"database": opened.database, "warnings": [*opened.warnings, *warnings]}
    if dry_run:
        line = f"would mount {copy.stamp} of {vm} at {directory} by {way}"
        answer({**document, "dry_run": True}, line, as_json=as_json)
        return ExitCode.DONE
    place = places.free(directory, runner)
    job = {**_job(invocation, record, copy, place), "hold": hold, "idle": idle * 60}
    started = starting.start(job, seconds=way.seconds, command=way.server(str(place)))
    _say(document, f"{copy.stamp} of {vm}", place, started, as_json=as_json)
    return ExitCode.DONE


def _say(
    document: dict[str, Any], what: str, place: Path, started: "Started", *, as_json: bool
) -> None:
    from shared.serving.noted_places import NOTE

    for problem in (*started.problems, *started.missing):
        warn(problem)
    files = sorted(each.name for each in place.iterdir() if each.name != NOTE)
    document |= {"place": str(place), "pid": started.pid, "files": files}
    document["warnings"] += started.problems
    line = f"mounted {what} at {place} by {document['way']}: {', '.join(files)}"
    answer({**document, "missing": list(started.missing)}, line, as_json=as_json)


def _job(invocation: Invocation, record: "VmRecord", copy: "Copy", place: Path) -> dict[str, Any]:
    """What the server is told of what it serves, and where."""
    from shared.copies.names import final_name

    return {
        "ova": str(copy.directory / final_name(copy.stamp, "ova")),
        "place": str(place),
        "what": f"{record.name}:{copy.stamp}",
        "uuid": record.uuid,
        "key": record.key,
        "stamp": copy.stamp,
        "config": os.path.abspath(invocation.config) if invocation.config else None,
    }


def _may_write(invocation: Invocation, warnings: list[str], *, dry_run: bool) -> bool:
    """Whether a session can be noted; else what is to be said of that is added to `warnings`."""
    try:
        site = invocation.site()
        if not dry_run:
            dead_sessions.free_readers(site)
    except VmBackupError as error:
        warnings.append(
            f"the copy is not held, and may be removed while it is mounted: {error.message}"
        )
        return False
    return True


def _of_rehearsal(found: "MountedCopy") -> bool:
    """Whether it is in the folder of a VM on trial, of whose random name it is told to be.

    Nothing is read there, for it may be another user's.
    """
    folder = Path(found.place).parent.name
    trial = re.fullmatch(r"vmbackup-rehearsal-[0-9a-f]{32}", folder)
    return trial is not None and found.what.startswith(f"{folder}:")


def _refuse(found: "MountedCopy", life: "Life", *, force: bool) -> None:
    """Raises `LockedError` if it is not to be unmounted, or not without `force`."""
    from shared.serving import server_ending
    from shared.serving.asking import Life

    hangs, silent, goes_on = life == Life.HANGS, "its server does not answer", ""
    if hangs and (server := server_ending.server_of(found.place)) is not None:
        silent += f" (process {server.pid})"
        if stopped := server_ending.stopped_in(server):
            goes_on = f"`kill -CONT {' '.join(map(str, stopped))}` lets it go on; "
    if _of_rehearsal(found) and life != Life.GONE and not (hangs and force):
        # a dead one shows nothing to its VM any more
        raise LockedError(
            f"a VM on trial runs from {found.place}, which its rehearsal unmounts when it ends"
            + (f"; {silent}" if hangs else ""),
            hint="wait until it has ended (`vmbackup-lock list` shows it); what a killed one left "
            "is removed by the next `vmbackup-worker database`, or the next rehearsal; where "
            "there is no database its server ends an hour after its VM is off"
            + ("; --force ends that server" if hangs else ""),
        )
    if hangs and not force:
        raise LockedError(
            f"{found.place} was not unmounted: {silent}; it was stopped, hangs, or waits for the "
            "NAS",
            hint=f"{goes_on}when the NAS is away: try again when it is back; else --force kills "
            "the server, and whoever has a file open there gets an error",
        )


@documented(
    example="""
        vmbackup-admin umount /tmp/web01
        vmbackup-admin umount /tmp/web01 --force
    """,
    codes=[ExitCode.LOCKED],
)
@click.argument("directory", type=UnseenPath())
@click.option(
    "--force",
    is_flag=True,
    help="Also while something is open there; a server that does not answer is killed, if found.",
)
@json_option
@dry_run_option
@pass_invocation
def umount(
    invocation: Invocation, *, directory: Path, force: bool, as_json: bool, dry_run: bool
) -> ExitCode:
    """Unmount a copy: its server ends, and lets go of the copy.

    Also one whose server was killed; what that held is free then. Refused (11) while something is
    open there, or its server does not answer, as the NAS is away, or it hangs: --force ends that.
    The server of an older program is not found then: it ends when it goes on, and it is said how
    to find it.
    Refused also for that of a rehearsal, which ends by itself, as long as it is served.
    """
    from shared.host.processes import SubprocessRunner
    from shared.serving import places, server_ending
    from shared.serving.asking import Life

    found = places.at(Path(directory).absolute())
    if found is None:
        others = [each.place for each in places.mounted() if not _of_rehearsal(each)]
        raise UsageError(
            f"no copy is mounted at {directory}",
            hint=f"mounted copies on this host: {', '.join(others) or 'none'}",
        )
    places.require_own(found)
    life = found.life()
    _refuse(found, life, force=force)
    if not dry_run:
        hangs = life == Life.HANGS
        # before: it may end with its mount, and for root that says whose it is
        server = server_ending.server_of(found.place) if hangs else None
        places.unmount(found, SubprocessRunner(), lazily=force or life == Life.GONE)
        if hangs and (problem := server_ending.end(found.place, server)):
            warn(problem)
        if force or life != Life.SERVED:  # by force it may have been killed
            with contextlib.suppress(VmBackupError):  # without a NAS it was not held, or is later
                dead_sessions.free_readers(invocation.site())
    done = "would unmount" if dry_run else "unmounted"
    answer(
        {"place": found.place, "what": found.what, "dry_run": dry_run},
        f"{done} {found.what} at {found.place}",
        as_json=as_json,
    )
    return ExitCode.DONE
