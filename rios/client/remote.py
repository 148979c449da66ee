"""A network behind a gateway, as `rios.local()` gives it: deploy, generate, stream, wallet, billing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rios.client.governance import RemoteGovernance
from rios.client.http import Http, error_of
from rios.client.job import RemoteJob
from rios.client.jobs import RemoteJobs
from rios.client.money import RemoteBilling
from rios.client.wallet import RemoteEarnings, RemoteWallet
from rios.dmoe.completion import Completion, Piece, Timing, Usage
from rios.dmoe.params import check_timeout
from rios.services.edges import announce, edge
from rios.services.prompts import count_of, max_price_of, one_of, params_of, prompts_of
from rios.words.display import Shown
from rios.words.errors import (
    AlreadyExists,
    DeadlineExceeded,
    InvalidRequest,
    NetworkClosed,
    NotFound,
    NotSignedIn,
)

if TYPE_CHECKING:
    from rios.client.apps import RemoteDeployments
    from rios.client.reports import RemoteReports
    from rios.services.views import Placement, Workers

_DEPLOY_S = 600.0
_LOOK_S = 0.25
TOKEN_VARIABLE = "RIOS_TOKEN"  # noqa: S105  the name of a variable
CA_VARIABLE = "RIOS_CA"


class RemoteNetwork(Shown):
    """What `rios.connect("https://...")` returns. Use it as a context manager, or `close` it."""

    def __init__(
        self, url: str, *, token: str | None = None, home: Path | None = None, ca: str | Path | None = None
    ) -> None:
        """Raises NotSignedIn, GatewayLost."""
        kept = _kept(home, url)
        found = token or os.environ.get(TOKEN_VARIABLE) or kept.get("token")
        trusted = str(ca or os.environ.get(CA_VARIABLE) or kept.get("ca") or "") or None
        if found is None:
            raise NotSignedIn(
                f"{url} needs a token: pass token=..., or set {TOKEN_VARIABLE}; on the gateway's machine, pass home=..."
            )
        self.address = url
        self._http = Http(url, found, ca=trusted)
        self._closed = False
        try:
            self._me: dict[str, Any] = self._http.get("/v1/users/me")
        except BaseException:
            self._http.close()
            raise
        self.wallet = RemoteWallet(self._http)
        self.billing = RemoteBilling(self._http)
        self.earnings = RemoteEarnings(self._http)
        self.governance = RemoteGovernance(self._http)
        self.jobs = RemoteJobs(self._http)
        self._unannounce = announce(self, kind="remote")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"as {self._me['login']}, {self._me['role']}"
        return f"<RemoteNetwork {self.address} {state}>"

    @property
    def account(self) -> str:
        """Who pays for what is done through this object."""
        return str(self._me["login"])

    def widget(self, view: str = "all") -> Any:
        """The panel of JupyterLab's sidebar in the notebook, live: all of it, or "wallet", "jobs" or "hosts"."""
        return edge("widgets").of_network(self, view)

    @property
    def dmoe(self) -> RemoteDmoe:
        """Mixture-of-experts models on this network."""
        return RemoteDmoe(self._http)

    @property
    def deploy(self) -> RemoteDeployments:
        """Applications and models with a life cycle on this network."""
        from rios.client.apps import RemoteDeployments

        return RemoteDeployments(self._http)

    @property
    def reports(self) -> RemoteReports:
        """Reports about costs, earnings and faults, made now and on a schedule."""
        from rios.client.reports import RemoteReports

        return RemoteReports(self._http)

    @property
    def models(self) -> tuple[RemoteModel, ...]:
        """The models of the organisation that serve now, whoever deployed them."""
        rows = self._http.pages("/v1/deployments")
        return tuple(RemoteModel(self._http, row["name"]) for row in rows if row["state"] == "serving")

    @property
    def workers(self) -> Workers:
        """The workers now. Processes and addresses are shown to admins of the network alone."""
        from rios.services.views import WorkerInfo, Workers

        hidden = {"pid": 0, "address": "", "machine": "", "dask_address": "", "gpu": None}
        return Workers([WorkerInfo(**{**hidden, **row}) for row in self._http.pages("/v1/workers")])

    def wait_for_workers(self, count: int = 1, timeout: float | None = None) -> None:
        """Until `count` workers serve; DeadlineExceeded after `timeout` seconds (default 60)."""
        timeout = check_timeout(timeout)
        deadline = time.monotonic() + (60.0 if timeout is None else timeout)
        while (found := sum(worker.state == "serving" for worker in self.workers)) < count:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{found} of {count} workers serve at {self.address}; ask its admin for more")
            time.sleep(_LOOK_S)

    def ask(self, method: str, path: str, body: Any = None, *, key: str | None = None, **params: Any) -> Any:
        """What any route of the gateway answers, such as `net.ask("GET", "/v1/users")`: see its page /docs.

        key: an idempotency key, with which a POST is repeated after a lost connection. Raises as all verbs do.
        """
        headers = {} if key is None else {"Idempotency-Key": key}
        more = {} if body is None else {"json": body}
        return self._http.ask(method, path, headers=headers, params=params, **more)

    def close(self) -> None:
        """Close the connections. What is deployed stays."""
        self._closed = True
        self._unannounce()
        self.billing.close()
        self._http.close()


class RemoteDmoe(Shown):
    """Mixture-of-experts models on a network: `net.dmoe`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def __repr__(self) -> str:
        return f"<Dmoe of {self._http.url}>"

    def deploy(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        dtype: str | None = None,
        replicas: int | None = None,
        partial: bool = False,
        wire_dtype: str | None = None,
        private: bool = False,
        progress: bool = True,
        timeout: float | None = None,
    ) -> RemoteModel:
        """Have a model deployed for the organisation, and wait until it serves.

        path: "demo", or the name of a folder in the gateway's directory of models. One that is deployed under that
        name with the same options is taken as it is. It stays when this process ends: `model.undeploy()` takes it down.
        timeout: seconds; default 600.

        Raises InvalidRequest, AlreadyExists, NotAllowed, DeadlineExceeded, and what the deployment failed with.
        """
        timeout = check_timeout(timeout)
        model = self.want(
            path, name=name, dtype=dtype, replicas=replicas, partial=partial, wire_dtype=wire_dtype, private=private
        )  # fmt: skip
        model.wait(_DEPLOY_S if timeout is None else timeout, progress=progress)
        return model

    def want(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        dtype: str | None = None,
        replicas: int | None = None,
        partial: bool = False,
        wire_dtype: str | None = None,
        private: bool = False,
    ) -> RemoteModel:
        """As `deploy`, without waiting: `model.wait(timeout)`."""
        checkpoint = str(path)
        chosen = name or checkpoint.rpartition("/")[2]
        wanted = {"checkpoint": checkpoint, "dtype": dtype, "replicas": count_of("replicas", replicas)}
        wanted |= {"partial": partial or None, "wire_dtype": wire_dtype, "private": private or None}
        try:
            found = self._http.get(f"/v1/deployments/{chosen}")
        except NotFound:
            self._http.post("/v1/deployments", {"name": chosen, **wanted, "partial": partial, "private": private})
            return RemoteModel(self._http, chosen)
        for field, value in wanted.items():
            if value is not None and found[field] != value:
                raise AlreadyExists(
                    f"the model {chosen!r} has the {field} {found[field]!r}, not {value!r}; choose another name"
                )
        return RemoteModel(self._http, chosen)

    def model(self, name: str) -> RemoteModel:
        """A model that is deployed. Raises NotFound."""
        self._http.get(f"/v1/deployments/{name}")
        return RemoteModel(self._http, name)


class RemoteModel(Shown):
    """A deployed model. Closing it closes this handle; others use the model on."""

    def __init__(self, http: Http, name: str) -> None:
        self._http = http
        self.name = name
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RemoteModel {self.name!r} at {self._http.url}>"

    @property
    def state(self) -> str:
        """starting, serving or failed."""
        return str(self._http.get(f"/v1/deployments/{self.name}")["state"])

    @property
    def placement(self) -> Placement:
        """Who holds what now, with load; `.explain()` says why. The trunk's process for admins of the network alone."""
        from rios.services.views import Placement

        return Placement.from_dict(self._http.get(f"/v1/deployments/{self.name}/placement"))

    def wait(self, timeout: float, *, progress: bool = False) -> None:
        """Until it serves. Raises DeadlineExceeded, and what it failed with."""
        from tqdm.auto import tqdm

        deadline = time.monotonic() + timeout
        with tqdm(
            desc=f"deploying {self.name}", bar_format="{desc} {elapsed}", disable=not progress, leave=False
        ) as bar:
            while True:
                found = self._http.get(f"/v1/deployments/{self.name}")
                if found["state"] == "serving":
                    return
                if found["state"] == "failed":
                    raise error_of({"type": found["error"], "detail": found["reason"]})
                if time.monotonic() > deadline:
                    raise DeadlineExceeded(f"{self.name} does not serve after {timeout:g} s; it goes on: wait() again")
                time.sleep(_LOOK_S)
                bar.update()

    def generate(self, prompt: Any, **params: Any) -> Any:
        """Answer one prompt, or a list of them at the same time: parameters and errors as of a local model."""
        timeout = check_timeout(params.pop("timeout", None))
        prompts, one = prompts_of(prompt)
        if _nothing(params):
            empty = [self._empty(ids, params) for ids in prompts]
            return empty[0] if one else empty
        started: list[RemoteJob] = []
        try:
            for ids in prompts:  # one that is refused ends those before it
                started += [self._submitted({"prompt": ids}, params)]
            answers: list[Completion] = [job.result(timeout) for job in started]
        except BaseException:
            for job in started:
                job.cancel()
            raise
        return answers[0] if one else answers

    def stream(self, prompt: Any, **params: Any) -> Iterator[Piece]:
        """Pieces of the answer as they come; a lost connection is taken up again. Leaving the loop cancels the rest."""
        timeout = check_timeout(params.pop("timeout", None))
        ids = one_of(prompt, "stream")
        if _nothing(params):
            self._empty(ids, params)
            return iter(())
        return self._submitted({"prompt": ids}, params).stream(timeout)

    @property
    def jobs(self) -> RemoteJobs:
        """The user's jobs at the gateway."""
        return RemoteJobs(self._http)

    def widget(self) -> Any:
        """A prompt and its answer, live in the notebook: speed, cost, hosts and their load, and a stop button."""
        return edge("widgets").of_model(self)

    def submit(self, prompt: Any, **params: Any) -> RemoteJob:
        """Start one request and return at once: `job.result(timeout=...)`, `job.cancel()`, `job.status`."""
        return self._submitted({"prompt": one_of(prompt, "submit")}, params)

    def chat(self, messages: list[dict[str, str]], **params: Any) -> Completion:
        """Answer a conversation through the checkpoint's chat template; `InvalidRequest` where it has none."""
        timeout = check_timeout(params.pop("timeout", None))
        return self._submitted({"messages": list(messages)}, params).result(timeout)

    def _submitted(self, what: dict[str, Any], params: dict[str, Any]) -> RemoteJob:
        self._open()
        params = dict(params)
        most = max_price_of(params)
        plain = params_of(params)
        given = {name: getattr(plain, name) for name in params}
        if most is not None:
            given["max_price"] = f"{most} wei"
        for name in ("stop", "stop_token_ids"):
            if name in given:
                given[name] = list(given[name])
        if type(plain.max_new_tokens) is int and plain.max_new_tokens == 0:
            raise InvalidRequest("max_new_tokens is 0; a submitted request generates at least 1 token")
        return RemoteJob.start(self._http, {"model": self.name, **what, **given})

    def tokens(self, prompt: str | Sequence[int]) -> list[int]:
        """The token ids of a prompt, each checked to be within the vocabulary. Raises InvalidRequest."""
        return self._read(prompt)[0]

    def _read(self, prompt: str | Sequence[int]) -> tuple[list[int], int]:
        self._open()
        body = {"prompt": prompt if isinstance(prompt, str) else list(prompt)}
        found = self._http.ask("POST", f"/v1/deployments/{self.name}/tokens", json=body)
        return found["token_ids"], found["context_length"]

    def _empty(self, prompt: str | list[int], params: dict[str, Any]) -> Completion:
        """The answer of no tokens, which costs nothing."""
        ids, context = self._read(prompt)
        params = dict(params)
        max_price_of(params)
        params_of({**params, "max_new_tokens": 1}).validate(1 << 31)
        if len(ids) > context:
            raise InvalidRequest(f"{len(ids)} prompt tokens exceed the context of {context}; shorten the prompt")
        return Completion("", (), "length", Usage(len(ids), 0, 0, 0, 0), Timing(None, 0.0, None))

    def _open(self) -> None:
        if self._closed:
            raise NetworkClosed(f"the model {self.name!r} was closed; ask net.dmoe.model for it again")

    def undeploy(self) -> None:
        """Take the model down for everybody in the organisation. Raises NotAllowed, NotFound."""
        self._http.ask("DELETE", f"/v1/deployments/{self.name}")

    def close(self) -> None:
        """Close this handle."""
        self._closed = True


def _nothing(params: dict[str, Any]) -> bool:
    """Whether no token is asked for."""
    return type(params.get("max_new_tokens")) is int and params["max_new_tokens"] == 0


def _kept(home: Path | None, url: str) -> dict[str, str]:
    """What the home's file says of its gateway; nothing where that is another one: its token is not for others."""
    from rios.services.gate_file import read_file
    from rios.words.config import settings

    chosen = home or settings().home
    found = {} if chosen is None else read_file(chosen)
    return found if found.get("url", "").rstrip("/") == url.rstrip("/") else {}
