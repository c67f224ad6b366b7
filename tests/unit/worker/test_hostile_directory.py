"""Programs started in a directory full of modules with the names of ours and of those that we need:
none of them is run.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
MODULES = [
    "click",
    "json",
    "psutil",
    "pydantic",
    "logging",
    "tenacity",
    "filelock",
    "sitecustomize",
    "usercustomize",
    "encodings",
    "os",
]
PACKAGES = ["shared", "worker", "coordinator"]
PLANTED = "import os, pathlib; pathlib.Path({mark!r}).touch(); raise SystemExit(99)\n"
WAYS = {
    "run": [BIN / "vmbackup-worker", "-v", "run"],
    "backup": [BIN / "vmbackup-worker", "backup"],
    "status": [BIN / "vmbackup-admin", "status"],
    "lock": [BIN / "vmbackup-lock", "list"],
    "module": [sys.executable, "-P", "-m", "worker.cli", "run"],
    "one worker": [sys.executable, "-P", "-m", "worker.database"],
}


def plant(folder: Path, mark: Path) -> Path:
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(PLANTED.format(mark=str(mark)))
    for name in PACKAGES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(PLANTED.format(mark=str(mark)))
    return folder


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.slow
def test_nothing_is_imported_from_where_we_happen_to_be(tmp_path: Path, way: str) -> None:
    """The answer is that of a host without a database.

    The program, and for `run` its worker, came as far as that.
    """
    home = plant(tmp_path / "home", tmp_path / "ran")
    (tmp_path / "nas").mkdir()
    text = (
        f'[nas]\nmountpoint = "{tmp_path / "nas"}"\nrequire_mount = '
        f'false\n[host]\nstate_directory = "{tmp_path / "state"}"\n'
    )
    (tmp_path / "config.toml").write_text(text)
    environment = {
        **os.environ,
        "VMBACKUP_CONFIG": str(tmp_path / "config.toml"),
        "HOME": str(home),
    }
    done = subprocess.run(
        WAYS[way],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert not (tmp_path / "ran").exists()
    assert done.returncode == 10, done.stderr
    assert "there is no state database" in done.stderr


@pytest.mark.slow
def test_what_the_administrator_puts_on_the_path_counts_for_every_worker(tmp_path: Path) -> None:
    (tmp_path / "added").mkdir()
    counted = (
        "import os, pathlib\n"
        f"def count(): pathlib.Path({str(tmp_path)!r}, f'{{os.getpid()}}.added').touch()\n"
        "count()\n"
        "os.register_at_fork(after_in_child=count)\n"
    )
    (tmp_path / "added" / "sitecustomize.py").write_text(counted)
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "added"),
        "NAS_MOUNTPOINT": str(tmp_path),
        "HOME": str(tmp_path),
    }
    subprocess.run(
        WAYS["run"], cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=60
    )
    assert len(list(tmp_path.glob("*.added"))) >= 2, "the program and its first worker"
