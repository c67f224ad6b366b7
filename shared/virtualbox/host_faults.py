"""Which failures of VirtualBox are the host's: another copy would have met them there as well.

By VirtualBox's names of what went wrong, of releases 6.1 to 7.2. What is not known here may be the
fault of what was imported or started.
"""

from typing import Final

from shared.host.errors import VBoxManageError, VBoxManageTimeoutError
from shared.virtualbox.patience import is_locked
from shared.virtualbox.vboxmanage import TransientVBoxManageError

#: Parts of what VBoxManage says where the machine itself starts no VM.
_OF_MACHINE: Final = (
    # the processor, or another hypervisor that has it
    *("VERR_VMX_", "VERR_SVM_", "VERR_NEM_", "VERR_HM_", "VERR_CPUM_", "VERR_UNSUPPORTED_CPU"),
    # the kernel driver: missing, of another version, or not for this user
    *("VERR_VM_DRIVER_", "VERR_SUP_", "VERR_SUPLIB_", "VERR_SUPDRV_", "rc=-1908", "rc=-1912"),
    *("vboxdrv", "Kernel driver not installed", "Extension Pack"),
    # memory, descriptors, and the like
    *("VERR_NO_MEMORY", "VERR_NO_LOW_MEMORY", "VERR_NO_PAGE_MEMORY", "VERR_GMM_"),
    *("VERR_EM_NO_MEMORY", "VERR_OUT_OF_RESOURCES", "VERR_TOO_MANY_OPEN_FILES"),
)
#: And of what it says, or is said of it, where that may also be a file system's or a moment's.
_SIGNS: Final = (
    *_OF_MACHINE,
    "terminated unexpectedly during startup",
    # its disk, and the NAS as VirtualBox sees it
    *("VERR_DISK_FULL", "VERR_WRITE_PROTECT", "VERR_ACCESS_DENIED", "VERR_PERMISSION_DENIED"),
    *("VERR_FILE_NOT_FOUND", "VERR_PATH_NOT_FOUND", "VERR_STALE_FILE_HANDLE", "VERR_DEV_IO_ERROR"),
    *("VERR_NET_", "VERR_CANCELLED", "VERR_INTERRUPTED", "NS_ERROR_FILE_ACCESS_DENIED"),
    # the program itself
    *("VERR_PDM_DEVICE_NOT_FOUND", "cannot start ", "cannot write "),
    "has registered nothing in",
)


def is_of_host(error: VBoxManageError) -> bool:
    """Whether it is the host, and not what VirtualBox was given."""
    passing = isinstance(error, VBoxManageTimeoutError | TransientVBoxManageError)
    return passing or is_locked(error) or any(sign in error.message for sign in _SIGNS)


def is_of_machine(error: VBoxManageError) -> bool:
    """Whether no VM starts on this host, whatever its disks are."""
    return any(sign in error.message for sign in _OF_MACHINE)
