"""The workers of a distributed run, as TF_CONFIG names them."""

from __future__ import annotations

import argparse
import hashlib
import ipaddress
import json
import os
import platform
from pathlib import Path
from typing import NamedTuple

import harvest
from harvest.cli import UserError
from harvest.training.interrupted import NOT_COMPARED
from harvest.training.tensorflow_setup import metadata_version

PACKAGES = ("tensorflow", "keras", "numpy", "pandas")


class Cluster(NamedTuple):
    addresses: list[str]  # of the workers, the chief first
    rank: int  # the number of this worker

    def name(self, rank: int) -> str:
        return f"worker {rank} ({self.addresses[rank]})"


def find_cluster(args: argparse.Namespace) -> Cluster | None:
    """The workers that TF_CONFIG names, or None if there is only one. Each of them runs this command."""
    if count_workers() < 2:
        return None
    cluster = read_cluster(os.environ["TF_CONFIG"])
    check_addresses(cluster, args.trust_network)
    if args.describe:
        raise UserError("--describe runs in one process: unset TF_CONFIG")
    return cluster


def count_workers() -> int:
    """The number of workers in TF_CONFIG; 0 without it. Raises UserError if TensorFlow cannot read it."""
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster") or {}
        return sum(len(cluster.get(kind, ())) for kind in ("chief", "worker"))
    except (ValueError, AttributeError, TypeError):
        raise UserError("the environment variable TF_CONFIG is malformed; correct or unset it") from None


def read_cluster(text: str) -> Cluster:
    """The workers in TF_CONFIG. Raises UserError if it is malformed."""
    try:
        config = json.loads(text)
        chiefs, workers = (list(config["cluster"].get(kind, [])) for kind in ("chief", "worker"))
        kind, index = config["task"]["type"], int(config["task"]["index"])
        addresses = [*chiefs, *workers]
        rank = addresses.index({"chief": chiefs, "worker": workers}[kind][index])
        sound = index >= 0 and all(isinstance(address, str) and ":" in address for address in addresses)
        if not sound or len(set(addresses)) < len(addresses):
            raise ValueError
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        wanted = 'cluster: {"worker": ["host:port", ...]}, task: {"type": "worker", "index": N}'
        raise UserError(f"TF_CONFIG must name each worker once, including this one ({wanted})") from None
    return Cluster(addresses, rank)


def is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_addresses(cluster: Cluster, trusted: bool) -> None:
    """Raise UserError if there are other machines, unless the user declares the network trusted."""
    outside = [address for address in cluster.addresses if not is_loopback(address)]
    if outside and not trusted:
        risk = "TensorFlow's server is neither encrypted nor authenticated, and listens on every interface"
        cure = "if only these machines can reach it (private network, firewall), use --trust-network"
        raise UserError(f"TF_CONFIG names {outside[0]}, which is not loopback: {risk}; {cure}")


def describe_program(args: argparse.Namespace, script: Path) -> dict[str, str]:
    """Everything that must be identical on all workers: versions, the code of this program, flags."""
    described = {"Python": platform.python_version()}
    described |= {package: metadata_version(package) for package in PACKAGES}
    for path in (script, *sorted(Path(harvest.__file__).parent.rglob("*.py"))):
        digest = hashlib.blake2b(path.read_bytes(), digest_size=4).hexdigest()
        described[os.path.relpath(path, script.parent)] = f"version {digest}"
    flags = {name: value for name, value in vars(args).items() if name not in NOT_COMPARED}
    return described | {f"--{name.replace('_', '-')}": str(value) for name, value in flags.items()}
