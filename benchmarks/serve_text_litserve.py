"""LitServe as one of `serve_text`'s peers: FOLDER=... python -m benchmarks.serve_text_litserve PORT

The class stands at the top of a module because LitServe's workers import it again.
"""

import sys

import litserve
from fastapi import Response

from benchmarks.serve_text_peers import answer, classifier


class Texts(litserve.LitAPI):  # type: ignore[misc]
    """POST /predict, JSON with a text to the handler's JSON."""

    def setup(self, device: str) -> None:
        self.classifier = classifier()

    def decode_request(self, request: dict[str, str]) -> bytes:
        return request["text"].encode()

    def predict(self, x: bytes) -> bytes:
        return answer(self.classifier, x)

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="application/json")


if __name__ == "__main__":
    server = litserve.LitServer(Texts(), accelerator="cpu", workers_per_device=2)
    port = int(sys.argv[1])
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error")
