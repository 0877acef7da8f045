"""Faults injected into the real server while clients call it: `make test-faults`. `docs/reliability.md` has the results."""
