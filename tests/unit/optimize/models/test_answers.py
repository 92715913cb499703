import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimize.errors import ModelError
from optimize.models.answers import check_answers, fresh_statistics

ROWS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Lively(nn.Module):
    """What stands in `kind` happens to the features, in eval mode too."""

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.conv, self.head = kind, nn.Conv2d(3, 8, 3), nn.Linear(8, 5)
        self.norm = nn.BatchNorm2d(8, track_running_stats=kind != "batch statistics")
        self.drop = nn.Dropout(0.2)
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "frozen dropout":
            self.drop.train()
        if self.kind == "frozen norm":
            self.norm.train()
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        match self.kind:
            case "dropout":
                x = F.dropout(x)
            case "noise":
                x = x + 0.1 * torch.randn_like(x)
            case "state":
                self.count += 1
                x = x * self.count
            case "centred":
                x = x - x.mean(0)
            case "size":
                x = x / len(x)
            case "squeezed":
                x = x.squeeze()
            case "two":
                x = x.view(2, -1, 8).flatten(0, 1)
        return self.head(self.drop(x))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "dropout",
            r"differently each time .*: dropout at .*test_answers\.py:\d+\. .*self\.training",
        ),
        ("noise", r"differently each time .*: randn_like at .*test_answers\.py:\d+"),
        ("state", "differently each time .*: .*state that is kept"),
        ("frozen dropout", "differently each time .*: drop stays in training mode"),
        ("frozen norm", "differently|norm normalises by the batch's own statistics"),
        (
            "batch statistics",
            r"other rows of its batch .*: norm normalises by .*track_running_stats",
        ),
        ("centred", "other rows of its batch .*over the first dimension"),
        ("size", "other rows of its batch .*batch's size"),
        ("squeezed", r"answers 4 rows with \[4, 5\] and one row alone with \[5\]: give squeeze"),
        ("two", "answers 4 rows at once and fails on one row alone"),
    ],
)
def test_an_answer_that_is_no_function_of_its_input_is_refused(kind: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        check_answers(Lively(kind).eval(), (ROWS,), "lively")


def test_dropout_layers_and_running_statistics_are_fine() -> None:
    check_answers(Lively().eval(), (ROWS,), "calm")
    check_answers(Lively().eval(), (ROWS[:1],), "calm")  # nothing to compare with


class Trees(nn.Module):
    """Named inputs of two kinds; rounding to bfloat16; lengths of their own; ids."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(9, 16), nn.Linear(16, 4).bfloat16()

    def forward(self, given: dict[str, Tensor], scale: Tensor) -> dict[str, object]:
        x = self.embedding(given["ids"]).sum(1) + given["more"]
        answers = self.head(x.bfloat16()).float()
        trimmed = given["ids"][:, : int((given["ids"] != 0).sum(1).max())]
        return {"answers": (answers, answers.argmax(1)), "trimmed": trimmed.float()}


def test_trees_of_tensors_are_compared_row_by_row() -> None:
    ids = torch.tensor([[1, 2, 0, 0], [3, 4, 5, 6], [7, 0, 0, 0]])
    call = ({"ids": ids, "more": torch.randn(3, 16)}, torch.tensor(2.0))
    check_answers(Trees(), call, "trees")

    class Leaky(Trees):
        def forward(self, given: dict[str, Tensor], scale: Tensor) -> dict[str, object]:
            answers = super().forward(given, scale)
            return {**answers, "share": torch.softmax(given["more"][:, 0], 0)}

    with pytest.raises(ModelError, match="other rows of its batch"):
        check_answers(Leaky(), call, "trees")


def test_statistics_of_a_new_layer_are_noticed() -> None:
    model = Lively()
    (said,) = fresh_statistics(model)
    assert "statistics of norm are those of a new layer" in said
    model.train()(ROWS)
    assert fresh_statistics(model) == []
