"""`ts.utils.util`: what handlers take from there."""

import inspect
import json
import logging
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

logger = logging.getLogger(__name__)

# Tags and entities of HTML.
CLEANUP_REGEX = re.compile(r"<.*?>|&(?:[a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")


class PredictionException(Exception):
    """Raised by a handler to answer a whole batch with a status and a message of its own."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """The classes that a module defines itself, by name; those of `parent_class` if given."""
    return [
        found
        for _, found in inspect.getmembers(module, inspect.isclass)
        if found.__module__ == module.__name__
        and (parent_class is None or issubclass(found, parent_class))
    ]


def load_label_mapping(mapping_file_path: str | Path) -> dict[str, str] | None:
    """index_to_name.json: index to label; None where there is no such file.

    A label may be a list, whose last item counts (`["n02123159", "tiger_cat"]`); older files hold a
    list under `object_type_names`.
    """
    path = Path(mapping_file_path)
    if not path.is_file():
        logger.warning("%s is missing: answers name classes by their index", path.name)
        return None
    mapping = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(mapping, dict):
        raise ValueError(f'{path.name} must be a JSON object: "index": "label"')
    names = mapping.get("object_type_names")
    if isinstance(names, list):
        return {str(index): name for index, name in enumerate(names)}
    labels = {k: v[-1] if isinstance(v, list) and v else v for k, v in mapping.items()}
    if not all(isinstance(label, str) for label in labels.values()):
        raise ValueError(f"{path.name}: a label must be a string or a list of strings")
    return labels


def map_class_to_label(
    probs: list[list[Any]],
    mapping: dict[str, str] | None = None,
    lbl_classes: list[list[int]] | None = None,
) -> list[dict[str, Any]]:
    """Each row of values as label to value; the classes are 0, 1, ... unless `lbl_classes` says."""
    if not isinstance(probs, list):
        raise TypeError("values must be lists: call .tolist() first")
    classes = lbl_classes or [list(range(len(row))) for row in probs]
    return [
        {
            (str(index) if mapping is None else mapping[str(index)]): value
            for index, value in zip(row, values, strict=False)
        }
        for row, values in zip(classes, probs, strict=False)
    ]


def get_yaml_config(yaml_file_path: str | Path) -> dict[str, Any]:
    """The values of a YAML file; empty for an empty one."""
    values = yaml.safe_load(Path(yaml_file_path).read_text(encoding="utf-8"))
    return values if isinstance(values, dict) else {}


def check_valid_pt2_backend(backend: str) -> bool:
    """Whether torch.compile knows the backend."""
    import torch

    return backend in torch._dynamo.list_backends(exclude_tags=())
