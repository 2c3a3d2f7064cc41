"""A progress bar for the cells of a notebook, as text that stays in the stored output."""

import time
from collections.abc import Iterator

from IPython.display import DisplayHandle

WIDTH = 24


def progress(total: int, each: int = 1, unit: str = "meta-steps") -> Iterator[int]:
    """Yields 0, each, 2 each, ... and shows how much is done, the speed, and the time left.

    The speed leaves out the first pass of the loop, which compiles.
    """
    shown = DisplayHandle()
    shown.display({"text/plain": f"compiling, then {total:,} {unit}"}, raw=True)
    start = first = time.perf_counter()
    for done in range(0, total, each):
        yield done
        now, done = time.perf_counter(), min(done + each, total)
        first = now if done == each else first
        speed = (done - each) / (now - first) if done > each else done / (now - start)
        if done < total:
            filled = WIDTH * done // total
            line = f"{'━' * filled}{'─' * (WIDTH - filled)} {done:,} of {total:,} {unit}"
            line += f", {speed:,.0f} per second, {(total - done) / speed:.0f} s left"
        else:
            line = f"{total:,} {unit} in {now - start:.0f} s, {speed:,.0f} per second once compiled"
        shown.update({"text/plain": line}, raw=True)
