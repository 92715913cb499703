"""Loads the weights of a checkpoint into a model."""

from pathlib import Path

import torch
from torch import nn

from optimize.errors import ModelError


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load a `state_dict`, alone or under the key `state_dict`, into `model`.

    Raises:
        ModelError: the file cannot be read, or does not fit the model strictly.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(weights.get("state_dict", weights))
    except Exception as error:  # torch.load and load_state_dict raise many kinds
        raise ModelError(f"checkpoint {path} does not fit: {error}") from error
