"""The alert rules, by Prometheus' own tests of them; and that those tests can fail."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cxr.serving.metrics import SERIES
from tests.deploy.prometheus import ALERTS, DEPLOY, dashboard_queries, promtool
from tests.programs import NEEDS_PROMETHEUS

pytestmark = NEEDS_PROMETHEUS

RULES: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]
TESTS = ALERTS.with_name("alerts.test.yml")


def test_configuration_and_rules_are_clean() -> None:
    for arguments in (["config", "prometheus.yml"], ["rules", "alerts.yml"]):
        done = promtool("check", arguments[0], str(ALERTS.with_name(arguments[1])))
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_when_it_should_and_not_otherwise() -> None:
    done = promtool("test", "rules", str(TESTS))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [rule["alert"] for rule in RULES])
@pytest.mark.parametrize("expression", ["vector(0) > 1", "vector(1)"])
def test_an_alert_that_never_or_always_fires_is_noticed(tmp_path: Path, name: str, expression: str) -> None:
    broken = [{**rule, "expr": expression} if rule["alert"] == name else rule for rule in RULES]
    text = yaml.safe_dump({"groups": [{"name": "pneumoscan", "rules": broken}]})
    (tmp_path / "alerts.yml").write_text(text, encoding="utf-8")
    (tmp_path / "alerts.test.yml").write_text(TESTS.read_text(encoding="utf-8"), encoding="utf-8")
    assert promtool("test", "rules", str(tmp_path / "alerts.test.yml")).returncode != 0


def test_every_alert_is_explained() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    for rule in RULES:
        assert f"`{rule['alert']}`" in page
        assert {"summary", "description"} <= rule["annotations"].keys()


def test_every_series_is_on_the_dashboard_and_in_the_document() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    queries = " ".join(dashboard_queries())
    for name in SERIES:
        assert f"`{name}" in page, name
        assert re.search(rf"\b{name}(_bucket|_sum|_count)?\b", queries), name


def test_panels_have_names_of_their_own_and_do_not_overlap() -> None:
    panels = json.loads((DEPLOY / "grafana" / "pneumoscan.json").read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
