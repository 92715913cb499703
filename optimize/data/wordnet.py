"""WordNet's glosses and lemmas as pairs: a definition, and the words that it defines.

Debian's package `wordnet-base` brings the database (wndb(5WN)) in `/usr/share/wordnet`.
"""

import re
from pathlib import Path

from optimize.data import text_pairs
from optimize.data.text_pairs import PairDataset
from optimize.errors import DataError

PLACE = Path("/usr/share/wordnet")
PARTS = ("noun", "verb", "adj", "adv")
# Of an adjective: where it may stand, as in "galore(ip)".
_MARKER = re.compile(r"\((a|p|ip)\)$")


def read(folder: Path) -> list[tuple[str, str]]:
    """Pairs (definition, lemma) of every synset, without its examples.

    Raises:
        DataError: absent or malformed.
    """
    pairs = []
    for part in PARTS:
        file = folder / f"data.{part}"
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise DataError(
                f"no WordNet here ({error}): as root, apt-get install wordnet-base; or name pairs "
                "of your own, data: {text_pairs: {path: pairs.csv}}"
            ) from error
        for number, line in enumerate(lines, 1):
            if line.startswith("  "):  # the licence
                continue
            fields, _, gloss = line.partition(" | ")
            words = fields.split(" ")
            try:
                count = int(words[3], 16)
                lemmas = [words[4 + 2 * i] for i in range(count)]
            except (IndexError, ValueError) as error:
                raise DataError(f"{file}:{number} is no line of WordNet's database") from error
            definition = gloss.split('; "')[0].strip().rstrip(";")
            if definition:
                pairs += [
                    (definition, _MARKER.sub("", lemma).replace("_", " ")) for lemma in lemmas
                ]
    return pairs


def load(
    path: str | None = None,
    limit: int = 0,
    test: float = 0.02,
    validation: float = 0.01,
    max_length: int = 64,
    encoder: str | None = None,
    seed: int = 0,
) -> PairDataset:
    """WordNet's definitions as queries, its lemmas as documents.

    Args:
        path: the database's folder; Debian's by default.
        limit, test, validation, max_length, encoder, seed: see `text_pairs.build`.

    Raises:
        DataError: absent or malformed.
    """
    folder = PLACE if path is None else Path(path).expanduser()
    return text_pairs.build(
        read(folder),
        name="wordnet",
        source=str(folder),
        limit=limit,
        test=test,
        validation=validation,
        max_length=max_length,
        encoder=encoder,
        seed=seed,
    )
