"""Who is told: the settings, and secrets that stand nowhere but where they belong."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.host.configuration import Configuration, load
from shared.host.errors import ConfigurationError
from shared.host.secret_values import exposed_file, revealed

SECRET = "json://user:hunter2@host.example/path"


def loaded(tmp_path: Path, text: str) -> Configuration:
    path = tmp_path / "config.toml"
    path.write_text(f'[nas]\nmountpoint = "/mnt/nas"\n{text}', encoding="utf-8")
    return load(str(path), {})


def test_without_tables_nobody_is_told(tmp_path: Path) -> None:
    made = loaded(tmp_path, "")
    assert (made.notify, made.ping.url.get_secret_value()) == ({}, "")


def test_a_target_has_defaults(tmp_path: Path) -> None:
    target = loaded(tmp_path, f'[notify.mail]\nurl = "{SECRET}"').notify["mail"]
    assert (target.severities, target.quiet, target.repeat_hours) == (
        ["warning", "unknown", "critical"],
        "",
        24,
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[notify.mail]", "notify.mail.url: is not set"),
        ('[notify.mail]\nurl = "env:A B"', "notify.mail.url: must look like env:NAME"),
        ('[notify.mail]\nurl = "file:"', "notify.mail.url: must look like env:NAME"),
        ('[notify.mail]\nurl = "credential:../x"', "notify.mail.url: must look like env:NAME"),
        ("[notify.mail]\nurl = 7", "notify.mail.url: must be a text in quotes"),
        ('[notify.mail]\nurl = "a"\nquiet = "night"', "notify.mail.quiet: must look like 22:00"),
        (
            '[notify.mail]\nurl = "a"\nrepeat_hours = 25',
            "notify.mail.repeat_hours: must be a number from 1 to 24",
        ),
        (
            '[notify.mail]\nurl = "a"\nseverities = ["bad"]',
            "notify.mail.severities.0: must be one of 'warning', 'unknown' or 'critical'",
        ),
        (
            '[notify.mail]\nurl = "a"\nseverities = []',
            "notify.mail.severities: must not be empty",
        ),
        ('[notify."a/b"]\nurl = "a"', "the name of a target may only have letters"),
        ('[notify.mail]\nurl = "a"\ncolour = 1', "notify.mail.colour: is not a setting"),
        ('[ping]\nurl = "env:"', "ping.url: must look like env:NAME"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, text)
    assert reason in caught.value.message


def test_a_secret_is_shown_nowhere(tmp_path: Path) -> None:
    made = loaded(tmp_path, f'[notify.mail]\nurl = "{SECRET}"\n[ping]\nurl = "env:PING"')
    said = f"{made!r} {made} {made.model_dump(mode='json')} {made.model_dump_json()}"
    assert "hunter2" not in said
    assert "env:PING" in said, "where it stands is none"
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, f'[notify.mail]\nurl = ["{SECRET}"]\nrepeat_hours = "{SECRET}"')
    assert "hunter2" not in f"{caught.value.message} {caught.value.__context__!r}"


def test_a_secret_is_read_from_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "mail").write_text(f"{SECRET}\n", encoding="utf-8")
    environment = {"MAIL": SECRET, "CREDENTIALS_DIRECTORY": str(tmp_path)}
    for value in (SECRET, "env:MAIL", f"file:{tmp_path}/mail", "credential:mail"):
        assert revealed(SecretStr(value), "notify.mail.url", environment) == SECRET


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("env:NONE", "$NONE is not set"),
        ("file:/nonexistent", "cannot read /nonexistent: No such file or directory"),
        ("credential:mail", "there is no $CREDENTIALS_DIRECTORY"),
        ("env:EMPTY", "is not set"),
        ("env:LINES", "one line with a URL"),
        ("file:/", "cannot read /"),
        ("file:~nobody-is-called-so/url", "no home directory"),
    ],
)
def test_a_secret_that_is_not_there_is_a_sentence(value: str, reason: str) -> None:
    environment = {"EMPTY": "", "LINES": f"{SECRET}\n{SECRET}"}
    with pytest.raises(ConfigurationError) as caught:
        revealed(SecretStr(value), "notify.mail.url", environment)
    assert caught.value.message.startswith("notify.mail.url: ")
    assert reason in caught.value.message
    assert "hunter2" not in caught.value.message


def test_a_file_that_cannot_be_found_shows_itself_to_nobody() -> None:
    assert exposed_file(SecretStr("file:~nobody-is-called-so/url")) == ""
