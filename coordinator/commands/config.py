"""`vmbackup-admin config`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from shared.command_line import HELP, Invocation, documented, json_option, pass_invocation
from shared.host.errors import NasError, UsageError
from shared.output import print_json, say, warn

if TYPE_CHECKING:
    from shared.host.configuration import Nas


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
    from shared.host.configuration.text import sample

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


@documented(example="vmbackup-admin --config new.toml config validate")
@json_option
@pass_invocation
def validate(invocation: Invocation, *, as_json: bool) -> None:
    """Check the configuration: exit code 0 if it is right, 2 with all its errors if not.

    Where the archive directory leads is looked at, too, if the NAS answers. Nothing is written
    there.
    """
    from shared.host.configuration import find

    configuration = invocation.configuration()
    unseen = _compare_places(configuration.nas)
    path = find(invocation.config)
    place = str(path) if path else None
    if as_json:
        print_json(
            {"schema": 1, "valid": True, "file": place, "warnings": [unseen] if unseen else []}
        )
    else:
        if unseen:
            warn(unseen)
        say(
            f"the configuration is right: {place or 'no file, environment only'}; NAS at "
            f"{configuration.nas.mountpoint}"
        )


def _compare_places(nas: "Nas") -> str:
    """Why it was not seen where the archive directory leads; empty if it is a good place.

    Raises `ConfigurationError` if it is not.
    """
    from shared.copies.archive_location import require_apart, require_no_vm
    from shared.nas.mount import is_there

    try:
        if is_there(nas.mountpoint, nas.probe_seconds):
            require_apart(nas)
            require_no_vm(nas)
    except NasError as error:
        return f"where nas.archive_directory leads was not looked at: {error.message}"
    return ""


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
        f"{kind}.{_toml(name)}": settings
        for kind in ("policy", "notify")
        for name, settings in values.pop(kind).items()
    }
    for section, settings in {**values, **tables}.items():
        say(f"[{section}]")
        for key, value in settings.items():
            say(f"{key} = {_toml(value)}")
        say()


command: Final = click.Group(
    "config",
    commands=[generate, validate, show],
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
