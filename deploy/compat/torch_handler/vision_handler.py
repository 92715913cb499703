"""`ts.torch_handler.vision_handler`: pictures as a batch of tensors."""

import base64
import io
from abc import ABC
from typing import Any

import torch
from PIL import Image

from deploy.compat.timer import timed
from deploy.compat.torch_handler.base_handler import BaseHandler


class VisionHandler(BaseHandler, ABC):
    """Base of the handlers of pictures; a subclass has `image_processing`."""

    image_processing: Any

    def initialize(self, context: Any) -> None:
        """As BaseHandler; pictures of any size are taken if the server says so."""
        super().initialize(context)
        if not context.system_properties.get("limit_max_image_pixels"):
            Image.MAX_IMAGE_PIXELS = None
        self.initialized = True

    @timed
    def preprocess(self, data: Any) -> torch.Tensor:
        """The pictures (files, base64 or lists of numbers) as one tensor `[N, C, H, W]`."""
        return torch.stack([self._picture(row) for row in data]).to(self.device)

    def _picture(self, row: Any) -> torch.Tensor:
        content = row.get("data") or row.get("body")
        if isinstance(content, str):
            content = base64.b64decode(content)
        if not isinstance(content, bytes | bytearray):
            return torch.tensor(content, dtype=torch.float32)
        picture: torch.Tensor = self.image_processing(Image.open(io.BytesIO(content)))
        return picture

    def get_insights(self, tensor_data: torch.Tensor, _: Any, target: int = 0) -> Any:
        """Integrated gradients of each pixel, by captum."""
        from captum.attr import IntegratedGradients

        gradients = IntegratedGradients(self.model)
        return gradients.attribute(tensor_data, target=target, n_steps=15).tolist()
