"""Training by a group of workers: each trains its folds, or all train one network by local SGD (Stich, 2019).

With local SGD, each worker runs the compiled epoch on its own share of the rows, and the group averages the weights
every so many steps. The decisions after an epoch depend on the validation rows of all workers.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from harvest.cli import Console, UserError
from harvest.data.encoding import SCALE_ROWS, Encoding, Features, make_features
from harvest.data.hashes import hash_rows
from harvest.data.splits import Split
from harvest.data.table import Table
from harvest.decision import Decision
from harvest.training.config import Config, Plan, cut_evenly, segment_steps
from harvest.training.distributed.group import Group
from harvest.training.distributed.shares import code_rest, quantile_error
from harvest.training.folds import Fold, start_fold
from harvest.training.program import COUNTS, Data, State, end_epoch, read_rows, validate

CALL_ROWS = 131_072  # the maximum rows in one call of the program; weights can be averaged only between calls
CALL_SHARE = 0.1  # the maximum share of the time spent on averaging
AVERAGED = ("trained", "moving", "first_moment", "second_moment")  # of a State
AVERAGED_NUMBERS = ("loss_scale", "good_steps", "step")
DECIDED = set(State._fields) - {*AVERAGED, *AVERAGED_NUMBERS}  # by end_epoch()


class SharedTraining:
    """This worker's part in training. Several folds are dealt to the workers; the rows of a single fold are split."""

    def __init__(
        self, group: Group, config: Config, folds: list[Fold], plan: Plan, encoding: Encoding, table: Table
    ) -> None:
        self.group, self.config, self.folds, self.plan = group, config, folds, plan
        self.encoding, self.table = encoding, table
        self.decisions = {"workers": Decision(group.workers, "named by TF_CONFIG")}
        self.every, self.pieces = 0, 1  # calls between two averages, segments of a call
        self.nothing = tf.constant([-1])  # no validation rows in a call: validation follows the average of the weights

    def deal(self, features: Features, args: argparse.Namespace) -> Features:
        """Choose the rows of a single fold that this worker trains on, and plan its calls of the program.

        Returns the features, with those of rows that only this worker has added.
        """
        if len(self.folds) > 1:
            return features
        group, fold = self.group, self.folds[0]
        train, val = (part[group.rank :: group.workers] for part in (fold.split.train, fold.split.val))
        if group.rest:
            features = self.add_rest(features, args)
            train = np.concatenate([train, np.arange(len(self.table.label), features.labels.size, dtype=np.int32)])
        fold.own = Split(train, val, fold.split.test)
        counts = group.engine.exchange(len(train))
        self.training_rows = sum(counts)
        if min(counts) == 0:
            raise UserError(f"{self.training_rows} training rows are too few for {group.workers} workers; start fewer")
        self.plan = self.plan_calls(min(counts), args.sync_every)
        start_fold(fold, self.config, self.plan)
        return features

    def add_rest(self, features: Features, args: argparse.Namespace) -> Features:
        """The features, with those of the rest of this worker's rows added; these rows count as read."""
        group, table = self.group, self.table
        rest = group.together(code_rest, group.rest, table, args.label, args.skip_bad_rows)
        read, skipped = np.sum(group.engine.exchange([rest.read, rest.skipped]), axis=0).tolist()
        table.read, table.skipped = table.read + read, table.skipped + skipped
        more = make_features(rest, self.encoding)
        split = self.folds[0].split
        hashes, held = (hash_rows([*own.numbers.astype(np.float64), *own.categories]) for own in (more, features))
        # Rows that match a validation or test row are not used for training.
        new = ~np.isin(hashes, held[np.concatenate([split.val, split.test])])
        more = Features(more.numbers[:, new], more.categories[:, new], more.labels[new])
        return Features(*(np.concatenate(pair, axis=-1) for pair in zip(features, more, strict=True)))

    def plan_calls(self, rows: int, asked: int | None) -> Plan:
        """A plan in which all workers run the same number of steps, and no worker draws a row twice in an epoch.

        An epoch is cut into calls of the program, which are the plan's segments; weights are averaged between calls.
        """
        batch_size = min(self.plan.batch_size, rows)
        steps = rows // batch_size
        in_call = min(max(1, CALL_ROWS // batch_size), asked or steps)
        calls = cut_evenly(steps, math.ceil(steps / in_call), math.floor)
        steps //= calls
        self.every = max(1, asked // steps) if asked else 0
        fewest, _ = segment_steps(steps * batch_size, batch_size, self.plan.width)
        self.pieces = cut_evenly(steps, fewest, math.floor)
        steps = steps // self.pieces * self.pieces
        most = math.ceil(len(self.folds[0].split.val) / self.group.workers)  # validation rows of a worker
        plan = self.plan._replace(batch_size=batch_size, segments=calls, steps=steps)
        return plan._replace(epochs_per_call=1, validation_rows=most)

    def in_one_call(self) -> tuple[Plan, Fold]:
        """The plan of one call of the compiled program, and a fold to compile it for."""
        if len(self.folds) > 1:
            return self.plan, self.folds[0]
        plan = self.plan._replace(segments=self.pieces, steps=self.plan.steps // self.pieces, validation_rows=1)
        return plan, replace(self.folds[0], validation=self.nothing)

    def connect(self, program: Callable, network: keras.Model, features: Features) -> tuple[Callable, list[str]]:
        """The program, changed to return the averaged weights of all workers, and lines to print about it."""
        group, config, plan, encoding, fold = self.group, self.config, self.plan, self.encoding, self.folds[0]
        if not group.chief:  # it prints only this line
            text = f"worker {group.rank} of {group.workers} trains; {group.cluster.name(0)} prints and writes results"
            Console(quiet=False).print(text)
        title = f"Workers    {group.workers}: "
        if len(self.folds) > 1:
            return program, [f"{title}fold k trains on worker k mod {group.workers}, bit for bit as on one machine"]

        def check(data: Data, state: State) -> tf.Tensor:
            read = partial(read_rows, encoding, data.encoding, data.features)
            return validate(network, config, plan, read, data.validation, state)

        self.program, self.check = program, tf.function(check, jit_compile=config.xla, autograph=False)
        self.check(Data(features, fold.encoding, fold.validation), fold.state)  # compiles it
        reason = "as requested" if self.every else self.measure(features)
        steps = min(self.every, plan.segments) * plan.steps
        self.decisions["sync_every"] = Decision(steps, reason)
        often = f"weights are averaged every {steps:,} steps ({reason})"
        lines = [f"{title}each trains on {plan.rows:,} rows per epoch; {often}"]
        if group.rest:
            rows, error = len(self.table.label), quantile_error(min(len(fold.split.train), SCALE_ROWS))
            what = f"{self.table.read:,} rows read; columns, encoding, validation and test use"
            sample = f"{what} {rows:,} of them, drawn at random, so quantiles are within {error:.2%} of the rows"
            lines.insert(0, f"Sample     {sample}")
        return self.train_epoch, lines

    def measure(self, features: Features) -> str:
        """Choose the number of calls between averages from the measured times of both; return the reason."""
        plan, fold = self.plan, self.folds[0]
        assert fold.state
        order = tf.constant(np.resize((fold.own or fold.split).train, (1, plan.steps * plan.batch_size)))
        state, data = fold.state._replace(epoch=tf.constant(0)), Data(features, fold.encoding, self.nothing)
        calls, averages = [], []
        for _ in range(4):
            started = time.perf_counter()
            with tf.device(self.config.device.tf_name):
                self.program(data, order, state, fold.seed, tf.constant(1))[0].trained.numpy()
            called = time.perf_counter()
            self.average(state)
            calls.append(called - started)
            averages.append(time.perf_counter() - called)
        times = self.group.engine.sum([statistics.median(calls), min(averages)])
        call, average = (times / self.group.workers).tolist()
        self.every = min(plan.segments, max(1, math.ceil(average / call / CALL_SHARE)))
        took = f"a step takes {1e6 * call / plan.steps:,.0f} us, averaging {1e3 * average:.1f} ms"
        often = "once an epoch" if self.every == plan.segments else f"at most {CALL_SHARE:.0%} of the time"
        return f"{took}; {often}"

    def train_epoch(self, data: Data, orders: tf.Tensor, state: State, seed: tf.Tensor, last: tf.Tensor) -> tuple:
        """One epoch, with the results of the program, but weights, metrics and decisions from all workers."""
        plan, before, counts = self.plan, state, np.zeros(len(COUNTS), np.float32)
        size, seed = plan.steps * plan.batch_size, seed + np.int32(104_729 * self.group.rank % 2**31)
        for call in range(plan.segments):
            order = orders[:, call * size : (call + 1) * size]
            state, record = self.program(data._replace(validation=self.nothing), order, state, seed, last)
            state = state._replace(**{name: getattr(before, name) for name in DECIDED})  # without validation, undecided
            counts += record[0, : len(counts)].numpy()
            if (call + 1) % self.every == 0 or call + 1 == plan.segments:
                state = self.average(state)
            if self.group.agreed.signal:  # the epoch is discarded
                return before, tf.zeros([1, 0])
        own = np.concatenate([counts / self.group.workers, self.check(data, state)])
        counts, found = np.split(self.group.sum_and_listen(own), 2)
        loss = np.float32(found[0] / len(self.folds[0].split.val))
        state = end_epoch(self.config, state, tf.constant(loss))
        record = np.concatenate([counts, [loss], found[1:], [before.learning_rate], state.trained, state.moving])
        return state, tf.constant(record[None], tf.float32)

    def average(self, state: State) -> State:
        """The state with the means over workers of everything that training changes."""
        parts = [getattr(state, name).numpy() for name in AVERAGED]
        numbers = np.array([getattr(state, name) for name in AVERAGED_NUMBERS], np.float64)
        mean = self.group.sum_and_listen(np.concatenate([*parts, numbers])) / self.group.workers
        *means, (scale, good, step) = np.split(mean, np.cumsum([len(part) for part in parts]))
        return state._replace(
            **{name: tf.constant(part, tf.float32) for name, part in zip(AVERAGED, means, strict=True)},
            loss_scale=tf.constant(2.0 ** math.floor(math.log2(scale)), tf.float32),  # a power of two again
            good_steps=tf.constant(int(good)),
            step=tf.constant(round(step)),
        )

    def call_folds(self, pool: ThreadPoolExecutor, call: Callable, folds: list[Fold]) -> list:
        """The records of each fold, from the worker that trains it."""
        group = self.group
        if len(self.folds) == 1:
            return list(pool.map(call, folds))
        own = [fold for fold in folds if fold.number % group.workers == group.rank]
        arrays = {"signal": np.array(group.asked.signal)}
        for fold, records in zip(own, pool.map(call, own), strict=True):
            assert fold.state
            parts = fold.state._asdict() | {"records": records}
            arrays |= {f"{fold.number}/{name}": np.asarray(part) for name, part in parts.items()}
        of_workers = group.engine.exchange_arrays(arrays)
        group.note_signals(np.array([part["signal"] for part in of_workers]))
        found = {name: array for part in of_workers for name, array in part.items()}
        for fold in folds:
            fold.state = State(*(tf.constant(found[f"{fold.number}/{name}"]) for name in State._fields))
        return [found[f"{fold.number}/records"] for fold in folds]

    def count_rows(self) -> tuple[int, int]:
        """The number of rows used, and the number of training rows of the first network."""
        if self.group.rest:
            return self.table.read - self.table.skipped, self.training_rows
        return len(self.table.label), len(self.folds[0].split.train)
