import re
import subprocess
import sys
import textwrap

import jax
import pytest
from flax import nnx

from vaelab.debug.__main__ import main

DIGITS = """
import jax, jax.numpy as jnp, numpy as np, optax
from flax import nnx
from sklearn.datasets import load_digits

images = load_digits().images.astype(np.float32)  # 0 to 16, as they come


class Encoder(nnx.Module):
    def __init__(self, rngs):
        self.linear1 = nnx.Linear(64, 32, rngs=rngs)
        self.linear_mean = nnx.Linear(32, 8, rngs=rngs)
        self.linear_std = nnx.Linear(32, 8, rngs=rngs)
        self.rngs = rngs

    def __call__(self, x):
        x = nnx.relu(self.linear1(x.reshape(x.shape[0], -1)))
        mean = self.linear_mean(x)
        std = jnp.exp(self.linear_std(x))
        key = self.rngs.noise()
        return mean + std * jax.random.normal(key, mean.shape), mean, std


class VAE(nnx.Module):
    def __init__(self, rngs):
        self.encoder = Encoder(rngs)
        self.linear1 = nnx.Linear(8, 32, rngs=rngs)
        self.linear2 = nnx.Linear(32, 64, rngs=rngs)

    def __call__(self, x):
        z, mean, std = self.encoder(x)
        logits = self.linear2(nnx.relu(self.linear1(z)))
        return jnp.reshape(logits, x.shape), mean, std


@nnx.jit
def train_step(model, optimizer, x):
    def loss_fn(model):
        logits, mean, std = model(x)
        kl_loss = jnp.mean(0.5 * jnp.mean(
            -jnp.log(std ** 2) - 1.0 + std ** 2 + mean ** 2, axis=-1))
        reconstruction = jnp.mean(optax.sigmoid_binary_cross_entropy(logits, x))
        return reconstruction + 0.1 * kl_loss

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss


model = VAE(nnx.Rngs(0, noise=1))
optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
for epoch in range(2001):
    loss = train_step(model, optimizer, images)
    if epoch % 50 == 0:
        print(f"epoch {epoch} loss {loss}")
"""


def guarded(folder, *arguments):
    command = [sys.executable, "-W", "error", "-m", "vaelab.debug", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


@pytest.fixture
def start(tmp_path):
    """Runs a script in a process of its own."""

    def start(source, *arguments, options=()):
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(source))
        return guarded(tmp_path, *options, str(script), *arguments)

    return start


@pytest.fixture
def world(monkeypatch):
    """What `main` changes, when it is called in this process."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def run(tmp_path, world, capsys):
    """Runs a script in this process, which is much faster."""

    def run(source, *arguments, options=()):
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(source))
        try:
            status = main([*options, str(script), *arguments])
        except SystemExit as leaving:
            status = leaving.code
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(["main"], status, out, err)

    return run


NOTHING = "no NaN was found (--infs looks for infinities, too)"


def test_a_nan_is_explained_on_stderr_with_exit_status_1(start):
    done = start(
        """
        import jax, jax.numpy as jnp

        @jax.jit
        def loss(x):
            return jnp.log(x).sum()

        if __name__ == "__main__":
            print("starting")
            for x in (1.0, -1.0):
                print(loss(x))
        """
    )
    assert done.returncode == 1
    assert done.stdout.splitlines()[:2] == ["starting", "0.0"]
    assert "script.py: something turned non-finite" in done.stderr
    assert "script.py:6 in loss" in done.stderr
    assert "return jnp.log(x).sum()" in done.stderr
    assert "cause:" in done.stderr and "advice:" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_eager_nan_names_its_line(run):
    done = run("import jax.numpy as jnp\nx = jnp.zeros(())\nprint(x / x)\n")
    assert done.returncode == 1
    assert "script.py:3" in done.stderr and "print(x / x)" in done.stderr


def test_infinities_on_request(run):
    source = "import jax.numpy as jnp\nprint(1 / jnp.zeros(()))\n"
    assert run(source).returncode == 0
    done = run(source, options=["--infs"])
    assert done.returncode == 1 and "script.py:2" in done.stderr


@pytest.mark.slow
def test_a_script_sees_its_own_world(start):
    done = start(
        """
        import os, pickle, sys
        from helper import value

        class Thing:
            pass

        assert __name__ == "__main__" and __package__ is None and __doc__ is None
        assert os.path.basename(__file__) == "script.py"
        assert sys.argv == [__file__, "--epochs", "3", "-h"]
        assert sys.path[0] == os.path.dirname(os.path.abspath(__file__))
        assert sys.modules["__main__"].Thing is Thing
        assert isinstance(pickle.loads(pickle.dumps(Thing())), Thing)
        assert value == 5
        print("done")
        """.replace("from helper import value", "value = 5"),
        "--epochs",
        "3",
        "-h",
    )
    assert (done.stdout, done.returncode) == ("done\n", 0)
    assert done.stderr.endswith(f"script.py: {NOTHING}\n")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("pass", 0),
        ("sys.exit()", 0),
        ("sys.exit(7)", 7),
        ("sys.exit('no data')", "no data"),
        ("raise SystemExit(3)", 3),
    ],
)
def test_the_exit_status_is_the_scripts(run, line, status):
    done = run(f"import sys\n{line}\n")
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.endswith(f"script.py: {NOTHING}\n")


@pytest.mark.slow
def test_the_exit_status_of_a_process(start):
    assert start("import sys\nsys.exit(7)").returncode == 7


def test_another_error_is_shown_as_python_shows_it(run, tmp_path):
    source = "def f():\n    raise ValueError('mine')\n\nf()\n"
    done = run(source)
    script = str(tmp_path / "script.py")
    plain = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == plain.returncode == 1
    assert done.stderr == plain.stderr


def test_a_syntax_error_is_shown_as_python_shows_it(run):
    done = run("x = = 1\n")
    assert done.returncode == 1
    assert "SyntaxError" in done.stderr and "vaelab" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_script.py"], "cannot read no_such_script.py"),
        (["--infs"], "there is no program: give a script, or -m and a module"),
        (["-m"], "-m needs the name of a module"),
        (["-m", "vaelab.nothing", "--x"], "there is no module vaelab.nothing to run"),
        (["-m", "no_such.module"], "there is no module no_such.module to run"),
        (["--spikes", "1", "script.py"], "1: give a number above 1"),
    ],
)
def test_without_a_program_it_says_how(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


PACKAGE = {
    "__init__.py": "",
    "__main__.py": "from .train import main\nmain()\n",
    "parts.py": "import jax.numpy as jnp\n\ndef log(x):\n    return jnp.log(x)\n",
    "train.py": """
import sys
from .parts import log

def main():
    print(__package__, sys.argv[1:])
    log(float(sys.argv[-1]))

if __name__ == "__main__":
    assert __spec__.name == "program.train" and sys.argv[0] == __file__
    main()
""",
}


@pytest.fixture
def package(tmp_path, monkeypatch, world):
    (tmp_path / "program").mkdir()
    for name, text in PACKAGE.items():
        (tmp_path / "program" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "program"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["program.train", "program"])
def test_a_module_with_relative_imports_and_arguments(package, capsys, name):
    arguments = ["-m", name, "--infs", "-m", "x", "--lr", "1.0"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out == f"program {arguments[2:]}\n"
    assert err == f"{name}: {NOTHING}\n"
    assert main([*arguments[:-1], "-1.0"]) == 1
    err = capsys.readouterr().err
    assert "NaN from log at parts.py:4 in log" in err and NOTHING not in err


@pytest.mark.slow
def test_a_module_in_a_process_of_its_own(package, tmp_path):
    done = guarded(tmp_path, "-m", "program.train", "--lr", "-1")
    assert done.returncode == 1
    assert done.stdout.startswith("program ['--lr', '-1']\n")  # then JAX speaks
    assert "NaN from log at parts.py:4 in log" in done.stderr


def test_an_import_that_is_missing_inside_of_the_package(package, tmp_path):
    (tmp_path / "program" / "__init__.py").write_text("import no_such_thing\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
        main(["-m", "program.train"])


def test_verify(run):
    source = """
    import jax, jax.numpy as jnp

    @jax.jit
    def f(x):
        return jnp.log(x)

    f(-1.0)
    """
    tried = run(source, options=["--verify"]).stderr
    assert "tried" in tried and tried.count("something turned non-finite") == 1
    untried = run(source, options=["--no-verify"]).stderr
    assert "something turned non-finite" in untried and "tried" not in untried


STEPS = """
import jax, jax.numpy as jnp
from functools import partial
from flax import nnx

@partial(jax.jit, static_argnames="double")
def step(w, x, double=False):
    loss = jnp.mean(jnp.exp(w * x))
    return w * 1.0, loss

class Model(nnx.Module):
    @nnx.jit
    def predict(self, x):
        return x * jnp.ones(3)

@jax.jit
def outer(w, x):
    return step(w, x)[1] * jnp.ones(2)

w, model = jnp.ones(2), Model()
for i in range(12):
    w, loss = step(w, SIZE if i == 9 else 1.0)
    model.predict(loss)
    outer(w, 1.0)
assert step.lower(w, 1.0).as_text()
"""


def test_spikes_of_a_script_that_is_not_changed(run):
    jit, options = (jax.jit, nnx.jit), ["--spikes", "10"]
    done = run(STEPS.replace("SIZE", "9.0"), options=options)
    assert done.returncode == 1
    assert "script.py: the loss leaps in step 9\n" in done.stderr
    assert "exp at script.py:8 in step" in done.stderr
    assert "loss = jnp.mean(jnp.exp(w * x))" in done.stderr
    done = run(STEPS.replace("SIZE", "1.0"), options=options)
    assert done.returncode == 0
    last = f"{NOTHING}; no loss leapt 10-fold in step (12 calls)\n"
    assert done.stderr.endswith(last)
    done = run("print()", options=options)
    assert "no compiled function returned a loss" in done.stderr
    assert (jax.jit, nnx.jit) == jit


CHILDREN = """
import multiprocessing

class Mine(multiprocessing.get_context("METHOD").Process):
    def run(self):
        import jax.numpy as jnp
        jnp.log(-1.0)

def work(x):
    import jax.numpy as jnp
    jnp.log(x)

if __name__ == "__main__":
    Process = multiprocessing.get_context("METHOD").Process
    processes = [Process(target=work, args=(1.0,)), Mine(name="mine")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    print([process.exitcode for process in processes])
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_are_guarded_too(start, method):
    done = start(CHILDREN.replace("METHOD", method))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "[0, 1]")
    assert "process mine: something turned non-finite" in done.stderr
    assert "NaN from log at script.py:7 in Mine.run" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.endswith("script.py: 1 of its processes found something non-finite")


@pytest.mark.slow
@pytest.mark.versions
def test_the_tutorials_raw_digits_are_explained(start, tmp_path):
    done = start(DIGITS)
    assert done.returncode == 1
    assert "epoch 150 loss" in done.stdout
    assert re.search(r"non-finite in step 1[5-7]\d\n", done.stderr)
    (line,) = [
        number
        for number, text in enumerate(DIGITS.splitlines(), 1)
        if "log(std ** 2)" in text
    ]
    report = done.stderr
    assert f"script.py:{line} in " in report
    assert "-jnp.log(std ** 2) - 1.0 + std ** 2 + mean ** 2, axis=-1))" in report
    assert "backward" in report and "encoder" in report
    assert "std = jnp.exp(self.linear_std(x))" in report
