"""A node of a cluster: what a kubelet does with a Pod, by bubblewrap in the place of a container engine.

It reads the Pod alone, and gives what is written there and nothing else: a root that is not said to be read-only can be
written, a Pod that does not share its process namespace has its command as the first process of one.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rios.deploy.runtimes import kernel
from rios.deploy.runtimes.beside import standalone

Object = dict[str, Any]
_LOOK_S = 0.02
NO_DIGEST = f"sha256:{'0' * 64}"
_GRACE_LEAST_S = 0.3  # 2 s on a real node
_GONE_WITHIN_S = 5.0
_EXPANSION = re.compile(r"\$(?:(\$)|\(([^)]+)\))")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def now_text(at: float | None = None) -> str:
    """A time as the API has it: whole seconds."""
    return datetime.fromtimestamp(int(time.time() if at is None else at), UTC).isoformat().replace("+00:00", "Z")


def expanded(text: str, env: dict[str, str]) -> str:
    """`$(NAME)` and `$$`, as kubelets read them."""
    return _EXPANSION.sub(lambda m: "$" if m[1] else env.get(m[2], m[0]), text)


class Running:
    """One Pod on the node."""

    def __init__(self, node: Node, pod: Object) -> None:
        self._node, self.pod = node, pod
        self.lines: list[tuple[str, str, str, bool]] = []
        """Time, stream, text, and whether it ended with a line's end."""
        self.over = threading.Event()
        self.first = 0
        """The application's process, as this machine numbers it."""
        self.env: dict[str, str] = {}
        self.place = node.directory / pod["metadata"]["uid"]
        self.sampled: tuple[float, float] | None = None
        self._lock = threading.Lock()
        self.started_at = 0.0
        threading.Thread(target=self._live, name="kubelet", daemon=True).start()

    @property
    def name(self) -> str:
        return str(self.pod["metadata"]["name"])

    # --- from Pending to its end ------------------------------------------------------------------------------

    def _live(self) -> None:
        container = self.pod["spec"]["containers"][0]
        root = self._fetched(container["image"])
        if root is None or not self._has_its_volumes():
            self._end({"phase": "Failed"}, None)
            return
        image = {"imageID": f"{_repository(container['image'])}@{self._node.has_digest(container)}"}
        self.env = {"PATH": _PATH}
        for one in container.get("env", ()):
            self.env[one["name"]] = expanded(one["value"], self.env)
        command = [expanded(word, self.env) for word in container.get("command", ())]
        if not self._is_there(root, command[0]):
            text = f'exec: "{command[0]}": executable file not found in $PATH'
            ended = {"exitCode": 128, "reason": "StartError", "message": text, "startedAt": "1970-01-01T00:00:00Z"}
            self._end({"phase": "Failed"}, {**ended, "finishedAt": now_text()}, **image)
            return
        process = self._begun(root, command, container)
        self.started_at = time.time()
        running = {"state": {"running": {"startedAt": now_text(self.started_at)}}, "ready": True}
        self._say({"phase": "Running", "podIP": "127.0.0.1"}, running, **image)
        readers = [
            threading.Thread(target=self._read, args=(pipe, stream))
            for pipe, stream in ((process.stdout, "stdout"), (process.stderr, "stderr"))
        ]
        for reader in readers:
            reader.start()
        reason = self._until_ended(process)
        code = process.wait()
        for reader in readers:
            reader.join()
        code = code if code >= 0 else 128 - code
        ended = {"exitCode": code, "reason": "Completed" if code == 0 else "Error"}
        times = {"startedAt": now_text(self.started_at), "finishedAt": now_text()}
        phase: Object = {"phase": "Succeeded" if code == 0 and not reason else "Failed"}
        self._end({**phase, **({"reason": reason} if reason else {})}, {**ended, **times}, **image)

    def _fetched(self, reference: str) -> Path | None:
        """The root of an image. One that is not to be had is asked for again and again, until the Pod is deleted."""
        reasons = iter(("ErrImagePull", *["ImagePullBackOff"] * 10_000))
        while not self._is_deleted():
            root = self._node.images.get(_repository(reference))
            if root is not None:
                return root
            why = {"reason": next(reasons), "message": f'Back-off pulling image "{reference}": not found'}
            self._say({"phase": "Pending"}, {"state": {"waiting": why}, "ready": False})
            time.sleep(0.1)
        return None

    def _has_its_volumes(self) -> bool:
        """Whether all that it names came to be there before it was deleted."""
        self._say({"phase": "Pending"}, {"state": {"waiting": {"reason": "ContainerCreating"}}, "ready": False})
        for volume in self.pod["spec"].get("volumes", ()):
            secret = volume.get("secret", {}).get("secretName")
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            while not self._node.has(secret, claim):
                if self._is_deleted():
                    return False
                time.sleep(_LOOK_S)
        return True

    def _is_deleted(self) -> bool:
        return bool(self.pod["metadata"].get("deletionTimestamp"))

    @staticmethod
    def _is_there(root: Path, command: str) -> bool:
        places = [""] if command.startswith("/") else _PATH.split(":")
        return any((root / place.strip("/") / command.strip("/")).is_file() for place in places)

    def _begun(self, root: Path, command: list[str], container: Object) -> subprocess.Popen[bytes]:
        user = int(container["securityContext"]["runAsUser"])
        told, telling = os.pipe()
        spec = self.pod["spec"]
        arguments = [
            *("bwrap", "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
            *("--uid", str(user), "--gid", str(user), "--hostname", spec.get("hostname", self.name)),
            *("--die-with-parent", "--new-session", "--clearenv", "--info-fd", str(telling)),
            *(() if spec.get("shareProcessNamespace") else ("--as-pid-1",)),
            *("--ro-bind" if container["securityContext"].get("readOnlyRootFilesystem") else "--bind", str(root), "/"),
            *("--proc", "/proc", "--dev", "/dev"),
        ]
        for name, value in self.env.items():
            arguments += ["--setenv", name, value]
        volumes = {one["name"]: one for one in spec.get("volumes", ())}
        for mount in sorted(container.get("volumeMounts", ()), key=lambda one: str(one["mountPath"]).count("/")):
            arguments += self._mounted(root, volumes[mount["name"]], mount, user)
        if container["securityContext"].get("readOnlyRootFilesystem"):
            arguments += ["--remount-ro", "/dev"]
        arguments += ["--chdir", container.get("workingDir", "/"), "--", *command]
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            user=user, group=user, extra_groups=[], pass_fds=[telling], start_new_session=True, cwd="/", env={},
        )  # fmt: skip
        os.close(telling)
        with os.fdopen(told, "rb") as file:
            info = file.read()
        init = int(json.loads(info)["child-pid"]) if info else 0
        shared = bool(spec.get("shareProcessNamespace"))
        deadline = time.monotonic() + 10
        while info and process.poll() is None and time.monotonic() < deadline:
            children = _children(init) if shared else [init]
            # Not before it is the command: until then it is the engine's, which is not the user's to end.
            if children and "bwrap" not in _comm(children[0]):
                self.first = children[0]
                break
            time.sleep(0.001)
        return process

    def _mounted(self, root: Path, volume: Object, mount: Object, user: int) -> list[str]:
        path = str(mount["mountPath"])
        if not path.startswith(("/dev/", "/run/")):  # those lie in what was mounted before
            (root / path.strip("/")).mkdir(parents=True, exist_ok=True)
        if "emptyDir" in volume:
            assert volume["emptyDir"]["medium"] == "Memory"
            return ["--perms", "1777", "--size", volume["emptyDir"]["sizeLimit"], "--tmpfs", path]
        if "secret" in volume:
            source = self._node.projected(self.place / volume["name"], volume["secret"], user)
        else:
            source = self._node.claims[volume["persistentVolumeClaim"]["claimName"]]
            os.chown(source, user, user)
        return ["--ro-bind" if mount.get("readOnly") else "--bind", str(source), path]

    def _read(self, pipe: Any, stream: str) -> None:
        with pipe:
            for raw in pipe:
                with self._lock:
                    at = time.time_ns()
                    text = datetime.fromtimestamp(at // 10**9, UTC).isoformat().removesuffix("+00:00")
                    line = raw.decode(errors="replace")
                    self.lines.append((f"{text}.{at % 10**9:09}Z", stream, line.rstrip("\n"), line.endswith("\n")))

    def _until_ended(self, process: subprocess.Popen[bytes]) -> str:
        """The reason where the node ended it."""
        kill_at, limit = 0.0, self.pod["spec"].get("activeDeadlineSeconds")
        reason = ""
        while process.poll() is None:
            metadata, now = self.pod["metadata"], time.time()
            is_late = limit is not None and now > self.started_at + limit
            if not kill_at and (is_late or metadata.get("deletionTimestamp")):
                reason = "DeadlineExceeded" if is_late else ""
                grace = metadata.get("deletionGracePeriodSeconds", self.pod["spec"]["terminationGracePeriodSeconds"])
                kill_at = now + max(_GRACE_LEAST_S, grace if grace > 1 else _GRACE_LEAST_S)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.first, signal.SIGTERM)
            elif kill_at and now > kill_at:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.first, signal.SIGKILL)
            time.sleep(_LOOK_S)
        return reason

    def _say(self, status: Object, container: Object, **more: Any) -> None:
        own = {"name": "app", "image": self.pod["spec"]["containers"][0]["image"], "imageID": "", "restartCount": 0}
        told = {**status, "containerStatuses": [{**own, **container, **more}]}
        self._node.told(self.name, self.pod["metadata"]["uid"], told)

    def _end(self, status: Object, terminated: Object | None, **more: Any) -> None:
        if terminated is None:
            self._node.told(self.name, self.pod["metadata"]["uid"], status)
        else:
            self._say(status, {"state": {"terminated": terminated}, "ready": False}, **more)
        while not self._is_deleted():
            if self._node.closing.wait(_LOOK_S):
                break
        shutil.rmtree(self.place, ignore_errors=True)
        self.over.set()
        self._node.confirmed(self.name, self.pod["metadata"]["uid"])

    # --- what is asked of it ----------------------------------------------------------------------------------

    def execute(self, command: list[str]) -> subprocess.Popen[bytes]:
        """One more process inside, with its user, environment and place."""
        container = self.pod["spec"]["containers"][0]
        task = {
            "entrances": [], "rlimits": {}, "first": self.first, "seccomp": "", "command": command, "env": self.env,
            "user": container["securityContext"]["runAsUser"], "workdir": container.get("workingDir", "/"),
        }  # fmt: skip
        fd = os.memfd_create("task", 0)
        os.write(fd, json.dumps(task).encode())
        os.lseek(fd, 0, os.SEEK_SET)
        try:
            return subprocess.Popen(
                [*standalone("rios.deploy.runtimes.enter"), str(fd)], stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[fd], start_new_session=True, cwd="/", env={},
            )  # fmt: skip
        finally:
            os.close(fd)

    def connected(self, port: int) -> socket.socket:
        """A connection to a port of the Pod, in its network. Call it in a thread of its own, which stays there."""
        with Path(f"/proc/{self.first}/ns/net").open("rb") as file:
            kernel.setns(file.fileno())
        return socket.create_connection(("127.0.0.1", port), 5)

    def processes(self) -> list[int]:
        """All in its process namespace."""
        here, numbers = _namespace(self.first), [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()]
        return [number for number in numbers if here and _namespace(number) == here]

    def used(self) -> tuple[float, int]:
        """CPU seconds of the processes that are there, and their memory."""
        ticks, pages = 0, 0
        for number in self.processes():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
                pages += int(fields[21])
        return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE")


def _repository(reference: str) -> str:
    """A reference without digest and tag."""
    return re.sub(r":[^/:]*$", "", reference.partition("@")[0])


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _comm(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return "bwrap"


def _namespace(pid: int) -> str:
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    return ""


class Node:
    """The only node. What it says of a Pod goes to the API server, by the two functions that it is given."""

    def __init__(
        self,
        directory: Path,
        told: Callable[[str, str, Object], None],
        confirmed: Callable[[str, str], None],
        objects: Callable[[str, str], Object | None],
    ) -> None:
        """told: a Pod's status. confirmed: a deleted Pod has ended. objects: reads one by kind and name."""
        self.directory = directory
        self.told, self.confirmed, self._objects = told, confirmed, objects
        self.images: dict[str, Path] = {}
        self.digests: dict[str, str] = {}
        """Of references, as their registry has them now; zeros without."""
        self._fetched: dict[str, str] = {}
        """The digest that a reference had when it was fetched last."""
        self.claims: dict[str, Path] = {}
        self.pods: dict[str, Running] = {}
        self.closing = threading.Event()
        self._lock = threading.Lock()

    def run(self, pod: Object) -> None:
        """A Pod was placed here."""
        self.pods[pod["metadata"]["name"]] = Running(self, pod)

    def has_digest(self, container: Object) -> str:
        """Of a container's image, which is asked for anew where its policy says so."""
        reference, policy = container["image"], container["imagePullPolicy"]
        if "@" in reference:
            return str(reference.partition("@")[2])
        if policy == "Always" or reference not in self._fetched:
            self._fetched[reference] = self.digests.get(reference, NO_DIGEST)
        return self._fetched[reference]

    def has(self, secret: str | None, claim: str | None) -> bool:
        if claim is not None and self._objects("persistentvolumeclaims", claim) is not None:
            with self._lock:
                if claim not in self.claims:
                    self.claims[claim] = self.directory / f"claim-{claim}"
                    self.claims[claim].mkdir(mode=0o755)
        return (secret is None or self._objects("secrets", secret) is not None) and (
            claim is None or claim in self.claims
        )

    def projected(self, place: Path, volume: Object, group: int) -> Path:
        """The files of a Secret, all of which change at once: each is a link into a directory behind one link."""
        secret = self._objects("secrets", volume["secretName"])
        assert secret is not None
        files = place / f"..{time.time_ns()}"
        for directory in (place.parent, place, files):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name, value in secret.get("data", {}).items():
            path = files / name
            path.write_bytes(base64.b64decode(value))
            os.chown(path, 0, group)
            path.chmod(volume["defaultMode"] | 0o040)  # as for every volume with a group of its own
            if not (place / name).is_symlink():
                (place / name).symlink_to(f"..data/{name}")
        (place / "..new").symlink_to(files.name)
        (place / "..new").replace(place / "..data")
        for link in place.iterdir():
            if not link.name.startswith("..") and link.name not in secret.get("data", {}):
                link.unlink()
        return place

    def synchronise(self, pod: Object) -> None:
        """A Pod has changed: its Secrets are read anew."""
        running = self.pods.get(pod["metadata"]["name"])
        if running is None or running.over.is_set() or not running.first:
            return
        for volume in pod["spec"].get("volumes", ()):
            if "secret" in volume:
                user = pod["spec"]["containers"][0]["securityContext"]["runAsUser"]
                try:
                    self.projected(running.place / volume["name"], volume["secret"], user)
                except OSError:  # it just ends, and its files are being taken away
                    if not running.over.wait(_GONE_WITHIN_S):
                        raise

    def close(self) -> None:
        """End all that runs."""
        self.closing.set()
        for running in self.pods.values():
            if running.first and not running.over.is_set():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(running.first, signal.SIGKILL)
