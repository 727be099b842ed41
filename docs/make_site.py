"""Gathers the pages of the site in build/: docs/, the repository's own texts, the reference, notebooks.

They are plain Markdown, so that another program may turn them into a site one day. ``make docs`` runs it.
"""

from __future__ import annotations

import base64
import json
import os.path
import re
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

import semiflat

HERE = Path(__file__).parent
ROOT = HERE.parent
LINK = re.compile(r"\[(?P<text>[^]\[]*)\]\((?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
NAME = re.compile(r"(?<![\[`\w])`(?:sf\.)?(?P<name>[A-Za-z]\w*)`(?![\]`])")
COPIED = {".css", ".js", ".json", ".png", ".svg"}

Made = dict[str, str | bytes]
"""Contents of pages and pictures by their place in the site."""


def texts() -> dict[Path, str]:
    """Pages of the repository that stand outside docs/, and where the site has them.

    >>> texts()[ROOT / "README.md"]
    'index.md'
    """
    return {
        ROOT / "README.md": "index.md",
        ROOT / "CHANGELOG.md": "changelog.md",
        ROOT / "CONTRIBUTING.md": "contributing.md",
        **{page: f"measured/{page.name}" for page in ROOT.glob("benchmarks/results/*.md")},
        **{book: f"examples/{book.stem}.md" for book in ROOT.glob("examples/*.ipynb")},
    }


def relinked(text: str, source: Path, place: str, repository: str) -> str:
    """Links that are right beside ``source`` made right on the page at ``place``.

    What the site does not have is linked to in the repository. Pages go by their titles, and a public name in a
    sentence leads to the reference.

    >>> relinked("[a](docs/paths.md#b), [c](LICENSE)", ROOT / "README.md", "index.md", "https://r")
    '[a](paths.md#b), [c](https://r/blob/main/LICENSE)'
    >>> relinked("[CHANGELOG.md](../CHANGELOG.md)", HERE / "verdicts.md", "extend/verdicts.md", "")
    '[Changelog](../changelog.md)'
    >>> relinked("call `judge`\\n```\\n`judge`\\n```", HERE / "verdicts.md", "verdicts.md", "")
    'call [`judge`][semiflat.judge]\\n```\\n`judge`\\n```'
    """
    known = texts()

    def change(found: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / found["path"]))
        if "://" in found["path"] or not target.exists():
            return found[0]  # mkdocs says so if it leads nowhere
        inside = target.is_relative_to(HERE) and target.suffix not in ("", ".py")
        page = known.get(target) or (target.relative_to(HERE).as_posix() if inside else None)
        if page is None:
            kind = "tree" if target.is_dir() else "blob"
            at = target.relative_to(ROOT).as_posix()
            return f"[{found['text']}]({repository}/{kind}/main/{at})"
        text = found["text"]
        if text.endswith(".md"):
            text = target.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ")
        return f"[{text}]({os.path.relpath(page, Path(place).parent)}{found['anchor'] or ''})"

    def named(found: re.Match[str]) -> str:
        name = found["name"]
        return f"[{found[0]}][semiflat.{name}]" if name in semiflat.__all__ else found[0]

    # Every other part is a block of code.
    parts = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
    for k in range(0, len(parts), 2):
        lines = LINK.sub(change, parts[k]).split("\n")
        kept = ("#", "    ")  # headings, and formulas
        parts[k] = "\n".join(
            each if each.startswith(kept) or "](" in each else NAME.sub(named, each)
            for each in lines
        )
    return "".join(parts)


def rooms() -> dict[str, list[str]]:
    """The public names by the room they are from, in the order data flows.

    >>> rooms()["problem"]
    ['Problem', 'Located']
    """
    found: dict[str, list[str]] = {}
    for name in semiflat.__all__:
        module = getattr(getattr(semiflat, name), "__module__", "semiflat._version")
        found.setdefault(module.split(".")[1], []).append(name)
    return found


def reference() -> Made:
    """Every public name with its docstring: a page for each room, and a list of all.

    >>> pages = reference()
    >>> on_pages = re.findall(r"^::: semiflat[.](\\w+)$", "\\n".join(map(str, pages.values())), re.M)
    >>> sorted(on_pages) == sorted(semiflat.__all__)
    True
    """
    made: Made = {}
    index = ["# Reference", "Every public name, in the order data flows."]
    for number, (room, names) in enumerate(rooms().items()):
        title = room.strip("_").replace("_", " ").capitalize()
        about = (import_module(f"semiflat.{room}").__doc__ or title).strip().split("\n\n")[0]
        page = f"{number:02d}-{room.strip('_')}.md"
        blocks = [f"# {title}", about, *(f"::: semiflat.{name}" for name in names)]
        made[f"reference/{page}"] = "\n\n".join(blocks) + "\n"
        rows = [f"| [`{name}`][semiflat.{name}] | {_first_line(name)} |" for name in names]
        index += [f"## [{title}]({page})", about, "\n".join(["| name | |", "|---|---|", *rows])]
    made["reference/index.md"] = "\n\n".join(index) + "\n"
    return made


def _first_line(name: str) -> str:
    if name == "__version__":
        return f"`{semiflat.__version__!r}`"
    text = " ".join((getattr(semiflat, name).__doc__ or "").strip().split("\n\n")[0].split())
    return re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", text).replace("``", "`").replace("|", "\\|")


def notebook(text: str, name: str) -> Made:
    r"""A notebook as a page, and its pictures beside it, as they were when it was last run; tables as tables.

    >>> cell = {"cell_type": "code", "source": ["1 + 1"], "outputs": [{"data": {"text/plain": ["2"]}}]}
    >>> print(notebook(json.dumps({"cells": [cell]}), "sum")["examples/sum.md"])
    ```python
    1 + 1
    ```
    <BLANKLINE>
    ```text title="output"
    2
    ```
    """
    made: Made = {}
    parts = []
    for number, cell in enumerate(json.loads(text)["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {"text/plain": output.get("text", [])})
            if "image/png" in data:
                picture = f"{name}-{number}.png"
                made[f"examples/{picture}"] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![what the code above draws]({picture})")
            elif "text/html" in data:
                # On one line, as a block of HTML ends at an empty one; what stands in it is no Markdown.
                table = " ".join("".join(data["text/html"]).split())
                parts.append(f'<div class="output">{table}</div>')
            elif shown := "".join(data["text/plain"]).rstrip():
                parts.append(f'```text title="output"\n{shown}\n```')
    made[f"examples/{name}.md"] = "\n\n".join(parts)
    return made


def pages(repository: str) -> Made:
    """All files of the site's source: what is written in docs/, and what is made."""
    found: Made = {}
    for file in HERE.rglob("*"):
        place = file.relative_to(HERE).as_posix()
        if file.suffix == ".md":
            found[place] = relinked(file.read_text(encoding="utf-8"), file, place, repository)
        elif file.suffix in COPIED and not place.startswith("results/records/"):
            found[place] = file.read_bytes()
    found |= reference()
    for source, place in texts().items():
        text = source.read_text(encoding="utf-8")
        made = notebook(text, source.stem) if source.suffix == ".ipynb" else {place: text}
        for each, content in made.items():
            written = isinstance(content, str)
            found[each] = relinked(content, source, place, repository) if written else content
    found["index.md"] = f"---\nhide: [navigation]\n---\n{found['index.md']}"
    return found


def expanded(nav: list[Any], places: set[str]) -> Iterator[Any]:
    """The navigation with each ``folder/*`` as the pages there are.

    >>> list(expanded([{"A": "a/*"}, {"B": "b/*"}, {"C": "c.md"}], {"a/y.md", "a/index.md", "a/x.md"}))
    [{'A': ['a/index.md', 'a/x.md', 'a/y.md']}, {'C': 'c.md'}]
    """
    for entry in nav:
        ((title, value),) = entry.items()
        if isinstance(value, list):
            yield {title: list(expanded(value, places))}
        elif value.endswith("/*"):
            folder = value.removesuffix("*")
            pages = [
                place for place in places if place.startswith(folder) and place.endswith(".md")
            ]
            pages.sort(key=lambda place: (place != f"{folder}index.md", place))
            if pages:
                yield {title: pages}
        else:
            yield entry


def gather(folder: Path = ROOT / "build") -> None:
    """Write the pages, and the settings with the whole navigation, into ``folder``."""
    settings = yaml.safe_load((HERE / "mkdocs.yml").read_text(encoding="utf-8"))
    found = pages(settings["extra"]["repository"])
    settings["nav"] = list(expanded(settings["nav"], set(found)))
    shutil.rmtree(folder / "pages", ignore_errors=True)
    for place, content in found.items():
        file = folder / "pages" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            # Examples are sessions with prompts.
            content = re.sub(r"^```python\n(?=>>>)", "```pycon\n", content, flags=re.M).encode()
        file.write_bytes(content)
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    gather()
