import re
import subprocess
import sys
import textwrap

import pytest

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


QUIET = "vaelab.debug: script.py ended, and no NaN was found\n"


@pytest.fixture
def run(tmp_path):
    def run(source, *arguments, options=()):
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(source))
        command = [sys.executable, "-W", "error", "-m", "vaelab.debug"]
        return subprocess.run(
            [*command, *options, str(script), *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )

    return run


def test_a_nan_is_explained_on_stderr_with_exit_status_1(run):
    done = run(
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


@pytest.mark.slow
def test_infinities_on_request(run):
    source = "import jax.numpy as jnp\nprint(1 / jnp.zeros(()))\n"
    assert run(source).returncode == 0
    done = run(source, options=["--infs"])
    assert done.returncode == 1 and "script.py:2" in done.stderr


@pytest.mark.slow
def test_a_script_sees_its_own_world(run):
    done = run(
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
    assert done.stderr.endswith("script.py ended, and no NaN was found\n")


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("pass", 0, QUIET),
        pytest.param("sys.exit()", 0, "", marks=pytest.mark.slow),
        ("sys.exit(7)", 7, ""),
        ("sys.exit('no data')", 1, "no data\n"),
        pytest.param("raise SystemExit(3)", 3, "", marks=pytest.mark.slow),
    ],
)
def test_the_exit_status_is_the_scripts(run, line, status, message):
    done = run(f"import sys\n{line}\n")
    assert done.returncode == status and done.stdout == ""
    assert re.sub(r"\S+script", "script", done.stderr) == message


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


@pytest.mark.slow
def test_a_module_of_a_package_with_relative_imports(tmp_path):
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "losses.py").write_text(
        "import jax.numpy as jnp\ndef loss(x):\n    return jnp.log(x)\n"
    )
    (package / "train.py").write_text(
        "import sys\nfrom .losses import loss\n"
        "assert __name__ == '__main__' and __package__ == 'mine'\n"
        "print(loss(float(sys.argv[1])))\n"
    )

    def run(*words):
        command = [sys.executable, "-m", "vaelab.debug", "-m", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    done = run("mine.train", "-1")
    assert done.returncode == 1
    assert "losses.py:3 in loss" in done.stderr
    done = run("mine.train", "1")
    assert (done.returncode, done.stdout) == (0, "0.0\n")
    assert "no NaN was found" in done.stderr
    done = run("mine.gone")
    assert done.returncode == 2 and "no module mine.gone" in done.stderr


def test_without_a_script_it_says_how(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["no_such_script.py"])
    assert caught.value.code == 2
    assert "cannot read no_such_script.py" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.versions
def test_the_tutorials_raw_digits_are_explained(run, tmp_path):
    done = run(DIGITS)
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
