"""One network for many: the models of each organisation, and for each user the books that say what is paid by whom."""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete

from rios.accounts.store import AccountStore, add, first, must, must_be_new, record
from rios.accounts.values import Principal
from rios.services.charging import Charging
from rios.services.generation import Model
from rios.services.models import start_model
from rios.services.quotas import Quotas
from rios.storage.models import DeploymentRow
from rios.words.errors import InvalidRequest, NotFound, NoWorkers, RiosError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.billing.ledger.ledger import Ledger
    from rios.services.billing import Billing
    from rios.services.network import Network

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
# What another gateway was told is begun here within this.
_LOOK_S = 2.0
STARTING, SERVING, FAILED = "starting", "serving", "failed"


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
    """The tenants of a network. Close it before the network."""

    def __init__(self, network: Network, store: AccountStore, *, models: Path | None) -> None:
        """models: the directory whose folders may be deployed; "demo" alone without it."""
        self._network = network
        self._purse = network._purse
        self._store = store
        self._directory = models
        self._lock = threading.Lock()
        self._deployed: dict[str, Deployed] = {}
        self._models: dict[str, Model] = {}
        # One after the other: each fills the hosts' memory, and the next has to know what is left of it.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="rios-deploying")
        self.quotas = Quotas(store, network._purse.books.ledger)
        self._look()
        self._stop = threading.Event()
        self._looker = threading.Thread(target=self._look_on, name="rios-looking", daemon=True)
        self._looker.start()

    def close(self) -> None:
        """Start no more models. Those that serve end with the network, and are wanted again at the next start."""
        self._stop.set()
        self._looker.join(self.ledger.database.timeout_s)
        self._starter.shutdown(wait=True, cancel_futures=True)

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

    # --- models ----------------------------------------------------------------------------------------------

    def models(self, who: Principal) -> list[Deployed]:
        """What the organisation has, by name."""
        with self._lock:
            found = [one for one in self._deployed.values() if one.organisation_id == who.organisation_id]
        return sorted(found, key=lambda one: one.name)

    def deployed(self, who: Principal, name: str) -> Deployed:
        """A model of the organisation. Raises NotFound."""
        found = next((one for one in self.models(who) if one.name == name), None)
        if found is None:
            raise NotFound(f"there is no model {name!r}; GET /v1/models lists those that there are")
        return found

    def model(self, who: Principal, name: str) -> Model:
        """A model of the organisation that serves; its requests are paid by the user. Raises NotFound, NoWorkers."""
        found = self.deployed(who, name)
        with self._lock:
            model = self._models.get(found.id)
        if model is None:
            why = f"it failed: {found.reason}" if found.state == FAILED else "it is being deployed; try again"
            raise NoWorkers(f"the model {name!r} does not serve: {why}")
        return model.charged_to(self.charging(who.user_id))

    def serving(self, organisation_id: str) -> list[tuple[Deployed, Model]]:
        """What of an organisation serves now, by name."""
        with self._lock:
            found = [
                (one, self._models[one.id])
                for one in self._deployed.values()
                if one.organisation_id == organisation_id and one.id in self._models
            ]
        return sorted(found, key=lambda pair: pair[0].name)

    def deploy(self, who: Principal, name: str, specification: Specification) -> Deployed:
        """Want a model deployed, now and at every start; it starts in the background.

        Raises AlreadyExists, InvalidRequest.
        """
        who.require("deployments:write")
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f"{name!r} is no name of a model: 1 to 96 letters, digits and . _ -")
        self._path(specification.checkpoint)
        one = Deployed(
            id=f"deployment-{secrets.token_hex(8)}",
            organisation_id=who.organisation_id,
            name=name,
            specification=specification,
            created_by=who.user_id,
            created_at=self.ledger.now(),
        )

        def run(connection: Connection) -> None:
            row = DeploymentRow
            mine = (row.organisation_id == who.organisation_id, row.name == name)
            must_be_new(first(connection, row, *mine), f"a model {name!r}")
            add(
                connection, row, id=one.id, organisation_id=one.organisation_id, name=name,
                specification=json.dumps(specification.to_dict()), created_by=who.user_id, created_at=one.created_at,
            )  # fmt: skip
            record(
                connection, at=one.created_at, organisation_id=who.organisation_id, actor=who.user_id,
                action="deployment.create", object=one.id, detail={"name": name},
            )  # fmt: skip

        self._store.transact(run)
        self._begin(one)
        return one

    def undeploy(self, who: Principal, name: str) -> None:
        """Take a model down and forget it. Running requests are cancelled. Raises NotFound."""
        who.require("deployments:write")
        one = self.deployed(who, name)
        now = self.ledger.now()

        def run(connection: Connection) -> None:
            must(first(connection, DeploymentRow, DeploymentRow.id == one.id), f"model {name!r}")
            connection.execute(delete(DeploymentRow).where(DeploymentRow.id == one.id))
            record(
                connection, at=now, organisation_id=who.organisation_id, actor=who.user_id,
                action="deployment.delete", object=one.id, detail={"name": name},
            )  # fmt: skip

        self._store.transact(run)
        self._drop(one.id)

    def _look_on(self) -> None:
        while not self._stop.wait(_LOOK_S):
            try:
                self._look()
            except RiosError as error:
                log.warning("deployments are not known now", extra={"reason": str(error)})

    def _look(self) -> None:
        """Begin what another gateway of the network was told to deploy, and end what one was told to take down."""
        with self._lock:
            before = set(self._deployed)
        found = {row["id"]: row for row in self._store.deployments()}
        for name, row in found.items():
            if name not in before:
                specification = Specification(**row.pop("specification"))
                self._begin(Deployed(**row, specification=specification))
        for name in before - set(found):
            self._drop(name)

    def _drop(self, name: str) -> None:
        with self._lock:
            self._deployed.pop(name, None)
            model = self._models.pop(name, None)
        if model is not None:
            model.close()

    def _begin(self, one: Deployed) -> None:
        with self._lock:
            if one.id in self._deployed:  # told here, and seen in the database before that was noted
                return
            self._deployed[one.id] = one
        self._starter.submit(self._start, one)

    def _start(self, one: Deployed) -> None:
        with self._lock:
            if one.id not in self._deployed:
                return
        wanted = one.specification
        try:
            path = self._path(wanted.checkpoint)
            model = start_model(
                self._network, path, name=one.name, copies=wanted.replicas, dtype=wanted.dtype, partial=wanted.partial,
                wire_dtype=wanted.wire_dtype, private=wanted.private, progress=False,
            )  # fmt: skip
        except RiosError as error:
            log.warning("a model could not be deployed", extra={"model": one.name, "reason": str(error)})
            self._note(replace(one, state=FAILED, reason=str(error), error=type(error).__name__))
            return
        except Exception:
            log.exception("a model could not be deployed", extra={"model": one.name})
            self._note(replace(one, state=FAILED, reason="an error of rios; its log says more", error="RiosError"))
            return
        if not self._note(replace(one, state=SERVING), model):
            model.close()

    def _note(self, one: Deployed, model: Model | None = None) -> bool:
        """Say how far a deployment is; False where it is not wanted any more."""
        with self._lock:
            if one.id not in self._deployed:
                return False
            self._deployed[one.id] = one
            if model is not None:
                self._models[one.id] = model
            return True

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


def chat_ids(model: Model, messages: Sequence[dict[str, str]], *, plain: bool) -> list[int]:
    """The prompt of a conversation, by the checkpoint's chat template.

    plain: where it has none, write `role: content` lines and end with `assistant:`, from where a base model goes on;
    else that is InvalidRequest.
    """
    if model.has_chat_template:
        from jinja2 import TemplateError

        try:
            ids = model.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
        except TemplateError as error:
            raise InvalidRequest(f"the chat template of {model.name} refuses these messages: {error}") from error
    elif not plain:
        raise InvalidRequest(f"{model.name} has no chat template; give its prompt as text to generate()")
    else:
        text = "".join(f"{message['role']}: {message['content']}\n" for message in messages) + "assistant:"
        ids = model.encode(text)
    return [int(token) for token in ids]
