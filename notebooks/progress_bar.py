"""A progress bar for the cells of a notebook, as text."""

import time
from collections.abc import Iterator

from IPython.display import DisplayHandle

WIDTH = 24


def progress(total: int, each: int = 1, unit: str = "meta-steps") -> Iterator[int]:
    """Yields 0, each, 2 each, ... and shows how much is done, the speed, and the time left.

    The speed leaves out the first pass of the loop, which compiles. The last line has no speed,
    because it stays in the stored output, and a speed is that of one machine at one time.
    """
    shown = DisplayHandle()
    shown.display({"text/plain": f"compiling, then {total:,} {unit}"}, raw=True)
    start = first = time.perf_counter()
    for done in range(0, total, each):
        yield done
        now, done = time.perf_counter(), min(done + each, total)
        first = now if done == each else first
        filled = WIDTH * done // total
        line = f"{'━' * filled}{'─' * (WIDTH - filled)} {done:,} of {total:,} {unit}"
        if done < total:
            speed = (done - each) / (now - first) if done > each else done / (now - start)
            line += f", {speed:,.0f} per second, {(total - done) / speed:.0f} s left"
        shown.update({"text/plain": line}, raw=True)
