import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.copies import sidecar as sidecars
from shared.copies import sidecar_files
from shared.copies.catalogue import read
from shared.copies.copy_files import NasFiles
from shared.copies.sidecar_fields import Rehearsed, Verified
from shared.host.errors import CopyError, NasError
from tests.support import copies as make

STAMP = "20261122T203800Z-17"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    "verified",
    [None, Verified("2026-11-23T00:00:00Z"), Verified("2026-11-23T00:00:00Z", "digest wrong")],
)
def test_a_sidecar_comes_back_with_what_later_versions_wrote(verified):
    made = make.sidecar(
        b"abc", vm='a "b"\n\udc80ü', verified=verified, extra={"later": [1, {"x": None}]}
    )
    assert sidecars.parse(made.render()) == made


def test_the_checksum_line_is_read_by_sha256sum(tmp_path):
    make.put_copy(tmp_path, STAMP)
    check = ["sha256sum", "-c", f"{STAMP}.sha256"]
    assert subprocess.run(check, cwd=tmp_path, check=False, capture_output=True).returncode == 0
    (tmp_path / f"{STAMP}.ova").write_bytes(b"something else")
    assert subprocess.run(check, cwd=tmp_path, check=False, capture_output=True).returncode != 0


@pytest.mark.parametrize(
    "field",
    [
        "stamp",
        "claim",
        "vm",
        "uuid",
        "sha256",
        "size",
        "fingerprint",
        "started",
        "finished",
        "duration_seconds",
    ],
)
@pytest.mark.parametrize("value", [None, [], {"a": 1}.keys, True, -1, "x\n", 2**70])
def test_a_wrong_field_is_named(field, value):
    document = json.loads(make.sidecar(b"abc").render())
    document[field] = value if not callable(value) else {"a": 1}
    if (field in ("vm", "uuid") and value == "x\n") or (field == "fingerprint" and callable(value)):
        return
    with pytest.raises(CopyError, match=field):
        sidecars.parse(json.dumps(document).encode())


@pytest.mark.broad
@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused_with_a_reason(data):
    with pytest.raises(CopyError):
        sidecars.parse(data)


@pytest.mark.broad
@given(
    st.dictionaries(
        st.sampled_from(sorted(json.loads(make.sidecar(b"").render()))), JSON, max_size=2
    )
)
def test_any_values_are_read_or_refused(changes):
    document = {**json.loads(make.sidecar(b"abc").render()), **changes}
    try:
        found = sidecars.parse(json.dumps(document).encode())
    except CopyError:
        return
    assert sidecars.parse(found.render()) == found


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400"])
@pytest.mark.parametrize("field", ["size", "fingerprint", "of the future"])
def test_a_number_that_json_cannot_hold_is_refused(field, number):
    """It would be printed as it is by `copies --json`, and written again."""
    document = {**json.loads(make.sidecar(b"abc").render()), field: {"a": "NUMBER"}}
    data = json.dumps(document).replace('"NUMBER"', number).encode()
    with pytest.raises(CopyError, match="no JSON object"):
        sidecars.parse(data)


def test_a_rehearsal_is_kept():
    made = make.sidecar(
        b"abc",
        rehearsed=Rehearsed("2026-12-01T00:00:00Z", "beta", "good", "it ran for 60 s", booted=True),
    )
    assert sidecars.parse(made.render()) == made


@pytest.mark.broad
@given(
    st.dictionaries(
        st.sampled_from(["time", "node", "result", "observed", "booted"]), JSON, max_size=5
    )
    | JSON
)
def test_any_rehearsal_is_read_or_refused(value):
    document = {**json.loads(make.sidecar(b"abc").render()), "rehearsed": value}
    try:
        found = sidecars.parse(json.dumps(document).encode())
    except CopyError:
        return
    assert sidecars.parse(found.render()) == found


def test_deep_nesting_and_endless_files_are_refused(tmp_path):
    with pytest.raises(CopyError):
        sidecars.parse(b"[" * 900_000)
    with (tmp_path / f"{STAMP}.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CopyError):
        sidecar_files.read(tmp_path, STAMP)


def test_a_newer_schema_is_refused_with_the_cure():
    document = {**json.loads(make.sidecar(b"abc").render()), "schema": 3}
    with pytest.raises(CopyError) as caught:
        sidecars.parse(json.dumps(document).encode())
    assert "update" in caught.value.hint


def test_the_sidecar_of_another_copy_does_not_count(tmp_path):
    made = make.put_copy(tmp_path, STAMP)
    (tmp_path / "20261122T203800Z-18.json").write_bytes(made.render())
    with pytest.raises(CopyError, match="of another copy"):
        sidecar_files.read(tmp_path, "20261122T203800Z-18")


def test_a_sidecar_is_replaced_whole_or_not_at_all(tmp_path):
    old = make.put_copy(tmp_path, STAMP)
    new = make.sidecar(
        b"bytes of an ova", verified=Verified("2026-12-01T00:00:00Z", "a digest is wrong")
    )
    for step in range(20):
        for after in (False, True):
            files = make.BreakingFiles(step, after=after)
            (tmp_path / f"{STAMP}.json").write_bytes(old.render())
            try:
                sidecar_files.replace(files, tmp_path, new, 23)
            except make.PowerCutError:
                assert sidecar_files.read(tmp_path, STAMP) in (old, new)
                continue
            assert step >= 6
            copy = read(tmp_path, make.UUID).find(STAMP)
            assert copy is not None
            assert copy.problem == "verification found: a digest is wrong"
            return
    pytest.fail("the replacement never ended")


def test_a_sidecar_that_cannot_be_written_is_an_error_of_the_nas(tmp_path):
    with pytest.raises(NasError):
        sidecar_files.replace(NasFiles(), tmp_path / "gone", make.sidecar(b""), 23)


def test_side_files_pin_and_what_is_left_out_come_back(tmp_path):
    made = make.put_copy(
        tmp_path,
        STAMP,
        sides={"vbox": b"x", "sav": b"y"},
        left_out=("its snapshots",),
        pinned="2026-12-01T00:00:00Z",
    )
    assert sidecars.parse(made.render()) == made
    check = ["sha256sum", "-c", f"{STAMP}.sha256"]
    assert subprocess.run(check, cwd=tmp_path, check=False, capture_output=True).returncode == 0
    (tmp_path / f"{STAMP}.sav").write_bytes(b"z")
    assert subprocess.run(check, cwd=tmp_path, check=False, capture_output=True).returncode != 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("files", []),
        ("files", {"exe": {"size": 1, "sha256": "0" * 64}}),
        ("files", {"sav": {"size": -1, "sha256": "0" * 64}}),
        ("files", {"sav": {"size": 1, "sha256": "0"}}),
        ("left_out", "its snapshots"),
        ("left_out", [1]),
        ("pinned", True),
    ],
)
def test_a_wrong_optional_field_is_named(field, value):
    document = {**json.loads(make.sidecar(b"abc").render()), field: value}
    with pytest.raises(CopyError, match=field):
        sidecars.parse(json.dumps(document).encode())
