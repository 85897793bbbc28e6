"""Differences of parameters between ways of running the same configuration."""
import sys, signal
sys.path.insert(0, "tests/gato/training")
import numpy as np, jax
from pathlib import Path
import pytest
from processes import start_training
from gato.training.checkpoint import load_for_inference, saved_steps

def test_diff(train_config, tmp_path):
    config = train_config.replace(steps=24, checkpoint_every=4)
    def whole(name, count, devices):
        run = tmp_path / name
        with start_training(config, run, tmp_path / f"{name}l", count=count, devices=devices) as p:
            assert p.wait() == [0] * count, p.everything()
        return load_for_inference(run)[0]
    def split(name, first, second):
        run = tmp_path / name
        with start_training(config, run, tmp_path / f"{name}a", count=first[0], devices=first[1]) as p:
            assert p.until(lambda: len(saved_steps(run)) >= 1)
            p.send(0, signal.SIGTERM)
            assert p.wait() == [143] * first[0]
        at = saved_steps(run)[-1]
        with start_training(config, run, tmp_path / f"{name}b", count=second[0], devices=second[1]) as p:
            assert p.wait() == [0] * second[0], p.everything()
        return load_for_inference(run)[0], at
    def diff(a, b):
        rows = []
        for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)):
            d = np.abs(np.asarray(x) - np.asarray(y))
            rows.append((float(d.max()), float((d > 1e-5).mean()), jax.tree_util.keystr(path)))
        rows.sort(reverse=True)
        return rows[:3]
    pair = whole("pair", 2, 1)
    print("pair again", diff(pair, whole("pair2", 2, 1)))
    one2 = whole("one2", 1, 2)
    print("1 process x 2 devices", diff(pair, one2))
    one = whole("one", 1, 1)
    print("1 x 1", diff(pair, one), "one2/one", diff(one2, one))
    for name, f, s in (("a", (2, 1), (1, 2)), ("b", (1, 2), (2, 1)), ("c", (2, 1), (1, 1)), ("d", (1, 1), (2, 1))):
        r, at = split(name, f, s)
        print(f, "->", s, "at", at, "vs pair", diff(pair, r), "vs one", diff(one, r))
