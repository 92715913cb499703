"""`ts.torch_handler.base_handler`: the class from which TorchServe's handlers derive."""

import importlib
import logging
import time
from pathlib import Path
from typing import Any

import torch

from deploy.compat import util
from deploy.compat.timer import timed

logger = logging.getLogger(__name__)


class BaseHandler:
    """Loads TorchScript, ONNX or weights with a class; runs preprocess, inference, postprocess."""

    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: dict[str, str] | None = None
        self.device: torch.device | None = None
        self.initialized = False
        self.context: Any = None
        self.model_pt_path: str | None = None
        self.manifest: Any = None
        self.map_location: str | None = None
        self.explain = False
        self.target = 0
        self.profiler_args: dict[str, Any] = {}
        self.model_yaml_config: dict[str, Any] = {}

    def initialize(self, context: Any) -> None:
        """Load the model that the manifest names, and index_to_name.json.

        Raises RuntimeError if there is none that can be loaded.
        """
        self.model_yaml_config = getattr(context, "model_yaml_config", None) or {}
        properties = context.system_properties
        gpu = properties.get("gpu_id")
        on_gpu = torch.cuda.is_available() and gpu is not None
        self.map_location = "cuda" if on_gpu else "cpu"
        self.device = torch.device(f"cuda:{gpu}" if on_gpu else "cpu")
        self.manifest = context.manifest
        folder = properties.get("model_dir")
        described = self.manifest["model"]
        serialized = described.get("serializedFile")
        self.model_pt_path = str(Path(folder) / serialized) if serialized else None
        self.model = self._load(folder, described.get("modelFile"))
        self.model = self._compiled(self.model)
        self.mapping = util.load_label_mapping(Path(folder) / "index_to_name.json")
        self.initialized = True

    def _load(self, folder: str, model_file: str | None) -> Any:
        path = self.model_pt_path
        if model_file:
            model = self._load_pickled_model(folder, model_file, path)
            model.to(self.device)
            model.eval()
            return model
        if path is not None and path.endswith(".pt"):
            model = self._load_torchscript_model(path)
            model.eval()
            return model
        if path is not None and path.endswith(".onnx"):
            import onnxruntime

            return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        raise RuntimeError(
            f"no model can be loaded from {Path(path).name if path else 'this archive'}: it takes "
            "TorchScript (.pt), ONNX (.onnx), or weights with a model file"
        )

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return torch.jit.load(model_pt_path, map_location=self.device)

    def _load_pickled_model(
        self, model_dir: str, model_file: str, model_pt_path: str | None
    ) -> Any:
        """The one class of the model file, with the weights if the archive has some."""
        if not (Path(model_dir) / model_file).is_file():
            raise RuntimeError(f"the model file {model_file} is missing")
        module = importlib.import_module(model_file.split(".")[0])
        classes = util.list_classes_from_module(module)
        if len(classes) != 1:
            named = ", ".join(found.__name__ for found in classes) or "none"
            raise ValueError(f"{model_file} must define one class, and defines {named}")
        model = classes[0]()
        if model_pt_path:
            model.load_state_dict(torch.load(model_pt_path, map_location=self.device))
        return model

    def _compiled(self, model: Any) -> Any:
        """The model through torch.compile, if model-config.yaml asks for it by `pt2`."""
        asked = self.model_yaml_config.get("pt2")
        if not asked:
            return model
        options: dict[str, Any] = {"backend": asked} if isinstance(asked, str) else {**asked}
        if "compile" in options:
            options = dict(options["compile"])
            if not options.pop("enable", False):
                return model
        elif "export" in options:
            return model
        return torch.compile(model, **options)

    @timed
    def preprocess(self, data: Any) -> Any:
        """The requests as a tensor."""
        return torch.as_tensor(data, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """What the model answers to the tensor."""
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> Any:
        """The answers as a list, one a request."""
        return data.tolist()

    def handle(self, data: Any, context: Any) -> Any:
        """A batch's answers."""
        started = time.perf_counter()
        self.context = context
        if self._is_describe():
            output = [self.describe_handle()]
        else:
            prepared = self.preprocess(data)
            if self._is_explain():
                output = self.explain_handle(prepared, data)
            else:
                output = self.postprocess(self.inference(prepared))
        spent = round(1000 * (time.perf_counter() - started), 2)
        context.metrics.add_time("HandlerTime", spent, None, "ms")
        return output

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """What `get_insights` of the handler gives for the first request, and its `target`."""
        row = raw_data[0]
        inputs, target = None, 0
        if isinstance(row, dict):
            inputs = row.get("data") or row.get("body")
            target = row.get("target") or 0
        handler: Any = self
        return handler.get_insights(data_preprocess, inputs, target)

    def _is_explain(self) -> bool:
        self.explain = (
            bool(self.context) and self.context.get_request_header(0, "explain") == "True"
        )
        return self.explain

    def _is_describe(self) -> bool:
        return bool(self.context) and self.context.get_request_header(0, "describe") == "True"

    def describe_handle(self) -> Any:
        """What a describe request that asks for the handler's words gets: none by default."""

    def get_device(self) -> torch.device | None:
        """Where the model lies."""
        return self.device
