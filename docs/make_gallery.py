"""Makes docs/gallery.md: every figure of the docs and of the published experiments, with its caption.

Run ``make gallery`` after figures or results have changed. Captions are those of the pages the figures
stand on, and of the experiments' results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from semiflat_experiments import NAMES

HERE = Path(__file__).parent
PAGES = ("modules", "growth", "paths", "induced", "bounds", "certificates", "embeddings")
"""Pages with figures of their own, in the order of the gallery."""
PAPERS = {"F19": "f19", "P21": "p21", "Z22": "z22", "K19": "k19", "M18": "m18"}
FIGURE = re.compile(
    r"^!\[(?P<alt>(?:[^]]|\](?!\())*)\]\((?P<file>figures/[^)]*)\)\n(?:\n\*(?P<caption>[^*]+)\*\n)?",
    re.M,
)


def gallery() -> str:
    """The page.

    >>> gallery() == (HERE / "gallery.md").read_text(encoding="utf-8") or "run make gallery"
    True
    >>> every = {*HERE.glob("figures/*.svg"), *HERE.glob("results/*.png")}
    >>> {each for each in every if each.name not in gallery()}
    set()
    """
    parts = [
        "# Gallery",
        "Every figure of these pages, drawn by the library. Made by `make gallery`.",
        "## Published experiments",
        *experiments(),
        "## What the library does",
        *(part for page in PAGES for part in figures(page)),
    ]
    return "\n\n".join(parts) + "\n"


def experiments() -> Iterator[str]:
    """The figures of the full runs in docs/results."""
    for name in NAMES:
        file = HERE / "results" / f"{name}.json"
        if not file.exists():
            continue
        result = json.loads(file.read_text(encoding="utf-8"))
        page = f"papers-{PAPERS[result['source'].split()[0]]}.md"
        yield f"### {result['source']}: {result['title']}"
        yield f"![{result['title']}](results/{name}.png)"
        yield f"*{result['caption']}*"
        yield f"`semiflat reproduce {name}`, [figures](results/{name}.json), [the paper]({page})"


def figures(page: str) -> Iterator[str]:
    """The figures of a page."""
    text = (HERE / f"{page}.md").read_text(encoding="utf-8")
    yield f"### [{text.splitlines()[0].removeprefix('# ')}]({page}.md)"
    for found in FIGURE.finditer(text):
        alt = " ".join(found["alt"].split())
        yield f"![{alt}]({found['file']})"
        yield f"*{found['caption'] or alt}*"


if __name__ == "__main__":
    (HERE / "gallery.md").write_text(gallery(), encoding="utf-8")
