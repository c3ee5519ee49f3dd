"""Several threads explain at once, and nothing stays behind."""

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from vaelab.debug import explain, nan_guard

THREADS = 4
ROUNDS = 6


@jax.custom_vjp
def scaled(x):
    return 2 * x


def divide_by_zero(residual, g):
    return (g / residual,)


scaled.defvjp(lambda x: (2 * x, 0 * x), divide_by_zero)


class Net(nnx.Module):
    def __init__(self):
        self.scale = nnx.Param(jnp.zeros(()))

    def __call__(self, x):
        return jnp.log(self.scale * x)


def what_is_patched():
    """The very objects, by the names under which they are found."""
    return {
        "custom_vjp": jax.custom_vjp.__call__,
        "custom_jvp": jax.custom_jvp.__call__,
        "merge": nnx.merge,
        "graph.merge": nnx.graph.merge,
        "Linear": nnx.Linear.__call__,
        "Net": Net.__call__,
        "bwd": scaled.bwd,
    }


BEFORE = what_is_patched()


def assert_nothing_changed():
    after = what_is_patched()
    assert [name for name in BEFORE if after[name] is not BEFORE[name]] == []


def explain_a_rule():
    report = explain(jax.grad(scaled), jnp.float32(1))
    return report.source == "return (g / residual,)"


def explain_a_module():
    report = explain(Net(), jnp.ones(2))
    return (report.module, report.primitive) == ("Net", "log")


def explain_what_raises():
    with pytest.raises(ZeroDivisionError):
        explain(lambda x: 1 / 0, jnp.ones(2))
    return True


def is_still_patched():
    """Whether what the outer trace needs is still there after an inner one."""
    return jax.custom_vjp.__call__ is not BEFORE["custom_vjp"]


def explain_within_explain():
    def outer(x):
        with jax.ensure_compile_time_eval():
            inside = explain_a_module()
        return jnp.log(0 * x) if inside and is_still_patched() else x

    return explain(outer, jnp.ones(2)).primitive == "log"


def test_threads_explain_at_once_and_leave_everything_as_it_was():
    tasks = [explain_a_rule, explain_a_module, explain_what_raises]
    tasks += [explain_within_explain]
    start = threading.Barrier(THREADS)

    def work(k):
        start.wait()
        return [tasks[(i + k) % len(tasks)]() for i in range(ROUNDS)]

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(map(all, pool.map(work, range(THREADS))))
    assert_nothing_changed()


def test_the_first_to_come_is_the_first_to_go():
    """The second still traces when the first is done: patches outlive the first."""
    first_is_in, second_is_in, first_is_gone = (threading.Event() for _ in range(3))

    def first(x):
        first_is_in.set()
        assert second_is_in.wait(60)
        return jnp.log(x)

    def second(x):
        second_is_in.set()
        assert first_is_gone.wait(60)
        return jax.grad(scaled)(x)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(explain, first, jnp.float32(0))
        done.add_done_callback(lambda _: first_is_gone.set())
        assert first_is_in.wait(60)
        report = explain(second, jnp.float32(1))
    assert done.result().primitive == "log"
    assert report.source == "return (g / residual,)"
    assert_nothing_changed()


def test_other_threads_do_not_notice():
    """A thread that only trains makes modules without the debugger's names."""
    names = []

    def traced(x):
        def train():
            names.extend(vars(nnx.merge(*nnx.split(Net()))))

        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
        return jnp.log(x)

    assert explain(traced, jnp.zeros(2)).primitive == "log"
    assert "scale" in names and not [name for name in names if "debug" in name]


def test_guards_in_two_threads_restore_the_filter():
    before = jax.config.jax_traceback_filtering
    first, second = nan_guard(), nan_guard()
    with first:
        thread = threading.Thread(target=second.__enter__)
        thread.start()
        thread.join()
    thread = threading.Thread(target=second.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert jax.config.jax_traceback_filtering == before
