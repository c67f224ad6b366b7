"""A report of what one host can see: the commits since a moment, the judgement, the sidecars."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from shared.copies import sidecar_files
from shared.host.errors import CopyError, VmBackupError
from shared.reports.happenings import Happening, happenings
from shared.reports.report import CopyTraffic, PeriodReport, due_next, make, traffic_of
from shared.state.contents import Contents
from shared.state.store.history import walk
from shared.tasks.verdicts import judge

if TYPE_CHECKING:
    from pathlib import Path

    from shared.site import Site


def collect(
    site: "Site", contents: Contents, since: datetime, keys: Iterable[str] = ()
) -> PeriodReport:
    """What is to be told of all VMs, or of those `keys`, since a moment.

    Reads the commits since then, and the sidecars of the copies that were made; writes nothing.
    Raises `NoDatabaseError`, `NasError`.
    """
    judged = judge(site, contents, only=list(keys))
    only = {verdict.subject for verdict in judged.vms}
    happened, unknown = _happened(site.database.root, since)
    gone = () if keys else [each for each in happened if each.vm not in contents.vms]
    told = [each for each in happened if each.vm in only] + [each for each in gone if each.vm]
    told.sort(key=lambda each: each.generation)
    records = [record for key, record in contents.vms.items() if key in only]
    return PeriodReport(
        since,
        site.clock.now(),
        judged.level,
        judged.nas,
        judged.hosts,
        make(
            records,
            {verdict.subject: verdict for verdict in judged.vms},
            told,
            _traffic(site, contents, told),
            {record.key: tuple(due_next(record, site.policy(record))) for record in records},
        ),
        unknown,
        tuple(each for each in gone if not each.vm),
    )


def _happened(root: "Path", since: datetime) -> tuple[Sequence[Happening], int]:
    """What happened since a moment, the oldest first, and how many commits do not tell."""
    found: list[Happening] = []
    unknown = 0
    for commit in walk(root, since=since):
        if commit.header is None:
            unknown += 1
        else:
            found += reversed(happenings(commit.before, commit.after, commit.header))
    return found[::-1], unknown


def _traffic(
    site: "Site", contents: Contents, happened: Iterable[Happening]
) -> Mapping[str, CopyTraffic]:
    """What the copies that were made moved, as far as they are still there, by VM."""
    stamps: dict[str, set[str]] = {}
    for each in happened:
        if each.kind == "copied" and each.vm in contents.vms:
            stamps.setdefault(each.vm, set()).add(each.copy)
    found = {}
    for key, wanted in stamps.items():
        copies = []
        with contextlib.suppress(VmBackupError):  # an archive that is not there
            for directory, _archived in site.directories(contents.vms[key]):
                for stamp in sorted(wanted):
                    with contextlib.suppress(CopyError, OSError):
                        copies.append(sidecar_files.read(directory, stamp))
        found[key] = traffic_of(copies)
    return found
