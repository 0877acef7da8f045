"""The Helm chart makes manifests that Kubernetes, the Prometheus Operator and KEDA accept, and refuses wrong values."""

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.conftest import DEPLOY, RULES, TOOLS, find_program, run_program

pytestmark = pytest.mark.slow

CHART = DEPLOY / "helm/trigen"
VALUES = Path(__file__).parent / "values"
CASES = {"default": [], "s3-keda": ["--values", str(VALUES / "s3-keda.yaml")], "hpa-cpu": ["--values", str(VALUES / "hpa-cpu.yaml")]}
"""Values, as flags of helm."""
Manifests = dict[tuple[str, str], dict[str, Any]]


def helm(*arguments: str) -> str:
    done = run_program(find_program("helm", "`make test-deploy` installs it"), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def render(case: str, chart: Path = CHART) -> Manifests:
    """Return the manifests of a release called trigen, by kind and name."""
    manifests = list(yaml.safe_load_all(helm("template", "trigen", str(chart), *CASES[case])))
    found = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in manifests}
    assert len(found) == len(manifests)
    return found


def pod(manifests: Manifests) -> dict[str, Any]:
    spec: dict[str, Any] = manifests["Deployment", "trigen"]["spec"]["template"]["spec"]
    return spec


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"]}


def check(*manifests: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Check manifests against the schemas."""
    if not (TOOLS / "kubernetes-validate").exists():
        pytest.skip("kubernetes-validate is missing: `make test-deploy` installs it")
    return run_program(str(TOOLS / "python"), str(Path(__file__).parent / "manifests.py"), standard_input=yaml.safe_dump_all(manifests))


@pytest.mark.parametrize("case", CASES)
def test_helm_accepts_the_chart(case: str) -> None:
    helm("lint", "--strict", str(CHART), *CASES[case])


def test_the_manifests_are_valid() -> None:
    manifests = [manifest for case in CASES for manifest in render(case).values()]
    kinds = {"Deployment", "ServiceMonitor", "PrometheusRule", "ScaledObject", "HorizontalPodAutoscaler", "NetworkPolicy"}
    assert kinds <= {manifest["kind"] for manifest in manifests}
    checked = check(*manifests)
    assert checked.returncode == 0, checked.stderr


def test_a_wrong_manifest_is_not_valid() -> None:
    wrong = [("monitoring.coreos.com/v1", "ServiceMonitor", "endpoints"), ("v1", "Service", "ports"), ("v1", "Servise", "ports")]
    checked = check(
        *(
            {"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, "spec": {"selector": {}, field: [{"prt": 1}]}}
            for version, kind, field in wrong
        )
    )
    assert checked.returncode == 1
    assert re.findall(r"^(\w+): ", checked.stderr, re.MULTILINE) == [kind for _, kind, _ in wrong]


def test_the_package_of_the_chart_makes_the_same(tmp_path: Path) -> None:
    helm("package", str(CHART), "--destination", str(tmp_path))
    (package,) = tmp_path.iterdir()
    for case in CASES:
        assert render(case, package) == render(case)


@pytest.mark.parametrize(
    "wrong",
    [
        "settings.TRIGEN_DRAIN_SECOND=5",  # no such setting
        "settings.TRIGEN_METRICS_PORT=9000",  # the chart sets it
        "settings.TRIGEN_TIMEOUT_SECONDS=null",  # the grace period depends on it
        "replicaCount=0",
        "autoscaling.type=cpu",
        "models.s3.uri=https://models/trigen",
        "image.digest=latest",
        "metrics.port=no",
        "nodeselector.a=b",
    ],
)
def test_wrong_values_are_refused(wrong: str) -> None:
    done = run_program(find_program("helm", "`make test-deploy` installs it"), "template", str(CHART), "--set", wrong)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr


@pytest.mark.parametrize("case", CASES)
def test_the_pod_has_no_privileges(case: str) -> None:
    spec = pod(render(case))
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*spec["containers"], *spec.get("initContainers", [])):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/tmp", variables(container)["BENTOML_HOME"]} <= mounts  # all that the service writes
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]


@pytest.mark.parametrize("case", CASES)
def test_the_grace_period_is_longer_than_the_last_request(case: str) -> None:
    spec = pod(render(case))
    given = variables(spec["containers"][0])
    assert spec["terminationGracePeriodSeconds"] > float(given["TRIGEN_DRAIN_SECONDS"]) + float(given["TRIGEN_TIMEOUT_SECONDS"]) + 5


@pytest.mark.parametrize("case", CASES)
def test_services_probes_and_policies_name_ports_of_the_pod(case: str) -> None:
    manifests = render(case)
    (container,) = pod(manifests)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 3000, "metrics": int(variables(container)["TRIGEN_METRICS_PORT"])}
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert [probe["path"] for probe in probes.values()] == ["/livez", "/livez", "/readyz"]
    used = {probe["port"] for probe in probes.values()}
    selected = [manifest["spec"] for (kind, _), manifest in manifests.items() if kind == "Service"]
    used |= {port["targetPort"] for spec in selected for port in spec["ports"]}
    if policy := manifests.get(("NetworkPolicy", "trigen")):
        used |= {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        selected.append({"selector": policy["spec"]["podSelector"]["matchLabels"]})
    assert used == {"http", "metrics"}
    labels = manifests["Deployment", "trigen"]["spec"]["template"]["metadata"]["labels"]
    assert all(spec["selector"].items() <= labels.items() for spec in selected)


def test_settings_reach_the_service_as_they_are_written() -> None:
    given = variables(pod(render("s3-keda"))["containers"][0])
    assert (
        given.items()
        >= {
            "TRIGEN_DRAIN_SECONDS": "2.5",
            "TRIGEN_MAX_BODY_BYTES": "2000000",  # and not 2e+06
            "TRIGEN_UI": "false",
            "TRIGEN_LOG_FORMAT": "json",  # the chart's own value
            "TRIGEN_CORS_ORIGINS": "https://a.example.com",
        }.items()
    )


def test_the_keys_come_from_the_secret_and_change_with_it() -> None:
    spec = pod(render("s3-keda"))
    (container,) = spec["containers"]
    assert not any(name == "TRIGEN_API_KEY" for name in variables(container))
    file = Path(variables(container)["TRIGEN_API_KEY_FILE"])
    (mount,) = (mount for mount in container["volumeMounts"] if mount["mountPath"] == str(file.parent))
    assert "subPath" not in mount  # such a mount would keep the first keys
    (volume,) = (volume for volume in spec["volumes"] if volume["name"] == mount["name"])
    assert volume["secret"]["secretName"] == "trigen-keys"
    assert spec["securityContext"]["fsGroup"]  # may read it: the mode is 0440
    assert volume["secret"]["defaultMode"] == 0o440


def test_models_are_fetched_from_s3_only_where_a_bucket_is_named() -> None:
    assert "initContainers" not in pod(render("default"))
    assert len(render("default")["NetworkPolicy", "trigen"]["spec"]["egress"]) == 1  # DNS
    manifests = render("s3-keda")
    spec = pod(manifests)
    (fetch,), (container,) = spec["initContainers"], spec["containers"]
    assert fetch["command"] == ["python", "-m", "models.store", "pull"]
    assert fetch["args"] == ["s3://models/trigen", "trigen-bigram", "trigen-llm:7h7d7fhjcwwl6ax4", "trigen-rnn"]
    assert fetch["image"] == container["image"]
    assert fetch["envFrom"] == [{"secretRef": {"name": "trigen-s3"}}]
    assert "envFrom" not in container  # the service itself needs no access to the bucket
    (store,) = (mount for mount in fetch["volumeMounts"] if mount["mountPath"] == variables(fetch)["BENTOML_HOME"])
    served = {"name": store["name"], "subPath": "models", "mountPath": "/home/bentoml/bento/models", "readOnly": True}
    assert served in container["volumeMounts"]
    assert variables(container)["TRIGEN_LLM_VERSION"] == "7h7d7fhjcwwl6ax4"
    assert "TRIGEN_RNN_VERSION" not in variables(container)
    s3 = manifests["NetworkPolicy", "trigen"]["spec"]["egress"][1]
    assert s3 == {"ports": [{"port": 443}], "to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}


def test_either_the_deployment_or_an_autoscaler_sets_the_replicas() -> None:
    kinds = {case: {kind for kind, _ in render(case)} & {"HorizontalPodAutoscaler", "ScaledObject"} for case in CASES}
    assert kinds == {"default": set(), "s3-keda": {"ScaledObject"}, "hpa-cpu": {"HorizontalPodAutoscaler"}}
    replicas = {case: render(case)["Deployment", "trigen"]["spec"].get("replicas") for case in CASES}
    assert replicas == {"default": 2, "s3-keda": None, "hpa-cpu": None}


def test_the_operator_gets_the_rules_and_the_dashboard_that_compose_has() -> None:
    manifests = render("s3-keda")
    assert manifests["PrometheusRule", "trigen"]["spec"] == yaml.safe_load(RULES.read_text())
    dashboard = manifests["ConfigMap", "trigen-dashboard"]["data"]["trigen.json"]
    assert json.loads(dashboard) == json.loads((DEPLOY / "grafana/dashboards/trigen.json").read_text())
    monitor = manifests["ServiceMonitor", "trigen"]["spec"]
    (endpoint,) = monitor["endpoints"]
    (relabelled,) = endpoint["relabelings"]
    (scraped,) = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert relabelled == {"targetLabel": "job", "replacement": scraped["job_name"]}
    matching = [
        name
        for (kind, name), each in manifests.items()
        if monitor["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items() and kind == "Service"
    ]
    assert matching == ["trigen-metrics"]
