"""The public face: what it offers, and that importing it loads nothing heavy."""

import importlib
import subprocess
import sys

import pytest

import vocable


def test_every_public_name_is_there_and_comes_from_its_home():
    assert set(vocable._HOMES) | {"__version__"} == set(vocable.__all__) <= set(dir(vocable))
    for name, home in vocable._HOMES.items():
        assert getattr(vocable, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="no attribute 'load_tokeniser'"):
        _ = vocable.load_tokeniser  # type: ignore[attr-defined]


def test_importing_is_instant():
    script = "import sys, vocable; print(sorted({'torch', 'transformers', 'numpy', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
