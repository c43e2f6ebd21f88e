"""Checkpoint folders for the tests of encoders, each written once in a session."""

import pytest

from features.tiny_encoders import save_tiny


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """Return a maker of checkpoint folders: `tiny_checkpoint("hubert-base")`."""
    made = {}

    def make(name: str):
        if name not in made:
            made[name] = save_tiny(name, tmp_path_factory.mktemp(name))
        return made[name]

    return make
