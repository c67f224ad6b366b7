"""The dashboard for Grafana asks for metrics that there are, by labels that they have."""

import json
import re
from typing import Any, Final

from deploy.documents import ROOT
from shared.copies.sidecar import Wire
from shared.reports import metrics
from shared.reports.metrics import CopiesOfVm, KnownToMetrics
from tests.support.copies import sidecar
from tests.support.pages import known

DASHBOARD: Final = ROOT / "deploy/monitoring/vmbackup.dashboard.json"
#: Words of the language of Prometheus.
WORDS: Final = {"time", "max", "sum", "count", "by", "on", "and", "or", "vector", "deriv"} | {
    "clamp_min",
    "d",
    "h",
}


def labels() -> dict[str, set[str]]:
    """All metrics that are written, with their labels."""
    page = known(12)
    key = next(iter(page.contents.vms))
    copies = {key: CopiesOfVm(1, 1, sidecar(b"x", wire=Wire(1, 1)))}
    made = metrics.metrics(
        KnownToMetrics(
            page.written,
            page.version,
            page.repository,
            page.nas,
            page.reserve,
            page.contents,
            page.judged,
            copies,
        )
    )
    return {metric.name: set(metric.labels) for metric in made if metric.samples}


def expressions() -> list[str]:
    document: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [target["expr"] for panel in document["panels"] for target in panel["targets"]]


def test_every_metric_is_written() -> None:
    written = labels()
    asked = {name for each in expressions() for name in re.findall(r"vmbackup_\w+", each)}
    assert asked - set(written) == set()
    assert len(asked) > 10


def test_every_label_is_one_of_its_metric() -> None:
    written = labels()
    for each in expressions():
        for by, inside in re.findall(r"by \(([\w, ]+)\) \((vmbackup_\w+)", each):
            assert set(by.split(", ")) <= written[inside], each


def test_nothing_else_is_asked_for() -> None:
    for each in expressions():
        names = set(re.findall(r"[a-z_]+", re.sub(r"\(([\w, ]+)\) \(", "(", each)))
        assert {name for name in names - WORDS if not name.startswith("vmbackup_")} <= {
            "vm",
            "host",
            "kind",
        }, each


def test_panels_lie_beside_each_other() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    places = [
        (column, row)
        for panel in panels
        for place in [panel["gridPos"]]
        for column in range(place["x"], place["x"] + place["w"])
        for row in range(place["y"], place["y"] + place["h"])
    ]
    assert len(places) == len(set(places))
    assert max(column for column, _ in places) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
