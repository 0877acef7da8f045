"""The files in `deploy/` agree with the service and with the documents. These tests need no other program."""

import json
import re
from collections import Counter
from typing import Any

from tests.conftest import PROJECT
from tests.deploy.conftest import DEPLOY, rules
from tests.docs.project import settings

OWN_VALUES = {"API_KEY", "API_KEY_FILE", "METRICS_PORT", "BIGRAM_VERSION", "RNN_VERSION", "LLM_VERSION"}
"""Settings that the chart makes of other values."""


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard, without the rows."""
    dashboard = json.loads((DEPLOY / "grafana/dashboards/trigen.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_the_chart_knows_every_setting() -> None:
    schema = json.loads((DEPLOY / "helm/trigen/values.schema.json").read_text())
    known = schema["properties"]["settings"]["propertyNames"]["enum"]
    assert set(known) == settings() - {f"TRIGEN_{name}" for name in OWN_VALUES}


def test_the_panels_have_ids_and_titles_of_their_own_and_the_chosen_data_source() -> None:
    dashboard = json.loads((DEPLOY / "grafana/dashboards/trigen.json").read_text())
    (variable,) = dashboard["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")
    assert max(Counter(panel["id"] for panel in dashboard["panels"]).values()) == 1
    assert max(Counter(panel["title"] for panel in dashboard["panels"]).values()) == 1
    for panel in panels():
        assert panel["targets"]
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_the_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((DEPLOY / "grafana/dashboards/trigen.json").read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_alert_is_in_the_document_and_the_document_names_no_other() -> None:
    named = re.findall(r"^\| `(Trigen\w+)` \|", (PROJECT / "docs/deploying.md").read_text(), re.MULTILINE)
    assert named == [rule["alert"] for rule in rules() if "alert" in rule]
