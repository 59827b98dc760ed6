"""Debian's prometheus and promtool, where they are installed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"


def promtool(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, check=False)


def dashboard_queries() -> list[str]:
    """Every query of the dashboard, with what Grafana would put in for its variables."""
    dashboard = json.loads((DEPLOY / "grafana" / "pneumoscan.json").read_text(encoding="utf-8"))
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    found += [one["expr"] for one in dashboard["annotations"]["list"]]
    return [query.replace("$version", ".*").replace("$__rate_interval", "1m") for query in found]
