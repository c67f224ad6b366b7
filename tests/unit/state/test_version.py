"""`vmtool-db-version`: what all hosts agree on, and which versions are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from shared.host.errors import DatabaseDamagedError, DatabaseVersionError
from shared.state.store.version import DatabaseVersion, parse
from tests.unit.state.builders import REPOSITORY

VERSION = DatabaseVersion("0.1.0", REPOSITORY, 300.0, "link")


@given(
    some.floats(1, 3600).map(lambda seconds: float(f"{seconds:g}")),
    some.sampled_from(["link", "directory"]),
)
def test_what_is_written_is_read(lease: float, primitive: str) -> None:
    version = DatabaseVersion("0.1.0", REPOSITORY, lease, primitive)
    assert parse(version.render()) == version


def test_lines_that_are_not_known_are_passed_over() -> None:
    assert (
        parse(b"# a note\r\nCOLOUR: blue\r\n" + VERSION.render().replace(b"\n", b"\r\n")) == VERSION
    )


@pytest.mark.parametrize("version", ["1.1", "1.7", "2.1", "3.0"])
def test_each_version_with_generations_is_read(version: str) -> None:
    """Whether it may be written is another question, which `require_writable` asks."""
    assert parse(VERSION.render().replace(b"2.0", version.encode())).database_version == version


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("3.0", "update vmbackup"),
        ("1.0", "statedb migrate"),
        ("0.9", "vmbackup-admin init"),
        ("99.1", "update vmbackup"),
    ],
)
def test_other_versions_are_refused_with_the_cure(version: str, says: str) -> None:
    with pytest.raises(DatabaseVersionError) as caught:
        parse(f"TOOL_VERSION: 1\nDB_VERSION: {version}\n".encode())
    assert version in caught.value.message
    assert says in caught.value.hint


@pytest.mark.parametrize("name", ["DB_VERSION", "REPOSITORY", "LEASE_SECONDS", "PUBLISH"])
@pytest.mark.parametrize("value", ["", "-1", "nan", "inf", "x", "1.1.1"])
def test_nonsense_is_damage_that_is_named(name: str, value: str) -> None:
    lines = [
        line if not line.startswith(name) else f"{name}: {value}"
        for line in VERSION.render().decode().splitlines()
    ]
    with pytest.raises(DatabaseDamagedError, match=name):
        parse("\n".join(lines).encode())


@pytest.mark.parametrize("seconds", ["3601", "999999", "nan", "inf", "0", "0.0", "0.99", "1e-9"])
def test_nobody_works_by_a_lease_that_no_command_sets(seconds: str) -> None:
    """The database worker and a rebuild wait for a long one, and no second one starts meanwhile.

    By one near nothing a session writes without a pause, and each is dead to all others.
    """
    text = VERSION.render().decode().replace("LEASE_SECONDS: ", f"LEASE_SECONDS: {seconds}\nX: ")
    with pytest.raises(DatabaseDamagedError, match="LEASE_SECONDS"):
        parse(text.encode())


@given(some.binary(max_size=100))
def test_any_bytes_are_refused_as_damage_or_as_another_version(data: bytes) -> None:
    with pytest.raises((DatabaseDamagedError, DatabaseVersionError)):
        parse(data)
