"""The sample file and the reference of all settings, made from the fields of the model."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from shared.host.configuration.loading import ENVIRONMENT
from shared.host.configuration.model import Configuration
from shared.host.configuration.policy import PolicyTable
from shared.host.configuration.schema import URL
from shared.host.configuration.telling import NotifyTarget
from shared.host.configuration.values import is_size
from shared.host.configuration_places import DEFAULT_PATHS

#: What stands for the one setting that has no default.
EXAMPLE_MOUNTPOINT: Final = "/mnt/nas"
_POLICY_SAMPLE: Final = (
    (
        "# What may differ from VM to VM stands in tables of their own, one for each pattern of "
        "names; the first that matches counts."
    ),
    "# What such a table does not say is taken from [backup].",
    '#[policy."db-*"]',
    "#keep_last = 5",
    "",
    "# The VMs of a VirtualBox group, whatever they are called.",
    '#[policy."office"]',
    '#group = "/office"',
    '#backup = "never"',
)
_TARGET_SAMPLE: Final = (
    "# Who is told when something is wrong: any number of such tables, on all hosts the same.",
    '#[notify."mail"]',
    '#url = "file:/etc/vmbackup/mail-url"',
)
_SIZES: Final = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def sample() -> str:
    """A TOML file with every setting, its default and its description.

    All but the mount point of the NAS are commented out.
    """
    lines = [
        f"#:schema {URL}",
        "# vmbackup: one such file a host. A line that is commented out shows the default.",
        (
            f"# `vmbackup-admin config validate` checks the file; {', '.join(ENVIRONMENT)} in the "
            f"environment beat it."
        ),
    ]
    for name, section in _sections():
        lines += ["", *_comment(str(section.__doc__)), f"[{name}]"]
        for key, field in section.model_fields.items():
            mark = "" if is_required(name, key) else "#"
            lines += [
                *_comment(str(field.description)),
                f"{mark}{key} = {default_text(name, key, field)}",
            ]
    lines += ["", *_POLICY_SAMPLE, "", *_TARGET_SAMPLE]
    lines += [
        line
        for key, field in NotifyTarget.model_fields.items()
        if key != "url"
        for line in (
            *_comment(str(field.description)),
            f"#{key} = {default_text('notify', key, field)}",
        )
    ]
    return "\n".join(lines) + "\n"


def reference() -> str:
    """The settings as Markdown tables."""
    variables = {place: variable for variable, place in ENVIRONMENT.items()}
    lines: list[str] = []
    sections: list[tuple[str, type[BaseModel]]] = [*_sections(), ("notify", NotifyTarget)]
    for name, section in sections:
        lines += [
            '## `[notify."TARGET"]`' if section is NotifyTarget else f"## `[{name}]`",
            "",
            str(section.__doc__),
            "",
            "| setting | default | what it does |",
            "|---|---|---|",
        ]
        for key, field in section.model_fields.items():
            default = "none" if is_required(name, key) else f"`{default_text(name, key, field)}`"
            variable = variables.get((name, key))
            override = f" `${variable}` beats it." if variable else ""
            lines.append(f"| `{key}` | {default} | {field.description}{override} |")
        lines.append("")
    return "\n".join([*lines, *_policy_reference()])


def places_of_file() -> str:
    """Where a configuration is looked for, in words."""
    return " → ".join(
        ["`--config FILE`", "`$VMBACKUP_CONFIG`", *(f"`{path}`" for path in DEFAULT_PATHS)]
    )


def is_required(section: str, key: str) -> bool:
    """Whether a setting has no default."""
    return (section, key) in (("nas", "mountpoint"), ("notify", "url"))


def default_text(section: str, key: str, field: FieldInfo) -> str:
    """The default as TOML, as a person would write it: sizes with a unit."""
    if is_required(section, key):
        return json.dumps(EXAMPLE_MOUNTPOINT)
    value = field.default
    if isinstance(value, SecretStr):
        return json.dumps(value.get_secret_value())
    if isinstance(value, Path):
        return json.dumps("" if value == Path() else str(value))
    if is_size(field):
        return json.dumps(_size(value))
    return json.dumps(value, ensure_ascii=False)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 120, initial_indent="# ", subsequent_indent="# ")


def _size(count: int) -> str:
    factor, unit = next(
        ((factor, unit) for factor, unit in _SIZES if count and count % factor == 0), (1, "B")
    )
    return f"{count // factor} {unit}"


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """The sections that are there once, with their classes."""
    for name, field in Configuration.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield name, field.annotation


def _policy_reference() -> list[str]:
    names = ", ".join(f"`{name}`" for name in PolicyTable.model_fields)
    return [
        '## `[policy."PATTERN"]`',
        "",
        (
            "What may differ from VM to VM. The first pattern (`*`, `?`, `[abc]`; case counts) "
            "that "
            "matches a VM's name counts; what its table"
        ),
        f"does not say is taken from `[backup]`. Settings: {names}.",
        "",
        f"`group`: {PolicyTable.model_fields['group'].description}",
        "",
    ]
