"""`/metrics` on a port of its own, without a key."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from serving.edge.access import listening_address

logger = logging.getLogger("bentoml.trigen")


@contextmanager
def metrics_port(port: int | None) -> Iterator[None]:
    """Serve the metrics of all workers on `port`, at the service's own address, unless it is None.

    prometheus_client is imported here, because it reads PROMETHEUS_MULTIPROC_DIR, which the worker sets, when it is imported.
    """
    if port is None:
        yield
        return
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    address = listening_address() or "127.0.0.1"
    server, thread = start_http_server(port, address, registry)
    logger.info("Metrics without a key on %s:%d", address, port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
