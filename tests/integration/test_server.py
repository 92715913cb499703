"""Start and stop: once, cleanly, and with errors that name the cause."""

import os
import signal
import socket
from pathlib import Path

import psutil
import pytest

from deploy.archive import mar
from deploy.errors import BadInput, NoServer
from deploy.torchserve import config, server
from tests.integration import quadrant
from tests.integration.torchserve import connect, torchserve, with_properties, workplace


def test_start_twice_stop_twice(tmp_path: Path) -> None:
    with workplace() as workdir:
        mar.seal(quadrant.make(workdir / "artifacts"), workdir / "model_store")
        place = (workdir, workdir / "config.properties", workdir / "model_store")
        with torchserve(workdir, ["all"]) as running:
            state = server.running(workdir)
            assert state is not None
            # `start` with models returns when their workers are ready, not before.
            assert server.all_ready(running.management)
            workers = running.pids("quadrant")
            assert len(workers) == 1 and psutil.pid_exists(workers[0])
            assert server.start(*place) == state
            assert not (workdir / "logs" / "config").exists(), "a snapshot was written"
            assert server.stop(workdir) == state.pid
            for pid in [state.pid, *workers]:
                assert not psutil.pid_exists(pid), "stop left a process behind"
            assert not Path(state.temp).exists()
            assert not (workdir / "key_file.json").exists()
            assert server.stop(workdir) is None


def test_stop_spares_a_process_that_only_has_the_pid(tmp_path: Path) -> None:
    """After a reboot the recorded pid may be anyone's."""
    (tmp_path / ".run").mkdir()
    me = psutil.Process()
    (tmp_path / ".run" / "server.json").write_text(
        f'{{"pid": {me.pid}, "created": {me.create_time()}, "workdir": ".", "config": "c", '
        f'"log_dir": "l", "temp": "{tmp_path / "nothing"}"}}'
    )
    assert server.running(tmp_path) is None
    assert server.stop(tmp_path) is None
    assert not (tmp_path / ".run" / "server.json").exists()


def test_a_killed_server_is_noticed_and_started_anew() -> None:
    with workplace() as workdir:
        place = (workdir, workdir / "config.properties", workdir / "model_store")
        mar.seal(quadrant.make(workdir / "artifacts"), workdir / "model_store")
        with torchserve(workdir, ["all"]) as running:
            first = server.running(workdir)
            assert first is not None
            family = [psutil.Process(pid) for pid in [first.pid, *running.pids("quadrant")]]
            os.kill(first.pid, signal.SIGKILL)
            _, left = psutil.wait_procs(family, timeout=20)
            assert left == [], "a worker outlived its server"
            assert server.running(workdir) is None
            second = server.start(*place)
            assert second.pid != first.pid
            assert not Path(first.temp).exists()
            assert connect(workdir).inference.ping() == "Healthy"


@pytest.mark.parametrize("name", ["inference", "management", "metrics", "grpc_inference"])
def test_a_taken_port_is_named_with_its_owner(name: str) -> None:
    with workplace() as workdir, socket.socket() as listener:
        path = workdir / "config.properties"
        port = config.read(path).ports[name]
        listener.bind(("127.0.0.1", port))
        listener.listen()
        with pytest.raises(NoServer, match=rf"port {port} \({name}.*process {os.getpid()}"):
            server.start(workdir, path, workdir / "model_store")
        assert server.running(workdir) is None


def test_a_server_that_cannot_start_shows_its_log_and_leaves_nothing() -> None:
    with workplace(vmargs="-Xmx1k") as workdir:
        with pytest.raises(NoServer, match="heap"):
            server.start(workdir, workdir / "config.properties", workdir / "model_store")
        assert server.running(workdir) is None
        assert not (workdir / ".run" / "server.json").exists()


def test_a_missing_model_store_or_config_is_bad_input() -> None:
    with workplace() as workdir:
        with pytest.raises(BadInput, match="no model store"):
            server.start(workdir, workdir / "config.properties", workdir / "nowhere")
        with pytest.raises(BadInput, match="cannot be read"):
            server.start(workdir, workdir / "no.properties", workdir / "model_store")


def test_secrets_of_the_shell_stay_out_of_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("GITHUB_TOKEN", "hush")
    monkeypatch.setenv("MARPRESS_HARMLESS", "seen")
    with workplace() as workdir:
        mar.seal(quadrant.make(workdir / "artifacts"), workdir / "model_store")
        with torchserve(workdir, ["all"]) as running:
            (pid,) = running.pids("quadrant")
            environment = psutil.Process(pid).environ()
    assert environment["MARPRESS_HARMLESS"] == "seen"
    assert "hush" not in environment.values()


def test_properties_of_the_test_are_the_repositorys_but_for_the_ports(root: Path) -> None:
    """The fixture must not test a configuration of its own."""
    ours = (root / "config.properties").read_text()
    changed = with_properties(ours, {"inference_address": "x", "new_one": "y"})
    assert changed.splitlines()[-2:] == ["inference_address=x", "new_one=y"]
    assert [line for line in ours.splitlines() if not line.startswith("inference_address")] == (
        changed.splitlines()[:-2]
    )
