"""What is sent: the inputs of each kind of model, and the artifact that answers them."""

import json
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
BOUNDARY = "marpress-benchmark"
REVIEWS = 64


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    `artifacts` are names of folders under artifacts/, the first that is there is taken;
    `bound_ms` is what 99 % of the answers must keep below at the rate of arrivals that is
    looked for: MLPerf's server scenario has 15 ms for images and 130 ms for text, on machines
    where a request alone takes a fifth of ours.
    """

    name: str
    artifacts: tuple[str, ...]
    content_type: str
    bound_ms: float

    def artifact(self, folder: Path) -> Path:
        """The artifact in `folder`. Raises BadInput where there is none."""
        for name in self.artifacts:
            if (folder / name / "report.json").is_file():
                return folder / name
        raise BadInput(
            f"no artifact for {self.name} in {folder}: "
            f"python -m optimize run recipes/{self.artifacts[0]}.yaml"
        )

    def bodies(self, artifact: Path) -> list[bytes]:
        """The inputs, the same ones in the same order for every server."""
        if self.name == "text":
            return _reviews(artifact) or _samples(artifact)
        samples = _samples(artifact)
        return samples[:1] if self.name == "images" else samples


KINDS = {
    kind.name: kind
    for kind in (
        Kind("images", ("photos",), "image/jpeg", 50.0),
        Kind("text", ("sentiment_full", "sentiment"), "text/plain; charset=utf-8", 250.0),
        Kind("speech", ("speech",), "audio/wav", 1000.0),
    )
}


def multipart(body: bytes, content_type: str) -> bytes:
    """A form with the body as its part `content`."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="content"; filename="content"'
        f"\r\nContent-Type: {content_type}\r\n\r\n"
    )
    return head.encode() + body + f"\r\n--{BOUNDARY}--\r\n".encode()


def _samples(artifact: Path) -> list[bytes]:
    folder = artifact / "samples"
    paths = sorted(p for p in folder.glob("*") if p.name != "labels.json")
    if not paths:
        raise BadInput(f"{folder} is empty: run the artifact's recipe again")
    return [path.read_bytes() for path in paths]


def _reviews(artifact: Path) -> list[bytes]:
    """Texts of the recipe's test split, in its own order; none where the recipe is unknown."""
    from optimize.data import movie_reviews
    from optimize.data.corpus import deduplicate, divide
    from optimize.tasks.registry import read_recipe

    path = ROOT / "recipes" / f"{json.loads((artifact / 'model.json').read_text())['name']}.yaml"
    if not path.is_file():
        return []
    recipe = read_recipe(path)
    options = {k: v for k, v in recipe.data.options.items() if k in ("sources", "path")}
    corpus, _ = deduplicate(movie_reviews.read(**options)[0])
    test = divide(corpus, 0.1, 0.05, recipe.seed)["test"][:REVIEWS]
    return [corpus.texts[i].encode() for i in test]
