"""Widgets of what a notebook holds: `net.widget()`, `net.wallet.widget()`, `model.widget()`, `app.widget()`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rios.words.errors import InvalidRequest

if TYPE_CHECKING:
    from rios.widgets.deployment import DeploymentWidget
    from rios.widgets.generation import GenerationWidget
    from rios.widgets.panel import PanelWidget


def of_network(network: Any, view: str = "all") -> PanelWidget:
    """The panel of a network, or one view of it: wallet, jobs or hosts. Raises InvalidRequest."""
    from rios.widgets.panel import VIEWS, PanelWidget

    if view not in VIEWS:
        raise InvalidRequest(f"the view is {view!r}; it is one of {', '.join(VIEWS)}")
    return PanelWidget(network, view)


def of_model(model: Any) -> GenerationWidget:
    """A prompt and its answer, as it comes."""
    from rios.widgets.generation import GenerationWidget

    return GenerationWidget(model)


def of_app(app: Any) -> DeploymentWidget:
    """An application: what runs of it, what it writes and costs."""
    from rios.widgets.deployment import DeploymentWidget

    return DeploymentWidget(app)
