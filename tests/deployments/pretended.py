"""Models that serve nothing: for what engines do with them, without workers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rios.services.generation import Model


class PretendedModel(Model):
    """A model that can be closed."""

    def __init__(self, wanted: dict[str, Any], closed: Callable[[Model], None]) -> None:
        self.wanted = wanted
        self._closed = False
        self._told = closed

    @property
    def name(self) -> str:
        return str(self.wanted["name"])

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._told(self)


class Workers:
    """What an engine has models deployed on."""

    def __init__(self) -> None:
        self.models: list[PretendedModel] = []
        self.refusal: Exception | None = None
        """Raised by the starts from now on."""
        self.may_go_on = threading.Event()
        """Starts wait for it."""
        self.may_go_on.set()

    def deploy(self, path: str, *, closed: Callable[[Model], None], **wanted: Any) -> Model:
        if self.refusal is not None:
            raise self.refusal
        assert self.may_go_on.wait(60)
        model = PretendedModel({"path": path, **wanted}, closed)
        self.models.append(model)
        return model

    @property
    def open(self) -> list[str]:
        """The names of those that are not closed."""
        return [model.name for model in self.models if not model._closed]
