"""Names of VMs and files are UTF-8 whatever the locale is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]


@pytest.mark.broad
@pytest.mark.parametrize("name", ["C", "POSIX", "de_DE.ISO-8859-1"])
@pytest.mark.parametrize("utf8", ["", "0"], ids=["as Python likes", "as the locale says"])
def test_names_are_utf8_in_every_locale(tmp_path: Path, name: str, utf8: str) -> None:
    """With PYTHONUTF8=0 Python behaves with C as it does with any locale that is not UTF-8."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        "from shared.host import streams\n"
        "streams.use_utf8()\n"
        "open(sys.argv[1], 'w').close()\n"
        "print(os.listdir(os.path.dirname(sys.argv[1])) == ['日本'])\n",
        encoding="utf-8",
    )
    (tmp_path / "x").mkdir()
    environment = {**os.environ, "LC_ALL": name, "PYTHONPATH": str(PROJECT)}
    if utf8:
        environment |= {"PYTHONUTF8": utf8, "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, program, str(tmp_path / "x" / "日本")],
        env=environment,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.strip() == b"True", done.stderr
