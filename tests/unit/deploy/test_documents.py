"""What is made from the code, or speaks of it, agrees with it."""

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from deploy.documents import CURES, DOCUMENTS, ROOT
from shared.host import configuration
from shared.host.configuration import sample as configuration_text
from shared.host.errors import ExitCode
from tests.support import command_lines

TEXTS = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").glob("*.md"),
        ROOT / "deploy/cron/vmbackup",
    ]
)

#: Sections of which there is one for each name.
TABLES: Final = {"policy", "notify"}


@pytest.mark.broad
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_file_that_is_made_from_the_code_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == DOCUMENTS[name](), (
        "run `python -m deploy.documents`"
    )


@pytest.mark.parametrize(
    "everything", [False, True], ids=["as it is", "with every comment taken away"]
)
def test_the_sample_is_valid_and_has_the_defaults(tmp_path: Path, everything: bool) -> None:
    text = configuration_text.sample()
    if everything:
        text = re.sub(r"^#(\w+ = |\[policy|\[notify)", r"\1", text, flags=re.MULTILINE)
        sample = tomllib.loads(text)
        assert {name: set(values) for name, values in sample.items() if name not in TABLES} == {
            name: set(values) for name, values in _defaults().items()
        }, "every setting is in it"
        assert set(sample["notify"]["mail"]) == set(configuration.NotifyTarget.model_fields)
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    loaded = configuration.load(str(tmp_path / "config.toml"), {})
    expected = configuration.load(
        None,
        {
            "NAS_MOUNTPOINT": configuration_text.EXAMPLE_MOUNTPOINT,
            "VMBACKUP_CONFIG": _empty(tmp_path),
        },
    )
    assert loaded.model_dump(exclude=TABLES) == expected.model_dump(exclude=TABLES)


def _defaults() -> dict[str, dict[str, object]]:
    loaded = configuration.load(
        None, {"NAS_MOUNTPOINT": "/mnt/nas", "VMBACKUP_CONFIG": "/dev/null"}
    )
    return loaded.model_dump(exclude=TABLES)


def _empty(directory: Path) -> str:
    (directory / "empty.toml").touch()
    return str(directory / "empty.toml")


def test_every_setting_is_explained() -> None:
    for line in configuration_text.reference().splitlines():
        if line.startswith("| `"):
            assert len(line.split("|")[3].strip()) > 15, line


def test_every_exit_code_has_a_meaning_and_a_cure() -> None:
    page = (ROOT / "docs/exit-codes.md").read_text(encoding="utf-8")
    assert set(CURES) == set(ExitCode)
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == sorted(
        ExitCode
    )


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_the_commands_that_a_text_names_exist(path: Path) -> None:
    problems = [
        problem
        for line in command_lines.find(path.read_text(encoding="utf-8"))
        if (problem := command_lines.problem(line))
    ]
    assert problems == []


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    text = (
        "run `vmbackup-admin status --jsno` and `vmbackup-lock frobnicate`, or "
        "`vmbackup-worker -v backup --vm web01`, then go on"
    )
    lines = list(command_lines.find(text))
    assert lines == [
        "vmbackup-admin status --jsno",
        "vmbackup-lock frobnicate",
        "vmbackup-worker -v backup --vm web01",
    ]
    assert [bool(command_lines.problem(line)) for line in lines] == [True, True, False]
    assert command_lines.problem("vmbackup-admin --config new.toml config validate") == ""


@pytest.mark.parametrize(
    "path", [path for path in TEXTS if path.suffix == ".md"], ids=lambda path: path.name
)
def test_the_files_that_a_text_links_to_exist(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def _anchors(page: Path) -> set[str]:
    """How links name the headings of a page: its words in lower case, joined by hyphens."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_headings_that_links_lead_to_exist() -> None:
    pages = [path for path in TEXTS if path.suffix == ".md"]
    links = [
        (page, (page.parent / link).resolve() if link else page, anchor)
        for page in pages
        for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert len(links) > 50
    assert [(page.name, anchor) for page, to, anchor in links if anchor not in _anchors(to)] == []


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md"])
def test_the_files_that_a_newcomer_is_sent_to_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(
        re.findall(r"`((?:coordinator|deploy|docs|shared|tests|worker)/[a-z_0-9/.]*)`", text)
    )
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    assert len(named) >= 5


def _room(module: Path) -> str:
    """The room of a module, as the map names it; of tests and of deploy only the first floor."""
    parts = module.relative_to(ROOT).parent.parts
    return "/".join(parts[:2] if parts[0] in ("deploy", "tests") else parts) + "/"


def test_the_map_has_every_room_and_no_other() -> None:
    page = (ROOT / "docs/development.md").read_text(encoding="utf-8")
    lines = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    rooms = [room for line in lines for room in re.findall(r"`([a-z_/]+/)`", line)]
    tops = ("coordinator", "worker", "shared", "deploy", "tests")
    built = {_room(module) for top in tops for module in (ROOT / top).rglob("*.py")}
    assert sorted(set(rooms) - {"deploy/", "tests/"}) == sorted(built - {"deploy/", "tests/"})
    assert len(rooms) == len(set(rooms)), "a room stands there twice"
