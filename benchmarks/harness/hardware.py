"""What a script asks of the machine: its devices, its share of the tasks, its compilation cache.

Which layout suits which model and device was measured; the table is in docs/performance.md.
"""

import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import platformdirs
from jax.sharding import Mesh

import maml

Precision = Literal["float32", "tensorfloat32", "bfloat16"]
PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy")


class Layout(NamedTuple):
    """How the tasks of a meta-batch or an evaluation lie on the devices, see `meta_gradient`."""

    chunk: int | None
    mesh: Mesh | None

    def __str__(self) -> str:
        devices = self.mesh.size if self.mesh else 1
        chunk = self.chunk or "all its"
        return f"{devices} x {jax.devices()[0].device_kind}, {chunk} tasks at a time on each"


def start(*, cache: bool = True) -> None:
    """To be called before JAX touches a device: cores become devices, compilations are kept.

    Args:
        cache: keep compiled programs in the user's cache directory and take them from there.
    """
    # Every core is a device that works at a task of its own, alone: its matrix products are too
    # small to be worth sharing.
    os.environ.setdefault("PJRT_NPROC", "1")
    cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        with suppress(RuntimeError):  # devices that are in use already stay as they are
            jax.config.update("jax_num_cpu_devices", len(cores))
    if cache:
        folder = Path(platformdirs.user_cache_dir("maml")) / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def precision(asked: Precision | None) -> Precision:
    """The precision that was asked for, or float32 on a CPU and tensorfloat32 elsewhere.

    Raises:
        ValueError: tensorfloat32 on a CPU, which has no such products.
    """
    on_cpu = jax.default_backend() == "cpu"
    if asked == "tensorfloat32" and on_cpu:
        raise ValueError("a CPU has float32 and bfloat16, and no tensorfloat32; got tensorfloat32")
    return asked or ("float32" if on_cpu else "tensorfloat32")


def device() -> str:
    """What a result was got on."""
    first = jax.devices()[0]
    cores = f", {os.cpu_count()} cores" if first.platform == "cpu" else ""
    return f"{jax.device_count()} x {first.device_kind}{cores}"


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python, of this project, and of those of the packages that are installed."""
    found = {"python": platform.python_version(), "maml": maml.__version__}
    return found | {name: version(name) for name in packages if find_spec(name)}


def layout(num_tasks: int, *, heavy: bool, devices: int | None, chunk: int | None) -> Layout:
    """The layout that was asked for, or where nothing was, the fastest that was measured.

    Light tasks are fastest all at once on one device of a CPU: sharing them out costs more than
    they do. Heavy tasks fill a core, so each core takes one at a time. Other devices take as many
    as there are.

    Args:
        num_tasks: to be laid out; the devices divide it.
        heavy: a task is work enough for a core.
        devices: how many, or None.
        chunk: tasks that a device maps at once, 0 for all, or None.

    Raises:
        ValueError: there are not so many devices.
    """
    on_cpu = jax.default_backend() == "cpu"
    if devices is None:
        available = 1 if on_cpu and not heavy else jax.device_count()
        devices = max(n for n in range(1, available + 1) if num_tasks % n == 0)
    if chunk is None:
        chunk = 1 if on_cpu and heavy else 0
    return Layout(chunk or None, maml.task_mesh(devices) if devices > 1 else None)
