"""`explain` names the marked line of every program of the corpus, and no other."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

sys.path.insert(0, str(Path(__file__).parent))
import corpus

from vaelab.debug import explain

PROGRAMS = corpus.PROGRAMS
HERE = [p.name for p in PROGRAMS.values() if p.devices <= jax.device_count()]
EVERYWHERE = [pytest.mark.slow, pytest.mark.versions]


FAILING = [name for name in HERE if not PROGRAMS[name].quiet]
QUIET = [name for name in HERE if PROGRAMS[name].quiet]
# What says nothing about `explain`, or repeats it, is done for an eighth here.
SOME = HERE[::8]
SAMPLED = [
    pytest.param(name, marks=() if name in SOME else EVERYWHERE) for name in HERE
]
NNX = (nnx.Module, nnx.Optimizer, nnx.Rngs)


def state_of(tree):
    """A copy of every array of `tree`, of NNX objects too, in a fixed order."""
    leaves = []
    for part in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, NNX)):
        part = nnx.state(part) if isinstance(part, NNX) else part
        for leaf in jax.tree.leaves(part):
            if isinstance(leaf, jax.Array) and jnp.issubdtype(
                leaf.dtype, jax.dtypes.prng_key
            ):
                leaf = jax.random.key_data(leaf)
            leaves.append(np.array(leaf))
    return leaves


def all_finite(tree):
    """Whether every floating-point number of `tree` is finite."""
    inexact = [x for x in state_of(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return all(bool(np.isfinite(x.astype(np.complex64)).all()) for x in inexact)


def located(links):
    """The (file, line) of each link."""
    return [(link.file, link.line) for link in links]


@pytest.mark.parametrize("name", FAILING)
def test_a_failing_program_is_explained(name):
    program = PROGRAMS[name]
    call = program.build()
    before = state_of((call.args, call.kwargs))

    # The advice on all of them is tried in test_advice.
    report = explain(call.fn, *call.args, verify=name in SOME, **call.kwargs)

    assert report is not None
    assert (report.file, report.line) == (program.file, program.line), str(report)
    assert report.direction == program.direction, str(report)
    assert report.kind == program.kind, str(report)
    for field in ("primitive", "module", "iteration"):
        expected = getattr(program, field)
        if expected != corpus.UNSTATED:
            assert getattr(report, field) == expected, str(report)
    assert set((program.file, line) for line in program.then) <= set(
        located(report.chain[1:])
    ), str(report)
    assert set((program.file, line) for line in program.also) <= set(
        located(report.others)
    ), str(report)
    if program.inputs:
        assert len(report.inputs) == len(program.inputs), str(report)
        for word, path in zip(program.inputs, report.inputs, strict=True):
            assert word in path
    assert report.cause and report.advice

    np.testing.assert_equal(state_of((call.args, call.kwargs)), before)
    if name in SOME:
        assert str(explain(call.fn, *call.args, **call.kwargs)) == str(report)


@pytest.mark.parametrize("name", QUIET)
def test_a_quiet_program_has_no_explanation(name):
    call = PROGRAMS[name].build()
    before = state_of((call.args, call.kwargs))
    assert explain(call.fn, *call.args, **call.kwargs) is None
    np.testing.assert_equal(state_of((call.args, call.kwargs)), before)


@pytest.mark.parametrize("name", SAMPLED)
def test_the_program_does_what_it_says(name):
    """Run without vaelab, outputs and updated state are non-finite, or finite."""
    call = PROGRAMS[name].build()
    out = call.run()
    updated = [x for x in call.args if isinstance(x, NNX)]
    assert all_finite((out, updated)) == PROGRAMS[name].quiet


def test_the_corpus_covers_what_it_should():
    programs = PROGRAMS.values()
    assert len([p for p in programs if not p.quiet]) >= 48
    assert len([p for p in programs if p.quiet]) >= 20
    assert {p.direction for p in programs} == {"forward", "backward", None}
    assert {p.kind for p in programs} == {"nan", "inf", None}
    assert all(p.build.__doc__ for p in programs)


@pytest.mark.skipif(jax.device_count() > 1, reason="has several devices already")
@pytest.mark.slow
@pytest.mark.versions
def test_programs_on_four_devices():
    """The programs that need four devices, in a process of their own."""
    names = [p.name for p in PROGRAMS.values() if p.devices > 1]
    flags = "--xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "no:xdist", "-k", " or ".join(names), __file__]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, env=environment, cwd=root, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{2 * len(names)} passed" in done.stdout
