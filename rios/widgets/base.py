"""What all widgets have: the built front end, and a form that outlives the kernel."""

from __future__ import annotations

import html
import secrets
from pathlib import Path
from typing import Any

import anywidget
from IPython.display import display

from rios.services.edges import in_kernel

# A view that has not heard of its kernel for three times as long says so.
ALIVE_S = 4.0
STATIC = Path(__file__).parent / "static"
_UNBUILT = """export default { render({ el }) {
  el.textContent = 'The front end of this widget is not built: run make lab, then restart the kernel.';
} };"""


class Widget(anywidget.AnyWidget):
    """A widget that also shows as text and as static HTML: where a notebook is read without its kernel."""

    _esm = STATIC / "widget.js" if (STATIC / "widget.js").is_file() else _UNBUILT
    _css = STATIC / "widget.css" if (STATIC / "widget.css").is_file() else ""

    _shown_as = _kept = ""

    def plain(self) -> str:
        """What it shows now, as text."""
        return f"<{type(self).__name__}>"

    def static(self) -> str:
        """What it shows now, as HTML without scripts."""
        return f'<pre style="white-space:pre-wrap">{html.escape(self.plain())}</pre>'

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The live view, and for whoever cannot show that, how it is now."""
        found = super()._repr_mimebundle_(**options)
        data, metadata = found if isinstance(found, tuple) else (found, {})
        return {**(data or {}), "text/plain": self.plain(), "text/html": self.static()}, metadata

    def _ipython_display_(self) -> None:
        """Shown under an id, by which `keep` finds the copies in the notebook."""
        self._shown_as = self._shown_as or secrets.token_hex(8)
        self._show(update=False)

    def keep(self) -> None:
        """Make what a notebook saves of it what it shows now: it was displayed before anything had happened."""
        # A terminal would write it a second time; and a view is drawn anew for it, so not for nothing.
        if self._shown_as and in_kernel() and self._kept != self.static():
            self._show(update=True)

    def _show(self, *, update: bool) -> None:
        data, metadata = self._repr_mimebundle_()
        self._kept = data["text/html"]
        shown: Any = display
        shown(data, metadata=metadata, raw=True, display_id=self._shown_as, update=update)

    def beat(self) -> None:
        """Tell the views that the kernel lives, where they would not hear of it otherwise."""
        self.send({"alive": True})

    def __repr__(self) -> str:
        return self.plain()
