"""`ts.torch_handler.object_detector`: the default handler `object_detector`."""

from typing import Any

from torchvision import transforms

from deploy.compat.torch_handler.vision_handler import VisionHandler
from deploy.compat.util import map_class_to_label


class ObjectDetector(VisionHandler):
    """The objects of a picture: for each its label with its box, and its score."""

    image_processing = transforms.Compose([transforms.ToTensor()])
    threshold = 0.5

    def postprocess(self, data: Any) -> list[list[dict[str, Any]]]:
        """Objects whose score reaches the threshold; `data` is a dict of tensors a picture."""
        answers = []
        for found in data:
            sure = found["scores"] >= self.threshold
            boxes, labels, scores = (
                found[key][sure].tolist() for key in ("boxes", "labels", "scores")
            )
            named = [
                map_class_to_label([[box]], self.mapping, [[label]])[0]
                for box, label in zip(boxes, labels, strict=True)
            ]
            answers.append(
                [{**name, "score": score} for name, score in zip(named, scores, strict=True)]
            )
        return answers
