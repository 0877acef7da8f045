"""The benchmark of how the cost of serving grows: see `__main__.py`."""
