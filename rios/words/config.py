"""Every deadline and limit of rios, each settable by an environment variable `RIOS_<NAME>`.

Times are in seconds unless the name says otherwise. A host, a trunk and a client read their own environment, so a
worker of a lab can have other limits than the notebook that uses it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Deadlines, limits and paths; `RIOS_CONNECT_TIMEOUT_S=5` sets `connect_timeout_s`."""

    model_config = SettingsConfigDict(env_prefix="RIOS_", frozen=True)

    home: Path | None = Field(
        default=None, description="Where rios keeps what outlives a process; nothing is kept without it."
    )

    database: str | None = Field(
        default=None,
        description="The ledger's database, such as postgresql://user@host/rios; default is SQLite in the home.",
    )

    chain: str | None = Field(
        default=None, description="URL of an Ethereum-compatible node; default is a chain in this process."
    )
    chain_id: int | None = Field(default=None, description="The id that the node must say; any without.")
    contracts: Path | None = Field(
        default=None, description="File with the addresses of the network's contracts; made where there are none."
    )
    chain_confirmations: int | None = Field(
        default=None,
        ge=0,
        description="A block of a node counts as final with so many others on top; without, once the node calls it "
        "finalized, or with 12 where it never says so.",
    )
    chain_final_timeout_s: float = Field(
        default=1800.0, gt=0, description="A block must be final within this; Ethereum takes 13 to 20 minutes."
    )
    chain_look_s: float = Field(
        default=5.0,
        gt=0,
        description="How often a chain that was started, or a node with the network's contracts, is asked for new "
        "deposits, withdrawals, claims and votes.",
    )
    challenge_window_s: int = Field(
        default=0, ge=0, description="A root can be challenged for so long, where the contracts are made anew."
    )

    wallet_address: str | None = Field(
        default=None,
        description="The wallet's address; only watched where neither the home nor RIOS_WALLET_SIGNER has its key.",
    )
    wallet_signer: str | None = Field(
        default=None, description="URL of Clef, or what speaks its JSON-RPC, that signs for RIOS_WALLET_ADDRESS."
    )

    owner: str | None = Field(
        default=None, description="Address that this worker's earnings belong to; default is the network's wallet."
    )
    epoch_interval_s: float | None = Field(
        default=None,
        gt=0,
        description="Epochs are closed and owners paid this often (86400: daily); else by hand.",
    )
    payout_min: str = Field(
        default="1 ROS", description="The operator pays an owner once so much is due; claims are for any amount."
    )

    # Holds.
    hold_step_tokens: int = Field(
        default=256, gt=0, description="A request of more new tokens is held for in steps, the first of so many."
    )
    hold_grace_s: float = Field(
        default=3600.0, ge=0, description="A request that paused for lack of money ends this long after."
    )

    # Reports.
    reports: Path | None = Field(
        default=None,
        description="Where reports are published: one folder for all gateways of a network, such as of a file server, "
        "or one of each; hosts that run applications keep what was published, too. "
        "Default is reports/out of a checkout, and else reports in the home.",
    )
    report_lease_s: float = Field(
        default=60.0, gt=0, description="A report that nobody says he still makes is made by another after this."
    )

    # Deployments of applications.
    apps: Path | None = Field(
        default=None,
        description="Where sandboxes and volumes lie, which other users must be able to pass through; default is "
        "/var/lib/rios for root and the home for others.",
    )
    host_apps: bool = Field(
        default=False,
        description="This worker's machine runs applications of its network, in sandboxes under RIOS_APPS.",
    )
    apps_isolation: Literal["process", "container", "kernel", "machine"] = Field(
        default="process", description="No application runs with less, whatever its specification asks for."
    )
    apps_unmetered: bool = Field(
        default=False,
        description="With RIOS_HOST_APPS: this machine runs applications also where its kernel neither limits nor "
        "meters them, as without root.",
    )
    apps_networks: str = Field(
        default="",
        description="Networks that applications may reach although they are not public, such as 10.1.0.0/16, by "
        "commas, by names that they give in egress; an address of this machine one by one, such as 127.0.0.1/32.",
    )
    apps_keep_events: int = Field(default=2000, ge=100, description="Events that are kept of a deployment, the newest.")
    apps_keep_replicas: int = Field(
        default=500, ge=50, description="Replicas that have ended of which a deployment's history tells, the newest."
    )
    apps_keep_revisions: int = Field(
        default=100, ge=5, description="Revisions of a deployment to go back to, the newest; those in use stay besides."
    )
    apps_keep_days: int = Field(
        default=30, ge=1, description="How long the history of a deployment is kept after it was deleted."
    )
    apps_snapshot_bytes: int = Field(
        default=1 << 36,
        ge=0,
        description="What snapshots, archives and reports may take of this machine's disk: 64 GiB without.",
    )
    apps_images_kept_s: float = Field(
        default=604_800.0,
        gt=0,
        allow_inf_nan=False,
        description="How long this machine keeps an image or root file system that it fetched for applications, and on "
        "which none stands any more: a week without.",
    )
    apps_reserve_bytes: int = Field(
        default=2 << 30,
        ge=0,
        description="What images and root file systems of applications leave free of this machine's disk: 2 GiB "
        "without. Where there is less, those that nobody uses go at once, and none is fetched.",
    )
    region: str = Field(default="", description="Where this machine is, as specifications name it.")
    ask_bp: int = Field(
        default=10_000,
        ge=0,
        le=1_000_000,
        description="What this machine asks, in basis points of the price book's prices, within the book's bounds.",
    )

    # Applications in a cluster of Kubernetes.
    kubeconfig: str | None = Field(
        default=None,
        description="The kubeconfig of a cluster that runs what asks for the runtime kubernetes, or in-cluster: the "
        "service account of the Pod that this process runs in.",
    )
    kube_namespace: str = Field(default="rios-apps", description="Where its Pods are; it must be there.")
    kube_runtime_class: str | None = Field(
        default=None,
        description="The RuntimeClass of its Pods, such as gvisor or kata; the cluster's usual one without.",
    )
    kube_isolation: Literal["container", "kernel", "machine"] = Field(
        default="container", description="What that RuntimeClass gives, which a cluster does not say."
    )
    kube_storage_class: str | None = Field(
        default=None, description="The StorageClass of volumes; the cluster's usual one without."
    )
    kube_reached_from: tuple[str, ...] = Field(
        default=(),
        description='Networks from which this process reaches Pods by their own addresses, such as ["10.1.2.0/24"]; '
        "without, requests go through the API server.",
    )

    # Control plane.
    start_timeout_s: float = Field(
        default=60.0, gt=0, description="A worker must be serving within this after its start."
    )
    warm_s: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="A process that has imported torch waits so long for the next program of this user that makes an "
        "embedded network; 0: it ends with its program.",
    )
    connect_timeout_s: float = Field(default=5.0, gt=0, description="A TCP connection and its greeting.")
    control_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="One control call, and a deployment that stands still: loading shards, starting a trunk.",
    )
    membership_interval_s: float = Field(
        default=0.5, gt=0, description="How often the scheduler is asked who is there."
    )
    lease_s: float = Field(
        default=30.0, gt=0, description="A host drops a deployment this long after its client has gone."
    )
    orphan_s: float = Field(
        default=600.0,
        ge=0,
        description="A host whose Dask worker has gone serves its clients this long after it was last used.",
    )
    host_silence_s: float = Field(
        default=30.0,
        ge=2,
        description="A serving process that has not turned to its connections for so long, as one that was stopped and "
        "is not continued, is killed and replaced; more where somebody debugs it.",
    )

    # TLS between clients, scheduler, workers and hosts.
    tls: Path | None = Field(
        default=None,
        description="A member's directory (ca.pem, host.pem, host.key, crl.pem), which `rios certs worker` makes; "
        "the network speaks TLS 1.3 then, and nothing else.",
    )
    tls_ca: Path | None = Field(default=None, description="The authority's certificate, where it is not in RIOS_TLS.")
    tls_cert: Path | None = Field(default=None, description="The member's certificate, where it is not in RIOS_TLS.")
    tls_key: Path | None = Field(default=None, description="The key of RIOS_TLS_CERT.")
    tls_authority: Path | None = Field(
        default=None,
        description="The directory of `rios certs init`: who has it renews certificates and tells who is revoked; "
        "default is `certs` in the home.",
    )

    # Placement.
    replan_interval_s: float = Field(
        default=60.0, gt=0, description="The measured load is looked at this often, and moves experts no more often."
    )
    replan_above: float = Field(
        default=1.25, ge=1, description="Experts move or get copies when a host has so many times its fair load."
    )

    host_requests: float = Field(
        default=4.0,
        gt=0,
        description="Requests under way for each host, where the scheduler says how many hosts there should be.",
    )

    # Data plane.
    max_frame_bytes: int = Field(
        default=1 << 30, gt=0, description="The longest frame accepted from an authorised peer."
    )
    greeting_frame_bytes: int = Field(
        default=1 << 16, gt=0, description="The longest frame accepted before the key is seen."
    )
    spin_us: int = Field(
        default=100_000,
        ge=0,
        description="Polling of shared memory before blocking, longer than a layer takes; of sockets by hosts, 5 ms at "
        "most.",
    )
    shared_memory: bool = Field(default=True, description="Use shared memory between processes of one machine.")
    call_timeout_s: float = Field(
        default=1.0, gt=0, description="A host that has not answered by then counts as frozen."
    )
    hedge_floor_s: float = Field(default=0.02, gt=0, description="No call is repeated elsewhere before this.")
    experts_timeout_s: float = Field(
        default=30.0, gt=0, description="Requests wait this long for experts that nobody holds."
    )
    reconnect_s: float = Field(default=0.25, gt=0, description="Pause between attempts to reach a lost host.")
    probe_s: float = Field(
        default=2.0, gt=0, description="A slow host is asked again this often, without waiting for it."
    )

    # Generation.
    heartbeat_s: float = Field(default=0.1, gt=0, description="A trunk tells its clients this often that it is alive.")
    trunk_silence_s: float = Field(
        default=0.9, gt=0, description="A trunk silent for longer is replaced by its stand-by."
    )
    stall_s: float = Field(
        default=2.0, gt=0, description="A longer wait between two tokens is a stall in the reliability report."
    )
    trunk_timeout_s: float = Field(default=60.0, gt=0, description="Requests wait this long for a new trunk.")
    max_running: int = Field(default=64, gt=0, description="Requests that one trunk runs at the same time.")
    max_queued: int = Field(default=1024, ge=0, description="Requests that wait for a place; more are refused.")
    prefill_tokens: int = Field(
        default=1024, gt=0, description="Prompt tokens processed between two tokens of the others."
    )
    kv_fraction: float = Field(
        0.3, gt=0, le=1, description="Share of a trunk's free memory that its KV cache may take."
    )

    # Shards.
    chunk_bytes: int = Field(default=1 << 22, gt=0, description="One chunk of a shard fetched over the network.")
    cache_bytes: int = Field(default=20 << 30, ge=0, description="Quota of the disk cache of fetched shards.")
    shard_key: SecretStr | None = Field(
        default=None,
        description="32 bytes in hexadecimal, by which shards of private models are encrypted on this host's disk; "
        "without a key they are not kept there.",
    )
    shard_key_file: Path | None = Field(default=None, description="The file that holds RIOS_SHARD_KEY.")
    memory_fraction: float = Field(default=0.9, gt=0, le=1, description="Share of free memory that shards may take.")


@functools.lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
