"""mkdocs hook: the README and its neighbours as pages of the site, with the links it needs.

They stay where everybody looks for them, in the repository's root, and stand in the site too.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
_LINK = re.compile(r"(\]\()([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the root's pages."""
    for name, target in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links into and out of `docs/` as links between the site's pages."""
    return _LINK.sub(lambda found: found[1] + _target(found[2]), markdown)


def _target(link: str) -> str:
    return PAGES.get(link.removeprefix("../"), link.removeprefix("docs/"))
