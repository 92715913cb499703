"""The same texts served otherwise: Flask with ONNX Runtime int8; LitServe stands beside.

    FOLDER=... gunicorn --workers 2 --bind ADDRESS benchmarks.serve_text_peers:flask_app()

Both cut texts into the same windows and pool them the same way as `handlers.text_classifier`,
whose code they call: only the engine and the server differ. FOLDER is an unpacked archive.
"""

import os
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
