"""What VirtualBox says when it is the host that imports or starts nothing."""

import pytest

from shared.host.errors import VBoxManageError, VBoxManageTimeoutError
from shared.virtualbox.host_faults import is_of_host
from shared.virtualbox.vboxmanage import UnreachedVBoxManageError

START = "VBoxManage startvm failed: VBoxManage: error: "


@pytest.mark.parametrize(
    "error",
    [
        VBoxManageError(f"{START}VT-x is not available (VERR_VMX_NO_VMX)"),
        VBoxManageError(f"{START}VT-x is being used by another (VERR_VMX_IN_VMX_ROOT_MODE)"),
        VBoxManageError(f"{START}AMD-V is disabled in the BIOS (VERR_SVM_DISABLED)"),
        VBoxManageError(
            f"{START}The virtual machine 'x' has terminated unexpectedly during startup with "
            "exit code 1 (0x1)"
        ),
        VBoxManageError(f"{START}Kernel driver not installed (rc=-1908)"),
        VBoxManageError(f"{START}Out of memory condition. (VERR_NO_MEMORY)"),
        VBoxManageError("import failed: this host's disk is full: VERR_DISK_FULL"),
        VBoxManageError("modifyvm failed: The machine 'x' is already locked by a session"),
        VBoxManageTimeoutError("VBoxManage import did not answer within 60 s"),
        UnreachedVBoxManageError("Failed to create the VirtualBox object"),
    ],
)
def test_of_the_host(error: VBoxManageError) -> None:
    assert is_of_host(error)


@pytest.mark.parametrize(
    "text",
    [
        "import failed: the copy was damaged while it was read: Digest mismatch",
        "import failed: VERR_ZIP_CORRUPTED",
        f"{START}Invalid header (VERR_VD_VDI_INVALID_HEADER)",
        "the settings of the imported VM cannot be used: they are no XML",
    ],
)
def test_of_the_copy(text: str) -> None:
    assert not is_of_host(VBoxManageError(text))
