"""An executed notebook as one HTML file that asks nobody for anything: plotly.js is inlined once."""

from __future__ import annotations

import html
import json
import re
from typing import Any

from nbconvert import HTMLExporter
from nbconvert.preprocessors import Preprocessor
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from traitlets.config import Config

HEIGHT_PX = 420
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
    height = int(figure.get("layout", {}).get("height", HEIGHT_PX))
    return (
        f'<div id="rios-plot-{number}" style="height:{height}px"></div>'
        f"<script>Plotly.newPlot('rios-plot-{number}', ...{values}, {{responsive: true}});</script>"
    )


# Of reports, which are read by people who want no code. System colours of the reader's own: light, dark, and print.
REPORT_STYLE = """<style>
:root { color-scheme: light; }
body.jp-Notebook { max-width: 70rem; margin: 0 auto; padding: 1.5rem; background: #fff; color: #1b1f24;
  font-family: system-ui, -apple-system, "Segoe UI", sans-serif; }
.jp-Cell { padding: 2px 0; } .jp-OutputArea-prompt, .jp-InputPrompt, .jp-OutputPrompt { display: none; }
.jp-RenderedHTMLCommon { font-family: inherit; font-size: 14px; }
.jp-RenderedHTMLCommon h1 { font-size: 26px; margin: 0; }
.jp-RenderedHTMLCommon h2 { font-size: 18px; margin: 22px 0 4px; padding-top: 10px; border-top: 1px solid #d8dee4; }
.anchor-link { display: none; }
.rios-tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 12px; margin: 10px 0; }
.rios-tiles .tile { border: 1px solid #d8dee4; border-radius: 8px; padding: 12px 14px; background: #f6f8fa; }
.rios-tiles .what, .rios-tiles .below { color: #57606a; font-size: 12px; }
.rios-tiles .figure { font-size: 18px; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
body .jp-RenderedHTMLCommon table.rios-table { width: 100%; margin: 4px 0 10px; border-collapse: collapse;
  font-size: 13px; font-variant-numeric: tabular-nums; table-layout: auto; }
body .jp-RenderedHTMLCommon table.rios-table :is(td, th) { padding: 5px 8px; border-bottom: 1px solid #e7ebef;
  white-space: normal; overflow-wrap: anywhere; max-width: none; vertical-align: top; }
body .jp-RenderedHTMLCommon table.rios-table th { color: #57606a; font-weight: 600; border-bottom: 1px solid #afb8c1; }
body .jp-RenderedHTMLCommon table.rios-table :is(td, th).t { text-align: left; }
body .jp-RenderedHTMLCommon table.rios-table :is(td, th).n { text-align: right; overflow-wrap: normal; }
body .jp-RenderedHTMLCommon table.rios-table tr:nth-child(even) { background: #f8fafb; }
.rios-note { margin: 4px 0; color: #57606a; } .rios-note.bad { color: #a40e26; font-weight: 600; }
.rios-badge { padding: 1px 8px; border-radius: 10px; font-size: 12px; font-weight: 600; white-space: nowrap; }
.rios-badge.good { background: #d2f4dc; color: #0a4b1e; } .rios-badge.watch { background: #fff1c2; color: #5c4400; }
.rios-badge.bad { background: #ffd9dc; color: #7d0b1d; }
.rios-banner { margin: 0 0 14px; padding: 12px 16px; border: 2px solid #a40e26; border-radius: 8px; background: #fff0f1;
  color: #7d0b1d; font-weight: 600; }
@media print { body.jp-Notebook { max-width: none; padding: 0; } .jp-Cell, table.rios-table tr { break-inside: avoid; }
  .jp-RenderedHTMLCommon h2 { break-after: avoid; } }
</style>"""


def to_html(notebook: Any, title: str, *, code: bool = True, banner: str = "") -> str:
    """One offline page from an executed notebook (nbformat's node).

    code: False shows what the cells say and not the cells. banner: plain text that stands above everything.
    """
    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        config=Config({"HTMLExporter": {"preprocessors": [CoalesceStreamsPreprocessor, InlinePlots]}}),
        require_js_url="",
        mathjax_url="",
        mermaid_js_url="",
        jquery_url="",
        embed_images=True,
        exclude_input=not code,
        exclude_input_prompt=not code,
        exclude_output_prompt=not code,
    )
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    page = re.sub(r'<script src="">\s*</script>', "", _without_mermaid(str(body)))
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    style = STYLE if code else REPORT_STYLE
    page = page.replace("<head>", f"<head>{policy}", 1).replace("</head>", f"{style}</head>", 1)
    said = f'<div class="rios-banner" role="alert">{html.escape(banner)}</div>' if banner else ""
    return re.sub(r"(<main>|<body[^>]*>)", lambda found: found.group(1) + said, page, count=1)


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
