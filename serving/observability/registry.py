"""Where the metrics of a worker are kept: in its memory, if it is the only one."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.server.metrics.prometheus import PrometheusClient

from serving.observability.metrics import update_metrics

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

FILES = "PROMETHEUS_MULTIPROC_DIR"
"""The variable with the directory of the files that several workers share. prometheus_client reads it when it is imported."""


def worker_count(service_name: str) -> int:
    """Return the number of workers that BentoML's configuration asks for; `cpu_count` is one for each processor."""
    count = BentoMLContainer.config.services[service_name].get().get("workers") or 1
    return os.cpu_count() or 1 if count == "cpu_count" else int(count)


def configure_metrics(service_name: str) -> None:
    """Keep the metrics in memory, unless BentoML's configuration asks for several workers. Call it before prometheus_client is imported.

    BentoML keeps them in files in BENTOML_HOME that are mapped into memory. When the disk is full, the first write to a new page of such
    a file kills the worker (SIGBUS), and the next worker too. The files of a killed worker also add its running requests for ever.
    """
    if worker_count(service_name) == 1:
        os.environ.pop(FILES, None)
        os.environ.setdefault("PROMETHEUS_DISABLE_CREATED_SERIES", "true")  # a time for each series, which the files do not have
        BentoMLContainer.metrics_client.set(PrometheusClient(multiproc=False))


def registry() -> "CollectorRegistry":
    """Return the metrics of all workers, each time as they are at that moment."""
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    source = REGISTRY
    if FILES in os.environ:
        source = CollectorRegistry()
        MultiProcessCollector(source)  # type: ignore[no-untyped-call]

    class Updated(CollectorRegistry):
        def collect(self) -> "Iterable[Metric]":
            update_metrics()
            return source.collect()

        def restricted_registry(self, names: "Iterable[str]") -> Any:
            update_metrics()
            return source.restricted_registry(names)

    return Updated()
