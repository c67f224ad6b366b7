"""A host whose VBoxManage answers from a table, and whose settings files are texts of the test."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.host.processes import Completed
from shared.virtualbox.inventory import Machine, take_inventory, take_one
from shared.virtualbox.vboxmanage import VBoxManage

A, B, C = (f"{letter * 8}-0000-0000-0000-000000000000" for letter in "abc")
DISK, CHILD, OTHER = (f"{digit * 8}-0000-0000-0000-000000000000" for digit in "123")


class FakeRunner:
    """Answers with (status, stdout, stderr) by the words after the program.

    Several answers are given in turn, the last for ever.
    """

    def __init__(self, answers: Mapping[tuple[str, ...], list[tuple[int, str, str]]]) -> None:
        self.answers = {words: list(given) for words, given in answers.items()}
        self.calls: list[tuple[str, ...]] = []
        self.environments: list[Mapping[str, str]] = []
        self.limits: list[float] = []

    def run(
        self,
        arguments: Sequence[str],
        *,
        timeout_seconds: float,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        self.calls.append(tuple(arguments[1:]))
        self.environments.append(environment or {})
        self.limits.append(timeout_seconds)
        given = self.answers[tuple(arguments[1:])]
        status, stdout, stderr = given.pop(0) if len(given) > 1 else given[0]
        return Completed(tuple(arguments), status, stdout, stderr, timed_out=status == TIMED_OUT)


TIMED_OUT = -15


class Host:
    """Settings files in a directory, and what VBoxManage says about them."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.folder = folder
        self.listed = self.running = ""
        self.registered: dict[str, str] = {}
        self.images = ""
        self.info: dict[tuple[str, ...], list[tuple[int, str, str]]] = {}

    def add(
        self,
        uuid: str,
        name: str,
        *,
        attached: str = "",
        images: str = "",
        attributes: str = "",
        listed: str | None = None,
    ) -> Path:
        path = self.folder / f"{uuid}.vbox"
        path.write_text(
            machine(uuid, name, attached=attached, images=images, attributes=attributes),
            encoding="utf-8",
        )
        self.registered[uuid] = str(path)
        self.listed += f'"{name if listed is None else listed}" {{{uuid}}}\n'
        return path

    def take(self) -> Mapping[str, Machine]:
        """All VMs."""
        self.write_registry()
        answers = {("list", "vms"): self.listed, ("list", "runningvms"): self.running}
        runner = FakeRunner(
            {**{words: [(0, said, "")] for words, said in answers.items()}, **self.info}
        )
        return take_inventory(VBoxManage("VBoxManage", runner, 1), self.home, lambda _seconds: None)

    def take_one(self, uuid: str, state: str = "poweroff", session: str = "") -> Machine | None:
        """One of them; nobody may ask for a list."""
        self.write_registry()
        words = ("showvminfo", uuid, "--machinereadable")
        said = f'name="web01"\nUUID="{uuid}"\nVMState="{state}"\n'
        said += f'SessionName="{session}"\n' if session else ""
        runner = FakeRunner({words: [(0, said, "")], **self.info})
        return take_one(VBoxManage("VBoxManage", runner, 1), self.home, lambda _seconds: None, uuid)

    def write_registry(self) -> None:
        entries = "".join(
            f'<MachineEntry uuid="{{{uuid}}}" src="{path}"/>'
            for uuid, path in self.registered.items()
        )
        (self.home / "VirtualBox.xml").write_text(
            f"<VirtualBox><Global><MachineRegistry>{entries}</MachineRegistry>{registry(self.images)}</Global></VirtualBox>",
            encoding="utf-8",
        )


def quoted(text: str) -> str:
    return (
        text.replace("&", "&amp;")
        .replace('"', "&quot;")
        .replace("<", "&lt;")
        .replace("\n", "&#10;")
    )


def registry(images: str) -> str:
    return f"<MediaRegistry><HardDisks>{images}</HardDisks></MediaRegistry>"


def image(uuid: str, location: str, *children: str, kind: str = "VDI") -> str:
    return (
        f'<HardDisk uuid="{{{uuid}}}" location="{location}" format="{kind}" '
        f'type="Normal">{"".join(children)}</HardDisk>'
    )


def machine(
    uuid: str,
    name: str,
    *,
    attached: str = "",
    images: str = "",
    attributes: str = "",
    version: str = "7.2.22",
) -> str:
    device = (
        (
            f'<AttachedDevice type="HardDisk" port="0" device="0"><Image '
            f'uuid="{{{attached}}}"/></AttachedDevice>'
        )
        if attached
        else ""
    )
    return (
        f'<?xml version="1.0"?>\n<!-- Written by VirtualBox {version} -->\n<VirtualBox '
        f'xmlns="http://www.virtualbox.org/" version="1.20">\n'
        f'  <Machine uuid="{{{uuid}}}" name="{quoted(name)}" OSType="Other" '
        f'lastStateChange="2026-11-22T20:54:47Z"{attributes}>\n'
        f"    {registry(images)}<Hardware><Memory "
        f'RAMSize="16"/><StorageControllers><StorageController name="SATA">{device}'
        f"</StorageController></StorageControllers></Hardware>\n  </Machine>\n</VirtualBox>\n"
    )
