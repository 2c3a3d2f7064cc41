"""One script an experiment: `python -m benchmarks.NAME --help`."""
