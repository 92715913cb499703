"""The judges that a recipe of tensors can name."""

from optimize.evaluation.class_judges import Classification, MultiLabel, Segmentation
from optimize.evaluation.judge import Judge
from optimize.evaluation.number_judges import Regression
from optimize.evaluation.parity_judge import Parity

JUDGES: dict[str, type[Judge]] = {
    "regression": Regression,
    "classification": Classification,
    "multi_label": MultiLabel,
    "segmentation": Segmentation,
    "parity": Parity,
}
