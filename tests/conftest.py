"""Shapes are enforced, and every test may ask for float64."""

import gc
import os
import resource
import shutil
import socket
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import jax
import jaxtyping
import pytest
from jaxtyping import install_import_hook

install_import_hook(["maml", "tasks"], "beartype.beartype")
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# Programs of tests run once or twice: compiling them well would take longer than they do.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"  # for the processes that tests start
PLAIN = "--xla_cpu_use_fusion_emitters=false --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{PLAIN} {os.getenv('XLA_FLAGS', '')}"
# So would looking through all that was traced, again and again, for what can be freed.
gc.set_threshold(100_000, 20, 100)
# Many tests start the same small run; its programs are compiled once, for all workers of the tests.
WORKER = "PYTEST_XDIST_WORKER" in os.environ
PROGRAMS = (
    os.environ["JAX_COMPILATION_CACHE_DIR"] if WORKER else tempfile.mkdtemp(prefix="maml-programs-")
)
for name, value in {
    "jax_compilation_cache_dir": PROGRAMS,
    "jax_persistent_cache_min_compile_time_secs": 0.1,
}.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)
LARGE = 3_000_000  # KB

from tiny_omniglot import NAMES, nothing_prepared, tiny_files, write_zips  # noqa: E402

from tasks import omniglot  # noqa: E402


def pytest_sessionfinish():
    """Deletes the programs, after the last worker."""
    if not WORKER:
        shutil.rmtree(PROGRAMS, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def memory_bounded():
    """Frees what was compiled for a module, once a worker of the tests has become large."""
    yield
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > LARGE:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def optimised():
    """Programs that are compiled well, where they run longer than that takes."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def x64():
    """Float64, where derivatives are compared to rounding."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unchecked():
    """The errors of the library itself, which in the tests the type checker forestalls."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def read(monkeypatch, tmp_path):
    """`load` for tiny sets, with a cache of its own."""
    monkeypatch.setattr(omniglot, "CHARACTERS", len(NAMES))
    monkeypatch.setattr(omniglot, "DRAWINGS", 3)
    return partial(omniglot.load, cache=tmp_path / "cache")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and nothing prepared; gives the names that were looked up."""
    asked = []

    def refuse(host, *_, **__):
        asked.append(host)
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    nothing_prepared(monkeypatch, tmp_path)
    return asked


@pytest.fixture
def served(monkeypatch, tmp_path):
    """The tiny zips on a server of this machine, registered as the official ones."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.checksums import compute_url_info

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    folder = write_zips(tmp_path / "served", tiny_files())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    infos = {f"{address}/{zipped.name}": compute_url_info(zipped) for zipped in folder.iterdir()}
    monkeypatch.setattr(tfds.builder_cls("omniglot"), "url_infos", infos)
    monkeypatch.setenv("NO_PROXY", "*")
    nothing_prepared(monkeypatch, tmp_path)
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()
