"""Our config.properties, and what is read from any."""

from pathlib import Path

import pytest
import yaml

from deploy.errors import BadInput
from deploy.torchserve import config
from handlers.metrics import DECLARATIONS


def test_the_repositorys_settings(root: Path) -> None:
    settings = config.read(root / "config.properties")
    assert settings.inference == "http://127.0.0.1:8080"
    assert settings.management == "http://127.0.0.1:8081"
    assert settings.metrics == "http://127.0.0.1:8082"
    assert settings.ports == {
        "inference": 8080,
        "management": 8081,
        "metrics": 8082,
        "grpc_inference": 7070,
        "grpc_management": 7071,
    }
    assert settings.tokens


def test_every_setting_says_why(root: Path) -> None:
    """A line, or the block of lines it stands in, has a comment above it."""
    for block in (root / "config.properties").read_text().split("\n\n"):
        assert block.lstrip().startswith("#"), block


def test_it_names_no_machine(root: Path) -> None:
    values = config.properties(root / "config.properties").values()
    assert not [value for value in values if value.startswith("/") or "file:" in value]
    for name in ("deploy/torchserve/metrics.yaml", "deploy/torchserve/log4j2.xml"):
        assert any(name in value for value in values)
        assert (root / name).is_file()


def test_every_metric_of_the_handlers_is_declared(root: Path) -> None:
    """TorchServe drops an undeclared metric without a word."""
    declared = yaml.safe_load((root / "deploy" / "torchserve" / "metrics.yaml").read_text())[
        "model_metrics"
    ]
    found = {
        (metric["name"], kind, metric["unit"], tuple(metric["dimensions"]))
        for kind, metrics in declared.items()
        for metric in metrics
    }
    assert set(DECLARATIONS) <= found


def test_defaults_are_torchserves(tmp_path: Path) -> None:
    path = tmp_path / "config.properties"
    path.write_text("! a comment\n# inference_address=http://x:1\n\nmodel_store = store \n")
    settings = config.read(path)
    assert settings.inference == "http://127.0.0.1:8080"
    assert settings.tokens
    assert config.properties(path) == {"model_store": "store"}


@pytest.mark.parametrize(
    "line",
    [
        "inference_address=localhost:8080",
        "management_address=http://:8081",
        "metrics_address=http://127.0.0.1:99999",
        "grpc_inference_port=many",
    ],
)
def test_an_address_that_is_none(tmp_path: Path, line: str) -> None:
    path = tmp_path / "config.properties"
    path.write_text(line + "\n")
    with pytest.raises(BadInput, match=line.partition("=")[0]):
        config.read(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        config.read(tmp_path / "none.properties")
