"""The modules that one opens to follow a step, counted by hand in three files."""

import ast

from benchmarks import rooms

TRAIN = """
from qr_jax.pool import pool
from qr_jax.parallel import hosts
from qr_jax.step.log import write as told

def take_step(runtime):
    hosts.index()
    groups = collected(runtime)
    return told(groups)

def collected(runtime):
    return pool.draw(runtime.state)
"""
POOL = """
from qr_jax.pool.noise import words

class Pool:
    def settle(self):
        return words(1)

def draw(state):
    return state.settle()
"""


def test_a_step_s_modules_are_those_of_the_functions_that_it_names_so_many_calls_deep():
    texts = {
        "train": TRAIN,
        "pool/pool": POOL,
        "pool/noise": "def words(count): pass",
        "step/log": "def write(groups): pass",
        "parallel/hosts": "def index(): pass",  # of the floor
    }
    trees = {f"qr_jax/{name}.py": ast.parse(text) for name, text in texts.items()}
    assert rooms.opened(trees, 1) == ["qr_jax.step.log", "qr_jax.train"]
    assert rooms.opened(trees, 2) == ["qr_jax.pool.pool", "qr_jax.step.log", "qr_jax.train"]
    # draw, then settle: the one method of that name in a module that the file knows, and what it names
    assert rooms.opened(trees, 4) == ["qr_jax.pool.noise", "qr_jax.pool.pool", "qr_jax.step.log", "qr_jax.train"]
