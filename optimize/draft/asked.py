"""What a first recipe is made from: five answers."""

from dataclasses import dataclass
from typing import Literal

Goal = Literal["speed", "size"]


@dataclass(frozen=True)
class Asked:
    """A user's answers. Paths are as they were written, from the current folder.

    Attributes:
        data: a folder of pictures by class, a table, arrays, or `file.py:function`.
        model: `file.py`, `file.py:function`, a TorchScript file, an archive, a Hugging Face folder,
            `timm/NAME`, or the name of a built-in architecture.
        checkpoint: a file of weights for the model.
        task: the kind of model; by default what the data look like.
        target: the column or array to predict; by default one with a usual name.
        max_drop: what may be lost, in the metric's own unit: of accuracy 0.01 is one point.
        goal: what matters most.
        name: of the recipe and its model; by default the data's.
    """

    data: str
    model: str
    checkpoint: str | None = None
    task: str | None = None
    target: str | None = None
    max_drop: float = 0.01
    goal: Goal = "speed"
    name: str | None = None
