"""A public class and a module have one home: who searches for its name finds no other one."""

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[3]
#: By the text, which takes a tenth of the time that a parser does.
PUBLIC_CLASS = re.compile(r"^class ([A-Za-z]\w*)\b", re.MULTILINE)

#: Named by what each is for: a command, an area of `doctor`, a worker, a section, a subject.
SERIES = (
    "coordinator/commands",
    "coordinator/commands/statedb",
    "coordinator/doctor",
    "worker",
    "shared/state/rules",
    "shared/host/configuration",
)


def homes(root: Path) -> dict[str, list[str]]:
    """The modules in which a public class of that name stands by itself, for each name."""
    found = defaultdict[str, list[str]](list)
    for room in ("coordinator", "worker", "shared"):
        for module in sorted((root / room).rglob("*.py")):
            for name in PUBLIC_CLASS.findall(module.read_text(encoding="utf-8")):
                found[name].append(module.relative_to(root).as_posix())
    return found


def shared_names(root: Path) -> dict[str, list[str]]:
    return {name: where for name, where in homes(root).items() if len(where) > 1}


def modules_of_one_name(root: Path) -> dict[str, list[str]]:
    """Modules of one name; of a series, where others have its names, none is among them."""
    found = defaultdict[str, list[str]](list)
    for room in ("coordinator", "worker", "shared"):
        for module in sorted((root / room).rglob("*.py")):
            if not module.name.startswith("__"):
                place = module.relative_to(root)
                if place.parent.as_posix() not in SERIES:
                    found[module.name].append(place.as_posix())
    return {name: where for name, where in found.items() if len(where) > 1}


def test_no_two_modules_have_one_name() -> None:
    assert modules_of_one_name(ROOT) == {}, "give one of them a name that says what it is"


def test_two_modules_of_one_name_are_found(tmp_path: Path) -> None:
    for room in ("worker", "worker/backup", "shared/nas", "coordinator/commands", "tests"):
        (tmp_path / room).mkdir(parents=True, exist_ok=True)
        for name in ("__init__.py", "mount.py"):
            (tmp_path / room / name).touch()
    both = {"mount.py": ["worker/backup/mount.py", "shared/nas/mount.py"]}
    assert modules_of_one_name(tmp_path) == both
    (tmp_path / "worker" / "backup" / "mount.py").unlink()
    assert modules_of_one_name(tmp_path) == {}


def test_no_two_public_classes_have_one_name() -> None:
    assert shared_names(ROOT) == {}, "give one of them a name that says what it is"


def test_two_of_one_name_are_found(tmp_path: Path) -> None:
    for room in ("worker", "shared", "tests"):
        (tmp_path / room / "inner").mkdir(parents=True)
        (tmp_path / room / "inner" / "some.py").write_text(
            "class Note:\n    class Inner: ...\n\n\nclass _Own: ...\n\n\ndef Other() -> None: ...\n"
        )
    (tmp_path / "worker" / "other.py").write_text("class Other: ...\n\n\nclass Inner: ...\n")
    assert shared_names(tmp_path) == {"Note": ["worker/inner/some.py", "shared/inner/some.py"]}
    assert set(homes(tmp_path)) == {"Note", "Other", "Inner"}
