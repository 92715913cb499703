"""Ray Serve: python -m benchmarks.serve.peers.ray_app PORT; POST /predict."""

import os
import signal
import sys
import threading

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.serve.application import BATCH, Application


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 1}, max_ongoing_requests=100)
class Model:
    """Bodies to the handler's JSON, in batches."""

    def __init__(self) -> None:
        self.application = Application()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.001)  # type: ignore[untyped-decorator]
    async def answers(self, bodies: list[bytes]) -> list[bytes]:
        return self.application.answers(bodies)

    async def __call__(self, request: Request) -> Response:
        body = await self.answers(await request.body())
        return Response(body, media_type="application/json")


if __name__ == "__main__":
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    names = ("FOLDER", "CONTENT_TYPE", "OMP_NUM_THREADS", "PYTHONPATH")
    settings = {"env_vars": {name: os.environ[name] for name in names if name in os.environ}}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env=settings,
        object_store_memory=256 << 20,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Model.bind(), route_prefix="/predict")
    done.wait()
    ray.shutdown()
