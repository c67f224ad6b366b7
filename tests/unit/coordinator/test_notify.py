"""`vmbackup-admin notify`, and what `doctor` says of who is told."""

import json
import sys

import pytest

from coordinator.doctor import notify
from coordinator.doctor.result import Check
from shared.state.host_records import SessionRecord
from shared.state.records import EventRecord, Told
from tests.support.receivers import mailbox, website
from tests.unit.coordinator.conftest import WHEN, Operator


def target(operator: Operator, name: str = "mail", **values: object) -> None:
    operator.settings[f"notify.{name}"] = values
    operator.configure()


def test_nobody_is_told_without_targets(site_with_database: Operator) -> None:
    shown = site_with_database.admin("notify")
    assert shown.exit_code == 0
    assert "nobody is told when something is wrong" in shown.stdout
    refused = site_with_database.admin("notify", "--test")
    assert (refused.exit_code, "docs/monitoring.md" in refused.stderr) == (2, True)


@pytest.mark.slow
def test_a_test_reaches_every_target_without_a_database(operator: Operator) -> None:
    with mailbox() as box, website() as site:
        target(operator, "mail", url=box.url)
        target(operator, "web", url=site.url)
        done = operator.admin("notify", "--test")
        assert (done.exit_code, done.stdout) == (
            0,
            "mail: took the message\nweb: took the message\n",
        )
        assert box.got[0]["Subject"] == "vmbackup: a test from alpha"
        assert operator.json("notify", "--test", "web") == {
            "schema": 1,
            "targets": [{"name": "web", "taken": True, "problem": None}],
        }
        assert (len(box.got), len(site.got)) == (1, 2)


@pytest.mark.slow
def test_a_target_that_takes_nothing_is_said_without_its_secret(operator: Operator) -> None:
    target(operator, url="json://user:hunter2@127.0.0.1:1/hunter3")
    done = operator.admin("notify", "--test", "mail")
    assert done.exit_code == 1
    assert done.stdout.startswith("mail: A Connection error occurred")
    assert "hunter" not in done.output
    target(operator, url="env:VMBACKUP_NO_SUCH")
    done = operator.admin("notify", "--test", "--json")
    assert done.exit_code == 1
    (row,) = json.loads(done.stdout)["targets"]
    assert row["problem"] == "notify.mail.url: $VMBACKUP_NO_SUCH is not set in the environment"


@pytest.mark.parametrize("arguments", [("--test", "chat"), ("chat",), ("mail",)])
def test_an_unknown_target_and_one_for_nothing_are_refused(
    site_with_database: Operator, arguments: tuple[str, ...]
) -> None:
    target(site_with_database, url="json://host")
    refused = site_with_database.admin("notify", *arguments)
    assert refused.exit_code == 2
    assert ("chat" if "chat" in arguments else "--test") in refused.stderr


def test_without_the_extra_it_says_how_to_get_it(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    target(operator, url="json://host")
    monkeypatch.setitem(sys.modules, "apprise", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    refused = operator.admin("notify", "--test")
    assert refused.exit_code == 2
    assert "pip install apprise" in refused.stderr
    (check,) = notify.examine(operator.configuration)
    assert (check.verdict, "pip install" in check.hint) == ("fail", True)


def test_what_is_told_of_is_shown(site_with_database: Operator) -> None:
    operator = site_with_database
    operator.add_vms("web\x1b[31m")
    told = {"mail": Told(told=WHEN), "chat": Told(session="beta.1"), "sms": Told(failures=3)}
    event = EventRecord("critical", WHEN, "beta", targets=told)
    operator.set("web\x1b[31m", events={"damaged": event, "later": EventRecord("odd", "x", "y")})
    live = SessionRecord("beta.1", 1, 1, "live", "beta", "tell")
    operator.commit(lambda contents: contents.with_session(live))
    target(operator, url="json://user:hunter2@host", quiet="22:00-06:00")
    shown = operator.admin("notify")
    assert shown.exit_code == 0, shown.output
    assert "\x1b" not in shown.stdout
    assert "mail: warning, unknown, critical, quiet 22:00-06:00, again after 24 h" in shown.stdout
    assert "(beta tells it now)" in shown.stdout
    assert "(took nothing, 3 times)" in shown.stdout
    document = operator.json("notify")
    assert "hunter2" not in shown.stdout + json.dumps(document)
    first = document["events"][0]
    assert (first["about"], first["kind"], first["targets"]["chat"]["teller"]) == (
        "vm",
        "damaged",
        "beta",
    )
    assert document["targets"][0]["url"] == "(not shown)"


def test_without_a_database_or_a_nas_that_is_said(operator: Operator) -> None:
    assert operator.admin("notify").exit_code == 10
    operator.nas.rmdir()
    assert operator.admin("notify").exit_code == 13


def test_the_settings_are_shown_without_the_secrets(operator: Operator) -> None:
    target(operator, url="json://user:hunter2@host")
    operator.settings["ping"] = {"url": "https://hc.example/hunter2"}
    operator.configure()
    for arguments in (("config", "show"), ("config", "show", "--json"), ("config", "validate")):
        done = operator.admin(*arguments)
        assert done.exit_code == 0
        assert "hunter2" not in done.output
    assert '[notify."mail"]' in operator.admin("config", "show").stdout


@pytest.mark.parametrize(
    ("settings", "verdict", "seen"),
    [
        ({}, "warn", "neither a target nor a ping is configured"),
        ({"notify.mail": {"url": "json://h"}}, "warn", "if all hosts are off, nobody says so"),
        ({"ping": {"url": "https://hc.example/x"}}, "ok", "0 targets and a ping"),
        (
            {"notify.mail": {"url": "json://h"}, "ping": {"url": "https://hc.example/x"}},
            "ok",
            "1 target and a ping",
        ),
        ({"notify.mail": {"url": "file:/nonexistent"}}, "fail", "cannot read /nonexistent"),
        ({"ping": {"url": "env:VMBACKUP_NO_SUCH"}}, "fail", "$VMBACKUP_NO_SUCH is not set"),
    ],
)
def test_doctor_says_whether_anybody_is_told(
    operator: Operator, settings: dict[str, dict[str, object]], verdict: str, seen: str
) -> None:
    operator.settings.update(settings)
    operator.configure()
    (check,) = notify.examine(operator.configuration)
    assert (check.name, check.verdict) == ("notify", verdict)
    assert seen in check.seen


WRONG = "hunter2, which is no URL"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("notify.mail", "notify.mail.url: Apprise does not understand its URL"),
        ("ping", "ping.url: must begin with http:// or https://"),
    ],
)
def test_an_address_that_can_never_be_told_is_refused_with_its_key(
    operator: Operator, table: str, said: str
) -> None:
    operator.settings[table] = {"url": WRONG}
    operator.configure()
    refused = operator.admin("config", "validate")
    assert (refused.exit_code, said in refused.stderr) == (2, True), refused.stderr
    assert "hunter2" not in refused.output
    assert any((each.verdict, each.seen) == ("fail", said) for each in examined(operator))


def test_a_secret_that_others_can_read_is_a_warning_with_its_key(operator: Operator) -> None:
    secret = operator.folder / "secret-url"
    secret.write_text("json://user:hunter2@host.example", encoding="utf-8")
    target(operator, url=f"file:{secret}")
    said = f"notify.mail.url: other users can read the secret in {secret}"
    for mode, wrong in ((0o644, True), (0o640, False), (0o600, False)):
        secret.chmod(mode)
        done = operator.admin("config", "validate")
        assert (done.exit_code, said in done.stderr) == (0, wrong), done.output
        assert [each.seen for each in examined(operator) if "mail.url" in each.seen] == (
            [said] if wrong else []
        )
    secret.write_text(WRONG, encoding="utf-8")
    done = operator.admin("config", "validate")
    assert (done.exit_code, "notify.mail.url: Apprise" in done.stderr) == (0, True), done.output
    secret.unlink()
    done = operator.admin("config", "validate")
    assert (done.exit_code, "notify.mail.url: cannot read" in done.stderr) == (0, True)


def examined(operator: Operator) -> list[Check]:
    return list(notify.examine(operator.configuration))
