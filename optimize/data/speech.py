"""Transcribed speech: short recordings with their reference texts.

Sources, in this order: the recipe's path; the prompts of the Debian packages
`asterisk-core-sounds-en` and `asterisk-core-sounds-en-wav` (one speaker, telephone band) with the
LibriVox sentences of `pocketsphinx-testdata`. There is no training split, because compression is
post-training. All decisions are made on the development split; the test split is only measured.
"""

import gzip
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from handlers.audio import AudioSpec, decode
from handlers.errors import RequestError
from optimize.data.tables import read_rows
from optimize.errors import DataError

PROMPTS_TEXT = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
PROMPTS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
LIBRIVOX = Path("/usr/share/pocketsphinx/test/data/librivox")
LONGEST_SECONDS = 30.0
_AUDIO = ("audio", "path", "file", "file_name", "audio_filepath")
_TEXT = ("text", "sentence", "transcription", "transcript")


@dataclass(frozen=True)
class Utterance:
    """One recording: name, reference text, file and the collection it is from."""

    name: str
    text: str
    path: Path
    collection: str

    def samples(self) -> npt.NDArray[np.float32]:
        """Mono float32 `[n]` at 16 kHz, decoded as in the handler.

        Raises:
            DataError: the file cannot be decoded.
        """
        try:
            return decode(self.path.read_bytes(), AudioSpec(max_seconds=LONGEST_SECONDS))
        except (OSError, RequestError) as error:
            raise DataError(f"{self.path} cannot be used: {error}") from error


@dataclass(frozen=True)
class Speech:
    """Utterances split once by a hash of their text, so that no sentence is in both splits.

    `spare` are recordings in neither split, for comparing two forms of a model: single words and
    letters, whose word error rate would mostly measure how the reference is spelled.
    """

    name: str
    source: str
    development: list[Utterance]
    test: list[Utterance]
    notes: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    spare: list[Utterance] = field(default_factory=list)

    def split(self, name: str) -> list[Utterance]:
        """`validation` (the development split) or `test`; empty for others, such as `train`."""
        return {"validation": self.development, "test": self.test}.get(name, [])

    def fingerprint(self) -> str:
        """SHA-256 over names, texts and bytes of every recording."""
        digest = hashlib.sha256()
        for split in (self.development, self.test):
            for utterance in split:
                digest.update(f"{utterance.name}\t{utterance.text}\n".encode())
                digest.update(hashlib.sha256(utterance.path.read_bytes()).digest())
        return digest.hexdigest()


def _share(text: str) -> float:
    """A number from 0 to 1 that depends only on the text."""
    return int(hashlib.sha256(text.lower().encode()).hexdigest()[:8], 16) / 2**32


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def read_prompts(least_words: int = 1) -> list[Utterance]:
    """The Asterisk prompts of at least `least_words` and at most 30 s; [] if not installed."""
    import soundfile

    if not PROMPTS_TEXT.is_file() or not PROMPTS.is_dir():
        return []
    utterances = []
    with gzip.open(PROMPTS_TEXT, "rt", encoding="utf-8") as lines:
        for line in lines:
            name, colon, text = line.strip().partition(": ")
            path = PROMPTS / f"{name}.wav"
            # Comments, sounds without words, and notes on how a prompt is pronounced.
            if not colon or ";" in line or "[" in line or text.startswith("("):
                continue
            if len(text.split()) < least_words or not path.is_file():
                continue
            if soundfile.info(path).duration <= LONGEST_SECONDS:
                utterances.append(Utterance(name, text.strip(), path, "prompts"))
    return utterances


def read_librivox() -> list[Utterance]:
    """The five LibriVox sentences of pocketsphinx-testdata; [] if not installed."""
    listing = LIBRIVOX / "transcription"
    if not listing.is_file():
        return []
    utterances = []
    for line in listing.read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"<s>\s*(.*?)\s*</s>\s*\((.+)\)", line.strip())
        if match and (LIBRIVOX / f"{match[2]}.wav").is_file():
            path = LIBRIVOX / f"{match[2]}.wav"
            utterances.append(Utterance(match[2], match[1], path, "librivox"))
    return utterances


def read_listing(path: Path) -> list[Utterance]:
    """A user's own data: lines of `FILE<TAB>TEXT`, or a table (CSV, JSON lines, Parquet) with
    columns `audio`, `path` or `file`, and `text`, `sentence` or `transcription`; files relative
    to the listing.

    Raises:
        DataError: the listing is absent, malformed, empty, or names a missing file.
    """
    if path.suffix.lower() in (".csv", ".jsonl", ".json", ".parquet"):
        return _read_table(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    utterances = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, tab, text = line.partition("\t")
        audio = path.parent / name
        if not tab or not text.strip():
            raise DataError(f"{path}:{number}: expected FILE, a tab, and what is said in it")
        if not audio.is_file():
            raise DataError(f"{path}:{number}: there is no file {audio}")
        utterances.append(Utterance(name, text.strip(), audio, "own"))
    return _enough(utterances, path)


def _read_table(path: Path) -> list[Utterance]:
    rows = read_rows(path, None)
    columns = []
    for usual in (_AUDIO, _TEXT):
        column = next((name for name in usual if name in rows[0].fields), None)
        if column is None:
            there = ", ".join(map(str, rows[0].fields))
            raise DataError(f"{rows[0].where}: no column {' or '.join(usual)}; there are {there}")
        columns.append(column)
    utterances = []
    for row in rows:
        name, text = (str(row.fields[column] or "").strip() for column in columns)
        audio = path.parent / name
        if not text or not audio.is_file():
            what = f"there is no file {audio}" if text else f"{columns[1]} is empty"
            raise DataError(f"{row.where}: {what}")
        utterances.append(Utterance(name, text, audio, "own"))
    return _enough(utterances, path)


def _enough(utterances: list[Utterance], path: Path) -> list[Utterance]:
    if len(utterances) < 2:
        raise DataError(f"{path} lists {len(utterances)} recordings; at least two are needed")
    return utterances


def load(path: str | None = None, development: float = 0.25, limit: int | None = None) -> Speech:
    """Load transcribed speech.

    Args:
        path: a listing, see `read_listing`; None uses the Debian packages.
        development: share of the sentences in the development split.
        limit: use only this many utterances of each split (for tests).

    Raises:
        DataError: there is none, or one split would be empty.
    """
    notes: list[str] = []
    if path is not None:
        listing = Path(path).expanduser()
        utterances, name, source = read_listing(listing), listing.stem, f"own listing {listing}"
        test_only: list[Utterance] = []
        spare: list[Utterance] = []
    else:
        prompts, test_only = read_prompts(), read_librivox()
        utterances = [u for u in prompts if len(u.text.split()) > 1]
        spare = [u for u in prompts if len(u.text.split()) == 1]
        name, source = "asterisk_prompts", "Debian packages asterisk-core-sounds-en(-wav)"
        if test_only:
            source += ", pocketsphinx-testdata"
        if not utterances and PROMPTS.is_dir() and not PROMPTS_TEXT.exists():
            raise DataError(
                f"the prompts are installed and their text is not: {PROMPTS_TEXT} was left out, as "
                "containers do with /usr/share/doc (path-exclude in /etc/dpkg/dpkg.cfg.d). "
                "Remove that line, then `apt-get install --reinstall asterisk-core-sounds-en`"
            )
        if not utterances:
            raise DataError(
                "no transcribed speech here: as root `apt-get install asterisk-core-sounds-en "
                "asterisk-core-sounds-en-wav pocketsphinx-testdata`, or set data.path in the "
                "recipe to a file of lines FILE<TAB>TEXT"
            )
    # pocketsphinx's sentences have other speakers: they are for testing only.
    dev = [u for u in utterances if _share(u.text) < development]
    dev_words = {_words(u.text) for u in dev}  # the same words with other punctuation
    test = [
        u for u in utterances if _share(u.text) >= development and _words(u.text) not in dev_words
    ]
    test += test_only
    if limit is not None:
        dev, test, spare = dev[:limit], test[:limit], []
        notes.append(f"cut to {limit} utterances of each split")
    if not dev or not test:
        raise DataError(
            f"{len(dev)} sentences to decide on and {len(test)} to test on: "
            "list more, or change data.development"
        )
    return Speech(name, source, dev, test, notes, spare=spare)
