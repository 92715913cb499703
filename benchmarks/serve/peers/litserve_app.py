"""LitServe: python -m benchmarks.serve.peers.litserve_app PORT BATCH, a form with `content`.

The class stands at the top of a module because LitServe's workers import it again.
"""

import sys
from typing import Any

import litserve
from fastapi import Request, Response

from benchmarks.serve.application import Application


class Model(litserve.LitAPI):  # type: ignore[misc]
    """One request or a list of them to the handler's JSON."""

    def setup(self, device: str) -> None:
        self.application = Application()

    def decode_request(self, request: Request) -> bytes:
        content: bytes = request["content"].file.read()
        return content

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, x: Any) -> Any:
        return self.application.answers(x) if isinstance(x, list) else self.application.answer(x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="application/json")


if __name__ == "__main__":
    port, batch = map(int, sys.argv[1:])
    api = Model(max_batch_size=batch, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error")
