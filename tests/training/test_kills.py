"""A run that is killed again and again, most often while it writes: nothing is lost."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, os, random, signal, sys, time
import optax, vaelab
from flax import nnx
from vaelab.callbacks import Callback, Checkpoint

folder, kills, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


class Say(Callback):
    def on_start(self, run):
        print(json.dumps(["begun", run.history.get("loss", [])]), flush=True)

    def on_epoch(self, run):
        print(json.dumps(["epoch", run.epoch]), flush=True)


def train(folder, epochs):
    images = vaelab.data.load_digits().train[:40]
    model = vaelab.VAE((8, 8), 4, 2, rngs=nnx.Rngs(0, noise=1))
    callbacks = [Checkpoint(folder, every=1 if kills else 1000), Say()]
    result = vaelab.fit(model, images, epochs=epochs, batch_size=20, progress=False,
        optimizer=optax.adam(1e-3), callbacks=callbacks, resume=folder)
    print(json.dumps(["done", result.history["loss"].tolist()]), flush=True)


# Each child is forked before JAX has a backend, and so has all that was imported.
chance = random.Random(0)
for kill in range(kills + 1):
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writes, 1)
        os.close(reads), os.close(writes)
        train(folder, last if kill == kills else 10**6)
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as lines:
        patience = chance.randrange(2, 5)
        for line in lines:
            print(line, end="", flush=True)
            what, value = json.loads(line)
            if what != "epoch":
                continue
            last, patience = max(last, value + 3), patience - 1
            if kill < kills and patience == 0:
                time.sleep(chance.random() * 0.2)
                os.kill(child, signal.SIGKILL)
                break
        lines.read()
    os.waitpid(child, 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kills", [100])
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has threads")
def test_kills_lose_nothing(tmp_path, kills):
    def run(folder, kills, last):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / folder)]
        command += [str(kills), str(last)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "Warning: " not in done.stderr.replace("DeprecationWarning: ", "")
        return [json.loads(line) for line in done.stdout.splitlines()]

    lines = run("killed", kills, 1)
    begun = [history for what, history in lines if what == "begun"]
    assert len(begun) == kills + 1
    assert lines[-1][0] == "done"
    last = lines[-1][1]
    whole = run("whole", 0, len(last))[-1][1]
    assert whole == last
    assert len(begun[-1]) > len(begun[0])
    for earlier, later in zip(begun, begun[1:], strict=False):
        # What was complete is still there; what was being written need not be.
        assert len(later) >= len(earlier)
        assert later == whole[: len(later)]
