"""One network for many: the models of each organisation, and for each user the books that say what is paid by whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rios.accounts.store import AccountStore
from rios.accounts.values import Principal
from rios.deploy.reading import read_app
from rios.services.charging import Charging
from rios.services.deployments.bound import create_free, slug
from rios.services.deployments.engine import model_of
from rios.services.deployments.rules import CREATED, DELETED
from rios.services.deployments.served import Wanted, failures_of, models_of, require_free, served_name
from rios.services.deployments.service import Deployments, ask_to_end, try_again
from rios.services.deployments.tenants import TenantRules, check_name, without_place
from rios.services.generation import Model
from rios.services.quotas import Quotas
from rios.storage.unchanged import Unchanged
from rios.words.errors import InvalidRequest, NotFound, NoWorkers

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.billing.ledger.ledger import Ledger
    from rios.services.billing import Billing
    from rios.services.deployments.values import App
    from rios.services.network import Network

STARTING, SERVING, FAILED = "starting", "serving", "failed"
_REMEMBERED = 1000
"""Organisations whose models are remembered until somebody writes."""
_FEW = 50
"""As many are shown in some 2 ms."""
_Found = tuple[list[Wanted], dict[str, tuple[str, str]]]
"""Models that are wanted, and by deployment why one failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Specification:
    """What is to be deployed: options as of `net.dmoe.deploy`."""

    checkpoint: str
    """"demo", or the name of a folder in the directory of models."""
    replicas: int | None = None
    dtype: str | None = None
    partial: bool = False
    wire_dtype: str | None = None
    private: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As it is kept."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """A model that an organisation wants deployed, and how far that is."""

    id: str
    organisation_id: str
    name: str
    specification: Specification
    created_by: str
    created_at: int
    """Microseconds of UTC since 1970."""
    state: str = STARTING
    """starting, serving or failed."""
    reason: str = ""
    """Why it failed."""
    error: str = ""
    """The class of that in `rios.words.errors`."""


class Tenancy:
    """The tenants of a network."""

    def __init__(self, network: Network, store: AccountStore, *, models: Path | None, serves: bool = True) -> None:
        """models: the directory whose folders may be deployed; "demo" alone without it.

        serves: from now on this process serves each model that is bound to no engine, as every gateway does; those that
        were given up are tried again.
        """
        self._purse = network._purse
        self._platform = network._apps
        self._directory = models
        self.quotas = Quotas(store, network._purse.books.ledger)
        self._wanted = Unchanged(network._purse.books.ledger.database, self._read, most=_REMEMBERED)
        if not serves:
            return
        platform = self._platform()
        platform.engine.find_by(self._where)
        platform.engine.begin(takes=True)
        try_again(platform.store)
        platform.changed()

    @property
    def ledger(self) -> Ledger:
        """The network's ledger. Raises LedgerUnavailable."""
        return self._purse.books.ledger

    # --- money -----------------------------------------------------------------------------------------------

    def charging(self, user_id: str) -> Charging:
        """What opens the tabs of a user. It shares with the network's what could not be posted yet."""
        found = self._purse.charging.of(user_id)
        found.quota = self.quotas
        return found

    def billing(self, user_id: str) -> Billing:
        """`net.billing`, of a user."""
        return self._purse.billing.of(user_id)

    # --- deployments -----------------------------------------------------------------------------------------

    def deployments(self, who: Principal) -> Deployments:
        """`net.deploy`, of a user."""
        return Deployments(
            self._platform, user_id=who.user_id, organisation_id=who.organisation_id, rules=self._rules(who)
        )

    def _rules(self, who: Principal) -> TenantRules:
        return TenantRules(who, self._path)

    def models(self, who: Principal) -> list[Deployed]:
        """What the organisation has, by name."""
        return self._models(who.organisation_id)

    def known_models(self, who: Principal) -> list[Deployed] | None:
        """The same where nothing was written since it was asked for last, and they are few, else None.

        An event loop may ask.
        """
        found = self._wanted.known(who.organisation_id)
        return None if found is None or len(found[0]) > _FEW else self._shown(who.organisation_id, found)

    def _models(self, organisation_id: str) -> list[Deployed]:
        return self._shown(organisation_id, self._wanted(organisation_id))

    def _read(self, organisation_id: str) -> _Found:
        store = self._platform().store
        found = models_of(store, organisation_id)
        return found, failures_of(store, [app for app, _ in found])

    def _shown(self, organisation_id: str, found: _Found) -> list[Deployed]:
        wanted, failed = found
        here = {app_id for app_id, _, _ in self._platform().engine.serving(organisation_id)}
        shown = [
            _deployed(app, specification, app.id in here, None if app.id in here else failed.get(app.id))
            for app, specification in wanted
        ]
        return sorted(shown, key=lambda one: one.name)

    def deployed(self, who: Principal, name: str) -> Deployed:
        """A model of the organisation. Raises NotFound."""
        found = next((one for one in self.models(who) if one.name == name), None)
        if found is None:
            raise NotFound(f"there is no model {name!r}; GET /v1/models lists those that there are")
        return found

    def model(self, who: Principal, name: str) -> Model:
        """A model of the organisation that serves; its requests are paid by the user. Raises NotFound, NoWorkers."""
        # The newest, while a new revision takes over. Nothing is asked of the database.
        for _, served, model in reversed(self._platform().engine.serving(who.organisation_id)):
            if served == name:
                return model.charged_to(self.charging(who.user_id))
        found = self.deployed(who, name)
        why = f"it failed: {found.reason}" if found.state == FAILED else "it is being deployed; try again"
        raise NoWorkers(f"the model {name!r} does not serve: {why}")

    def serving(self, organisation_id: str) -> list[tuple[Deployed, Model]]:
        """What of an organisation serves now, by name."""
        models = {app_id: model for app_id, _, model in self._platform().engine.serving(organisation_id)}
        found = self._models(organisation_id) if models else []
        return [(one, models[one.id]) for one in found if one.id in models and one.state == SERVING]

    def deploy(self, who: Principal, name: str, specification: Specification) -> Deployed:
        """Want a model deployed, now and at every start; it starts in the background.

        Raises AlreadyExists, InvalidRequest.
        """
        who.require("deployments:write")
        check_name(name)
        self._path(specification.checkpoint)
        wanted = read_app(
            {
                "name": slug(name), "model": specification.checkpoint, "served_name": name,
                "copies": specification.replicas, "dtype": specification.dtype, "partial": specification.partial,
                "wire_dtype": specification.wire_dtype, "private": specification.private,
            }
        )  # fmt: skip
        platform, stored = self._platform(), wanted.stored()

        def before(connection: Connection) -> None:
            require_free(connection, who.organisation_id, stored)

        def also(app: App, connection: Connection) -> None:
            self._rules(who).record(connection, app, stored, action=CREATED, at=app.created_at)

        app = create_free(
            platform.store, wanted, user_id=who.user_id, organisation_id=who.organisation_id, also=also, before=before
        )
        platform.changed()
        return _deployed(app, stored, False, None)

    def undeploy(self, who: Principal, name: str) -> None:
        """Take a model down and forget it. Running requests are cancelled. Raises NotFound."""
        who.require("deployments:write")
        one = self.deployed(who, name)
        platform = self._platform()
        now = self.ledger.now()

        def before(app: App, connection: Connection) -> None:
            specification = platform.store.specification(app.id, app.revision)
            self._rules(who).record(connection, app, specification, action=DELETED, at=now)

        ask_to_end(platform.store, one.id, cause=f"deleted by {who.user_id}", before=before)
        platform.changed()

    def _where(self, checkpoint: str) -> str:
        """Where the engine finds a checkpoint: whoever has this process may name any place of its machine."""
        return checkpoint if Path(checkpoint).is_absolute() else self._path(checkpoint)

    def _path(self, checkpoint: str) -> str:
        """Where a checkpoint lies. Nothing outside the directory of models, and nobody learns what lies there."""
        if checkpoint == "demo":
            return checkpoint
        if self._directory is not None and checkpoint.isprintable():
            root = self._directory.resolve()
            found = (root / checkpoint).resolve()
            if found != root and found.is_relative_to(root) and found.is_dir():
                return str(found)
        raise InvalidRequest(
            f"there is no checkpoint {checkpoint!r}: it is 'demo' or a folder in the gateway's directory of models "
            "(rios up --models DIRECTORY)"
        )


def _deployed(app: App, specification: Mapping[str, Any], here: bool, failed: tuple[str, str] | None) -> Deployed:
    """A deployment as routes of models show it. here: whether it serves in this process."""
    options = model_of(without_place(specification))
    state = SERVING if here else STARTING if failed is None else FAILED
    reason, error = (app.reason if state == STARTING else "", "") if failed is None else failed
    return Deployed(
        id=app.id,
        organisation_id=app.organisation_id,
        name=served_name(specification),
        specification=Specification(
            checkpoint=options["path"], replicas=options["copies"], dtype=options["dtype"], partial=options["partial"],
            wire_dtype=options["wire_dtype"], private=options["private"],
        ),
        created_by=app.user_id,
        created_at=app.created_at,
        state=state,
        reason=reason,
        error=error,
    )  # fmt: skip
