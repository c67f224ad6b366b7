"""What a live backup of release 0.1 made.

All of it was called `vmbackup-<claim>`, a name that a user's VM or snapshot may have.

So it is known by more than the name: the snapshot by its description, the clone by its place in the
VM's folder and by standing on that very snapshot. What only has the name is the user's.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from shared.host.errors import VBoxManageError
from shared.state.records import Power
from shared.virtualbox.clone_parts import Made
from shared.virtualbox.inventory import Machine
from shared.virtualbox.live_clone import DESCRIPTION, Clones
from shared.virtualbox.storage import VmSnapshot

log: Final = logging.getLogger(__name__)


def undo(
    clones: Clones, look: Callable[[], Mapping[str, Machine]], uuid: str, power: Power
) -> None:
    """Removes what is provably of this backup.

    Raises `VBoxManageError` if the VM is not listed, or if there is something in doubt.
    """
    inventory = look()
    machine = _listed(inventory, uuid, power)
    for other in [
        other for other in inventory.values() if other.name == power.tag and other.uuid != uuid
    ]:
        if is_clone(other, machine, power):
            clones.unregister(other, machine, Made(power.tag, _folder(machine, power), ""))
            _remove_files(other)
            machine = _listed(look(), uuid, power)
        elif Path(other.settings_file).parent == _folder(machine, power):
            raise VBoxManageError(
                (
                    f"the VM {power.tag} {{{other.uuid}}} lies where a backup's clone would, but "
                    f"stands on no snapshot of a backup: it stays"
                ),
                hint="delete it if nobody needs it, or give it another name; the next tick goes on",
            )
        else:
            log.warning(
                "the VM %s {%s} only bears the name of a backup's clone: it stays",
                power.tag,
                other.uuid,
            )
    snapshot = find_snapshot(machine, power)
    if snapshot is not None:
        _close_images(clones, machine, power, snapshot)
        clones.merge(machine, snapshot)
    elif machine.settings and any(each.name == power.tag for each in machine.settings.snapshots):
        log.warning(
            "the snapshot %s of %s does not say that a backup made it: it stays",
            power.tag,
            machine.name,
        )


def _listed(inventory: Mapping[str, Machine], uuid: str, power: Power) -> Machine:
    if uuid not in inventory:
        raise VBoxManageError(
            (
                f"VirtualBox does not list the VM {{{uuid}}}, of which a backup has made a "
                f"snapshot "
                f"and a clone called {power.tag}"
            ),
            hint="register the VM again, and the next tick removes what is left of them",
        )
    return inventory[uuid]


def is_clone(machine: Machine, original: Machine | None, power: Power) -> bool:
    """Whether a machine is the clone that such a backup has made of `original`."""
    if original is None or power.token or power.method != "live" or machine.name != power.tag:
        return False
    snapshot = find_snapshot(original, power)
    placed = Path(machine.settings_file).parent == _folder(original, power)
    linked = all(
        len(chain) > 1 and snapshot is not None and chain[1].uuid in snapshot.attached
        for chain in machine.chains
    )
    return snapshot is not None and placed and linked


def find_snapshot(machine: Machine, power: Power) -> VmSnapshot | None:
    """The snapshot that such a backup has made of the VM."""
    snapshots = machine.settings.snapshots if machine.settings else ()
    return next(
        (each for each in snapshots if each.name == power.tag and each.description == DESCRIPTION),
        None,
    )


def _remove_files(clone: Machine) -> None:
    """Removes the files of a clone that was unregistered.

    Its settings and the images that it wrote to.
    """
    folder = Path(clone.settings_file).parent
    files = [
        Path(clone.settings_file),
        Path(f"{clone.settings_file}-prev"),
        *(Path(chain[0].location) for chain in clone.chains),
    ]
    for path in files:
        if path.is_relative_to(folder):
            path.unlink(missing_ok=True)
    _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    """Removes the folder of a clone if nothing but empty folders is left there."""
    for place in (folder / "Snapshots", folder / "Logs", folder):
        try:
            place.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("%s stays: %s", place, error.strerror)
            return


def _close_images(clones: Clones, machine: Machine, power: Power, snapshot: VmSnapshot) -> None:
    """Deletes what an interrupted removal has left.

    Images in the folder of the clone that stand on the snapshot.
    """
    for image in machine.settings.images.values() if machine.settings else ():
        if image.parent in snapshot.attached and Path(image.location).is_relative_to(
            _folder(machine, power)
        ):
            clones.close(image)
            _remove_empty(_folder(machine, power))


def _folder(machine: Machine, power: Power) -> Path:
    return Path(machine.settings_file).parent / power.tag
