"""The options of pruning."""

from dataclasses import dataclass, field
from typing import Literal

from optimize.recipe.schema import explored


@dataclass(frozen=True)
class PruneOptions:
    """What to remove.

    Attributes:
        ratio: share of channels to remove from every layer (or in total, if `scope` is
            global); 0 removes dead channels only.
        importance: how a channel's importance is estimated: `magnitude` is the L2 norm of its
            group (Li et al. 2017), `bn_scale` the normalisation's gain (Liu et al. 2017),
            `taylor` weight times gradient on training data (Molchanov et al. 2019).
        scope: `layer` prunes every layer by the same ratio, `global` ranks channels across layers.
        round_to: widths stay multiples of this; 16 suits int8 kernels.
        structure: `channels` makes tensors smaller; `weights` sets the weights of least magnitude
            to zero, which shrinks the compressed file but brings no speed.
        iterations: number of equal steps to reach the ratio, with recovery after each.
        samples: training inputs that `taylor` computes gradients on.
        keep: names of layers whose width must not change.
    """

    ratio: float = field(default=0.5, metadata=explored(0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75))
    importance: Literal["magnitude", "bn_scale", "taylor"] = field(
        default="magnitude", metadata=explored()
    )
    scope: Literal["layer", "global"] = field(default="layer", metadata=explored())
    round_to: int = 16
    structure: Literal["channels", "weights"] = "channels"
    iterations: int = 1
    samples: int = 512
    keep: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1 or self.round_to < 1:
            raise ValueError("ratio must be between 0 and 1, and round_to 1 or more")
        if self.iterations < 1 or self.samples < 1:
            raise ValueError("iterations and samples start at 1")
        if self.structure == "weights" and self.importance != "magnitude":
            raise ValueError("structure: weights goes by magnitude; leave importance out")
