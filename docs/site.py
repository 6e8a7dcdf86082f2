"""A hook of MkDocs (mkdocs.yml): pages of the site that lie outside docs/, and links that leave it.

On the site benchmarks/RESULTS.md, CHANGELOG.md and CONTRIBUTING.md are pages like those of docs/. A link to any other
file of the repository (config/gates.yaml, examples/pipeline.py) has no place to go there, so it becomes the file's
name in code; in the repository the very same Markdown is a link that works.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BROUGHT = ("benchmarks/RESULTS.md", "CHANGELOG.md", "CONTRIBUTING.md")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")


def moved(markdown: str, page: str, brought: tuple[str, ...] = BROUGHT) -> str:
    """The Markdown of a page of the site, with its links as the site has them.

    Args:
        page: where the page lies in the repository.
    """
    here = posixpath.dirname(page)
    place = site_path(page)

    def link(found: re.Match[str]) -> str:
        text, target = found.groups()
        path, mark, anchor = target.partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return found[0]
        target = posixpath.normpath(posixpath.join(here, path))
        on_site = site_path(target) if target.startswith("docs/") or target in brought else ""
        if not on_site or on_site.endswith(".py"):
            return f"{text} (`{target}`)" if text.strip("`") != target else f"`{target}`"
        return f"[{text}]({posixpath.relpath(on_site, posixpath.dirname(place) or '.')}{mark}{anchor})"

    return LINK.sub(link, markdown)


def site_path(target: str) -> str:
    """Where a file of the repository is on the site."""
    return target.removeprefix("docs/")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages from outside docs/."""
    from mkdocs.structure.files import File

    for name in BROUGHT:
        files.append(File.generated(config, name, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrites a page's links, and takes the room of an empty table of contents."""
    name = page.file.src_uri
    if "\n## " not in markdown:  # a list of nothing would take a fifth of the page
        page.meta["hide"] = ["toc"]
    return moved(markdown, name if name in BROUGHT else f"docs/{name}")
