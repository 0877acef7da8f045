"""`/metrics` on a port of its own, without a key."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from serving.edge.access import listening_address
from serving.observability.registry import registry

logger = logging.getLogger("bentoml.trigen")


@contextmanager
def metrics_port(port: int | None) -> Iterator[None]:
    """Serve the metrics of all workers on `port`, at the service's own address, unless it is None.

    prometheus_client is imported here: see `configure_metrics`.
    """
    if port is None:
        yield
        return
    from prometheus_client import start_http_server

    address = listening_address() or "127.0.0.1"
    server, thread = start_http_server(port, address, registry())
    negotiate = server.get_app()
    assert negotiate
    # Always the text format. In OpenMetrics, prometheus_client 0.26 gives most versions of Prometheus vllm_… instead of vllm:…, unlike
    # its own HELP lines: https://github.com/prometheus/client_python/issues/1177
    server.set_app(lambda environ, start_response: negotiate(environ | {"HTTP_ACCEPT": "text/plain"}, start_response))
    logger.info("Metrics without a key on %s:%d", address, port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
