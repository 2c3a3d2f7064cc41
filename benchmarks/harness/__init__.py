"""The harness of every experiment: options, run engine, checkpoints, folders, terminal.

A run goes through these modules:

1. `command_line.launch` reads the options (`options`, bounds in `bounds`) from a preset and words.
2. The script makes a `study.Study` from them, with labelled data by `supervised.study`, which takes
   the algorithm from `algorithms`.
3. `run.run` makes the folder (`folders`), and `loop.train` meta-trains: compiled calls, each with
   a line of the log, a step of the bar (`display`), and perhaps a checkpoint (`checkpoints`).
4. `run.run` evaluates on the test tasks (`statistics`) and writes `summary.json` (`files`).
5. The script prints the table and draws the figures with `benchmarks.report`.
"""
