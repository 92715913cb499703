"""Plain Flask: gunicorn --workers 2 benchmarks.serve.peers.flask_app:build()."""

from typing import Any

from benchmarks.serve.application import Application


def build() -> Any:
    """A Flask application with one route."""
    import flask

    application, app = Application(), flask.Flask(__name__)

    @app.post("/predict")
    def predict() -> Any:
        return flask.Response(
            application.answer(flask.request.get_data()), mimetype="application/json"
        )

    return app
