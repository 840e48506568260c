"""TensorFlow's collective operations, which all workers of a group call together."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended
from tensorflow.python.eager import context

from harvest.training.distributed.cluster import Cluster

PIECE_BYTES = 1 << 26  # exchanged at a time


class Engine:
    """Collective operations, which wait for every worker.

    They run in a separate thread, so the main thread receives signals while it waits.
    """

    def __init__(self, cluster: Cluster, broken: Callable[[str], NoReturn]) -> None:
        """Open this worker's port; devices must be configured before. broken(fault) must end the process."""
        self.workers, self.broken, self.thread = len(cluster.addresses), broken, ThreadPoolExecutor(1)
        self.keys: dict[tuple, int] = {}
        # The group monitors its workers itself: TensorFlow's own checks abort the process, or take minutes.
        CollectiveAllReduceExtended._enable_check_health = False
        context.context().configure_coordination_service(service_type="")
        task = {"type": "worker", "index": cluster.rank}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": cluster.addresses}, "task": task})
        implementation = tf.distribute.experimental.CommunicationImplementation.RING
        ring = tf.distribute.experimental.CommunicationOptions(implementation=implementation)
        strategy = tf.distribute.MultiWorkerMirroredStrategy
        self.strategy = self.thread.submit(strategy, communication_options=ring).result()

    def fault(self, rank: int, seconds: float) -> str:
        """The fault of a worker; "" if it responds."""
        try:
            name = f"/job:worker/replica:0/task:{rank}"
            context.context().check_collective_ops_peer_health(name, int(1000 * seconds))
        except tf.errors.DeadlineExceededError:
            return f"has not responded for {seconds:.0f} s"
        except tf.errors.OpError:
            return "has exited"
        return ""

    def submit(self, kind: str, values: np.ndarray) -> Future:
        """Start an operation on arrays with the same shape on all workers; each kind and shape has one key."""
        key = self.keys.setdefault((kind, values.shape, values.dtype.str), 1_000 + len(self.keys))
        common: dict[str, Any] = {"group_size": self.workers, "group_key": 1, "instance_key": key}
        common |= {"ordering_token": [], "communication_hint": "ring"}

        def operate() -> np.ndarray:
            with tf.device("CPU:0"):
                if kind == "sum":
                    return tf.raw_ops.CollectiveReduceV2(input=values, merge_op="Add", final_op="Id", **common).numpy()
                return tf.raw_ops.CollectiveGatherV2(input=values, **common).numpy()

        return self.thread.submit(operate)

    def call(self, kind: str, values: np.ndarray) -> np.ndarray:
        try:
            return self.submit(kind, values).result()
        except tf.errors.OpError as error:
            self.broken(error.message.partition("\n")[0][:200])

    def sum(self, values: np.ndarray | list[float]) -> np.ndarray:
        """The sum over workers, bit for bit the same on all."""
        return self.call("sum", np.asarray(values, np.float64))

    def exchange_bytes(self, content: bytes) -> list[bytes]:
        """The content from each worker."""
        sizes = self.call("gather", np.array([len(content)])).tolist()
        parts = [bytearray() for _ in sizes]
        for start in range(0, max(sizes), PIECE_BYTES):
            longest = 8 * math.ceil(min(PIECE_BYTES, max(sizes) - start) / 8)
            piece = content[start : start + longest].ljust(longest, b"\0")
            gathered = self.call("gather", np.frombuffer(piece, np.int64)).tobytes()
            for rank, part in enumerate(parts):
                part += gathered[rank * longest : (rank + 1) * longest]
        return [bytes(part[:size]) for part, size in zip(parts, sizes, strict=True)]

    def exchange(self, value: Any) -> list[Any]:
        """The value from each worker, which must be representable in JSON."""
        return [json.loads(content) for content in self.exchange_bytes(json.dumps(value).encode())]

    def exchange_arrays(self, arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        return [unpack(content) for content in self.exchange_bytes(pack(arrays))]


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays as bytes, which contain nothing executable."""
    head = json.dumps([(name, array.dtype.str, array.shape) for name, array in arrays.items()]).encode()
    contents = [np.ascontiguousarray(array).tobytes() for array in arrays.values()]
    return b"".join([len(head).to_bytes(8), head, *contents])


def unpack(content: bytes) -> dict[str, np.ndarray]:
    start = 8 + int.from_bytes(content[:8])
    arrays = {}
    for name, kind, shape in json.loads(content[8:start]):
        arrays[name] = np.frombuffer(content, kind, math.prod(shape), start).reshape(shape)
        start += arrays[name].nbytes
    return arrays
