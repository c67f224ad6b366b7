"""How a VBoxManage that failed, or was killed, is told of."""

import pytest

from shared.host.processes import Completed
from shared.virtualbox.vboxmanage_output import complaint


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (1, "no message (status 1)"),
        (-9, "no message (killed by signal 9, SIGKILL)"),
        (137, "no message (killed by signal 9, SIGKILL)"),
        (-1, "no message (killed by signal 1, SIGHUP)"),
        (255, "no message (killed by signal 127)"),
    ],
)
def test_a_killed_command_says_by_which_signal(status: int, said: str) -> None:
    assert complaint(Completed(("VBoxManage",), status, "", "")) == said
