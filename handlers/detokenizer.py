"""Token ids to text, for byte-level BPE as Whisper's.

A table is enough for this direction: the `tokenizers` library would take eleven megabytes more
of a worker's memory.
"""

import json
from array import array
from collections.abc import Iterable
from pathlib import Path

from handlers.errors import ModelError


def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's alphabet: the printable character that stands for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + i): byte for i, byte in enumerate(others)}


class Detokenizer:
    """The text of token ids; special tokens and ids outside the vocabulary have none."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: a `tokenizer.json` of the `tokenizers` library, with a byte-level decoder.

        Raises:
            ModelError: it is not there, damaged, or of another kind.
        """
        try:
            tokenizer = json.loads(path.read_text(encoding="utf-8"))
            kind = tokenizer["decoder"]["type"]
            pieces: dict[str, int] = tokenizer["model"]["vocab"]
            added = {entry["id"]: entry for entry in tokenizer["added_tokens"]}
            alphabet = _bytes_of_characters()
            spelled = {
                i: bytes(alphabet[c] for c in piece)
                for piece, i in pieces.items()
                if i not in added
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{path} cannot be read: rebuild the archive with tokenizer.json among the "
                "card's files"
            ) from error
        if kind != "ByteLevel":
            raise ModelError(f"{path} has a {kind} decoder; speech needs a ByteLevel one")
        for i, entry in added.items():
            if not entry.get("special"):
                spelled[i] = str(entry["content"]).encode()
        self._ends = array("I")
        self._text = bytearray()
        for i in range(max(spelled, default=-1) + 1):
            self._text += spelled.get(i, b"")
            self._ends.append(len(self._text))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        pieces = [self._bytes(i) for i in ids]
        return b"".join(pieces).decode("utf-8", errors="replace")

    def _bytes(self, i: int) -> bytes:
        if not 0 <= i < len(self._ends):
            return b""
        return bytes(self._text[self._ends[i - 1] if i else 0 : self._ends[i]])
