"""A smaller table of word embeddings, chosen on evidence.

The tokenizer stays as it is. Tokens that the training texts use least share the row of the
kept token whose embedding points the same way, looked up in a small table inside the model.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimize.data.corpus import TextSplit
from optimize.models.architectures.bert import BertClassifier

# Tokens that keep a row of their own whether the texts use them or not.
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class VocabularyOptions:
    """How many rows to keep.

    Attributes:
        rows: of the embedding table, the most frequent tokens' own.
    """

    rows: int = 16000

    def __post_init__(self) -> None:
        if self.rows < 256:
            raise ValueError("rows starts at 256")


class SharedEmbedding(nn.Module):
    """Token ids `[N, L]` to rows of a smaller table, float `[N, L, width]`.

    `place` int16 or int32 `[tokens]` names each token's row; row 0 is padding's.
    """

    def __init__(self, place: Tensor, table: Tensor) -> None:
        super().__init__()
        small = len(table) <= torch.iinfo(torch.int16).max
        self.place: Tensor
        self.register_buffer("place", place.to(torch.int16 if small else torch.int32))
        self.table = nn.Embedding.from_pretrained(table.clone(), freeze=False, padding_idx=0)

    def forward(self, ids: Tensor) -> Tensor:
        rows = F.embedding(ids, self.place[:, None]).squeeze(2)
        found: Tensor = self.table(rows.int())
        return found


def frequencies(split: TextSplit, tokens: int) -> Tensor:
    """How often the texts use each token, int64 `[tokens]`."""
    return torch.bincount(split.windows.flatten().long(), minlength=tokens)


def nearest(table: Tensor, kept: Tensor) -> Tensor:
    """For every row of `table`, the position in `kept` of the row closest in cosine."""
    unit = F.normalize(table.float(), dim=1)
    mine = unit[kept]
    return torch.cat([(part @ mine.t()).argmax(1) for part in unit.split(2048)])


def shrink(
    model: BertClassifier, counts: Tensor, special: list[int], options: VocabularyOptions
) -> tuple[BertClassifier, float]:
    """A copy with a table of `options.rows` rows, and the share of the texts' tokens that keep
    a row of their own.

    Args:
        model: with a plain embedding table.
        counts: of `frequencies`.
        special: ids that always keep their row, padding (0) among them.
        options: see `VocabularyOptions`.
    """
    table = model.embeddings.word.weight.detach()
    ranked = counts[: len(table)].clone()
    ranked[special] = ranked.max() + 1
    kept = ranked.topk(min(options.rows, len(table))).indices.sort().values
    place = nearest(table, kept)
    place[kept] = torch.arange(len(kept))
    covered = float(counts[kept[kept != 0]].sum() / counts[1:].sum().clamp(min=1))
    smaller = copy.deepcopy(model)
    smaller.embeddings.word = SharedEmbedding(place, table[kept])  # type: ignore[assignment]
    return smaller, covered
