"""What VBoxManage says of which VMs there are, and under which names."""

import os
import re
import subprocess

import pytest

from tests.support.hosts import VirtualBoxHost, VirtualMachine

#: Names, and what VirtualBox makes of them as names of files.
ODD_NAMES = {
    'quo"te': "quo_te",
    "back\\slash": "back_slash",
    "-dash": "_dash",
    "new\nline": "new_line",
    "ümläut € 名": "ümläut € 名",
    "{brace}": "_brace_",
    "  spaces  ": "__spaces__",
    "a/b:c*?": "a_b_c__",
    ".dots..": "_dots._",
    "'; rm -rf $HOME": "__ rm -rf _HOME",
    "(round) [square] a+b=c@d#e%f&g!h~i,j": "(round) _square_ a_b_c_d_e_f_g_h_i_j",
    "\U0001f600 smile": "____ smile",
}


def create(host: VirtualBoxHost, name: str) -> str:
    """Registers a VM without a disk; its UUID."""
    created = host.run(
        "createvm", "--name", name, "--ostype", "Other", "--register", f"--basefolder={host.vms}"
    ).stdout
    assert created.startswith(f"Virtual machine '{name}' is created and registered.\nUUID: ")
    return re.findall(r"^UUID: ([0-9a-f-]{36})$", created, re.MULTILINE)[0]


def test_version(host: VirtualBoxHost) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\w*r\d+\n", host.run("--version").stdout)


@pytest.mark.parametrize("odd", ODD_NAMES)
def test_names_are_listed_as_they_are_and_escaped_in_showvminfo(
    host: VirtualBoxHost, odd: str
) -> None:
    uuid = create(host, odd)
    assert f'"{odd}" {{{uuid}}}\n' in host.run("list", "vms").stdout
    info = host.run("showvminfo", uuid, "--machinereadable").stdout
    escaped = odd.replace("\\", "\\\\").replace('"', '\\"')
    assert info.startswith(f'name="{escaped}"\n')
    assert f'\nUUID="{uuid}"\n' in info
    settings = re.findall(r'^CfgFile="(.*)"$', info, re.MULTILINE)[0]
    safe = ODD_NAMES[odd]
    assert settings == f"{host.vms}/{safe}/{safe}.vbox"
    host.run("unregistervm", uuid, "--delete")
    assert uuid not in host.run("list", "vms").stdout


def test_a_name_that_looks_like_an_option_needs_the_uuid(host: VirtualBoxHost) -> None:
    uuid = create(host, "-option")
    refused = host.run("showvminfo", "-option", "--machinereadable", check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "VBoxManage: error: Unknown option: -option\n" in refused.stderr
    host.run("unregistervm", uuid, "--delete")


def test_two_vms_of_one_name_in_one_folder_are_refused(
    host: VirtualBoxHost, vm: VirtualMachine
) -> None:
    again = host.run(
        "createvm",
        f"--name={vm.name}",
        "--ostype=Other",
        "--register",
        f"--basefolder={host.vms}",
        check=False,
    )
    assert (again.returncode, again.stdout) == (1, "")
    assert (
        f"VBoxManage: error: Machine settings file '{vm.settings}' already exists\n" in again.stderr
    )


def test_runningvms_has_running_and_paused_vms(host: VirtualBoxHost, vm: VirtualMachine) -> None:
    line = f'"{vm.name}" {{{vm.uuid}}}\n'
    assert line not in host.run("list", "runningvms").stdout
    vm.start()
    assert line in host.run("list", "runningvms").stdout
    host.run("controlvm", vm.uuid, "pause")
    assert line in host.run("list", "runningvms").stdout
    vm.stop()
    assert line not in host.run("list", "runningvms").stdout


def test_a_locale_without_utf8_hides_all_vms_behind_the_first_odd_name(
    host: VirtualBoxHost,
) -> None:
    odd, later = create(host, "wäre"), create(host, "later")
    environment = {**os.environ, "LC_ALL": "C", "LANG": "C"}
    command = [host.vboxmanage, "list", "vms"]
    listed = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert (listed.returncode, listed.stderr) == (0, "")
    assert odd not in listed.stdout
    assert later not in listed.stdout
    assert later in host.run("list", "vms").stdout
    for uuid in (odd, later):
        host.run("unregistervm", uuid, "--delete")


def test_a_vm_whose_settings_are_gone_is_inaccessible(
    host: VirtualBoxHost, vm: VirtualMachine
) -> None:
    settings = vm.settings
    hidden = settings.rename(settings.with_suffix(".hidden"))
    host.lose_power()  # VBoxSVC reads settings when it starts
    assert f'"<inaccessible>" {{{vm.uuid}}}\n' in host.run("list", "vms").stdout
    for command in (
        ["showvminfo", vm.uuid, "--machinereadable"],
        ["export", vm.uuid, f"--output={host.folder}/never.ova"],
    ):
        refused = host.run(*command, check=False)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "VBoxManage: error: The object functionality is limited\n" in refused.stderr
        assert "E_ACCESSDENIED" in refused.stderr
    hidden.rename(settings)
    host.lose_power()
    assert f'"{vm.name}" {{{vm.uuid}}}\n' in host.run("list", "vms").stdout


def test_a_renamed_vm_keeps_its_uuid_and_moves_its_settings(
    host: VirtualBoxHost, vm: VirtualMachine
) -> None:
    host.run("snapshot", vm.uuid, "take", "tag")
    before = vm.settings
    host.run("modifyvm", vm.uuid, f"--name={vm.name} new")
    assert f'"{vm.name} new" {{{vm.uuid}}}\n' in host.run("list", "vms").stdout
    assert vm.settings == host.vms / f"{vm.name} new" / f"{vm.name} new.vbox"
    assert not before.parent.exists()
    assert vm.info("SATA-0-0").startswith(f"{vm.settings.parent}/Snapshots/")
    assert f'src="{vm.settings}"' in (host.home / "VirtualBox.xml").read_text(encoding="utf-8")


def test_a_vm_that_is_unregistered_and_registered_is_the_same(
    host: VirtualBoxHost, vm: VirtualMachine
) -> None:
    host.run("modifyvm", vm.uuid, '--description=a "description" & more')
    host.run("snapshot", vm.uuid, "take", "tag")
    keys = [
        "name",
        "UUID",
        "VMState",
        "description",
        "SATA-0-0",
        "SATA-ImageUUID-0-0",
        "CurrentSnapshotUUID",
        "CurrentSnapshotName",
    ]
    before, settings = [vm.info(key) for key in keys], vm.settings
    host.run("unregistervm", vm.uuid)
    assert vm.uuid not in host.run("list", "vms").stdout
    assert vm.uuid not in (host.home / "VirtualBox.xml").read_text(encoding="utf-8")
    host.run("registervm", settings)
    assert [vm.info(key) for key in keys] == before
    again = host.run("registervm", settings, check=False)
    assert again.returncode == 1


@pytest.mark.parametrize(
    "command",
    [
        ["showvminfo", "?"],
        ["export", "?", "--output=x.ova"],
        ["startvm", "?"],
        ["controlvm", "?", "poweroff"],
        ["unregistervm", "?"],
    ],
    ids=lambda command: command[0],
)
def test_an_unknown_vm(host: VirtualBoxHost, command: list[str]) -> None:
    unknown = "01234567-89ab-4cde-8f01-23456789abcd"
    refused = host.run(*(unknown if word == "?" else word for word in command), check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(
        f"VBoxManage: error: Could not find a registered machine with UUID {{{unknown}}}\n"
    )
    assert "VBOX_E_OBJECT_NOT_FOUND (0x80bb0001)" in refused.stderr
    by_name = host.run(*("no such" if word == "?" else word for word in command), check=False)
    assert by_name.stderr.startswith(
        "VBoxManage: error: Could not find a registered machine named 'no such'\n"
    )


def test_a_command_that_does_not_exist(host: VirtualBoxHost) -> None:
    refused = host.run("frobnicate", check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "VBoxManage: error: Invalid command 'frobnicate'\n" in refused.stderr
