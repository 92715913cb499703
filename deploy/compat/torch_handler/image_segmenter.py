"""`ts.torch_handler.image_segmenter`: the default handler `image_segmenter`."""

from typing import Any

import torch
from torchvision import transforms

from deploy.compat.torch_handler.image_classifier import MEAN, STD
from deploy.compat.torch_handler.vision_handler import VisionHandler


class ImageSegmenter(VisionHandler):
    """For every pixel the most probable class and its probability."""

    image_processing = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )

    def postprocess(self, data: Any) -> Any:
        """`[N, H, W, 2]` as lists; `data["out"]` are logits `[N, classes, H, W]`."""
        best = torch.softmax(data["out"], dim=1).max(dim=1)
        return torch.stack([best.indices.to(best.values.dtype), best.values], dim=3).tolist()
