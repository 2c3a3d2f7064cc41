"""The harness of every experiment: options, run engine, checkpoints, folders, terminal."""
