"""A smaller word embedding table, by token frequency in the training texts.

The tokenizer does not change. The rarest tokens share the row of the frequent token whose
embedding is closest in cosine, through a lookup table inside the model.
"""

import copy
from dataclasses import dataclass
from typing import TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from optimize.data.corpus import TextSplit
from optimize.models.architectures.bert import BertEncoder

E = TypeVar("E", bound=BertEncoder)

# Tokens that always keep a row of their own.
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<pad>", "<unk>", "<s>", "</s>", "<mask>")


@dataclass(frozen=True)
class VocabularyOptions:
    """How many rows to keep.

    Attributes:
        rows: rows of the embedding table, one for each of the most frequent tokens.
    """

    rows: int = 16000

    def __post_init__(self) -> None:
        if self.rows < 256:
            raise ValueError("rows starts at 256")


class SharedEmbedding(nn.Module):
    """Token ids `[N, L]` to rows of a smaller table, float `[N, L, width]`.

    `place` int16 or int32 `[tokens]` is each token's row; row 0 belongs to padding.
    """

    def __init__(self, place: Tensor, table: Tensor) -> None:
        super().__init__()
        small = len(table) <= torch.iinfo(torch.int16).max
        self.place: Tensor
        self.register_buffer("place", place.to(torch.int16 if small else torch.int32))
        self.table = nn.Embedding.from_pretrained(table.clone(), freeze=False, padding_idx=0)

    def forward(self, ids: Tensor) -> Tensor:
        rows = F.embedding(ids, self.place[:, None]).squeeze(2)
        embedded: Tensor = self.table(rows.int())
        return embedded


def frequencies(split: TextSplit, tokens: int) -> Tensor:
    """Occurrences of each token in the texts, int64 `[tokens]`."""
    return torch.bincount(split.windows.flatten().long(), minlength=tokens)


def special_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids that keep a row of their own whatever the texts hold; padding's is 0."""
    found = (tokenizer.token_to_id(name) for name in SPECIAL)
    return sorted({0, *(i for i in found if i is not None)})


def nearest(table: Tensor, candidates: Tensor) -> Tensor:
    """For every row of `table`, the position in `candidates` of the row closest in cosine.

    Args:
        table: float `[tokens, width]`.
        candidates: int64 `[n]`, positions of rows of `table`.

    Returns:
        int64 `[tokens]`, each from 0 to n - 1.
    """
    unit = F.normalize(table.float(), dim=1)
    columns = unit[candidates].t()
    return torch.cat([(part @ columns).argmax(1) for part in unit.split(2048)])


def shrink(
    model: E, counts: Tensor, special: list[int], options: VocabularyOptions
) -> tuple[E, float]:
    """A copy with a table of `options.rows` rows, and the share of the texts' tokens that have
    a row of their own in it.

    Args:
        model: with a plain embedding table.
        counts: from `frequencies`.
        special: ids that always keep their row, padding (0) among them.
        options: see `VocabularyOptions`.
    """
    table = model.embeddings.word.weight.detach()
    ranked = counts[: len(table)].clone()
    ranked[special] = ranked.max() + 1
    frequent = ranked.topk(min(options.rows, len(table))).indices.sort().values
    place = nearest(table, frequent)
    place[frequent] = torch.arange(len(frequent))
    covered = float(counts[frequent[frequent != 0]].sum() / counts[1:].sum().clamp(min=1))
    smaller = copy.deepcopy(model)
    smaller.embeddings.word = SharedEmbedding(place, table[frequent])  # type: ignore[assignment]
    return smaller, covered
