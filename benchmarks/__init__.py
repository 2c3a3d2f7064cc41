"""One script for each experiment: `python -m benchmarks.NAME --help`."""
