"""What was changed after it was sealed is never answered from, whoever registers it."""

import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from deploy.__main__ import main
from deploy.archive import layout, mar
from deploy.errors import DeployError, WorkerDied
from deploy.torchserve.tokens import KEY_FILE, Tokens
from tests.integration import quadrant
from tests.integration.torchserve import Running

NOT_SEALED = "nothing is served from .*model.json is not the file that was sealed"


def relabelled(card: bytes) -> bytes:
    """A card under which every answer is another one."""
    return card.replace(b"top left", b"top l3ft").replace(b"bottom", b"b0ttom")


def test_a_changed_archive_is_registered_by_nobody(
    served: Running, store: Path, tmp_path: Path
) -> None:
    """Over the management API alone, as without any of our tools."""
    good = mar.seal(quadrant.make(tmp_path, "changed"), tmp_path / "store").path
    with zipfile.ZipFile(good) as packed:
        entries = {name: packed.read(name) for name in packed.namelist()}
    entries["model.json"] = relabelled(entries["model.json"])
    (store / "changed.mar").write_bytes(layout.zipped(entries))
    with pytest.raises(WorkerDied, match=NOT_SEALED):
        served.management.register("changed.mar")
    with pytest.raises(DeployError):
        served.inference.predict("changed", quadrant.picture(1), "image/png")


@pytest.fixture
def pair(served: Running, store: Path, tmp_path: Path) -> Iterator[str]:
    """A registered model with two workers."""
    mar.seal(quadrant.make(tmp_path, "pair", workers=2), store)
    served.management.register("pair.mar")
    yield "pair"
    served.management.unregister("pair")


def test_a_file_changed_where_it_was_unpacked_is_refused_at_the_next_start(
    served: Running, pair: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = served.pids(pair)
    folder = psutil.Process(first).cwd()
    card = Path(folder) / "model.json"
    card.write_bytes(relabelled(card.read_bytes()))
    log = served.workdir / "logs" / "model_log.log"
    before = log.stat().st_size

    psutil.Process(first).kill()
    wait_for(log, before, "model.json is not the file that was sealed")
    for _ in range(4):  # by the worker that loaded what was sealed
        answer = served.inference.predict(pair, quadrant.picture(2), "image/png")
        assert answer["predictions"][0]["label"] == quadrant.LABELS[2]

    before = log.stat().st_size
    psutil.Process(second).kill()
    wait_for(log, before, "model.json is not the file that was sealed")
    url = f"{served.settings.inference}/predictions/{pair}"
    header = Tokens(served.workdir / KEY_FILE, served.settings.management).header("inference")
    try:  # TorchServe may keep the request for a worker that never comes
        reply = requests.post(url, quadrant.picture(2), headers=header, timeout=3)
        assert reply.status_code != 200
    except requests.Timeout:
        pass
    assert requests.get(f"{served.settings.inference}/ping", timeout=30).status_code != 200
    options = [f"--workdir={served.workdir}", f"--config={served.workdir / 'config.properties'}"]
    assert main(["describe", pair, *options]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["refused"].startswith(f"nothing is served from {folder}: model.json is not")


def wait_for(log: Path, start: int, text: str) -> None:
    """Until a log says something after `start`."""
    for _ in range(600):
        with log.open("rb") as file:
            file.seek(start)
            if text.encode() in file.read():
                return
        time.sleep(0.1)
    pytest.fail(f"{log} never said {text!r}")
