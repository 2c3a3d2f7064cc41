"""A meta-step of ours timed beside others: `python -m benchmarks.peers`."""
