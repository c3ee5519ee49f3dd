"""Damaged files, full disks, tampered facts, two writers: nothing is lost unnoticed."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import vaelab
from vaelab.callbacks import Checkpoint
from vaelab.checkpoints import _store
from vaelab.checkpoints._store import Store

ADAM = optax.adam(1e-3)
FACTS = {"kind": "model", "model": None, "keys": {}}


def new_vae():
    return vaelab.VAE((8, 8), 16, 4, rngs=nnx.Rngs(0, noise=1))


def train(digits, path, epochs, **options):
    model = new_vae()
    settings = {
        "batch_size": 50,
        "optimizer": ADAM,
        "callbacks": [Checkpoint(path)],
        "resume": path,
    }
    images = digits.train[:100]
    result = vaelab.fit(model, images, epochs=epochs, **(settings | options))
    return model, result


def write(path, *steps, keep=frozenset(), facts=FACTS):
    """Writes small checkpoints whose array says their number."""
    store = Store(path)
    store.prepare()
    for step in steps:
        arrays = {"model": {"x": np.full((3, 2), step, np.float32)}}
        store.write(step, arrays, facts, keep)
    store.close()


def damage(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def reseal(folder):
    """Makes the checksums right again, as someone who tampers would."""
    text = json.dumps(_store._file_checksums(folder))
    (folder / "checksums.json").write_text(text)


def test_every_flipped_bit_and_every_truncation_is_noticed(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2, keep={1})
    newest = files(tmp_path / "2")
    assert len(newest) > 5
    tries = 0
    for file in newest:
        whole = file.read_bytes()
        at = range(0, len(whole), max(1, len(whole) // 5))
        damaged = [whole[:i] for i in at]
        damaged += [
            whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in at
        ]
        for content in damaged:
            file.write_bytes(content)
            with pytest.warns(UserWarning, match=r"/2 cannot be read, .* the one bef"):
                saved = Store(tmp_path).newest()
            assert saved.step == 1
            np.testing.assert_array_equal(saved.arrays["model"]["x"], np.ones((3, 2)))
            tries += 1
        file.unlink()
        assert not Store(tmp_path).can_read(2)
        file.write_bytes(whole)
    assert tries > 50
    assert Store(tmp_path).newest().step == 2


def test_another_array_under_right_checksums_of_files_is_noticed(tmp_path):
    write(tmp_path / "a", 1)
    write(tmp_path / "b", 2)
    shutil.rmtree(tmp_path / "a" / "1" / "arrays")
    shutil.copytree(tmp_path / "b" / "2" / "arrays", tmp_path / "a" / "1" / "arrays")
    reseal(tmp_path / "a" / "1")
    with pytest.raises(ValueError, match="its arrays are not those that were written"):
        Store(tmp_path / "a").newest()


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(digits, tmp_path):
    expected = train(digits, tmp_path / "whole", 4)
    train(digits, tmp_path / "run", 3)
    assert Store(tmp_path / "run").steps() == [4, 6]
    damage(tmp_path / "run" / "6" / "arrays" / "manifest.ocdbt")
    with pytest.warns(UserWarning, match=r"/6 cannot be read"):
        model, result = train(digits, tmp_path / "run", 4)
    np.testing.assert_array_equal(result.history["loss"], expected[1].history["loss"])
    assert Store(tmp_path / "run").newest().step == 8
    kernel = vaelab.load(tmp_path / "run").decoder.linear.kernel[...]
    np.testing.assert_array_equal(kernel, expected[0].decoder.linear.kernel[...])
    for step in ("6", "8"):
        (tmp_path / "run" / step / "checksums.json").write_text("{garbage")
    with pytest.raises(ValueError, match="cannot be read"), pytest.warns(UserWarning):
        train(digits, tmp_path / "run", 5)
    with pytest.raises(ValueError, match="holds checkpoints of an earlier run"):
        train(digits, tmp_path / "run", 1, resume=None)


def test_a_damaged_best_checkpoint_is_not_replaced_unsaid(digits, tmp_path):
    options = {
        "optimizer": optax.adam(-1e-3),  # the first epoch is the best
        "callbacks": [Checkpoint(tmp_path, metric="loss")],
    }
    train(digits, tmp_path, 4, **options)
    best = Store(tmp_path).newest().facts["best_step"]
    assert best == 2
    damage(tmp_path / str(best) / "facts" / "metadata")
    with pytest.raises(ValueError, match=rf"the best checkpoint .*/{best} .* latest"):
        vaelab.load(tmp_path, best=True)
    assert isinstance(vaelab.load(tmp_path), vaelab.VAE)
    with pytest.warns(UserWarning, match="the best so far, is damaged"):
        train(digits, tmp_path, 5, **options)


def test_a_full_disk_loses_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    larger = np.random.default_rng(0).normal(size=(300, 1000)).astype(np.float32)
    x = larger[:100]
    store = Store(disk / "run")
    try:
        store.prepare()
        for step in (1, 2):  # the second is kept beside the first while it is written
            store.write(step, {"model": {"x": x}}, FACTS, frozenset())
        store.finish()
        store.write(3, {"model": {"x": larger}}, FACTS, frozenset())
        with pytest.raises(OSError, match=r"run/3 could .*No space left.*; 2 is comp"):
            store.finish()
    finally:
        store.close()
        saved = Store(disk / "run").newest()
        left = {entry.name for entry in (disk / "run").iterdir()}
        subprocess.run(["umount", str(disk)], check=True)
    assert left == {"2"}
    np.testing.assert_array_equal(saved.arrays["model"]["x"], x)


def test_a_run_on_a_full_disk_says_so_and_can_go_on(digits, tmp_path, monkeypatch):
    expected = train(digits, tmp_path / "whole", 4)[1]
    train(digits, tmp_path / "run", 2)

    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(_store, "_file_checksums", full)
        with pytest.raises(OSError, match=r"run/6 .*No space left.*; 4 is complete"):
            train(digits, tmp_path / "run", 4)
    assert sorted(entry.name for entry in (tmp_path / "run").iterdir()) == ["2", "4"]
    result = train(digits, tmp_path / "run", 4)[1]
    np.testing.assert_array_equal(result.history["loss"], expected.history["loss"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "has format 99 and this vaelab reads format 2"),
        ({"format": "2"}, "has format '2'"),
        ({"kind": "pickle"}, "its kind is 'pickle'"),
        ({"kind": ["run"]}, r"its kind is \['run'\]"),
        ({"best_step": "../../x"}, r"its best_step is '\.\./\.\./x'"),
        ({"best_step": True}, "its best_step is True"),
        ({"epoch": -1}, "its epoch is -1"),
        ({"history": {"loss": ["a"]}}, "its history is"),
        ({"sums": {"loss": [1.0]}}, "its sums is"),
        ({"callbacks": [3]}, r"its callbacks is \[3\]"),
        ({"model": "jit"}, "its model is 'jit'"),
        ({"step": None}, "its step is None"),
    ],
)
def test_tampered_facts_are_refused(tmp_path, change, message):
    facts = {
        "kind": "run",
        "model": None,
        "keys": {},
        "data": {},
        "settings": {},
        "stream": None,
        "epoch": 1,
        "step": 2,
        "history": {"loss": [1.0]},
        "learning_rate_scale": 1.0,
        "sums": {},
        "steps_in_epoch": 0,
        "callbacks": [],
        "best_step": None,
    }
    write(tmp_path, 2, facts=facts)
    metadata = tmp_path / "2" / "facts" / "metadata"
    saved = json.loads(metadata.read_text())
    metadata.write_text(json.dumps(saved | change))
    reseal(tmp_path / "2")
    with pytest.raises(ValueError, match=message):
        vaelab.load(tmp_path)
    del saved["step"]
    metadata.write_text(json.dumps(saved))
    reseal(tmp_path / "2")
    with pytest.raises(ValueError, match="its step is missing"):
        vaelab.load(tmp_path)


def test_what_the_system_puts_into_folders_is_left_alone(tmp_path):
    vaelab.save(new_vae(), tmp_path / "model")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", ".hidden"):
        (tmp_path / "model" / name).write_text("system")
    for name in (".ipynb_checkpoints", "lost+found"):
        (tmp_path / "model" / name).mkdir()
    beside = tmp_path / "photos.deleted"
    beside.mkdir()
    vaelab.save(new_vae(), tmp_path / "model")
    vaelab.load(tmp_path / "model")
    assert len(list((tmp_path / "model").iterdir())) == 7
    assert beside.exists()
    (tmp_path / "model" / "photos.deleted").mkdir()
    with pytest.raises(ValueError, match=r"holds 'photos.deleted'"):
        vaelab.save(new_vae(), tmp_path / "model")
    (tmp_path / "years" / "2024").mkdir(parents=True)
    (tmp_path / "years" / "2024" / "me.jpg").write_text("photo")
    with pytest.raises(ValueError, match=r"holds '2024'"):
        Checkpoint(tmp_path / "years").on_start(None)


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    vaelab.save(new_vae(), "~/model")
    assert (tmp_path / "model").is_dir()
    vaelab.load("~/model")


def test_a_folder_has_one_writer(digits, tmp_path):
    two = [Checkpoint(tmp_path), Checkpoint(tmp_path)]
    with pytest.raises(ValueError, match=f"by a run of process {os.getpid()}: wait"):
        train(digits, tmp_path, 1, callbacks=two)
    store = Store(tmp_path)
    store.prepare()
    with pytest.raises(ValueError, match="is being written to"):
        vaelab.save(new_vae(), tmp_path)
    store.close()
    assert list(tmp_path.iterdir()) == []
    train(digits, tmp_path, 1)


def test_a_killed_writer_leaves_no_lock(tmp_path):
    code = f"""if True:
        import os, pathlib, signal
        from vaelab.checkpoints._lock import locked
        lock = locked(pathlib.Path({str(tmp_path)!r}))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", code])
    assert killed.returncode == -9 and (tmp_path / ".lock").exists()
    write(tmp_path, 1)


def test_two_threads_write_to_two_folders(tmp_path):
    errors = []

    def many(folder):
        try:
            for step in range(1, 9):
                write(folder, step, keep={step - 1})
                assert Store(folder).newest().step == step
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=many, args=(tmp_path / name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert errors == []


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg", "threefry2x32"])
def test_random_keys_of_any_generator_come_back(tmp_path, kind):
    def built():
        key = jax.random.key(3, impl=kind)
        return vaelab.VAE((2, 2), 3, 2, rngs=nnx.Rngs(0, noise=key))

    model = built()
    vaelab.save(model, tmp_path)
    for loaded in (vaelab.load(tmp_path), vaelab.load(tmp_path, model=built())):
        key = loaded.rngs.noise.key[...]
        assert str(jax.random.key_impl(key)) == kind
        np.testing.assert_array_equal(
            jax.random.normal(key, (3,)),
            jax.random.normal(jax.random.key(3, impl=kind), (3,)),
        )
