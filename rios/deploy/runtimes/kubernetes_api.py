"""The API server of a cluster, by Kubernetes' own client: its kubeconfigs, tokens and TLS, and JSON in and out.

The client's typed calls are not used: they make an object of all that is listed, refuse what a newer server adds, and
do not know `sinceTime` of logs. The package is imported when it is first needed, for few hosts run Pods.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import urllib3

from rios.deploy.runtimes.credentials import within
from rios.deploy.runtimes.kubernetes_objects import IN_CLUSTER, Cluster, Manifest
from rios.words.errors import DeadlineExceeded, SandboxFailed, UnsupportedRuntime

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

CALL_S = 15.0
_CONNECTIONS = 32
"""As many as threads act for replicas at the same time; more would be made anew for each call."""
_CONNECT_S = 5.0
_MORE_S = 2.0
_SILENT_S = 2.0
"""A server that did not answer is asked for lists again after this."""
_GROUPS = {"networkpolicies": "/apis/networking.k8s.io/v1"}
_FOUND, _NOT_FOUND, _CONFLICT, _FORBIDDEN = 200, 404, 409, 403
_MERGE = "application/merge-patch+json"

Query = Sequence[tuple[str, Any]]
T = TypeVar("T")


class Api:
    """What a runtime asks of one cluster. Calls may come from any thread; each ends by a deadline."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._made: Future[ApiClient] | None = None
        self._silent_until = 0.0

    def __repr__(self) -> str:
        return f"<Api {self._cluster.kubeconfig} {self._cluster.namespace}>"

    def client(self) -> ApiClient:
        """Made when it is first asked for. A kubeconfig may name a program that gives credentials, which may hang.

        Raises UnsupportedRuntime where the package is missing, or the kubeconfig says no way to a cluster;
        DeadlineExceeded where there is no client in time: whoever asks then waits for the same.
        """
        with self._lock:
            if self._made is None:
                self._made = Future()
                threading.Thread(target=self._make, args=(self._made,), name="rios-kubeconfig", daemon=True).start()
            made = self._made
        try:
            # Its own deadline is the one of its thread, which began before.
            return made.result(CALL_S + _MORE_S)
        except Exception:
            with self._lock:
                if self._made is made:
                    self._made = None  # it may be mended, and is read anew
            raise

    def _make(self, made: Future[ApiClient]) -> None:
        try:
            made.set_result(self._in_time(lambda: _client(self._cluster)))
        except Exception as error:  # noqa: BLE001 -- raised again by whoever waits for it
            made.set_exception(error)

    def _in_time(self, call: Callable[[], T]) -> T:
        """What may run the program that a kubeconfig names, and waits for it."""
        why = f"the kubeconfig {self._cluster.kubeconfig} gave no credentials within {CALL_S:g} s"
        return within(call, CALL_S, late=f"{why}: the program that it names hangs")

    def _serialized(self, method: str, path: str, query: Query, headers: dict[str, str], body: Any = None) -> Any:
        client = self.client()

        def serialized() -> Any:
            return client.param_serialize(
                method, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
            )

        try:
            # Only what may renew credentials has the hook.
            renews = client.configuration.refresh_api_key_hook is not None
            return self._in_time(serialized) if renews else serialized()
        except _no_credentials() as error:  # those that it had have expired
            raise SandboxFailed(f"the kubeconfig {self._cluster.kubeconfig} gives no credentials: {error}") from error

    def path(self, kind: str, name: str = "", verb: str = "") -> str:
        """Where the objects of a kind are (`pods`), or one of them, or what can be done with it."""
        parts = [_GROUPS.get(kind, "/api/v1"), "namespaces", self._cluster.namespace, kind, name, verb]
        return "/".join(part for part in parts if part)

    def prepared(self, path: str, query: Query = ()) -> tuple[str, dict[str, str]]:
        """The URL and the headers of a request that somebody else makes, such as a WebSocket's."""
        _, url, headers, _, _ = self._serialized("GET", path, query, {})
        return str(url), dict(headers)

    # --- one request -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def opened(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Any = None,
        content_type: str | None = None,
        timeout_s: float = CALL_S,
    ) -> Iterator[Any]:
        """The response of a request, whose body is not read yet. timeout_s: between two pieces of it.

        Raises SandboxFailed where the server does not answer, DeadlineExceeded where its answer is not there in time.
        """
        headers = {"Accept": "application/json, */*"} | ({"Content-Type": content_type} if content_type else {})
        request = self._serialized(method, path, query, headers, body)
        try:
            response = self.client().call_api(*request, _request_timeout=(_CONNECT_S, timeout_s)).response
        except (urllib3.exceptions.HTTPError, _untrusted()) as error:
            why = getattr(error, "reason", error)
            if isinstance(why, urllib3.exceptions.ReadTimeoutError):  # of this request: others may be answered
                raise DeadlineExceeded(f"{method} {path}: no answer came within {timeout_s:g} s") from error
            if not isinstance(why, urllib3.exceptions.ProtocolError):
                self._silent_until = time.monotonic() + _SILENT_S
            raise SandboxFailed(f"the cluster's API server does not answer ({method} {path}): {error}") from error
        try:
            yield response
        except urllib3.exceptions.ReadTimeoutError as error:
            raise DeadlineExceeded(f"{method} {path}: nothing more came within {timeout_s:g} s") from error
        except urllib3.exceptions.HTTPError as error:
            raise SandboxFailed(f"the answer to {method} {path} broke off: {error}") from error
        finally:
            response.close()
            response.release_conn()

    def call(self, method: str, path: str, *, fine: tuple[int, ...] = (), **more: Any) -> tuple[int, bytes]:
        """Status and body of an answer. Raises SandboxFailed for a refusal that is not among `fine`."""
        with self.opened(method, path, **more) as response:
            status, data = int(response.status), bytes(response.data)
        if 200 <= status < 300 or status in fine:
            return status, data
        why = said(data)
        if status == _FORBIDDEN:
            why = f"{why}; docs/sandboxes.md has the Role that rios needs"
        raise SandboxFailed(f"the cluster refuses {method} {path} ({status}): {why}")

    # --- objects ---------------------------------------------------------------------------------------------

    def read(self, kind: str, name: str) -> Manifest | None:
        """An object; None where there is none of that name."""
        status, data = self.call("GET", self.path(kind, name), fine=(_NOT_FOUND,))
        return None if status == _NOT_FOUND else loaded(data)

    def listed(self, kind: str, selector: str = "") -> list[Manifest]:
        """All objects that a selector selects, or all of the kind.

        Fails at once where the server has just not answered: who lists does so often, and has others to look after.
        """
        if time.monotonic() < self._silent_until:
            raise SandboxFailed("the cluster's API server has not answered")
        query = [("labelSelector", selector)]
        try:
            data = self.call("GET", self.path(kind), query=query)[1]
        except DeadlineExceeded:
            self._silent_until = time.monotonic() + _SILENT_S
            raise
        found: list[Manifest] = loaded(data)["items"]
        return found

    def create(self, kind: str, manifest: Manifest) -> bool:
        """False where there is one of that name."""
        return self.call("POST", self.path(kind), body=manifest, fine=(_CONFLICT,))[0] != _CONFLICT

    def put(self, kind: str, manifest: Manifest) -> None:
        """As this says from now on, whether there is one of that name or none."""
        if not self.create(kind, manifest):
            self.merge(kind, str(manifest["metadata"]["name"]), manifest)

    def merge(self, kind: str, name: str, change: Manifest) -> Manifest | None:
        """An object after a change (RFC 7386), in which null takes a field away; None where there is none.

        A change that says a resourceVersion is of that version alone: None where the object has become another.
        """
        fine = (_NOT_FOUND, _CONFLICT) if "resourceVersion" in change.get("metadata", {}) else (_NOT_FOUND,)
        status, data = self.call("PATCH", self.path(kind, name), body=change, content_type=_MERGE, fine=fine)
        return None if status in fine else loaded(data)

    def delete(self, kind: str, name: str, *, grace_s: int | None = None) -> None:
        """Ask for its end; what is not there has ended."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        more = {} if grace_s is None else {"gracePeriodSeconds": grace_s}
        # A conflict says that somebody else ends it at this moment.
        self.call("DELETE", self.path(kind, name), body={**body, **more}, fine=(_NOT_FOUND, _CONFLICT))

    def close(self) -> None:
        """Let go of connections."""
        with self._lock:
            made, self._made = self._made, None
        if made is not None and made.done() and made.exception() is None:
            made.result().close()


def said(data: bytes) -> str:
    """What a refusal says."""
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data[:200].decode(errors="replace") or "it does not say why"


def loaded(data: bytes) -> Manifest:
    """An object that the server answered with."""
    try:
        found = json.loads(data)
    except ValueError as error:
        raise SandboxFailed(f"the cluster answers {data[:80]!r}, which is no JSON") from error
    if not isinstance(found, dict):
        raise SandboxFailed(f"the cluster answers {data[:80]!r}, which is no object")
    return found


def _untrusted() -> type[Exception]:
    """What the client raises where the server's certificate is not trusted."""
    from kubernetes.client import ApiException

    found: type[Exception] = ApiException
    return found


def _no_credentials() -> type[Exception]:
    """What the client raises where a kubeconfig's credentials cannot be renewed."""
    from kubernetes.config import ConfigException

    found: type[Exception] = ConfigException
    return found


def _client(cluster: Cluster) -> ApiClient:
    try:
        from kubernetes import config
        from kubernetes.client import ApiClient, Configuration
    except ImportError as error:
        raise UnsupportedRuntime(
            "the package kubernetes is not installed, by which Pods are run: pip install 'rios[kubernetes]'"
        ) from error
    settings = Configuration()
    try:
        if cluster.kubeconfig == IN_CLUSTER:
            config.load_incluster_config(client_configuration=settings)
        else:
            config.load_kube_config(cluster.kubeconfig, client_configuration=settings, persist_config=False)
    except Exception as error:  # whatever it stumbles over in a file that somebody wrote
        raise UnsupportedRuntime(f"the kubeconfig {cluster.kubeconfig} leads to no cluster: {error}") from error
    # Of a connection that the server has closed, and where it has too much to do: all that is asked may be repeated.
    settings.retries = urllib3.Retry(
        3, connect=1, read=1, status_forcelist=[429], allowed_methods=None, raise_on_status=False
    )
    settings.connection_pool_maxsize = _CONNECTIONS
    return ApiClient(settings)
