"""What `benchmarks/serve.py` is made of: loads, the client that puts them, the servers that answer, and the report."""
