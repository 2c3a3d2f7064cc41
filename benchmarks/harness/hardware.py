"""The machine of a script: its devices, the layout of tasks on them, and the compilation cache.

The layouts were measured on two CPU cores; the table is in docs/performance.md.
"""

import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import platformdirs
from jax.sharding import Mesh
from jax.stages import Compiled, Lowered

import maml

Precision = Literal["float32", "tensorfloat32", "bfloat16"]
Chunk = int | Literal["auto", "all"]
PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy")
T = TypeVar("T")


class Layout(NamedTuple):
    """The layout of tasks on devices: tasks at a time on each (None: all), and a mesh, if any."""

    chunk: int | None
    mesh: Mesh | None

    def __str__(self) -> str:
        devices = self.mesh.size if self.mesh else 1
        chunk = self.chunk or "all"
        tasks = "task" if self.chunk == 1 else "tasks"
        return f"{devices} x {jax.devices()[0].device_kind}, {chunk} {tasks} at a time on each"


def start(*, cache: bool = True) -> None:
    """Makes every core a device and sets the compilation cache, before JAX uses a device.

    Args:
        cache: Whether compiled programs are kept in the user's cache directory, and reused.
    """
    # Every core is a device with tasks of its own: the matrix products of a task are too small to
    # be shared by several cores.
    os.environ.setdefault("PJRT_NPROC", "1")
    cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        with suppress(RuntimeError):  # devices that are in use already stay as they are
            jax.config.update("jax_num_cpu_devices", len(cores))
    if cache:
        folder = Path(platformdirs.user_cache_dir("maml")) / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def precision(requested: Precision | None) -> Precision:
    """The requested precision; without a request, float32 on a CPU and tensorfloat32 elsewhere.

    Raises:
        ValueError: The request is tensorfloat32 on a CPU, which has no such products.
    """
    on_cpu = jax.default_backend() == "cpu"
    if requested == "tensorfloat32" and on_cpu:
        raise ValueError("precision must be float32 or bfloat16 on a CPU; got tensorfloat32")
    return requested or ("float32" if on_cpu else "tensorfloat32")


def device() -> str:
    """The number and kind of the devices, as results name them; of a CPU also cores and model."""
    first = jax.devices()[0]
    cores = f", {os.cpu_count()} cores, {_processor()}" if first.platform == "cpu" else ""
    return f"{jax.device_count()} x {first.device_kind}{cores}"


def _processor() -> str:
    """The model of the CPU where the system tells it, or its architecture."""
    table = Path("/proc/cpuinfo")  # of Linux
    found = re.search(r"model name\s*: (.+)", table.read_text()) if table.exists() else None
    return found[1] if found else platform.machine()


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python, of this project, and of the packages that are installed."""
    project = {"python": platform.python_version(), "maml": maml.__version__}
    return project | {name: version(name) for name in packages if find_spec(name)}


def layout(
    num_tasks: int, *, heavy: bool, devices: int | None = None, chunk: Chunk = "auto"
) -> Layout:
    """The requested layout; where nothing is requested, one that is good for convolutions.

    On a CPU, each core takes one heavy task at a time, because such a task fills a core. For the
    convolutional network this was the fastest layout that was measured, for the fully-connected one
    it was not. Light tasks are computed all at once on one device, because distributing them costs
    more than computing them. Other devices than CPUs take all their tasks at once.

    Args:
        num_tasks: Number of tasks, a multiple of the number of devices.
        heavy: Whether a task is enough work for a core.
        devices: Number of devices; None is that of the rule above.
        chunk: Number of tasks that a device maps at once, or all of them; auto is that of the rule.

    Returns:
        The layout.

    Raises:
        ValueError: The machine has fewer devices.
    """
    on_cpu = jax.default_backend() == "cpu"
    if devices is None:
        available = 1 if on_cpu and not heavy else jax.device_count()
        devices = max(n for n in range(1, available + 1) if num_tasks % n == 0)
    if chunk == "auto":
        chunk = 1 if on_cpu and heavy else "all"
    mesh = maml.task_mesh(devices) if devices > 1 else None
    return Layout(None if chunk == "all" else chunk, mesh)


def compiled(lowered: Lowered) -> Compiled:
    """The compiled program; on a CPU in fewer seconds, and at about the same speed.

    Seconds and speeds of both ways to compile are in docs/performance.md.
    """
    if jax.default_backend() != "cpu" or jax.config.read("jax_disable_most_optimizations"):
        return lowered.compile()
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "1"}
    if jax.__version_info__ < (0, 11):  # newer versions of XLA do not have the option
        options["xla_cpu_use_fusion_emitters"] = False
    return lowered.compile(compiler_options=options)


def timed(call: Callable[..., T], *arguments: Any) -> tuple[T, float]:
    """The result of a call, when it is ready, and the seconds that it took."""
    start = time.perf_counter()
    result = jax.block_until_ready(call(*arguments))
    return result, time.perf_counter() - start


def free_bytes() -> int:
    """The free memory of the accelerator, or else of this machine, in bytes."""
    if stats := jax.devices()[0].memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGESIZE")


def script_name() -> str | None:
    """The name of the module that `python -m` runs; None in a notebook and in a test."""
    spec = sys.modules["__main__"].__spec__
    return spec.name.removesuffix(".__main__") if spec else None
