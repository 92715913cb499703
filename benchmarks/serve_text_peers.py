"""Two other ways to serve the same texts: Flask with ONNX Runtime int8, and LitServe.

    FOLDER=... gunicorn --workers 2 --bind ADDRESS benchmarks.serve_text_peers:flask_app()
    FOLDER=... python -m benchmarks.serve_text_peers PORT        LitServe

Both cut texts into the same windows and pool them the same way as `handlers.text_classifier`,
whose code they call: only the engine and the server differ. FOLDER is an unpacked archive.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def classifier() -> Any:
    """The repository's handler without TorchServe, warmed up."""
    from types import SimpleNamespace

    from handlers.text_classifier import TextClassifier

    made = TextClassifier()
    properties = {"model_dir": os.environ["FOLDER"], "batch_size": 1}
    made.initialize(SimpleNamespace(system_properties=properties))
    return made


def answer(made: Any, body: bytes) -> bytes:
    """One text's answer, as bytes of JSON."""
    found: bytes = made.answer([{"body": body}], [{"content-type": "text/plain"}])[0].body
    return found


def flask_app() -> Any:
    """A Flask application with one route, POST /predict."""
    import flask

    made, app = classifier(), flask.Flask("texts")

    @app.post("/predict")
    def predict() -> Any:
        reply = answer(made, flask.request.get_data())
        return flask.Response(reply, mimetype="application/json")

    return app


def litserve(port: int) -> None:
    """LitServe on two workers, POST /predict."""
    import litserve as ls
    from fastapi import Request, Response

    class Texts(ls.LitAPI):
        def setup(self, device: str) -> None:
            self.made = classifier()

        async def decode_request(self, request: Request) -> bytes:
            return await request.body()

        def predict(self, x: bytes) -> bytes:
            return answer(self.made, x)

        def encode_response(self, output: bytes) -> Any:
            return Response(output, media_type="application/json")

    server = ls.LitServer(Texts(), accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    litserve(int(sys.argv[1]))
