"""A scene of the golden data, unpacked.

A fleet with one host, which the present programs take over.
"""

import tarfile
from pathlib import Path

from tests.golden.scenes import PLACE
from tests.support.fleet import Fleet, Member
from tests.support.simulated import SimulatedHost

HERE = Path(__file__).parent
SCENES = sorted(path for path in HERE.glob("*/*.tar.xz"))


def unpack(archive: Path, folder: Path) -> Fleet:
    """The NAS and the hosts of a scene, below `folder`."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    for path in (folder / "hosts").rglob("*"):
        if path.is_file() and path.suffix != ".vdi" and PLACE.encode() in path.read_bytes():
            path.write_bytes(path.read_bytes().replace(PLACE.encode(), str(folder).encode()))
    fleet = Fleet(folder)
    fleet.add(SimulatedHost(folder / "hosts", "alpha"))
    return fleet


def take_over(fleet: Fleet) -> Member:
    """The host `alpha`, on a machine that may be another one: what its dead worker held is free."""
    alpha = fleet.members["alpha"]
    ran = alpha.run("vmbackup-lock", "recover", "alpha", "--replaced")
    assert ran.status == 0, ran.stderr
    return alpha
