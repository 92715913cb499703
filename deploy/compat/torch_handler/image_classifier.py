"""`ts.torch_handler.image_classifier`: the default handler `image_classifier`."""

from typing import Any

import torch
from torchvision import transforms

from deploy.compat.timer import timed
from deploy.compat.torch_handler.vision_handler import VisionHandler
from deploy.compat.util import map_class_to_label

# Of ImageNet's pixels, red, green and blue.
MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]


class ImageClassifier(VisionHandler):
    """The five most probable classes of a picture, each with its probability."""

    topk = 5
    image_processing = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )

    def set_max_result_classes(self, topk: int) -> None:
        """How many classes an answer names."""
        self.topk = topk

    def get_max_result_classes(self) -> int:
        """How many classes an answer names."""
        return self.topk

    @timed
    def postprocess(self, data: torch.Tensor) -> list[dict[str, Any]]:
        """Label to probability for each picture; `data` are logits `[N, classes]`."""
        values, classes = torch.topk(torch.softmax(data, dim=1), self.topk, dim=1)
        return map_class_to_label(values.tolist(), self.mapping, classes.tolist())
