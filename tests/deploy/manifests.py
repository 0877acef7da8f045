"""Check Kubernetes manifests on stdin against the schemas of Kubernetes, the Prometheus Operator and KEDA; unknown fields are errors.

Runs in the environment of `make test-deploy`. Prints what is wrong, and exits with status 1 if anything is.
"""

import sys
from typing import Any

import kubernetes_validate
import pydantic
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

KUBERNETES = "1.37"
CUSTOM = {
    ("keda.sh/v1alpha1", "ScaledObject"): ScaledObject,
    ("monitoring.coreos.com/v1", "PrometheusRule"): PrometheusRule,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): ServiceMonitor,
}


def fault(manifest: dict[str, Any]) -> str | None:
    """Return what is wrong with a manifest."""
    try:
        if custom := CUSTOM.get((manifest["apiVersion"], manifest["kind"])):
            custom.model_validate(manifest, extra="forbid")
        else:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except (pydantic.ValidationError, kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return f"{manifest['kind']}: {error}"
    return None


if __name__ == "__main__":
    faults = [found for manifest in yaml.safe_load_all(sys.stdin) if (found := fault(manifest))]
    sys.exit("\n".join(faults) or None)
