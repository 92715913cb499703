"""From requests' inputs to texts, and from texts to windows of token ids."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from handlers.errors import ModelError, RequestError
from handlers.payload import Input
from handlers.windows import spans

BUCKET = 8
MAX_WINDOWS = 64
# Most padded tokens of one request.
MAX_REQUEST_TOKENS = 262_144
# Most padded tokens of one call: more are split over several calls, to bound memory.
CALL_TOKENS = 4096
_TRIAL_WINDOWS = 1, 8
# Characters that are cut into tokens at a time while a long text is counted: a token takes 400
# bytes of memory. Cutting a word may add some tokens.
_PIECE, _CUT_TOKENS = 65_536, 64


@dataclass
class Text:
    """A text as the model takes it, and what its request asks about it.

    Attributes:
        windows: token ids with the special ones, none longer than the model takes.
        words: (start, stop) of each word in `text`; only for an explanation, like `places`.
        places: of each word, the (window, start, stop) of its tokens in each window it lies in.
        explain: attributions are asked for.
        target: index of the label to explain; None for the most probable one.
        method: of attribution, `ablation` or `shap`.
    """

    text: str
    windows: list[list[int]]
    words: list[tuple[int, int]] = field(default_factory=list)
    places: list[list[tuple[int, int, int]]] = field(default_factory=list)
    explain: bool = False
    target: int | None = None
    method: str = "ablation"


def load_tokenizer(folder: Path) -> Tokenizer:
    """The archive's tokenizer, without truncation and padding; ModelError if it is missing."""
    path = folder / "tokenizer.json"
    try:
        tokenizer = read_tokenizer(path)
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(
            f"{path} cannot be read: rebuild the archive with tokenizer.json among the card's files"
        ) from error
    special_tokens(tokenizer, path)
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """A `tokenizer.json`, without truncation and padding. Raises whatever tokenizers raises.

    "[PAD]" or "[SEP]" in a text is text: it is cut like any other, never a control token. Models
    take 0 for padding: where its id is another (RoBERTa's is 1), the two tokens change places.
    """
    tokenizer = Tokenizer.from_file(str(path))
    padding = _first_of(tokenizer, "[PAD]", "<pad>")
    if padding:
        content = json.loads(path.read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_str(json.dumps(_swapped(content, padding)))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _first_of(tokenizer: Tokenizer, *names: str) -> int | None:
    """The id of the first of these tokens that there is."""
    found = (tokenizer.token_to_id(name) for name in names)
    return next((token for token in found if token is not None), None)


def _swapped(content: dict[str, Any], other: int) -> dict[str, Any]:
    """A `tokenizer.json` whose tokens 0 and `other` have each other's ids, but in the
    post-processor: special tokens are not its business here."""
    places = {0: other, other: 0}
    model = content["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {k: places.get(v, v) for k, v in model["vocab"].items()}
    else:  # a list, in the order of the ids
        rows = model["vocab"]
        rows[0], rows[other] = rows[other], rows[0]
    if model.get("unk_id") in places:
        model["unk_id"] = places[model["unk_id"]]
    for token in content.get("added_tokens", []):
        token["id"] = places.get(token["id"], token["id"])
    return content


def special_tokens(tokenizer: Tokenizer, path: Path) -> tuple[int, int]:
    """Ids of the tokens before and after a text; ModelError without them."""
    first, last = _first_of(tokenizer, "[CLS]", "<s>"), _first_of(tokenizer, "[SEP]", "</s>")
    if first is None or last is None:
        raise ModelError(f"{path} has no [CLS] and [SEP], nor <s> and </s>")
    return first, last


def read_text(entry: Input, max_bytes: int) -> str:
    """The text of one input.

    Raises RequestError 400 unless it is UTF-8, 413 over `max_bytes` of it, 422 where it is empty.
    """
    value: Any = entry.value
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RequestError(
                400,
                "not_utf8",
                f"{entry.where} is not UTF-8: byte {error.start} does not belong there; "
                "convert it first (iconv -t UTF-8)",
            ) from error
    if not isinstance(value, str):
        raise RequestError(400, "wrong_type", f"{entry.where} is not a text")
    try:
        length = len(value.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise RequestError(
            400, "not_utf8", f"{entry.where} holds half of a surrogate pair"
        ) from error
    if length > max_bytes:
        raise RequestError(
            413, "too_many_bytes", f"{entry.where} is over the limit of {max_bytes} bytes"
        )
    text = value.removeprefix("\ufeff")
    if not text.strip():
        raise RequestError(422, "empty_text", f"{entry.where} holds no text")
    return text


class Encoder:
    """Texts to windows with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, max_windows: int) -> None:
        self.tokenizer = tokenizer
        self.body = max_length - 2
        self.max_windows = max_windows
        self.first, self.last = special_tokens(tokenizer, Path("tokenizer.json"))

    def __call__(self, text: str, where: str, words: bool = False) -> Text:
        """Cut a text into windows; with `words` also locate each of its words in them.

        Raises:
            RequestError: 422 without a single token, 413 over `max_windows` windows.
        """
        limit = self.max_windows * self.body
        if len(text) > _PIECE and self._more_than(limit, text):
            raise _too_long(where, f"over {limit}", limit)
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        ids = encoding.ids
        if not ids:
            raise RequestError(422, "empty_text", f"{where} holds no text")
        if len(ids) > limit:
            raise _too_long(where, str(len(ids)), limit)
        cuts = spans(len(ids), self.body)
        encoded = Text(text, [[self.first, *ids[a:b], self.last] for a, b in cuts])
        if words:
            _locate(encoded, encoding, cuts)
        return encoded

    def _more_than(self, limit: int, text: str) -> bool:
        """Whether a long text surely has more tokens, found out before it is held in them."""
        count = 0
        for start in range(0, len(text), _PIECE):
            piece = text[start : start + _PIECE]
            # A cut within a word adds a few tokens: as many as are let off here.
            count += len(self.tokenizer.encode(piece, add_special_tokens=False).ids) - _CUT_TOKENS
            if count > limit:
                return True
        return False


def _too_long(where: str, tokens: str, limit: int) -> RequestError:
    return RequestError(
        413,
        "text_too_long",
        f"{where} has {tokens} tokens, the limit is {limit}: send it in parts",
    )


def _locate(encoded: Text, encoding: Any, cuts: list[tuple[int, int]]) -> None:
    """Fill in words and their places: a word's tokens may lie in two windows."""
    window = 0
    current: int | None = -1
    for token, (word, (start, stop)) in enumerate(
        zip(encoding.word_ids, encoding.offsets, strict=True)
    ):
        while token >= cuts[window][1]:
            window += 1
        column = token - cuts[window][0] + 1  # after [CLS]
        if word is None or word != current:
            encoded.words.append((start, stop))
            encoded.places.append([])
            current = word
        else:
            encoded.words[-1] = (encoded.words[-1][0], stop)
        pieces = encoded.places[-1]
        if pieces and pieces[-1][0] == window:
            pieces[-1] = (window, pieces[-1][1], column + 1)
        else:
            pieces.append((window, column, column + 1))


def bucket(length: int, limit: int) -> int:
    """The padded length of a window: the next multiple of BUCKET, at most the model's limit."""
    return min(limit, -(-length // BUCKET) * BUCKET)


def counted(limit: int) -> Callable[[Input], str]:
    """`read_text` for the inputs of one request; RequestError 413 over `limit` bytes in all."""
    total = 0

    def read(entry: Input) -> str:
        nonlocal total
        text = read_text(entry, limit)
        total += len(text.encode("utf-8"))
        if total > limit:
            raise RequestError(413, "too_many_bytes", f"over {limit} bytes of text in one request")
        return text

    return read


def every_length(encoder: "Encoder", limit: int) -> Text:
    """A text with a window of every padded length, so that every shape is warmed up."""
    sizes = range(BUCKET, limit + 1, BUCKET)
    return Text("", [[encoder.first, *[encoder.last] * (size - 1)] for size in sizes])


def few_and_many(encoder: "Encoder", limit: int) -> tuple[Text, Text]:
    """Texts of few and of many full windows, to time."""
    window = [encoder.first, *[encoder.last] * (limit - 1)]
    few, many = (Text("", [window] * count) for count in _TRIAL_WINDOWS)
    return few, many


def padded_tokens(windows: list[list[int]], limit: int) -> int:
    """What windows cost: the tokens that are computed, padding included."""
    return sum(bucket(len(window), limit) for window in windows)


def outputs(
    predict: Callable[[Tensor], Tensor], windows: list[list[int]], limit: int, columns: int
) -> Tensor:
    """The model's outputs for windows, float32 `[windows, columns]`; only windows of one padded
    length share a call.

    A window is padded by its own length alone, so its outputs do not depend on the others.

    Args:
        predict: the model, from int32 ids `[N, L]`, padded with 0.
        windows: token ids.
        limit: tokens of a window.
        columns: what the card says of the outputs.

    Raises:
        ModelError: the model returns another shape.
    """
    waiting: dict[int, list[int]] = {}
    for position, window in enumerate(windows):
        waiting.setdefault(bucket(len(window), limit), []).append(position)
    found = torch.empty(len(windows), columns)
    for length, positions in waiting.items():
        step = max(1, CALL_TOKENS // length)
        for start in range(0, len(positions), step):
            chosen = positions[start : start + step]
            ids = torch.zeros(len(chosen), length, dtype=torch.int32)
            for row, position in zip(ids, chosen, strict=True):
                row[: len(windows[position])] = torch.tensor(windows[position], dtype=torch.int32)
            rows = predict(ids)
            if rows.ndim != 2 or rows.shape[1] != columns:
                raise ModelError(
                    f"the model returns {list(rows.shape)}, the card says {columns} a text"
                )
            found[chosen] = rows.float()
    return found
