import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from optimize.errors import ModelError
from optimize.utils import blame, torchscript

MINE = """\
import json

from torch import nn


def parse(text):
    return json.loads(text)


class Inner(nn.Module):
    def forward(self, x):
        return x.reshape(-1, 7)


def build():
    return nn.Sequential(nn.Identity(), nn.Sequential(nn.ReLU(), Inner()))
"""


@pytest.fixture
def mine(tmp_path: Path) -> ModuleType:
    return imported(tmp_path / "mine.py", MINE)


def imported(path: Path, source: str) -> ModuleType:
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_users_lines_are_shown_and_nobody_elses(mine: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:  # raised in the standard library
        mine.parse("{")
    lines = blame.user_lines(caught.value).splitlines()
    assert lines[-1] == f"{tmp_path}/mine.py:7 in parse: return json.loads(text)"
    assert not any("json/" in line for line in lines)
    assert blame.first_line(caught.value).startswith("JSONDecodeError: Expecting property name")


def test_the_error_that_another_was_raised_from_counts(mine: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(KeyError) as caught:
        try:
            mine.parse("{")
        except ValueError as error:
            raise KeyError("wrapped") from error
    assert f"{tmp_path}/mine.py:7 in parse: " in blame.user_lines(caught.value)


def test_a_file_that_does_not_compile_or_import_is_shown(tmp_path: Path) -> None:
    with pytest.raises(SyntaxError) as caught:
        imported(tmp_path / "broken.py", "x = 1\ndef f(:\n    pass\n")
    last = blame.user_lines(caught.value).splitlines()[-1]
    assert last == f"{tmp_path}/broken.py:2: def f(:"
    with pytest.raises(ImportError) as missing:
        imported(tmp_path / "needs.py", "from json import nothing_of_this_name\n")
    last = blame.user_lines(missing.value).splitlines()[-1]
    assert last == f"{tmp_path}/needs.py:1: from json import nothing_of_this_name"


def test_the_innermost_layer_is_named(mine: ModuleType) -> None:
    with pytest.raises(RuntimeError) as caught:
        mine.build()(torch.zeros(2, 3))
    assert blame.layer(caught.value) == "1.1"
    with pytest.raises(RuntimeError) as caught:
        nn.Sequential(nn.ReLU(), nn.Linear(4, 2))(torch.zeros(2, 3))
    assert blame.layer(caught.value) == "1"


def test_an_error_of_ours_has_no_line_and_no_layer(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        torchscript.load(tmp_path / "none.pt")
    assert caught.value.__traceback__ is not None
    inner = caught.value.with_traceback(caught.value.__traceback__.tb_next)  # without this test
    assert blame.user_lines(inner) == "" and blame.layer(inner) == ""
