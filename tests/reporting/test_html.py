"""A page that asks nobody for anything."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from rios.reporting import page as pages
from rios.reporting.html import PLOTLY, to_html

Attributes = list[tuple[str, str | None]]


class Requests(HTMLParser):
    """What a browser would fetch for a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        given = dict(attrs)
        if tag == "a":  # fetched only when somebody clicks
            return
        for name in ("src", "href", "srcset", "poster", "data"):
            address = given.get(name)
            if name in given and not (address or "").startswith(("data:", "#")):
                self.found.append(f"{tag} {name}={address}")


def figure(text: str = "rows") -> nbformat.NotebookNode:
    return new_output(
        "display_data", data={PLOTLY: {"data": [{"y": [1, 2], "name": text}], "layout": {}}, "text/plain": "Figure"}
    )


def page_of(*cells: nbformat.NotebookNode) -> str:
    return to_html(new_notebook(cells=list(cells)), "a report")


def test_nothing_is_fetched() -> None:
    page = page_of(new_markdown_cell("# Heading\n\n$x^2$"), new_code_cell("f", outputs=[figure()]))
    assert Requests(page).found == []
    assert "mermaid.esm" not in page
    assert "default-src 'none'" in page


def test_plotly_is_there_once() -> None:
    one = page_of(new_code_cell("f", outputs=[figure()]))
    two = page_of(new_code_cell("f", outputs=[figure(), figure()]), new_code_cell("g", outputs=[figure()]))
    assert two.count("Plotly.newPlot('rios-plot-") == 3
    assert len(two) - len(one) < 10_000


def test_a_page_without_plots_is_small() -> None:
    page = page_of(new_code_cell("1"))
    assert "Plotly" not in page
    assert len(page) < 1_000_000


def test_a_figure_cannot_end_its_script() -> None:
    page = page_of(new_code_cell("f", outputs=[figure("</script><script>alert(1)</script>")]))
    assert "</script><script>alert(1)" not in page


def test_output_is_escaped() -> None:
    page = page_of(new_code_cell("f", outputs=[new_output("stream", name="stdout", text="<script>alert(1)</script>")]))
    assert "<script>alert(1)" not in page


def test_pieces_of_a_stream_are_one_text() -> None:
    pieces = [new_output("stream", name="stdout", text=text) for text in ("she had ", "been ", "there")]
    assert "she had been there" in page_of(new_code_cell("f", outputs=pieces))


def test_the_same_notebook_gives_the_same_page() -> None:
    notebook = new_notebook(cells=[new_code_cell("f", outputs=[figure()])])
    text = nbformat.writes(notebook)
    first, second = (to_html(nbformat.reads(text, as_version=4), "a report") for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    "chart",
    [
        pages.bars([], "net_wei", before="before_wei", title="Cost"),
        pages.columns(["2026-11-28"], {"before": ["0"], "this period": [0]}, title="Cost"),
        pages.heat([], rows="user", across="model", value="net_wei", title="Cost"),
    ],
)
def test_a_chart_of_nothing_is_a_sentence(chart: Any) -> None:
    """Empty axes looked like a chart that failed; plotly drew them from -1 to 4."""
    assert chart._repr_html_() == '<p class="rios-note">Cost: nothing.</p>'


def test_a_chart_writes_amounts_as_the_tables_do() -> None:
    """A single cell had a scale from -0.5 to 0.5, and small amounts were "3\u00b5"."""
    cells = [{"user": "ann", "model": "demo", "net_wei": "2989707264000"}]
    chart = pages.heat(cells, rows="user", across="model", value="net_wei", title="Cost")
    (heat,) = chart.data
    assert (heat.zmin, heat.zmax, heat.colorbar.exponentformat) == (0.0, 2989707264000 / 10**18, "none")
    for one in (chart, pages.columns(["a"], {"cost": ["7"]}, title="Cost")):
        assert {one.layout.xaxis.exponentformat, one.layout.yaxis.exponentformat} == {"none"}
