"""The workers of a distributed run, as TF_CONFIG names them."""

from __future__ import annotations

import argparse
import contextlib
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
    """The workers that TF_CONFIG names, or None if there is only one. Each of them runs this command.

    Raises UserError if TF_CONFIG is malformed, or if it names other machines and the network is not declared trusted.
    """
    try:
        config = json.loads(os.environ.get("TF_CONFIG") or "{}")
        workers = {kind: list((config.get("cluster") or {}).get(kind, [])) for kind in ("chief", "worker")}
        addresses = [*workers["chief"], *workers["worker"]]
        if len(addresses) < 2:
            return None
        task, index = config["task"], int(config["task"]["index"])
        rank = addresses.index(workers[task["type"]][index])
        if index < 0 or len(set(addresses)) < len(addresses):
            raise ValueError
        outside = [address for address in addresses if not is_loopback(address)]
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
        wanted = 'cluster: {"worker": ["host:port", ...]}, task: {"type": "worker", "index": N}'
        raise UserError(f"TF_CONFIG must name each worker once, including this one ({wanted}), or be unset") from None
    if outside and not args.trust_network:
        risk = "TensorFlow's server is neither encrypted nor authenticated, and listens on every interface"
        cure = "if only these machines can reach it (private network, firewall), use --trust-network"
        raise UserError(f"TF_CONFIG names {outside[0]}, which is not loopback: {risk}; {cure}")
    if args.describe:
        raise UserError("--describe runs in one process: unset TF_CONFIG")
    return Cluster(addresses, rank)


def is_loopback(address: str) -> bool:
    """Whether an address, host:port, is of this machine. Raises ValueError if it has no port."""
    host, _ = address.rsplit(":", 1)
    with contextlib.suppress(ValueError):  # the name of a machine
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


def describe_program(args: argparse.Namespace, script: Path) -> dict[str, str]:
    """Everything that must be identical on all workers: versions, the code of this program, flags."""
    described = {"Python": platform.python_version()}
    described |= {package: metadata_version(package) for package in PACKAGES}
    for path in (script, *sorted(Path(harvest.__file__).parent.rglob("*.py"))):
        digest = hashlib.blake2b(path.read_bytes(), digest_size=4).hexdigest()
        described[os.path.relpath(path, script.parent)] = f"version {digest}"
    flags = {name: value for name, value in vars(args).items() if name not in NOT_COMPARED}
    return described | {f"--{name.replace('_', '-')}": str(value) for name, value in flags.items()}
