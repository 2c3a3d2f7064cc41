"""The harness of every experiment: options, run engine, checkpoints, folders, terminal.

A run goes through these modules:

1. `command_line.launch` reads the options (`options`, bounds in `bounds`) from a preset and the
   command line,
   and prepares the machine (`hardware`).
2. The script builds the algorithm by `algorithms.build` (in `sinusoid.experiment` and
   `meta_rl.algorithm`) or by `tasks.recipes` (in `few_shot_experiment.algorithm`), and makes a
   `study.Study`: with labelled data from a `supervised.Experiment` by `supervised.make_study`, in
   reinforcement learning by `meta_rl.make_study`.
3. `run.run` makes the folder (`folders`), and `loop.train` meta-trains in compiled calls. After
   each, `loop.observe` evaluates the validation tasks and scores the state; the log gets a line,
   the bar moves (`display`), and there may be a checkpoint (`checkpoints`, whose arrays `stored`
   reads and compares with their checksum).
4. `run.run` evaluates the last state, and that with the best score if it is another one, on the
   test tasks, takes means and confidence intervals (`statistics`), and writes `summary.json`
   (`summary`, by `files`).
5. The script prints a table (drawn by `tables`) and draws the figures with `benchmarks.report`.

`--resume` passes through five of them: `command_line` takes the number of meta-steps in a call from
the run; `folders` compares the options with those of the run, and writes what changed to its
`config.json`; `run` refuses a folder that has lost its log or its checkpoints; `loop` deletes the
lines of the log after the checkpoint and goes on from its meta-step; `checkpoints` finds and loads
the latest state that is readable.
"""
