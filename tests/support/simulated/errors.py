"""How VBoxManage says that something failed: the texts, codes and exit statuses of the real one."""

import sys
from typing import NamedTuple

_CODES = {
    "VBOX_E_OBJECT_NOT_FOUND": "0x80bb0001",
    "VBOX_E_INVALID_VM_STATE": "0x80bb0002",
    "VBOX_E_FILE_ERROR": "0x80bb0004",
    "VBOX_E_IPRT_ERROR": "0x80bb0005",
    "VBOX_E_INVALID_OBJECT_STATE": "0x80bb0007",
    "VBOX_E_NOT_SUPPORTED": "0x80bb0009",
    "NS_ERROR_FAILURE": "0x80004005",
    "NS_ERROR_ABORT": "0x80004004",
    "NS_ERROR_INVALID_ARG": "0x80070057",
    "E_ACCESSDENIED": "0x80070005",
}
BANNER = (
    "Oracle VirtualBox Command Line Management Interface Version 7.2.22_Debian\nCopyright "
    "(C) 2005-2026 Oracle and/or its affiliates\n\n"
)
PROGRESS = "0%...10%...20%...30%...40%...50%...60%...70%...80%...90%...100%\n"


class Reply(NamedTuple):
    """What a command prints."""

    stdout: str = ""
    stderr: str = ""


class VBoxError(Exception):
    """A command failed.

    `lines` of text, then what kind of error it is, then where in the program it was met.

    `said` is what the command had printed on stdout before.
    """

    def __init__(
        self,
        *lines: str,
        code: str = "",
        component: str = "MachineWrap",
        context: str = "",
        status: int = 1,
        said: str = "",
    ) -> None:
        super().__init__(lines)
        self.said = said
        self.lines = [f"VBoxManage: error: {line}" for text in lines for line in text.split("\n")]
        if code:
            interface = "I" + component.removesuffix("Wrap").replace("SessionMachine", "Machine")
            self.lines.append(
                f"VBoxManage: error: Details: code {code} ({_CODES[code]}), component "
                f"{component}, interface {interface}"
            )
        if context:
            self.lines.append(f'VBoxManage: error: Context: "{context}"')
        self.status = status

    def show(self) -> None:
        sys.stdout.write(self.said)
        sys.stderr.write("\n".join(self.lines) + "\n")


class UsageError(VBoxError):
    """The command line is wrong."""

    def __init__(self, text: str) -> None:
        super().__init__(text, status=2)

    def show(self) -> None:
        sys.stderr.write(BANNER)
        super().show()


def failed_task(
    title: str,
    text: str,
    *,
    code: str,
    component: str,
    handler: str,
    percent: int = 0,
    word: str = "",
    said: str = "",
) -> VBoxError:
    """A task with progress that failed after so many percent.

    The first word of the error ends the line of the progress.
    """
    error = VBoxError(
        title,
        text,
        code=code,
        component=component,
        context=f"RTEXITCODE {handler}(HandlerArg*)",
        said=said,
    )
    error.lines.insert(
        0, "".join(f"{ten}%..." for ten in range(0, percent + 1, 10)) + (word or code)
    )
    return error


def unknown_machine(name: str) -> VBoxError:
    is_uuid = len(name) == 36 and [len(part) for part in name.split("-")] == [8, 4, 4, 4, 12]
    text = f"with UUID {{{name}}}" if is_uuid else f"named '{name}'"
    text = f"Could not find a registered machine {text}"
    return VBoxError(
        text, code="VBOX_E_OBJECT_NOT_FOUND", component="VirtualBoxWrap", context="FindMachine(...)"
    )


def not_running(name: str) -> VBoxError:
    return VBoxError(f"Machine '{name}' is not currently running.")


def locked_by_session(name: str, when: str) -> VBoxError:
    text = f"The machine '{name}' is already locked {when}"
    return VBoxError(text, code="VBOX_E_INVALID_OBJECT_STATE", context="LockMachine(...)")
