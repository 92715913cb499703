from pathlib import Path

from deploy.torchserve import config
from deploy.tune.sandbox import on_free_ports, sandbox


def test_only_the_ports_differ(root: Path, tmp_path: Path) -> None:
    text = (root / "config.properties").read_text()
    path = tmp_path / "config.properties"
    path.write_text(on_free_ports(text))
    before, after = config.properties(root / "config.properties"), config.properties(path)
    moved = {key for key in after if after[key] != before.get(key)}
    assert moved == {
        *("inference_address", "management_address", "metrics_address"),
        *("grpc_inference_port", "grpc_management_port", "initial_worker_port"),
    }
    ports = config.read(path).ports
    assert len({*ports.values(), after["initial_worker_port"]}) == 6
    assert all(address.startswith("http://127.0.0.1:") for address in (after["metrics_address"],))


def test_what_its_settings_name_is_there_and_goes(root: Path) -> None:
    with sandbox(root / "config.properties") as folder:
        named = config.properties(folder / "config.properties")
        assert (folder / named["metrics_config"]).is_file()
        assert (folder / "deploy" / "torchserve" / "log4j2.xml").is_file()
        assert (folder / "model_store").is_dir()
    assert not folder.exists()
