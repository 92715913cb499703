"""Valid but expensive requests amid good ones, in real batches of a real TorchServe."""

import json
import os
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from deploy.archive import mar
from tests.integration import quadrant
from tests.integration.torchserve import ROOT, Running
from tests.unit.expensive import Expensive, expensive

CLIENTS = 12


def ask(served: Running, shot: Expensive | int, name: str = "quadrant") -> requests.Response:
    """POST an expensive body, or a good picture of that label."""
    headers = served.header()
    body = quadrant.picture(shot) if isinstance(shot, int) else shot.body
    kind = "image/png" if isinstance(shot, int) else shot.content_type
    if kind:
        headers["Content-Type"] = kind
    url = f"{served.settings.inference}/predictions/{name}"
    return requests.post(url, data=body, headers=headers, timeout=120)


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_expensive_requests_harm_nobody(served: Running) -> None:
    shots: list[Expensive | int] = []
    for index, case in enumerate(expensive()):
        shots += [index % 4, (index + 1) % 4, case]
    random.Random(0).shuffle(shots)
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda label: ask(served, label), [0, 1, 2, 3] * 16))
        pids = served.pids("quadrant")
        before = [resident(pid) for pid in pids]
        replies = list(pool.map(lambda shot: ask(served, shot), shots))
    for shot, reply in zip(shots, replies, strict=True):
        if isinstance(shot, int):
            assert reply.status_code == 200, reply.text
            assert reply.json()["predictions"][0]["index"] == shot
        else:
            assert reply.status_code == shot.status, (shot.name, reply.text)
    assert served.pids("quadrant") == pids, "a worker was restarted"
    after = [resident(pid) for pid in pids]
    assert sum(after) < 1.3 * sum(before), (before, after)


LEAKY = '''
from typing import Any

from handlers.image_classifier import ImageClassifier


class Leaky(ImageClassifier):
    """Keeps two hundred megabytes of every request."""

    def postprocess(self, request: Any, results: Any) -> Any:
        self.kept = [*getattr(self, "kept", []), b"\\x01" * (200 << 20)]
        return super().postprocess(request, results)
'''


def test_a_worker_that_has_grown_too_large_is_replaced_and_nobody_notices(
    served: Running, tmp_path: Path
) -> None:
    artifact = quadrant.make(tmp_path, name="leaky", batch_size=1)
    card = json.loads((artifact / "model.json").read_text())
    quadrant.write(artifact / "model.json", card | {"handler": "leaky"})
    handlers = tmp_path / "handlers"
    shutil.copytree(ROOT / "handlers", handlers, ignore=shutil.ignore_patterns("__pycache__"))
    (handlers / "leaky.py").write_text(LEAKY)
    mar.seal(artifact, served.workdir / "model_store", handlers=handlers)
    served.management.register("leaky.mar")
    try:
        (first,) = served.pids("leaky")
        for _ in range(5):
            assert ask(served, 2, "leaky").status_code == 200
        for _ in range(300):
            if not Path(f"/proc/{first}").exists():
                break
            time.sleep(0.1)
        # The next request may find no worker yet: it waits for the one that is being started.
        reply = ask(served, 3, "leaky")
        assert reply.status_code == 200, reply.text
        assert reply.json()["predictions"][0]["index"] == 3
        (second,) = served.pids("leaky")
        assert second != first
    finally:
        served.management.unregister("leaky")
