"""A training run in a process of its own, for test_loop.py.

`worker.py OUT STEP` dies after STEP steps; `worker.py OUT processes` is one of two processes. Models, documents and
settings are those of that file.
"""

import dataclasses
import importlib.util
import os
import sys
from pathlib import Path

from vocable.training import loop
from vocable.training.language_model import train_lm


def load(name):
    """Import a neighbour of this file; tests are no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(out, mode):
    tests, fixtures = load("test_loop"), load("conftest")
    make_documents = fixtures.make_documents.__wrapped__()
    tiny_lm, card = fixtures.tiny_lm.__wrapped__(), fixtures.card.__wrapped__()
    config, model = fixtures.CONFIG, tiny_lm()
    if mode == "processes":
        config, model = dataclasses.replace(config, max_steps=4), tests._no_dropout()
        assert loop.Accelerator().num_processes == 2
    else:
        take_step = loop.Loop._step

        def step_or_die(trainer):
            if trainer.state.step == int(mode):
                os._exit(9)
            take_step(trainer)

        loop.Loop._step = step_or_die
    train_lm(model, make_documents(40), make_documents(6, seed=1), config, Path(out), card, show=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
