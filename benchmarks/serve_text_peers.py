"""A peer of `serve_text`: Flask with ONNX Runtime int8, and what the LitServe peer shares.

    FOLDER=... gunicorn --workers 2 --bind ADDRESS benchmarks.serve_text_peers:flask_app()

Both cut texts into the same windows and pool them the same way as `handlers.text_classifier`,
whose code they call: only the runtime and the server differ. FOLDER is an unpacked archive.
"""

import os
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def classifier() -> Any:
    """The repository's handler without TorchServe, warmed up."""
    from types import SimpleNamespace

    from handlers.text_classifier import TextClassifier

    handler = TextClassifier()
    properties = {"model_dir": os.environ["FOLDER"], "batch_size": 1}
    handler.initialize(SimpleNamespace(system_properties=properties))
    return handler


def answer(handler: Any, body: bytes) -> bytes:
    """One text's answer, as bytes of JSON."""
    (reply,) = handler.answer([{"body": body}], [{"content-type": "text/plain"}])
    return bytes(reply.body)


def flask_app() -> Any:
    """A Flask application with one route, POST /predict."""
    import flask

    handler, app = classifier(), flask.Flask("texts")

    @app.post("/predict")
    def predict() -> Any:
        reply = answer(handler, flask.request.get_data())
        return flask.Response(reply, mimetype="application/json")

    return app
