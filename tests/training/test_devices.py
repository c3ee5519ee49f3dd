"""Several devices, and several processes, for real: on this machine's CPU."""

import json
import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import optax
import pytest
from flax import nnx

import vaelab
from vaelab.training import _inputs

SCRIPT = """
import json, os, sys
import jax, optax

processes, me, port, folder, die_at = map(str, sys.argv[1:])
if int(processes) > 1:
    jax.distributed.initialize(f"localhost:{port}", num_processes=int(processes),
        process_id=int(me), heartbeat_timeout_seconds=10)

import vaelab
from flax import nnx
from vaelab.callbacks import Callback, Checkpoint

class Die(Callback):
    def on_epoch(self, run):
        if run.epoch == int(die_at) and int(me) == 1:
            os.kill(os.getpid(), 9)

digits = vaelab.data.load_digits()
mesh = jax.sharding.Mesh(jax.devices(), ("data",))
model = vaelab.VAE((8, 8), 16, 4, rngs=nnx.Rngs(0, noise=1))
result = vaelab.fit(model, digits.train, epochs=7, batch_size=128,
    optimizer=optax.adam(1e-3), mesh=mesh, validation=digits.test,
    callbacks=[Checkpoint(folder), Die()], resume=folder)
history = {name: values.tolist() for name, values in result.history.items()}
print("history", json.dumps(history))
"""


def start(tmp_path, *, processes=1, me=0, port=0, devices=1, die_at=-1):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    arguments = [processes, me, port, tmp_path / "checkpoints", die_at]
    environment = dict(os.environ)
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(tmp_path, **options):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return [
        start(tmp_path, processes=2, me=me, port=port, **options) for me in range(2)
    ]


def history_of(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    (line,) = [x for x in output.splitlines() if x.startswith("history ")]
    return json.loads(line.removeprefix("history "))


@pytest.fixture(scope="module")
def expected():
    digits = vaelab.data.load_digits()
    model = vaelab.VAE((8, 8), 16, 4, rngs=nnx.Rngs(0, noise=1))
    return vaelab.fit(
        model,
        digits.train,
        epochs=7,
        batch_size=128,
        optimizer=optax.adam(1e-3),
        validation=digits.test,
    ).history


def assert_close(history, expected):
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5)


@pytest.mark.slow
def test_four_devices_give_the_curve_of_one(tmp_path, expected):
    assert_close(history_of(start(tmp_path, devices=4)), expected)


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(tmp_path, expected):
    for process in start_two(tmp_path):
        assert_close(history_of(process), expected)


@pytest.mark.slow
def test_when_one_process_is_killed_the_other_ends_and_both_resume(tmp_path, expected):
    survivor, victim = start_two(tmp_path, die_at=4)
    victim.communicate(timeout=300)
    died = time.monotonic()
    _, errors = survivor.communicate(timeout=60)
    assert time.monotonic() - died < 15
    assert victim.returncode == -9
    assert survivor.returncode != 0
    assert "RuntimeError: another process of this run ended" in errors
    for process in start_two(tmp_path):
        assert_close(history_of(process), expected)


def test_a_mesh_that_does_not_divide_the_batch_is_refused(digits):
    with pytest.raises(
        ValueError, match="2 devices, which do not divide a batch of 25"
    ):
        _inputs.check_divides(SimpleNamespace(size=2), 25)
    model = vaelab.VAE((8, 8), 16, 4, rngs=nnx.Rngs(0, noise=1))
    settings = {"epochs": 1, "optimizer": optax.adam(1e-3), "batch_size": 25}
    with pytest.raises(TypeError, match="mesh is a int: give"):
        vaelab.fit(model, digits.train, mesh=2, **settings)
