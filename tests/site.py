"""What the documentation site has besides `docs/`: pages made from the README, the notebooks and the code itself.

mkdocs calls `on_files` (mkdocs.yml names this file). Nothing is written into the sources.
"""

from __future__ import annotations

import inspect
import json
import posixpath
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # mkdocs runs this file by its path
    sys.path.insert(0, str(ROOT))

from tests.public import reached  # noqa: E402

PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "explanation/architecture.md",
    "SECURITY.md": "explanation/security.md",
    "CONTRIBUTING.md": "explanation/contributing.md",
    "CHANGELOG.md": "explanation/changes.md",
}
SHIM = "https://unpkg.com/iframe-worker/shim"
_IMAGE = re.compile(r"!\[([^\]]*)\]\((docs/[^)\s]+)\)")
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def made() -> dict[str, str]:
    """The pages that are made, by their path in the site."""
    found = {
        "reference/python.md": python_page(),
        "reference/commands.md": commands_page(),
        "reference/settings.md": settings_page(),
        "reference/http.md": http_page(),
        "reference/reports.md": reports_page(),
    }
    for source, target in PAGES.items():
        found[target] = relinked((ROOT / source).read_text(), source, target)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        found[f"tutorial/{path.stem}.md"] = notebook_page(path)
    return found


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    for target, text in made().items():
        files.append(File.generated(config, target, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links out of `docs/` lead to the pages that are made of their targets, or say what is there."""
    path = page.file.src_path
    return relinked(markdown, f"docs/{path}", path) if (ROOT / "docs" / path).is_file() else markdown


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """The theme asks a server of others for what makes its search work from a disk: ours lies beside it."""
    place = posixpath.relpath("assets/frame-worker.js", posixpath.dirname(page.url) or ".")
    return output.replace(SHIM, place)


def on_post_template(output: str, template_name: str, **_: Any) -> str:
    """The page for what is not there has it, too."""
    return output.replace(SHIM, "assets/frame-worker.js")


def relinked(text: str, source: str, target: str) -> str:
    """Links of the file `source` of the repository as they are in the page `target`."""

    def change(found: re.Match[str]) -> str:
        there = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[2]))
        page = PAGES.get(there) or (there.removeprefix("docs/") if re.match(r"docs/.+\.md$", there) else None)
        if page is None:
            return f"{found[1]} (`{there}`)" if found[1].strip("`/") != there.strip("/") else f"`{there}`"
        return f"[{found[1]}]({posixpath.relpath(page, posixpath.dirname(target) or '.')}{found[3] or ''})"

    def moved(found: re.Match[str]) -> str:
        there = found[2].removeprefix("docs/")
        return f"![{found[1]}]({posixpath.relpath(there, posixpath.dirname(target) or '.')})"

    return _LINK.sub(change, _IMAGE.sub(moved, text))


def notebook_page(path: Path) -> str:
    """A notebook as a page: prose, and code to copy. It is executed by the tests, not by the site."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    note = (
        f"*This page is the notebook `notebooks/{path.name}`, which the tests execute from its first cell to its last.*"
    )
    title, _, rest = "\n\n".join(parts).partition("\n")
    return f"{title}\n\n{note}\n{rest}\n"


def public() -> Mapping[str, tuple[str, ...]]:
    """What users hold in their hands: modules, and the names in each. All that `import rios` leads to is found."""
    found: dict[str, tuple[str, ...]] = {"rios": ("local", "connect")}
    for one in reached():
        if one.module != "rios.words.errors":  # they are a tree of their own below
            found[one.module] = (*found.get(one.module, ()), one.node.name)
    return found | {
        # What those take.
        "rios.dmoe.params": ("SamplingParams",),
        "rios.deploy.spec": ("App",),
        "rios.services.reports.values": (*found["rios.services.reports.values"], "Wish"),
        "rios.reporting.page": ("read_data", "ros", "number", "change", "tiles", "table", "bars", "columns", "heat"),
    }


def python_page() -> str:
    """The reference of Python, from docstrings."""
    parts = [
        "# Python\n\nWhat `import rios` gives, and what its objects can do. All of it is from the code's own words."
    ]
    for module, names in public().items():
        for name in names:
            place = "rios.services.network" if module == "rios" else module
            parts.append(f"::: {place}.{name}")
    from rios.words import errors

    tree = inspect.cleandoc(errors.__doc__ or "")
    parts.append(f"## Errors\n\n```text\n{tree}\n```")
    return "\n\n".join(parts) + "\n"


def commands_page() -> str:
    """The commands, from their own help."""
    import typer

    from rios.cli import app

    return "# Commands\n\n" + "\n".join(_commands(typer.main.get_command(app), "rios", "")) + "\n"


def _commands(command: Any, name: str, prefix: str) -> Iterator[str]:
    full = f"{prefix} {name}".strip()
    children = getattr(command, "commands", {})
    if prefix:
        yield f"## {full}\n\n{inspect.cleandoc(command.help or '')}\n"
        rows = [_option(one) for one in command.params if one.name != "help"]
        if rows:
            yield "| option | what it says |\n|---|---|\n" + "\n".join(rows) + "\n"
    for child in sorted(children):
        yield from _commands(children[child], child, full)


def _option(one: Any) -> str:
    spelt = ", ".join(f"`{text}`" for text in one.opts) if one.param_type_name == "option" else f"`{one.name.upper()}`"
    said = str(getattr(one, "help", "") or "").replace("|", "\\|")
    return f"| {spelt} | {said} |"


def settings_page() -> str:
    """All settings, from the classes that read them."""
    from rios.gateway.settings import GatewaySettings
    from rios.words.config import Settings

    parts = ["# Settings\n\nEach is an environment variable. Times are in seconds unless the name says otherwise."]
    for title, kind, prefix in (("Network", Settings, "RIOS_"), ("Gateway", GatewaySettings, "RIOS_GATEWAY_")):
        rows = []
        for name, field in kind.model_fields.items():
            default = getattr(field.default, "get_secret_value", lambda value=field.default: value)()
            shown = "" if default in (None, "") else f"`{default}`"
            rows.append(f"| `{prefix}{name.upper()}` | {shown} | {(field.description or '').replace('|', '/')} |")
        parts.append(f"## {title}\n\n| variable | default | meaning |\n|---|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def openapi() -> dict[str, Any]:
    """The gateway's own OpenAPI document; of an application that serves nobody."""
    from unittest.mock import MagicMock

    from rios.gateway.app import create_app
    from rios.gateway.settings import GatewaySettings

    gate = MagicMock()
    gate.network._settings = SimpleNamespace(home=None)
    reading = gate.tenancy.ledger.database.reading.return_value.__enter__.return_value
    reading.execute.return_value.mappings.return_value.all.return_value = []  # the network has no keys yet
    document: dict[str, Any] = create_app(gate, GatewaySettings()).openapi()
    return document


def http_page() -> str:
    """The routes of the gateway, by their tags, from OpenAPI."""
    document = openapi()
    found: dict[str, list[str]] = {}
    for path, operations in sorted(document["paths"].items()):
        for method, one in operations.items():
            tag = (one.get("tags") or ["others"])[0]
            said = (one.get("description") or one.get("summary") or "").partition("\n")[0].replace("|", "/")
            found.setdefault(tag, []).append(f"| `{method.upper()} {path}` | {said} |")
    parts = [f"# HTTP\n\n{document['info'].get('description', '')} A gateway shows the whole document at `/docs`."]
    for tag, rows in sorted(found.items()):
        parts.append(f"## {tag}\n\n| route | what it does |\n|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def reports_page() -> str:
    """The JSON of each report, from its schema."""
    from rios.services.reports.kinds import KINDS

    parts = [
        "# Reports' JSON\n\nAmounts are whole numbers of wei, as text. `rios report schema NAME` prints the schema."
    ]
    for name, kind in KINDS.items():
        schema = kind.schema()
        rows = []
        for title, part in [(name, schema), *schema.get("$defs", {}).items()]:
            about = inspect.cleandoc(part.get("description", "")).replace("\n", " ").replace("|", "/")
            rows.append(f"| {title} | {', '.join(f'`{one}`' for one in part.get('properties', {}))} | {about} |")
        parts.append(f"## {name}\n\n| part | fields | about |\n|---|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"
