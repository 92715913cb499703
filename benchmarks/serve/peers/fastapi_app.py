"""FastAPI: uvicorn --workers 2 --factory benchmarks.serve.peers.fastapi_app:build."""

from typing import Any

from benchmarks.serve.application import Application


def build() -> Any:
    """A FastAPI application with one route; the model runs in the event loop's own thread.

    A process has one request at a time then, which is faster than a pool of threads on a core.
    """
    import fastapi

    application, app = Application(), fastapi.FastAPI()

    @app.post("/predict")
    async def predict(request: fastapi.Request) -> fastapi.Response:
        body = await request.body()
        return fastapi.Response(application.answer(body), media_type="application/json")

    return app
