"""The names of `captum.attr` that TorchServe's handlers import, for a worker without captum.

A handler that explains nothing never uses them; an explanation says what to install.
"""

from typing import Any

from deploy.compat.util import PredictionException


class _Missing:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Taken with any arguments: handlers make one when they load their model."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise PredictionException(
            "explanations need captum, which is not installed: pip install captum", 501
        )


class IntegratedGradients(_Missing):
    """Stands in for captum's class."""


class LayerIntegratedGradients(_Missing):
    """Stands in for captum's class."""


class TokenReferenceBase(_Missing):
    """Stands in for captum's class."""


visualization = _Missing()
