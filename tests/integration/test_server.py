"""Start and stop: once, cleanly, and with errors that name the cause."""

import json
import os
import shutil
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from deploy.archive import mar
from deploy.errors import BadInput, NoServer
from deploy.torchserve import config, server
from deploy.torchserve.environment import WITHHELD
from tests.integration import quadrant, sleeper
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
    """After a reboot the recorded pid may be anyone's, and so may be the folder."""
    (tmp_path / ".run").mkdir()
    (tmp_path / "nothing").mkdir()
    me = psutil.Process()
    (tmp_path / ".run" / "server.json").write_text(
        f'{{"pid": {me.pid}, "created": {me.create_time()}, "workdir": ".", "config": "c", '
        f'"log_dir": "l", "temp": "{tmp_path / "nothing"}"}}'
    )
    assert server.running(tmp_path) is None
    assert server.stop(tmp_path) is None
    assert not (tmp_path / ".run" / "server.json").exists()
    assert (tmp_path / "nothing").is_dir()


@pytest.mark.parametrize("pid", ["me", 1.5, None, True, -1])
def test_a_state_file_without_sense_is_none(tmp_path: Path, pid: object) -> None:
    (tmp_path / ".run").mkdir()
    state = {"pid": pid, "created": 0, "workdir": ".", "config": "c", "log_dir": "l", "temp": "t"}
    (tmp_path / ".run" / "server.json").write_text(json.dumps(state))
    assert server.running(tmp_path) is None
    assert server.stop(tmp_path) is None


def test_the_server_of_another_folder_is_not_stopped() -> None:
    with workplace() as workdir, workplace() as other, torchserve(workdir):
        state = server.running(workdir)
        assert state is not None
        (other / ".run").mkdir()
        shutil.copy(workdir / ".run" / "server.json", other / ".run" / "server.json")
        temp = Path(state.temp)
        assert server.stop(other) is None
        assert psutil.pid_exists(state.pid)
        assert temp.is_dir(), "it is in use"


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


def test_workers_get_what_they_need_and_logs_are_private(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One server: its environment, its files, and a request whose worker is killed."""
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "hush1",
        "GITHUB_TOKEN": "hush2",
        "DATABASE_URL": "postgres://me:hush3@host/db",
        "SENTRY_DSN": "https://hush4@host/1",
        "OMP_PASSWORD": "hush5",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TS_SLEEPER", str(tmp_path))
    monkeypatch.setenv("MINE", "wanted")
    withheld = WITHHELD.replace("PATH|", "PATH|MINE|", 1)
    with workplace(blacklist_env_vars=withheld) as workdir:
        sleeper.seal(workdir / "artifacts", workdir / "model_store")
        with torchserve(workdir, ["sleeper.mar"]) as running:
            state = server.running(workdir)
            assert state is not None
            (pid,) = running.pids("sleeper")
            for process in (state.pid, pid):
                environment = psutil.Process(process).environ()
                assert environment["MINE"] == "wanted"
                assert not [value for value in environment.values() if "hush" in value]
            # What TorchServe itself tells its workers reaches them.
            assert psutil.Process(pid).environ()["TS_DECODE_INPUT_REQUEST"] == "false"
            files = [p for p in (workdir / "logs").rglob("*") if p.is_file()]
            assert {path.name for path in files} >= {"console.log", "model_log.log", "ts_log.log"}
            assert [p for p in files if p.stat().st_mode & 0o077] == []
            assert (workdir / "logs").stat().st_mode & 0o077 == 0
            assert (workdir / "key_file.json").stat().st_mode & 0o077 == 0
            with ThreadPoolExecutor(1) as pool:
                kind = "application/json"
                asked = pool.submit(running.inference.predict, "sleeper", b'{"data": 1.5}', kind)
                while "1.5" not in notes(tmp_path):
                    assert not asked.done(), asked.result()
                    time.sleep(0.05)
                os.kill(pid, signal.SIGKILL)
                assert asked.result() == {"slept": 1.5}
            assert notes(tmp_path).count("1.5") == 2, "it was not asked again"


def notes(folder: Path) -> list[str]:
    """What the sleeper was asked so far."""
    path = folder / "done"
    return path.read_text().split() if path.exists() else []


def test_properties_of_the_test_are_the_repositorys_but_for_the_ports(root: Path) -> None:
    """The fixture must not test a configuration of its own."""
    ours = (root / "config.properties").read_text()
    changed = with_properties(ours, {"inference_address": "x", "new_one": "y"})
    assert changed.splitlines()[-2:] == ["inference_address=x", "new_one=y"]
    assert [line for line in ours.splitlines() if not line.startswith("inference_address")] == (
        changed.splitlines()[:-2]
    )
