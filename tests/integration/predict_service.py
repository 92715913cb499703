"""A PredictionService over SavedModels, and a client of the real stub: what TensorFlow Serving's
clients speak, without its server, of which there is no package.

    python predict_service.py serve NAME FOLDER     prints its port, serves until its input ends
    python predict_service.py ask PORT NAME INPUTS.npz OUTPUTS.npz
"""

import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_service_pb2_grpc,
)


class Service(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    """Serves the highest version of one model, as `tensorflow_model_server` does."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.version = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
        self.model = tf.saved_model.load(str(folder / str(self.version)))

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.model_spec.name != self.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found: {request.model_spec}")
        signature = self.model.signatures[request.model_spec.signature_name or "serving_default"]
        found = signature(**{k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()})
        reply = predict_pb2.PredictResponse()
        reply.model_spec.name = self.name
        reply.model_spec.version.value = self.version
        for key, value in found.items():
            reply.outputs[key].CopyFrom(tf.make_tensor_proto(value.numpy()))
        return reply


def serve(name: str, folder: str) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    service = Service(name, Path(folder))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(0)


def ask(port: str, name: str, inputs: str, outputs: str) -> None:
    """One request per batch in `inputs`, whose keys are `INPUT:NUMBER`."""
    answers = {}
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for key, array in np.load(inputs).items():
            request = predict_pb2.PredictRequest()
            request.model_spec.name = name
            request.model_spec.signature_name = "serving_default"
            request.inputs[key.partition(":")[0]].CopyFrom(tf.make_tensor_proto(array))
            reply = stub.Predict(request, 60)
            assert reply.model_spec.version.value == 1
            answers[key] = tf.make_ndarray(reply.outputs["logits"])
    np.savez(outputs, **answers)


if __name__ == "__main__":
    {"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
