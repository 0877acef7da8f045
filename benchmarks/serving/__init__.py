"""The parts of benchmarks/serve.py: the loads, the client that sends them, the servers, and the report."""
