"""The NOTICE that travels in an archive: whose weights, data and code it holds, on which terms."""

from typing import Any

from optimize.recipe.schema import Licences, Recipe

UNSTATED = "unknown: the recipe does not state it"


def to_json(licences: Licences) -> dict[str, str]:
    """The report's section: the recipe's words, or that there are none. Nothing is guessed."""
    return {"weights": licences.weights or UNSTATED, "data": licences.data or UNSTATED}


def text(report: dict[str, Any], recipe: Recipe) -> str:
    """The file NOTICE of the artifact that this report is about, with the recipe's own notice."""
    stated = report["licences"]
    own = recipe.licences.notice
    lines = [
        f"{report['recipe']}: a model compressed by Marpress.",
        "",
        f"Weights: derived from the model that the recipe names. Licence: {stated['weights']}",
        f"Data: trained, calibrated or measured on {report['data']['name']}"
        f" ({report['data']['source']}). Licence: {stated['data']}",
        "Handlers: of Marpress. Licence: Apache-2.0",
    ]
    if own is not None:
        lines += ["", (recipe.folder / own).read_text(encoding="utf-8").strip()]
    return "\n".join(lines) + "\n"
