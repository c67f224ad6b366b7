import unicodedata
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.copies import names

UUID = "a5bb7405-6bce-41d1-b207-357465b29724"
OTHER = "b6bb7405-6bce-41d1-b207-357465b29724"
ODD = st.text(st.characters(codec=None, exclude_categories=()), max_size=60) | st.sampled_from(
    [
        "../../etc",
        "..",
        ".",
        "",
        "con",
        "COM1.txt",
        "vmstate",
        "VMSTATE",
        "archive",
        "a" * 300,
        "ü" * 200,
        "日" * 90,
        "💾" * 80,
        "-rf",
        "x/",
        "nul .x",
    ]
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web01", "web01"),
        ("Büro & Co", "Büro %26 Co"),
        ("web (1)", "web (1)"),
        ("../../etc", "%2E.%2F..%2Fetc"),
        ("..", "%2E%2E"),
        ("a/b", "a%2Fb"),
        ("100%", "100%25"),
        ("-rf", "%2Drf"),
        ("dot.", "dot%2E"),
        ("space ", "space%20"),
        ("vmstate", "%76mstate"),
        ("Archive", "%41rchive"),
        ("con", "%63on"),
        ("COM1.old", "%43OM1.old"),
        ("nul .x", "%6Eul .x"),
        ("line\nbreak", "line%0Abreak"),
        ("日本", "日本"),
        ("💾", "%F0%9F%92%BE"),
        ("\udc80", "%ED%B2%80"),
    ],
)
def test_directory_names(name, expected):
    assert names.safe_directory_name(name, set(), UUID) == expected


@given(ODD)
def test_every_name_is_safe_and_stable(name):
    safe = names.safe_directory_name(name, set(), UUID)
    assert safe == names.safe_directory_name(name, set(), UUID)
    assert len(safe.encode()) <= names.LIMIT_BYTES
    assert not set(safe) & set('/\\:*?"<>|\0\n')
    assert all(character.isprintable() for character in safe)
    assert safe[0] not in ".- "
    assert safe[-1] not in ". "
    assert safe.casefold() not in names.RESERVED
    assert safe.split(".")[0].rstrip().casefold() not in names.RESERVED
    assert unicodedata.is_normalized("NFC", safe)
    assert names.parse_partial(safe) is None


@given(ODD, ODD)
def test_names_that_differ_get_directories_that_differ_on_every_file_system(one, two):
    first = names.safe_directory_name(one, set(), UUID)
    second = names.safe_directory_name(two, {first}, OTHER)
    assert (
        unicodedata.normalize("NFKC", first).casefold()
        != unicodedata.normalize("NFKC", second).casefold()
    )


@given(st.text("ab%CON./ ü", max_size=200))
def test_a_clash_is_told_apart_even_if_the_uuid_was_used_too(name):
    taken: set[str] = set()
    for _ in range(5):
        taken.add(names.safe_directory_name(name, taken, UUID).upper())
    assert len(taken) == 5
    assert all(
        len(one.encode()) <= names.LIMIT_BYTES + 8 for one in taken
    )  # upper-casing may lengthen


def test_a_clash_and_a_long_name_end_with_the_uuid():
    assert names.safe_directory_name("Web", {"web"}, UUID) == "Web-a5bb7405"
    long = names.safe_directory_name("x" * 300, set(), UUID)
    assert long == "x" * 111 + "-a5bb7405"
    assert names.safe_directory_name("&" * 300, set(), UUID).startswith("%26%26")
    assert (
        names.safe_directory_name("&" * 300, set(), UUID).removesuffix("-a5bb7405").endswith("%26")
    )


def test_a_directory_name_needs_a_uuid():
    with pytest.raises(ValueError, match="badly formed"):
        names.safe_directory_name("web", set(), "../..")


@given(
    st.datetimes(
        timezones=st.sampled_from(
            [UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-11))]
        )
    ),
    st.integers(1, 2**53 - 1),
)
def test_stamps_come_back(now, claim):
    try:
        moment = now.astimezone(UTC)
    except OverflowError:
        return
    stamp = names.parse_stamp(names.make_stamp(now, claim))
    assert stamp == names.Stamp(moment.replace(microsecond=0, fold=0), claim)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20261122T203800Z",
        "20261122T203800Z-0",
        "20261122T203800Z-07",
        "20261322T203800Z-1",
        "20261122T203800Z-1\n",
        "20261122T203800Z-9007199254740992",
        "20261122T203800Z-18446744073709551615",
        "\uff120261122T203800Z-1",
    ],
)
def test_what_is_no_stamp(text):
    with pytest.raises(ValueError, match=r"stamp|time data|day is out"):
        names.parse_stamp(text)


def test_names_of_files_come_back():
    stamp = names.make_stamp(datetime(2026, 11, 22, 20, 38, tzinfo=UTC), 17)
    assert stamp == "20261122T203800Z-17"
    assert names.partial_name(stamp, 17, "ova") == ".20261122T203800Z-17.17.partial.ova"
    assert names.parse_partial(names.partial_name(stamp, 23, "json")) == names.Partial(
        stamp, 23, "json"
    )
    assert names.parse_partial(f".{stamp}.17.partial.ova.tmp") == names.Partial(
        stamp, 17, "ova.tmp"
    )
    assert names.parse_final(names.final_name(stamp, "ova")) == (stamp, "ova")


def test_names_of_people_are_left_alone():
    for name in [
        "web.ova",
        ".partial.ova",
        "20261122T203800Z-17.ovf",
        ".20261122T203800Z-17.partial.ova",
        "20261122T203800Z-17.ova.bak",
    ]:
        assert names.parse_final(name) is None
        assert names.parse_partial(name) is None
