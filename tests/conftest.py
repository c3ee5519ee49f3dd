"""Settings that hold for every test."""

import os
import signal
from functools import partial
from pathlib import Path

import jax
import matplotlib
import pytest

# What one test has compiled, the others need not: not in the other worker, not in a
# process that a test starts, and not in the next run.
CACHE = Path(__file__).resolve().parents[1] / "build" / "jax-cache"
OPTIONS = {
    "jax_compilation_cache_dir": os.environ.get(
        "JAX_COMPILATION_CACHE_DIR", str(CACHE)
    ),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
for option, value in OPTIONS.items():
    jax.config.update(option, value)
    os.environ[option.upper()] = str(value)  # for the processes that tests start

matplotlib.use("Agg")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """Lets `make test` compile with little effort, which takes most of its time.

    The slow tests, and all tests with each set of versions, compile as users do.
    """
    if config.option.markexpr != "not slow":
        return
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    flags, quick = (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_cpu_use_fusion_emitters=false",
    )
    if quick not in flags and jax.__version_info__ < (0, 11):  # later ones have it not
        os.environ["XLA_FLAGS"] = f"{flags} {quick}".strip()


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    from matplotlib import pyplot

    pyplot.close("all")


@pytest.fixture
def press_ctrl_c():
    """Interrupts this process, even if it was started to ignore that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield partial(os.kill, os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def digits():
    from vaelab import data

    return data.load_digits()
