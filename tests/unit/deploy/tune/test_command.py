import argparse

import pytest

from deploy.__main__ import main
from deploy.tune.command import _bound, _clients


@pytest.mark.parametrize(("text", "seconds"), [("50ms", 0.05), ("1.5s", 1.5), ("0.5ms", 0.0005)])
def test_times(text: str, seconds: float) -> None:
    assert _bound(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["50", "ms", "-1ms", "0s", "1 s", "1m"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no time"):
        _bound(text)


def test_clients() -> None:
    assert _clients("16,1,4,4") == (1, 4, 16)
    for text in ("", "0", "a", "1,,2", "5000"):
        with pytest.raises(argparse.ArgumentTypeError):
            _clients(text)


def test_an_artifact_that_is_not_there(tmp_path, capsys) -> None:
    assert main(["tune", "nothing", "--artifacts", str(tmp_path)]) == 2
    assert "make it with" in capsys.readouterr().err
