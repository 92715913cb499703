import logging
import os
import subprocess
import sys
from pathlib import Path

from handlers.worker import in_torchserve_worker, settle

PROBE = """
import logging, os, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
from handlers.worker import in_torchserve_worker, settle
assert in_torchserve_worker()
settle()
logging.info("chatter")
logging.warning("a warning")
logging.getLogger("ts.metrics.caching_metric").info("[METRICS]kept")
assert os.environ["TS_DECODE_INPUT_REQUEST"] == "false"  # whatever the server's settings say
"""


def test_a_torchserve_worker_logs_warnings_and_metrics(root: Path, tmp_path: Path):
    script = tmp_path / "ts" / "model_service_worker.py"
    script.parent.mkdir()
    script.write_text(PROBE)
    environment = os.environ | {"PYTHONPATH": str(root), "TS_DECODE_INPUT_REQUEST": "true"}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:-1] == ["a warning", "[METRICS]kept"]


def test_any_other_process_keeps_its_logs():
    before = logging.getLogger().level
    settle()
    assert not in_torchserve_worker()
    assert logging.getLogger().level == before
