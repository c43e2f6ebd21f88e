"""Configs: yaml and overrides fill dataclasses; what is misspelt or wrong is refused and named."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from vocable.config import config_to_dict, load_config, save_config
from vocable.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    size: int = 3
    name: str | None = "x"

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ConfigError(f"inner.size is {self.size}; it must be at least 2.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = None
    rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.98)
    mode: Literal["x", "y"] = "x"


def test_yaml_then_overrides_fill_nested_dataclasses(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text("inner: {size: 5, name: null}\nrate: 1e-3\n")
    config = load_config(Outer, path, ["inner.size=7", "other.size=9", "betas=[0.5, 0.6]", "mode=y"])
    assert config == Outer(inner=Inner(size=7, name=None), other=Inner(size=9), rate=1e-3, betas=(0.5, 0.6), mode="y")


def test_an_override_changes_one_place_of_a_yaml_alias(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text("inner: &one {size: 5}\nother: *one\n")
    assert load_config(Outer, path, ["other.size=7"]) == Outer(inner=Inner(size=5), other=Inner(size=7))


def test_saved_config_loads_to_the_same_value(tmp_path: Path):
    config = Outer(inner=Inner(size=11), other=Inner(name=None), mode="y")
    save_config(config, tmp_path / "c.yaml")
    assert load_config(Outer, tmp_path / "c.yaml") == config
    assert config_to_dict(config)["betas"] == [0.9, 0.98]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.sise=5", "unknown setting 'inner.sise'. Did you mean 'inner.size'?"),
        ("inner.size=hello", "inner.size is 'hello'"),
        ("inner.size=1", "inner.size is 1; it must be at least 2"),
        ("mode=z", "mode is 'z'"),
        ("rate", "has no '='"),
        ("rat=3", "Did you mean 'rate'?"),
    ],
)
def test_wrong_settings_are_named(override: str, message: str):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?").replace(".", r"\.")):
        load_config(Outer, None, [override])


def test_missing_and_broken_files_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(Outer, tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="holds a list"):
        load_config(Outer, tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not valid yaml"):
        load_config(Outer, tmp_path / "broken.yaml")
