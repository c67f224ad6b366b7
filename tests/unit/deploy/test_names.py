"""A public class has one home: who searches for its name finds it, and not another one."""

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[3]
#: By the text, which takes a tenth of the time that a parser does.
PUBLIC_CLASS = re.compile(r"^class ([A-Za-z]\w*)\b", re.MULTILINE)


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
