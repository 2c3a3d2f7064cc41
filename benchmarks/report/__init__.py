"""Results beside published numbers: tables, figures, and `python -m benchmarks.report`."""
