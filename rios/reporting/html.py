"""An executed notebook as one HTML file that asks nobody for anything: plotly.js is inlined once."""

from __future__ import annotations

import json
import re
from typing import Any

from nbconvert import HTMLExporter
from nbconvert.preprocessors import Preprocessor
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from traitlets.config import Config

PLOTLY = "application/vnd.plotly.v1+json"
# The page may draw with what it carries and ask nobody: a browser holds it to that.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; worker-src blob:"
)
# The template breaks lines of text within words, sets text in tables to the right, and spans any width.
STYLE = """<style>
body.jp-Notebook { max-width: 62rem; margin: 0 auto; }
.jp-OutputArea-output pre { word-break: normal; overflow-wrap: anywhere; }
body .jp-RenderedHTMLCommon :is(tr, th, td) { text-align: left; }
</style>"""


class InlinePlots(Preprocessor):
    """Turns plotly's JSON into a div and a call; the library itself goes before the first of them."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Replace the plotly outputs of a notebook."""
        number = 0
        for cell in nb.cells:
            for output in cell.get("outputs", ()):
                figure = output.get("data", {}).pop(PLOTLY, None)
                if figure is None:
                    continue
                library = f"<script>{_library()}</script>" if number == 0 else ""
                output["data"] = {"text/html": library + _plot(figure, number)}
                number += 1
        return nb, resources


def _library() -> str:
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source


def _plot(figure: dict[str, Any], number: int) -> str:
    # "</" would end the script element from within a string.
    values = json.dumps([figure.get("data", []), figure.get("layout", {})]).replace("</", "<\\/")
    return (
        f'<div id="rios-plot-{number}" style="height:420px"></div>'
        f"<script>Plotly.newPlot('rios-plot-{number}', ...{values}, {{responsive: true}});</script>"
    )


def to_html(notebook: Any, title: str) -> str:
    """One offline page from an executed notebook (nbformat's node)."""
    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        config=Config({"HTMLExporter": {"preprocessors": [CoalesceStreamsPreprocessor, InlinePlots]}}),
        require_js_url="",
        mathjax_url="",
        mermaid_js_url="",
        jquery_url="",
        embed_images=True,
    )
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    page = re.sub(r'<script src="">\s*</script>', "", _without_mermaid(str(body)))
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    return page.replace("<head>", f"<head>{policy}", 1).replace("</head>", f"{STYLE}</head>", 1)


def _without_mermaid(body: str) -> str:
    """The template imports mermaid as a module from a network; no report of ours draws with it."""
    start = body.find('<script type="module">')
    while start >= 0:
        stop = body.find("</script>", start)
        if stop < 0:
            break
        block = body[start : stop + len("</script>")]
        body = body.replace(block, "") if "mermaid" in block else body
        start = body.find('<script type="module">', start + 1)
    return body
