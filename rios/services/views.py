"""What a network shows of itself: workers and placement, as objects, tables, text and HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rios.words.display import Shown, text_table

if TYPE_CHECKING:
    from rios.dmoe.deployment import Deployment


def size(count_bytes: int) -> str:
    """Bytes for people."""
    value = float(count_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


@dataclass(frozen=True, slots=True)
class WorkerInfo(Shown):
    """One worker: `pid` is the process that serves shards."""

    name: str
    pid: int
    address: str
    device: str
    memory_bytes: int
    reserved_bytes: int
    state: str
    experts: int
    speed: float
    machine: str
    dask_address: str
    gpu: dict[str, Any] | None = None

    @property
    def memory(self) -> str:
        """Reserved of what shards and trunks may take."""
        return f"{size(self.reserved_bytes)} of {size(self.memory_bytes)}"


class Workers(Shown, Sequence[WorkerInfo]):
    """The workers of a network at one moment; index by place or by name."""

    def __init__(self, workers: Sequence[WorkerInfo]) -> None:
        self._workers = tuple(workers)

    def __len__(self) -> int:
        return len(self._workers)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            for worker in self._workers:
                if worker.name == key:
                    return worker
            raise KeyError(f"no worker {key!r}; there are {', '.join(w.name for w in self._workers)}")
        return self._workers[key]

    def __iter__(self) -> Iterator[WorkerInfo]:
        return iter(self._workers)

    def _table(self) -> tuple[list[str], list[list[object]]]:
        columns = ["name", "pid", "address", "device", "memory", "state", "experts"]
        return columns, [[getattr(worker, column) for column in columns] for worker in self._workers]

    def __repr__(self) -> str:
        return text_table(*self._table())

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each worker."""
        import pandas as pd

        return pd.DataFrame([{**asdict(worker), "memory": worker.memory} for worker in self._workers])


@dataclass(frozen=True)
class Placement(Shown):
    """Who holds what at one moment.

    holders[layer][expert]   names of the hosts that hold it now
    load[layer][expert]      rows that the active trunk has sent it
    trunk, trunk_pid         the host whose trunk serves, and its process
    """

    model: str
    holders: tuple[tuple[tuple[str, ...], ...], ...]
    load: tuple[tuple[int, ...], ...]
    replicas: int
    trunk: str | None
    trunk_pid: int | None
    standby: tuple[str, ...]
    bytes_by_host: dict[str, int]
    states: dict[str, str]
    reasons: str

    @classmethod
    def of(cls, deployment: Deployment) -> Placement:
        """The placement of a deployment now."""
        members = list(deployment.members.values())
        holders = tuple(
            tuple(
                tuple(m.peer.name for m in members if expert in m.held.get(layer.index, frozenset()))
                for expert in range(layer.num_experts)
            )
            for layer in deployment.manifest.layers
        )
        trunk = deployment.generator.active or next((m.peer.name for m in members if m.trunk_ready), None)
        return cls(
            model=deployment.name,
            holders=holders,
            load=tuple(tuple(row) for row in deployment.load_counts()),
            replicas=deployment.replicas,
            trunk=trunk,
            trunk_pid=deployment.members[trunk].info.get("pid") if trunk in deployment.members else None,
            standby=tuple(m.peer.name for m in members if m.trunk_ready and m.peer.name != trunk),
            bytes_by_host={m.peer.name: deployment.expert_bytes(m.held) for m in members},
            states={m.peer.name: m.state for m in members},
            reasons=deployment.plan.explain(),
        )

    def to_dict(self) -> dict[str, Any]:
        """As it travels."""
        return asdict(self)

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Placement:
        """What `to_dict` wrote, also after it was JSON."""
        holders = tuple(tuple(tuple(hosts) for hosts in row) for row in said["holders"])
        load = tuple(tuple(row) for row in said["load"])
        return cls(**{**said, "holders": holders, "load": load, "standby": tuple(said["standby"])})

    def explain(self) -> str:
        """In words: what limits the placement, and why it is as it is."""
        trunk = f"The trunk runs on {self.trunk}." if self.trunk else "No trunk runs now."
        standby = f" Stand-by: {', '.join(self.standby)}." if self.standby else ""
        return f"{self.reasons}\n{trunk}{standby}"

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each layer and expert: hosts, rows."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "layer": layer,
                    "expert": expert,
                    "hosts": ", ".join(hosts),
                    "copies": len(hosts),
                    "rows": rows,
                }
                for layer, (row, counts) in enumerate(zip(self.holders, self.load, strict=True))
                for expert, (hosts, rows) in enumerate(zip(row, counts, strict=True))
            ]
        )

    def _table(self) -> tuple[list[str], list[list[object]]]:
        rows: list[list[object]] = []
        for host in sorted(self.states):
            held = sum(host in hosts for row in self.holders for hosts in row)
            role = "trunk" if host == self.trunk else "stand-by" if host in self.standby else ""
            rows.append([host, self.states[host], held, size(self.bytes_by_host[host]), role])
        return ["host", "state", "experts", "memory", "role"], rows

    def __repr__(self) -> str:
        experts = sum(len(row) for row in self.holders)
        title = f"<Placement of {self.model}: {len(self.holders)} layers, {experts} experts, {self.replicas} copies>"
        return title + "\n" + text_table(*self._table())

    def plot(self) -> Any:
        """A plotly heat map: layers by experts, coloured by rows served; hover shows the hosts."""
        import plotly.graph_objects as go

        width = max(len(row) for row in self.holders)
        text = [[", ".join(hosts) for hosts in row] + [""] * (width - len(row)) for row in self.holders]
        figure = go.Figure(
            go.Heatmap(
                z=[list(row) + [None] * (width - len(row)) for row in self.load],
                text=text,
                hovertemplate="layer %{y}, expert %{x}<br>%{z} rows<br>on %{text}<extra></extra>",
                colorbar={"title": "rows"},
            )
        )
        figure.update_layout(title=f"{self.model}: rows by expert", xaxis_title="expert", yaxis_title="layer")
        return figure
