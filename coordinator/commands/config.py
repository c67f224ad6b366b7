"""`vmbackup-admin config`."""

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from shared.command_line import HELP, Invocation, documented, json_option, pass_invocation
from shared.host.errors import ConfigurationError, NasError, UsageError
from shared.output import print_json, say, warn

if TYPE_CHECKING:
    from shared.host.configuration import Configuration, Nas, VmPolicy


@documented(
    example="""
        vmbackup-admin config generate
        vmbackup-admin config generate --output /etc/vmbackup/config.toml
    """
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file, which must not exist.",
)
def generate(output: Path | None) -> None:
    """Print a configuration file with every setting explained."""
    from shared.host.configuration.sample import sample

    if output is None:
        for line in sample().splitlines():
            say(line)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(sample())
    except FileExistsError:
        raise UsageError(f"{output} exists already and stays as it is") from None
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from None
    say(f"wrote {output}: set nas.mountpoint in it, then run `vmbackup-admin config validate`")


@documented(example="vmbackup-admin config schema > config.schema.json")
def schema() -> None:
    """Print the JSON schema of a configuration file, by which editors complete and check it.

    deploy/install puts it where the generated file says, in a line that editors read.
    """
    from shared.host.configuration.schema import schema as made

    print_json(made())


@documented(example="vmbackup-admin --config new.toml config validate")
@json_option
@click.argument("file", required=False, metavar="")
@pass_invocation
def validate(invocation: Invocation, *, file: str | None, as_json: bool) -> None:
    """Check the configuration: exit code 0 if it is right, 2 with all its errors if not.

    Where the archive directory leads is looked at, too, if the NAS answers; and whether the URLs of
    targets and pings can be used, and read by nobody else. Nothing is written or sent.
    """
    from shared.host.configuration import find

    if file is not None:
        raise UsageError(
            "which file is read is an option before the command, for all commands alike",
            hint=f"vmbackup-admin --config {shlex.quote(file)} config validate",
        )
    configuration = invocation.configuration()
    warnings = [
        *_not_there(configuration),
        *_hooks_not_there(configuration),
        *_try_addresses(configuration),
        *_read_by_nobody(configuration),
    ]
    if unseen := _compare_places(configuration.nas):
        warnings.append(unseen)
    path = find(invocation.config)
    place = str(path) if path else None
    if as_json:
        print_json({"schema": 1, "valid": True, "file": place, "warnings": warnings})
    else:
        for warning in warnings:
            warn(warning)
        say(
            f"the configuration is right: {place or 'no file, environment only'}; NAS at "
            f"{configuration.nas.mountpoint}"
        )


def _not_there(configuration: "Configuration") -> Iterator[str]:
    """Paths of this host that lead nowhere now: they may be right later, or on another host."""
    import shutil

    home, program = configuration.virtualbox.home, configuration.virtualbox.vboxmanage
    mountpoint, state = configuration.nas.mountpoint, configuration.host.state_directory
    if not os.path.lexists(mountpoint):  # what hangs is asked below
        yield f"nas.mountpoint: there is no directory {mountpoint}"
    if os.path.lexists(state) and not os.path.isdir(state):
        yield f"host.state_directory: {state} is no directory"
    for setting, file in (
        ("page", configuration.page.file),
        ("metrics", configuration.metrics.file),
    ):
        seen = file.is_absolute() and not file.is_relative_to(mountpoint)
        if seen and not os.path.isdir(file.parent):
            yield f"{setting}.file: there is no directory {file.parent}"
    if home != Path() and not os.path.isdir(home):
        yield f"virtualbox.home: there is no directory {home}"
    if shutil.which(program) is None:
        yield f"virtualbox.vboxmanage: there is no program {program}"


def _hooks_not_there(configuration: "Configuration") -> Iterator[str]:
    """Commands around backups of which there is no program on this host."""
    import shutil

    for name, table in _tables(configuration):
        for hook in ("before", "after", "failed"):
            words = getattr(table, hook) if hook in table.model_fields_set else []
            if words and shutil.which(words[0]) is None:
                more = "; arguments are texts of their own" if " " in words[0] else ""
                yield f"{name}.{hook}: there is no program {words[0]}{more}"


def _tables(configuration: "Configuration") -> "Iterator[tuple[str, VmPolicy]]":
    """What is done with VMs, each table by its name in the file."""
    yield "backup", configuration.backup
    for name, table in configuration.policy.items():
        yield f"policy.{_toml(name)}", table


def _read_by_nobody(configuration: "Configuration") -> Iterator[str]:
    """Where a setting has less effect than it seems to have, because of another one."""
    for name, table in _tables(configuration):
        own = table.model_dump(exclude_unset=True)
        changed = own.get("changed", configuration.backup.changed)
        if changed == "auto" and own.get("verify_days", configuration.backup.verify_days) == 0:
            yield (
                f'[{name}] has changed = "auto" and verify_days = 0: nothing would read in full '
                f"what copies take over, so every copy is whole, and all of it is read"
            )
        engine = own.get("engine", configuration.backup.engine)
        if configuration.backup.bytes_per_second and engine == "vboxmanage":
            yield (
                f'[{name}] has engine = "vboxmanage": backup.bytes_per_second does not bound those '
                f"exports, which VBoxManage itself sends"
            )


def _compare_places(nas: "Nas") -> str:
    """Why it was not seen where the archive directory leads; empty if it is a good place.

    Raises `ConfigurationError` if it is not, or the mount point is no directory.
    """
    from shared.copies.archive_location import require_apart, require_no_vm
    from shared.nas.mount import is_there

    try:
        if is_there(nas.mountpoint, nas.probe_seconds):
            require_apart(nas)
            require_no_vm(nas)
    except NasError as error:
        if isinstance(error.__cause__, NotADirectoryError):
            raise ConfigurationError(
                f"the configuration is wrong:\n  nas.mountpoint: {nas.mountpoint} is no directory"
            ) from None
        return f"where nas.archive_directory leads was not looked at: {error.message}"
    return ""


def _try_addresses(configuration: "Configuration") -> list[str]:
    """What may be wrong with the addresses that are told, for this user on this host.

    Raises `ConfigurationError` if one can never be used.
    """
    from shared.notices import usable

    found = list(usable.faults(configuration))
    refused = [fault.what for fault in found if fault.kind == "refused"]
    if refused:
        raise ConfigurationError("the configuration is wrong:\n  " + "\n  ".join(refused))
    return [fault.what + (f" ({fault.hint})" if fault.hint else "") for fault in found]


@documented(example="vmbackup-admin config show --json")
@json_option
@pass_invocation
def show(invocation: Invocation, *, as_json: bool) -> None:
    """Show every setting as it is in effect: file, environment and defaults put together."""
    from shared.host.configuration import find

    configuration = invocation.configuration()
    values = configuration.model_dump(mode="json")
    if as_json:
        path = find(invocation.config)
        print_json({"schema": 1, "file": str(path) if path else None, "configuration": values})
        return
    tables = {
        f"{kind}.{_toml(name)}": {
            key: value for key, value in settings.items() if (key, value) != ("group", "")
        }
        for kind in ("policy", "notify")
        for name, settings in values.pop(kind).items()
    }
    for section, settings in {**values, **tables}.items():
        say(f"[{section}]")
        for key, value in settings.items():
            # no path is "." to Python, which is refused where it is written
            say(f"{key} = {_toml('' if value == '.' else value)}")
        say()


command: Final = click.Group(
    "config",
    commands=[generate, validate, show, schema],
    help="Generate, validate or show the configuration: one TOML file. It is --config FILE, "
    "else $VMBACKUP_CONFIG, else "
    "/etc/vmbackup/config.toml, else ~/.config/vmbackup/config.toml. NAS_MOUNTPOINT, "
    "ARCHIVE_DIR, VMBACKUP_NODE and VMBACKUP_VBOXMANAGE "
    "in the environment beat the file.",
    context_settings=HELP,
)


def _toml(value: object) -> str:
    """A TOML value; JSON's strings, numbers and booleans are TOML's, too."""
    return json.dumps(value, ensure_ascii=False, default=str)
