"""The verb `console` where there is nothing to show."""

from pathlib import Path

import pytest

from deploy.__main__ import main
from deploy.console import command
from deploy.errors import NoServer
from deploy.torchserve import config
from deploy.torchserve.tokens import Tokens

# Port 9 is nobody's.
SETTINGS = "".join(f"{name}_address=http://127.0.0.1:9\n" for name in config.ADDRESSES)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "config.properties").write_text(f"{SETTINGS}disable_token_authorization=true\n")
    return tmp_path


def run(place: Path, *more: str) -> int:
    settings = str(place / "config.properties")
    return main(["console", "--no-browser", "--workdir", str(place), "--config", settings, *more])


def test_no_server(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place) == 4
    error = capsys.readouterr().err
    assert "no TorchServe answers at http://127.0.0.1:9" in error


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_ports_that_are_none(place: Path, port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, f"--port={port}") == 2
    assert "--port must be a whole number" in capsys.readouterr().err


def test_no_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 2
    assert "config.properties cannot be read" in capsys.readouterr().err


def test_no_metrics(place: Path) -> None:
    settings = config.read(place / "config.properties")
    with pytest.raises(NoServer, match=r"no metrics at http://127\.0\.0\.1:9/metrics"):
        command.metrics(settings, Tokens(None, settings.management))
