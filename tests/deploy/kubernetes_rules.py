"""What an API server checks of an object: its schema, by the official ones, and the rules that no schema has."""

from __future__ import annotations

import base64
import functools
import re
from typing import Any

import kubernetes_validate
import yaml

from tests.campaigns import ROOT

Object = dict[str, Any]
_LABEL = re.compile(r"([a-zA-Z0-9]([-a-zA-Z0-9_.]{0,61}[a-zA-Z0-9])?)?")
_QUALIFIED = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_MUTABLE = ("activeDeadlineSeconds", "tolerations")


@functools.cache
def _version() -> str:
    return str(kubernetes_validate.latest_version())


def wrong(one: Object) -> str | None:
    """What an API server would refuse in an object, or None."""
    try:
        kubernetes_validate.validate(one, _version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    kind, metadata = one["kind"], one["metadata"]
    complaints = [
        (not _NAME.fullmatch(metadata["name"]), "metadata.name is no DNS subdomain"),
        (not all(map(_QUALIFIED.fullmatch, metadata.get("labels", {}))), "a label's key is not qualified"),
        (not all(map(_LABEL.fullmatch, metadata.get("labels", {}).values())), "a label's value is invalid"),
        (not all(map(_QUALIFIED.fullmatch, metadata.get("annotations", {}))), "an annotation's key is not qualified"),
        (any("/" not in name for name in metadata.get("finalizers") or []), "a finalizer is not fully qualified"),
    ]
    found = next((text for is_wrong, text in complaints if is_wrong), None)
    return found or {"Pod": _pod, "Secret": _secret}.get(kind, lambda _: None)(one)


def _secret(one: Object) -> str | None:
    data = one.get("data", {})
    if not all(_KEY.fullmatch(key) and not key.startswith("..") for key in data):
        return "data: a key is invalid"
    if sum(len(base64.b64decode(value, validate=True)) for value in data.values()) > 1 << 20:
        return "data: Too long: may not be more than 1048576 bytes"
    return None


def _pod(one: Object) -> str | None:
    spec = one["spec"]
    (container,) = spec["containers"]
    mounts = [mount["mountPath"] for mount in container.get("volumeMounts", ())]
    volumes = [volume["name"] for volume in spec.get("volumes", ())]
    complaints = [
        (len(set(mounts)) != len(mounts), "volumeMounts: mountPath must be unique"),
        (len(set(volumes)) != len(volumes), "volumes: names must be unique"),
        (not all(map(_DNS_LABEL.fullmatch, volumes)), "volumes: a name is no DNS label"),
        ({m["name"] for m in container.get("volumeMounts", ())} - set(volumes), "volumeMounts: no such volume"),
        (not _DNS_LABEL.fullmatch(spec.get("hostname", "x")), "hostname is no DNS label"),
        (
            spec.get("dnsPolicy") == "None" and not spec.get("dnsConfig", {}).get("nameservers"),
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        ),
    ]
    return next((text for is_wrong, text in complaints if is_wrong), None) or _restricted(spec, container)


def _restricted(spec: Object, container: Object) -> str | None:
    """The standard "restricted" of Pod security, which a namespace can ask for."""
    of_pod, own = spec.get("securityContext", {}), container.get("securityContext", {})
    kinds = {key for volume in spec.get("volumes", ()) for key in volume if key != "name"}
    complaints = [
        (any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), "host namespaces"),
        (own.get("privileged"), "privileged"),
        (own.get("allowPrivilegeEscalation") is not False, "allowPrivilegeEscalation != false"),
        (own.get("capabilities") != {"drop": ["ALL"]}, "unrestricted capabilities"),
        (not (own.get("runAsNonRoot", of_pod.get("runAsNonRoot"))), "runAsNonRoot != true"),
        (own.get("runAsUser", of_pod.get("runAsUser", 0)) == 0, "runAsUser=0"),
        (
            own.get("seccompProfile", of_pod.get("seccompProfile", {})).get("type") != "RuntimeDefault",
            "seccompProfile",
        ),
        (kinds - {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}, "restricted volume types"),
    ]
    found = next((text for is_wrong, text in complaints if is_wrong), None)
    return None if found is None else f'violates PodSecurity "restricted:latest": {found}'


APPS = [one for one in yaml.safe_load_all((ROOT / "cluster" / "kubernetes" / "apps.yaml").read_text()) if one]
"""What an operator applies, and what the tests' server allows its only user."""
_WAY = re.compile(
    r"/apis?/(?:(?P<group>[a-z0-9.]+)/)?v\w+(?:/namespaces/[^/]+)?/(?P<kind>\w+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>\w+))?"
)


def forbidden(method: str, path: str) -> str | None:
    """What the roles of `APPS` do not allow, or None."""
    found = _WAY.fullmatch(path)
    if found is None:
        return None  # what the server can do at all, which everybody may ask
    kind = f"{found['kind']}/{found['sub']}" if found["sub"] else found["kind"]
    verbs = {"GET": ["get" if found["name"] else "list"], "POST": ["create"]}.get(method, [method.lower()])
    if found["sub"] in ("exec", "portforward"):
        verbs = ["get", "create"]  # a WebSocket is asked for by GET, and newer servers ask for both
    rules = [rule for one in APPS for rule in one.get("rules", ())]
    for verb in verbs:
        if not any(
            (found["group"] or "") in rule["apiGroups"] and kind in rule["resources"] and verb in rule["verbs"]
            for rule in rules
        ):
            return f'cannot {verb} resource "{kind}" in API group "{found["group"] or ""}"'
    return None


def without_limits(pod: Object, quota: Object) -> str | None:
    """What a quota makes every Pod say, and this one does not."""
    asked = pod["spec"]["containers"][0].get("resources", {})
    for resource in quota["spec"]["hard"]:
        of, _, name = resource.partition(".")
        if of in ("limits", "requests") and name in ("cpu", "memory") and name not in asked.get(of, {}):
            return f"failed quota: {quota['metadata']['name']}: must specify {resource}"
    return None


def changed_wrongly(before: Object, after: Object) -> str | None:
    """What may not be changed of a Pod."""

    def fixed(one: Object) -> Object:
        return {key: value for key, value in one["spec"].items() if key not in _MUTABLE}

    if before["kind"] == "Pod" and fixed(before) != fixed(after):
        return "spec: Forbidden: pod updates may not change fields other than some"
    return None
