"""What VBoxManage says of a trial import: a refusal, or no verdict at all."""

from pathlib import Path
from typing import cast

import pytest

from shared.host.errors import VBoxManageError, VBoxManageTimeoutError
from shared.virtualbox.import_trial import CopyUnseenError, refusal
from shared.virtualbox.vboxmanage import UnreachedVBoxManageError, VBoxManage


class Saying:
    """A VBoxManage that fails with this error, if there is one."""

    def __init__(self, error: VBoxManageError | None) -> None:
        self.error = error

    def read(self, *words: str) -> str:
        assert words == ("import", "/nas/x.ova", "--dry-run")
        if self.error:
            raise self.error
        return ""


def asked(error: VBoxManageError | None) -> str:
    return refusal(cast("VBoxManage", Saying(error)), Path("/nas/x.ova"))


def test_it_would_be_imported() -> None:
    assert asked(None) == ""


@pytest.mark.parametrize(
    "text", ["Element 'Annotation' exceeds limit", "Cannot find storage controller", "never seen"]
)
def test_whatever_virtualbox_says_of_the_copy_is_a_refusal_in_its_words(text: str) -> None:
    assert asked(VBoxManageError(f"VBoxManage import /nas/x.ova failed: {text}")) == text
    assert len(asked(VBoxManageError(f"VBoxManage import x failed: {text * 999}"))) <= 1000


@pytest.mark.parametrize(
    "error",
    [
        VBoxManageTimeoutError("VBoxManage import did not answer within 120 s"),
        UnreachedVBoxManageError("Failed to create the VirtualBox object!"),
        VBoxManageError("cannot start VBoxManage: No such file"),
        VBoxManageError("VBoxManage import x failed: no message (killed by signal 9, SIGKILL)"),
        VBoxManageError("VBoxManage import x failed: (VERR_DEV_IO_ERROR)"),
    ],
)
def test_no_answer_is_no_verdict(error: VBoxManageError) -> None:
    with pytest.raises(type(error)):
        asked(error)


def test_a_copy_that_virtualbox_does_not_see_is_told_from_one_that_it_refuses() -> None:
    with pytest.raises(CopyUnseenError) as raised:
        asked(VBoxManageError("VBoxManage import x failed: opening (VERR_FILE_NOT_FOUND)"))
    assert "does VBoxSVC see the NAS?" in raised.value.hint
