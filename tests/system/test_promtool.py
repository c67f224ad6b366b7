"""The metrics and the alerts, as the real promtool reads them."""

import json
import subprocess
from pathlib import Path

from shared.state.states import State
from tests.support.promtool import promtool
from tests.unit.coordinator.conftest import Operator, copy
from tests.unit.coordinator.test_check import look

MONITORING = Path(__file__).resolve().parents[2] / "deploy/monitoring"
HOSTILE = [
    'quo"ted',
    "back\\slash",
    "two\nlines",
    "\x1b[31mred",
    "日本",
    "{vm=1} 2",
    "a\rb",
    "# HELP x",
]


def ran(*arguments: str, given: bytes = b"") -> str:
    done = subprocess.run(
        [promtool(), *arguments],
        cwd=MONITORING,
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()


def test_metrics_with_hostile_names_follow_the_rules(tmp_path: Path) -> None:
    host = Operator(tmp_path)
    host.nas.mkdir()
    host.configure()
    host.create()
    host.add_vms(*HOSTILE)
    for key in HOSTILE:
        host.set(key, status=State.CLEAN, last_copy=copy())
    look(host, *HOSTILE)
    target = tmp_path / "vmbackup.prom"
    assert host.admin("metrics", "--output", str(target)).exit_code == 0
    assert ran("check", "metrics", given=target.read_bytes()) == ""
    text = target.read_text(encoding="utf-8")
    assert text.count("\nvmbackup_vm_level{") == len(HOSTILE)


def test_alerts_fire_when_they_should() -> None:
    assert "SUCCESS" in ran("check", "rules", "vmbackup.rules.yml")
    assert "SUCCESS" in ran("test", "rules", "vmbackup.test.yml")


def test_the_dashboard_asks_what_prometheus_understands(tmp_path: Path) -> None:
    document = json.loads((MONITORING / "vmbackup.dashboard.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in document["panels"] for target in panel["targets"]]
    rules = [{"record": f"asked:{number}", "expr": expr} for number, expr in enumerate(asked)]
    groups = {"groups": [{"name": "dashboard", "rules": rules}]}
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps(groups), encoding="utf-8")  # YAML, too
    assert f"SUCCESS: {len(asked)} rules found" in ran("check", "rules", str(path))


def test_an_alert_that_does_not_fire_would_be_noticed(tmp_path: Path) -> None:
    rules = (MONITORING / "vmbackup.rules.yml").read_text(encoding="utf-8")
    tests = (MONITORING / "vmbackup.test.yml").read_text(encoding="utf-8")
    (tmp_path / "vmbackup.rules.yml").write_text(rules.replace("== 2", "== 5"), encoding="utf-8")
    (tmp_path / "vmbackup.test.yml").write_text(tests, encoding="utf-8")
    done = subprocess.run(
        [promtool(), "test", "rules", tmp_path / "vmbackup.test.yml"],
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
