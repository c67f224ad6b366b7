"""The configuration.

Every error at once, environment over file, and no input that is not answered in words.
"""

import os
import pwd
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from shared.command_line import Invocation
from shared.host import configuration
from shared.host.configuration import BackupRule, Configuration, decide, find, load, validated
from shared.host.configuration.values import parse_size
from shared.host.documents import LIMIT
from shared.host.errors import ConfigurationError, ExitCode
from shared.virtualbox.settings import home as settings_home

NOTHING = {"VMBACKUP_CONFIG": "/dev/null"}


@pytest.fixture
def write(tmp_path: Path):
    """Writes a configuration and returns its path."""

    def write(text: str | bytes) -> str:
        path = tmp_path / "config.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def problems(path: str | None, environment: dict[str, str]) -> set[str]:
    """The keys that are named in what is said about a wrong configuration."""
    with pytest.raises(ConfigurationError) as caught:
        load(path, environment)
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.hint
    return {line.strip().split(":")[0] for line in caught.value.message.splitlines()[1:]}


def test_the_nas_is_the_only_setting_without_a_default() -> None:
    assert problems(None, NOTHING) == {"nas.mountpoint"}
    assert load(None, {**NOTHING, "NAS_MOUNTPOINT": "/mnt/nas"}).nas.mountpoint == Path("/mnt/nas")


def test_every_error_is_reported_with_its_key(write) -> None:
    path = write(
        """
        [nas]
        mountpoint = "mnt/nas"
        reserve = "lots"
        [host]
        node = "a host"
        [virtualbox]
        timeout_seconds = 0
        color = "blue"
        [backup]
        parallel = "many"
        keep_last = 0
        window = "at night"
        [policy."web*"]
        running = "ignore"
        [colours]
        """
    )
    assert problems(path, {}) == {
        "nas.mountpoint",
        "nas.reserve",
        "host.node",
        "virtualbox.timeout_seconds",
        "virtualbox.color",
        "backup.parallel",
        "backup.keep_last",
        "backup.window",
        "policy.web*.running",
        "colours",
    }


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("[backup]\nparallel = true", "backup.parallel: must be a whole number from 1 to 64"),
        ("[backup]\nretry_seconds = true", "backup.retry_seconds: must be a number from 0"),
        ("[backup]\nverify_bytes = true", "backup.verify_bytes: must be a size"),
        ('[policy."a"]\nkeep_last = true', "policy.a.keep_last: must be a whole number"),
        ('[backup]\nwindow = "22:00-24:00"', "backup.window: must look like 22:00-06:00; mid"),
        ('[backup]\nbefore = [" "]', "backup.before: must begin with a program"),
        ('[policy.""]\nkeep_last = 3', 'policy: [policy.""] is for no VM'),
        ('[backup]\nhosts_may_be_off = ["lap*"]', "backup.hosts_may_be_off: 'lap*' is the name"),
        ('[nas]\nmountpoint = "/./"', "nas.mountpoint: / is this host's own root"),
        ('[nas]\nmountpoint = "/mnt"\narchive_directory = "~/a"', "nas.archive_directory: must"),
    ],
)
def test_what_people_write_and_do_not_mean_is_refused(write, setting: str, said: str) -> None:
    nas = "" if "[nas]" in setting else '[nas]\nmountpoint = "/mnt/nas"\n'
    with pytest.raises(ConfigurationError) as refused:
        load(write(f"{nas}{setting}\n"), {})
    assert f"  {said}" in refused.value.message


def test_marks_and_ends_of_lines_of_other_systems_are_no_matter(write) -> None:
    path = write(b'\xef\xbb\xbf[nas]\r\nmountpoint\t=\t"/mnt/nas"\r\n')
    assert load(path, {}).nas.mountpoint == Path("/mnt/nas")


def read_as_changed(monkeypatch: pytest.MonkeyPatch, path: str) -> tuple[Invocation, list[object]]:
    """An invocation with that file, and what it reads of it from now on."""
    reads: list[object] = []

    def counted(explicit: str | None) -> Configuration:
        reads.append(explicit)
        return load(explicit)

    monkeypatch.setattr(configuration, "load", counted)
    return Invocation("vmbackup-worker", config=path), reads


def test_a_program_reads_it_again_only_if_another_one_stands_there(
    write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("[nas]\nmountpoint = '/mnt/nas'\n")
    invocation, reads = read_as_changed(monkeypatch, path)
    assert invocation.configuration() is invocation.configuration()
    assert len(reads) == 1
    write("[nas]\nmountpoint = '/mnt/old'\n")  # as long as the one before
    assert invocation.configuration().nas.mountpoint == Path("/mnt/old")
    monkeypatch.setenv("NAS_MOUNTPOINT", "/mnt/other")
    assert invocation.configuration().nas.mountpoint == Path("/mnt/other")
    write("[nas]\nmountpoint = 1\n[nos]\n")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="nos"):
            invocation.configuration()
    Path(path).unlink()
    with pytest.raises(ConfigurationError, match="No such file"):
        invocation.configuration()


def test_a_pipe_is_read_once() -> None:
    """As the shell makes one of `--config <(…)`."""
    read, written = os.pipe()
    os.write(written, b"[nas]\nmountpoint = '/mnt/nas'\n")
    os.close(written)
    invocation = Invocation("vmbackup-worker", config=f"/dev/fd/{read}")
    for _ in range(2):
        assert invocation.configuration().nas.mountpoint == Path("/mnt/nas")
    os.close(read)


def test_environment_beats_the_file(write, tmp_path: Path) -> None:
    path = write(
        '[nas]\nmountpoint = "/file"\narchive_directory = "old"\n[host]\nnode = '
        '"file"\n[virtualbox]\nvboxmanage = "VBoxFile"'
    )
    environment = {
        "NAS_MOUNTPOINT": "/environment",
        "ARCHIVE_DIR": "/archive",
        "VMBACKUP_NODE": "environment",
        "VMBACKUP_VBOXMANAGE": "VBoxEnvironment",
    }
    loaded = load(path, environment)
    assert (loaded.nas.mountpoint, loaded.nas.archive, loaded.host.node) == (
        Path("/environment"),
        Path("/archive"),
        "environment",
    )
    assert loaded.virtualbox.vboxmanage == "VBoxEnvironment"
    assert load(path, dict.fromkeys(environment, "")).host.node == "file", (
        "an empty variable is none"
    )


def test_the_archive_lies_on_the_nas_unless_it_is_said_otherwise(write) -> None:
    loaded = load(write('[nas]\nmountpoint = "/mnt/nas"'), {})
    assert (loaded.nas.archive, loaded.nas.state) == (
        Path("/mnt/nas/archive"),
        Path("/mnt/nas/vmstate"),
    )


def test_the_file_is_the_named_one_else_the_first_that_exists(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    assert find(None, {}, (first, second)) is None
    second.touch()
    assert find(None, {}, (first, second)) == second
    first.touch()
    assert find(None, {}, (first, second)) == first
    assert find(None, {"VMBACKUP_CONFIG": "/elsewhere"}) == Path("/elsewhere")
    assert find("/named", {"VMBACKUP_CONFIG": "/elsewhere"}) == Path("/named")


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load(str(tmp_path / "missing.toml"), {"NAS_MOUNTPOINT": "/mnt/nas"})


@pytest.mark.parametrize(
    "text",
    ["[nas", "nas = 5", "a = 1\na = 2", b"\xff\xfe", "nas = []", 'policy = "x"', "host.node = {}"],
)
def test_a_file_of_the_wrong_shape_is_answered_in_words(write, text: str | bytes) -> None:
    with pytest.raises(ConfigurationError):
        load(write(text), {"NAS_MOUNTPOINT": "/mnt/nas"})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500", 500),
        ("10 GiB", 10 * 2**30),
        ("2TB", 2 * 10**12),
        ("1.5 kib", 1536),
        (" 7 B ", 7),
        (7, 7),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1 GiB", "1 GiBit", "1,5 GiB", "1e3", "9" * 400 + " TB", "\u0663 GB x"]
)
def test_what_is_no_size_is_refused_in_words(write, text: str) -> None:
    assert problems(write(f'[nas]\nmountpoint = "/mnt/nas"\nreserve = "{text}"'), {}) == {
        "nas.reserve"
    }


values = some.recursive(
    some.booleans()
    | some.integers(-10, 10**20)
    | some.floats()
    | some.text("aA1 .:-/*", max_size=8),
    lambda inner: (
        some.lists(inner, max_size=2)
        | some.dictionaries(some.text("ab_", min_size=1, max_size=4), inner, max_size=2)
    ),
    max_leaves=3,
)
settings = {
    name: list(field.annotation.model_fields)
    for name, field in Configuration.model_fields.items()
    if name not in ("policy", "notify")
}
sections = some.sampled_from([*settings, "policy", "notify", "other"])


@pytest.mark.broad
@given(
    some.dictionaries(
        sections,
        values
        | some.dictionaries(
            some.sampled_from([key for keys in settings.values() for key in keys]),
            values,
            max_size=4,
        ),
    )
)
def test_any_values_are_a_configuration_or_an_error_in_words(document: dict[str, object]) -> None:
    try:
        said = [f"a: {validated(document, {'NAS_MOUNTPOINT': '/mnt/nas'}, 'file')}"]
    except ConfigurationError as error:
        said = error.message.splitlines()[1:]
        assert not any("nput should" in line or "does not fit" in line for line in said)
    assert said
    assert all(": " in line for line in said)


def test_a_policy_is_the_first_that_matches_over_the_defaults(write) -> None:
    text = """
        [nas]
        mountpoint = "/mnt/nas"
        [backup]
        keep_last = 5
        running = "live"
        [policy."web*"]
        keep_last = 9
        [policy."web01"]
        keep_last = 1
        [policy.DB]
        running = "shutdown"
        """
    assert list(tomllib.loads(text)["policy"]) == ["web*", "web01", "DB"]
    loaded = load(write(text), {})
    assert (loaded.policy_for("web01").keep_last, loaded.policy_for("web01").running) == (9, "live")
    assert (loaded.policy_for("DB").keep_last, loaded.policy_for("DB").running) == (5, "shutdown")
    assert loaded.policy_for("db").running == "live", "case counts"


IN_GROUPS = """
    [nas]
    mountpoint = "/mnt/nas"
    [policy."db*"]
    group = "/office"
    keep_last = 3
    [policy."office"]
    group = "/office/"
    keep_last = 4
    [policy."*"]
    group = "/lab"
    keep_last = 5
    """


@pytest.mark.parametrize(
    ("name", "groups", "kept"),
    [
        ("web", (), 2),
        ("web", ("/office",), 4),
        ("web", ("/office/second floor",), 4),
        ("db1", ("/office",), 3),
        ("db1", ("/lab",), 5),
        ("db1", ("/else", "/lab"), 5),
        ("web", ("/officers",), 2),
        ("office", (), 2),
    ],
)
def test_a_policy_may_be_for_a_group_and_its_pattern_then_counts_only_if_it_is_one(
    write, name: str, groups: tuple[str, ...], kept: int
) -> None:
    assert load(write(IN_GROUPS), {}).policy_for(name, groups).keep_last == kept


def test_a_group_that_is_none_is_refused_with_its_setting(write) -> None:
    text = '[nas]\nmountpoint = "/mnt/nas"\n[policy."x"]\ngroup = "office"\nbackup = "no"'
    assert problems(write(text), {}) == {"policy.x.group", "policy.x.backup"}


@pytest.mark.parametrize("group", ["", " ", "/a*", "/a/b?", "/[ab]", "*"])
def test_a_group_that_no_vm_can_be_in_is_refused(write, group: str) -> None:
    """An empty one would make of a group's policy one for all VMs that have the title's name."""
    text = f'[nas]\nmountpoint = "/mnt/nas"\n[policy."x"]\ngroup = "{group}"\nkeep_last = 7'
    assert problems(write(text), {}) == {"policy.x.group"}


LEFT_OUT = """
    [nas]
    mountpoint = "/mnt/nas"
    [policy."scratch-*"]
    backup = "never"
    [policy."own*"]
    vm_decides = true
    [policy."both*"]
    vm_decides = true
    backup = "never"
    """


@pytest.mark.parametrize(
    ("name", "wish", "said"),
    [
        ("web", "", BackupRule(False, "[backup]")),
        ("scratch-1", "", BackupRule(True, '[policy."scratch-*"] backup = "never"')),
        ("own1", "", BackupRule(False, '[policy."own*"]')),
        ("own1", "never", BackupRule(True, 'its extra data vmbackup/backup = "never"')),
        ("own1", "always", BackupRule(False, 'its extra data vmbackup/backup = "always"')),
        ("both1", "", BackupRule(True, '[policy."both*"] backup = "never"')),
        ("both1", "always", BackupRule(False, 'its extra data vmbackup/backup = "always"')),
        (
            "web",
            "never",
            BackupRule(
                False,
                "[backup]",
                'its extra data vmbackup/backup = "never" is ignored: vm_decides = false',
            ),
        ),
        (
            "own1",
            "Never",
            BackupRule(
                False,
                '[policy."own*"]',
                'its extra data vmbackup/backup = "Never" is ignored: it may be "always" or '
                '"never"',
            ),
        ),
    ],
)
def test_one_rule_decides_whether_a_vm_is_left_out(
    write, name: str, wish: str, said: BackupRule
) -> None:
    assert decide(load(write(LEFT_OUT), {}), name, (), wish) == said


def test_all_vms_may_be_left_out_but_those_of_a_policy(write) -> None:
    text = '[nas]\nmountpoint = "/mnt/nas"\n[backup]\nbackup = "never"\n[policy."web*"]\n'
    some = load(write(text + 'backup = "always"'), {})
    assert not decide(some, "web1", (), "").left_out
    assert decide(some, "db", (), "") == BackupRule(True, '[backup] backup = "never"')
    assert decide(load(write(text), {}), "web1", (), "").rule == '[backup] backup = "never"'


@pytest.mark.parametrize("node", ["alpha", "a", "alpha-1.example_x", "A" * 63])
def test_a_node_name_that_is_plain(write, node: str) -> None:
    assert load(write('[nas]\nmountpoint = "/mnt/nas"'), {"VMBACKUP_NODE": node}).host.node == node


@pytest.mark.parametrize("node", ["-a", "a-", "a b", "a/b", "../x", "ä", "A" * 64, "a\nb"])
def test_a_node_name_that_could_do_harm_is_refused(write, node: str) -> None:
    assert problems(write('[nas]\nmountpoint = "/mnt/nas"'), {"VMBACKUP_NODE": node}) == {
        "host.node"
    }


def numbers() -> list[tuple[str, str]]:
    """Every setting that is a number, by section and key."""
    sections = {
        "nas": configuration.Nas,
        "host": configuration.Host,
        "virtualbox": configuration.VirtualBox,
        "backup": configuration.Backup,
    }
    found = [
        (section, key)
        for section, model in sections.items()
        for key, field in model.model_fields.items()
    ]
    return [
        (section, key)
        for section, key in found
        if isinstance(sections[section].model_fields[key].default, (int, float))
    ]


@pytest.mark.parametrize("value", ["1", "99999", '"20 kB"', '"0.05 MB"', '"20 mbit"', "-1"])
def test_a_limit_that_lets_nothing_through_is_refused(write, value: str) -> None:
    assert problems(
        write(f"[backup]\nbytes_per_second = {value}\n"), {"NAS_MOUNTPOINT": "/mnt/nas"}
    ) == {"backup.bytes_per_second"}


@pytest.mark.parametrize(
    ("value", "bytes_per_second"), [("0", 0), ("100000", 10**5), ('"20 MB"', 20 * 10**6)]
)
def test_a_limit_may_have_a_unit(write, value: str, bytes_per_second: int) -> None:
    text = f'[nas]\nmountpoint = "/mnt/nas"\n[backup]\nbytes_per_second = {value}\n'
    assert load(write(text), {}).backup.bytes_per_second == bytes_per_second


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e300", "1" + "0" * 300, "-1"])
def test_a_number_without_bounds_is_refused_with_its_key(write, value: str) -> None:
    truths = {"require_mount", "reflink", "shared_group", "live_when_stopped", "pull_plug"}
    for section, key in numbers():
        if key not in truths:
            assert f"{section}.{key}" in problems(
                write(f"[{section}]\n{key} = {value}\n"), {"NAS_MOUNTPOINT": "/mnt/nas"}
            )


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ('[backup]\nparallel = "many"', "must be a whole number from 1 to 64"),
        ("[backup]\nparallel = 1.5", "must be a whole number from 1 to 64"),
        ("[backup]\nparallel = 65", "must be a whole number from 1 to 64"),
        ("[virtualbox]\ntimeout_seconds = nan", "must be a number above 0, at most 86400"),
        ("[virtualbox]\ntimeout_seconds = 1e300", "must be a number above 0, at most 86400"),
        ('[policy."web*"]\nkeep_last = inf', "must be a whole number from 1 to 1000"),
        (
            "[nas]\nreserve = -1",
            'must be a size of 0 to 9223372036854775807 bytes, like 500, "10 GiB" or "2 TB"',
        ),
        ("[nas]\nrequire_mount = 7", "must be true or false"),
        ("[nas]\narchive_directory = 7", "must be a path in quotes"),
        ("[virtualbox]\nvboxmanage = 7", "must be a text in quotes"),
        ('[virtualbox]\nvboxmanage = ""', "must not be empty"),
        ('[backup]\nbefore = "x"', "must be a list of texts in quotes"),
        ('[backup]\nfailed = ["a", "b\\u0000"]', "must not have a NUL character in it"),
        (
            '[backup]\nrunning = "x"',
            "must be one of 'defer', 'savestate', 'shutdown', 'live' or 'pause'",
        ),
        (
            '[backup]\nengine = "VBoxManage"',
            "must be one of 'auto', 'vboxmanage' or 'parallel'; 'vboxmanage' is meant",
        ),
        (
            '[virtualbox]\nhome = "."',
            ". is another directory for each program: write an absolute path",
        ),
        (
            '[virtualbox]\nhome = "settings"',
            "settings is another directory for each program: write an absolute path",
        ),
        (
            '[host]\nstate_directory = "notes/here"',
            "notes/here is another directory for each program: write an absolute path",
        ),
        ("[nas]\nrequire_mount = 0", "must be true or false"),
        ('[nas]\nrequire_mount = "no"', "must be true or false"),
        (
            '[host]\nstate_directory = "."',
            ". is another directory for each program: write an absolute path",
        ),
        ('backup = "x"', "must be a table"),
        ('[backup]\ncolour = "x"', "is not a setting"),
    ],
)
def test_a_wrong_value_is_refused_in_our_own_words(write, setting: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(write(setting), {"NAS_MOUNTPOINT": "/mnt/nas"})
    reasons = [line.partition(": ")[2] for line in caught.value.message.splitlines()[1:]]
    assert reasons == [reason]


@pytest.mark.parametrize("text", ["x = " + "9" * 5000, "x = " + "[" * 5000, "#" * (LIMIT + 1)])
def test_what_the_parser_gives_up_is_answered_in_words(write, text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not valid TOML"):
        load(write(text), NOTHING)


def test_what_is_no_text_is_answered_in_words(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b'[nas]\nmountpoint = "/mnt/\xff"\n')
    with pytest.raises(ConfigurationError, match=r"is not UTF-8 text \(byte 26\)$"):
        load(path, NOTHING)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who is in no list of users, as in a container."""

    def nobody(_: object) -> None:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(pwd, "getpwnam", nobody)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_is_told_so_in_words(tmp_path: Path, write) -> None:
    assert problems(None, {"NAS_MOUNTPOINT": "/mnt/nas"}) == {"host.state_directory"}
    settings = f'[host]\nstate_directory = "{tmp_path}"\n'
    assert load(write(settings), {"NAS_MOUNTPOINT": "/mnt/nas"}).host.state_directory == tmp_path
    assert problems(
        write(settings + '[virtualbox]\nhome = "~/x"\n'), {"NAS_MOUNTPOINT": "/mnt/nas"}
    ) == {"virtualbox.home"}
    with pytest.raises(ConfigurationError, match="has no home directory"):
        load("~/config.toml", NOTHING)
    with pytest.raises(ConfigurationError, match="has no home directory"):
        settings_home(Path(), {})


@pytest.mark.parametrize("key", ["host.state_directory", "virtualbox.vboxmanage"])
def test_no_system_takes_a_nul_in_a_path(write, key: str) -> None:
    table, name = key.split(".")
    text = f'[nas]\nmountpoint = "/mnt/nas"\n[{table}]\n{name} = "/a\\u0000b"\n'
    assert problems(write(text), NOTHING) == {key}
