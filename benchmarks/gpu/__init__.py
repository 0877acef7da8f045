"""Everything that is worth measuring on a GPU, with one command: `make bench-gpu`. Read `__main__` first."""
