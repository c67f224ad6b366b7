"""What a backup did to this host's VMs, noted on this host as well as in the state database.

For a database that others can write to: a VM is started again only where this host has noted, too,
that a backup has stopped it. And for one that is lost, and made anew or put back: it knows nothing
of VMs that a backup has saved, shut down, or made a snapshot and a clone of. A note names the
commit that said so. As long as that is in the history of the database, the note undoes nothing by
itself; only one of a commit that is not there any more is taken over into the database, and then
undone like any other.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from shared.host.errors import ConfigurationError, VmBackupError
from shared.host.notes import Note
from shared.site import Site
from shared.state.record_fields import is_uuid
from shared.state.records import Power
from shared.state.rules import unfinished
from shared.state.store.anchor import newest_anchor
from shared.state.store.generations import read_number
from shared.state.store.snapshot import Snapshot

log: Final = logging.getLogger(__name__)

_PREFIX: Final = "power-"


@dataclass(frozen=True, slots=True)
class _Noted:
    """One note: the VM, what was done to it, and the commit that said so."""

    uuid: str
    power: Power
    session: str
    generation: int


def remember(site: Site, uuid: str, power: Power, session: str, head: Snapshot) -> None:
    """Notes what `session` has just committed of a VM, before the VM is touched.

    Raises `ConfigurationError` if it cannot be noted: then nobody would start a VM that is stopped.
    """
    row = head.contents.sessions.get(session)
    generation = row.generation if row is not None else head.generation
    note_of(site, uuid).write(
        {
            "uuid": uuid,
            "power": dict(power.to_json()),
            "session": session,
            "generation": generation,
        }
    )


def confirms(site: Site, uuid: str, power: Power) -> bool:
    """Whether this host itself has noted that a backup has done this to the VM.

    What a record says comes from the NAS, where others may write. Raises `ConfigurationError` if
    the note cannot be read.
    """
    if not is_uuid(uuid):
        return False
    noted = _understood(note_of(site, uuid))
    return noted is not None and (noted.uuid, noted.power) == (uuid, power)


def forget(site: Site, uuid: str) -> None:
    """The VM is as it was found: the note goes."""
    try:
        note_of(site, uuid).remove()
    except ConfigurationError as error:
        log.warning("%s", error.message)


def take_over(site: Site) -> list[str]:
    """Commits what this host noted and the database has lost, for whoever undoes it next.

    Returns the names of the VMs. Notes of what is over are removed. What belongs to a VM that the
    database does not know yet, or knows on another host, waits. May be repeated.
    """
    taken = []
    for noted in _notes(site):
        record = next(
            (
                vm
                for vm in site.database.head().contents.vms.values()
                if vm.uuid == noted.uuid and vm.node == site.node
            ),
            None,
        )
        if record is None or record.claim is not None or record.power is not None:
            continue
        try:
            lost = _is_lost(site, noted)
        except VmBackupError as error:
            log.info("not known whether it is over: %s", error.message, extra={"vm": record.key})
            continue
        if lost:
            _commit(site, noted, record.key)
            taken.append(record.key)
        else:
            forget(site, noted.uuid)
    return taken


def _is_lost(site: Site, noted: _Noted) -> bool:
    """Whether the commit is not in the history of the database that is there.

    Raises `DatabaseDamagedError`, `NasError` if that cannot be told.
    """
    if noted.generation > site.database.head().generation:
        return True
    anchor = newest_anchor(site.database.root)
    if anchor is not None and noted.generation <= anchor.number < site.database.head().generation:
        return False  # it was there, and was removed for its age
    found = read_number(site.database.root, noted.generation)
    return found is None or found.header.session != noted.session


def _commit(site: Site, noted: _Noted, key: str) -> None:
    what = unfinished.DONE_TO[noted.power.method]
    log.warning(
        "%s, as this host has noted, and the state database has lost that", what, extra={"vm": key}
    )
    head = site.database.commit_once(
        lambda contents: unfinished.take_back_power(contents, noted.uuid, site.node, noted.power),
        f"{key}: {what}, as {site.node} has noted",
        "database",
    )
    try:
        remember(site, noted.uuid, noted.power, head.header.session, head)
    except ConfigurationError as error:  # the note that is there says the same of the VM
        log.warning("%s", error.message)


def _notes(site: Site) -> Iterator[_Noted]:
    """The notes of this host for this NAS that can be understood."""
    directory = site.configuration.host.state_directory
    for path in sorted(directory.glob(f"{_PREFIX}*-{_key(site)}.json")):
        try:
            noted = _understood(Note(path, "what a backup did to a VM"))
        except ConfigurationError as error:
            log.debug("%s: %s", path, error)
            continue
        if noted is not None:
            yield noted


def _understood(note: Note) -> _Noted | None:
    """What a note says; None if there is none, or it is nonsense. Raises `ConfigurationError`."""
    document = note.read()
    power = document.get("power")
    if not isinstance(power, dict):
        return None
    try:
        return _Noted(
            str(document.get("uuid")),
            Power.from_json(power),
            str(document.get("session")),
            int(str(document.get("generation"))),
        )
    except ValueError as error:
        log.debug("%s: %s", note.path, error)
        return None


def note_of(site: Site, uuid: str) -> Note:
    """Where this host notes what a backup did to a VM. UUIDs are VirtualBox's: plain names."""
    directory = site.configuration.host.state_directory
    return Note(directory / f"{_PREFIX}{uuid}-{_key(site)}.json", "what a backup did to a VM")


def _key(site: Site) -> str:
    """Tells the NASes of this host apart."""
    mountpoint = os.fsencode(site.configuration.nas.mountpoint)
    return hashlib.sha256(mountpoint).hexdigest()[:16]
