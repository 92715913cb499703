"""An archive in a TorchServe of its own: python -m benchmarks.serve.torchserve_app ARTIFACT INFO.

Writes the address and the key into INFO once the workers are ready, and serves until SIGTERM.
"""

import json
import signal
import sys
import threading
from pathlib import Path

from deploy.archive import mar
from deploy.torchserve import config, server
from deploy.torchserve.rollout import registration
from deploy.torchserve.tokens import KEY_FILE, Tokens
from deploy.tune.sandbox import STORE, sandbox

ROOT = Path(__file__).resolve().parents[2]


def main(artifact: Path, info: Path) -> None:
    """Start, tell, wait, stop."""
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    with sandbox(ROOT / "config.properties") as folder:
        sealed = mar.seal(artifact, folder / STORE, force=True)
        server.start(folder, folder / "config.properties", folder / STORE)
        settings = config.read(folder / "config.properties")
        management, _ = server.clients(folder, settings)
        management.register(sealed.path.name, settings=registration(sealed.path))
        told = {
            "url": f"{settings.inference}/predictions/{sealed.name}",
            "key": Tokens(folder / KEY_FILE, settings.management).header("inference")[
                "Authorization"
            ],
        }
        aside = info.with_suffix(".part")
        aside.write_text(json.dumps(told))
        aside.replace(info)
        done.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
