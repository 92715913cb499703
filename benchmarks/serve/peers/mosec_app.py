"""mosec: python -m benchmarks.serve.peers.mosec_app --port PORT; POST /inference."""

from typing import Any

from mosec import Server, Worker

from benchmarks.serve.application import BATCH, Application


class Model(Worker):  # type: ignore[misc]
    """Batches of bodies to the handler's JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.application = Application()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: Any) -> Any:
        return self.application.answers(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, num=2, max_batch_size=BATCH, max_wait_time=1)
    server.run()
