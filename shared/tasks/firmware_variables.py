"""The firmware variables of a copy, which has them beside its `.ova` or in it."""

import hashlib
from pathlib import Path
from typing import Final

from shared.host.errors import CopyError
from shared.nas.nas_errors import reported
from shared.nas.reading import read_file
from shared.ova.disk_reader import CopyReader
from shared.ova.manifest import parse_manifest
from shared.virtualbox.importing import ImportPlan

#: No firmware with variables and a TPM has more; VirtualBox writes less than one MiB.
_NVRAM_BYTES: Final = 64 * 2**20


def firmware_variables(what: ImportPlan, copy: CopyReader) -> bytes | None:
    """Them, with the keys of a TPM; None if the copy has none.

    VirtualBox writes those of a VM with EFI into the `.ova`: they are compared with its manifest.
    Raises `CopyError` if they are not what they were, or too long, `NasError`.
    """
    if what.nvram is not None:
        return read_variables(what.nvram)
    name = next((each for each in copy.names if each.endswith(".nvram")), None)
    return None if name is None else _compared(copy, name)


def read_variables(file: Path) -> bytes:
    """Those in a file beside the `.ova`. Raises `CopyError` if they are too long, `NasError`."""
    with reported(f"read {file.name}"):
        data = read_file(file, _NVRAM_BYTES, follow=False)
    if len(data) > _NVRAM_BYTES:
        raise CopyError(f"{file.name} is larger than {_NVRAM_BYTES >> 20} MiB")
    return data


def _compared(copy: CopyReader, name: str) -> bytes:
    data = copy.member(name)
    manifest = next((each for each in copy.names if each.endswith(".mf")), None)
    digests = parse_manifest(copy.member(manifest)) if manifest is not None else {}
    wanted = digests.get(name)  # VirtualBox itself leaves out what has certain characters
    if wanted and hashlib.new(wanted.algorithm, data).hexdigest() != wanted.value:
        raise CopyError(f"the digest of {name!r} is wrong")
    return data
