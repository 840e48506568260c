"""The training program: whole epochs and their validation, several per call, in one compiled function.

AdamW, ReduceLROnPlateau and EarlyStopping are a few lines each here, because Python would have to call those of Keras
after every step or epoch, which takes longer than the epoch.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from harvest.data.encoding import Encoding, Features, FoldEncoding, encode
from harvest.training import MINIMUM_LEARNING_RATE
from harvest.training.config import Config, Plan

COUNTS = ["loss", "true_positive", "predicted", "positive"]
HISTORY = [*COUNTS, *(f"val_{name}" for name in COUNTS), "learning_rate"]


class Weights(NamedTuple):
    """The values of a network as two flat vectors: trainable weights [P] and moving averages over batches [S]."""

    trained: np.ndarray
    moving: np.ndarray


def is_moving(variable: keras.Variable) -> bool:
    """Whether a non-trainable variable is a moving average; otherwise it is the state of a random generator."""
    return variable.dtype.startswith("float")


def moving_variables(network: keras.Model) -> list[keras.Variable]:
    return [variable for variable in network.non_trainable_variables if is_moving(variable)]


def flat_vector(values: Iterable[ArrayLike]) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in values] or [np.empty(0)]).astype(np.float32)


def split_vector(vector: tf.Tensor, variables: list[keras.Variable]) -> list[tf.Tensor]:
    """Split a flat vector into the values of variables."""
    sizes = [math.prod(variable.shape) for variable in variables]
    parts = tf.split(vector, sizes) if sizes else []  # its gradient is one concatenation
    return [tf.reshape(part, variable.shape) for part, variable in zip(parts, variables, strict=True)]


def current_weights(network: keras.Model) -> Weights:
    groups = (network.trainable_variables, moving_variables(network))
    return Weights(*(flat_vector(variable.numpy() for variable in group) for group in groups))


def named_weights(network: keras.Model, weights: Weights) -> list[tuple[keras.Variable, np.ndarray]]:
    """Each variable of a network with its value."""
    variables = [*network.trainable_variables, *moving_variables(network)]
    ends = np.cumsum([math.prod(variable.shape) for variable in variables])[:-1]
    values = np.split(np.concatenate(weights), ends)
    return [(variable, value.reshape(variable.shape)) for variable, value in zip(variables, values, strict=True)]


def assign_weights(network: keras.Model, weights: Weights) -> None:
    for variable, value in named_weights(network, weights):
        variable.assign(value)


class State(NamedTuple):
    """Everything that changes in training. The vectors have the layout of Weights."""

    trained: tf.Tensor  # [P]
    moving: tf.Tensor  # [S]
    first_moment: tf.Tensor  # [P]
    second_moment: tf.Tensor  # [P]
    step: tf.Tensor
    epoch: tf.Tensor
    learning_rate: tf.Tensor
    loss_scale: tf.Tensor  # float16 only
    good_steps: tf.Tensor
    best_loss: tf.Tensor
    wait: tf.Tensor  # epochs since the best one
    plateau_loss: tf.Tensor
    plateau_wait: tf.Tensor


def first_state(weights: Weights, learning_rate: float) -> State:
    whole, infinite, zero = np.int32(0), np.float32(np.inf), np.zeros_like(weights.trained)
    values = (*weights, zero, zero, whole, whole, np.float32(learning_rate), np.float32(2**15), whole)
    return State(*map(tf.constant, (*values, infinite, whole, infinite, whole)))


def run_network(
    network: keras.Model, state: State, inputs: tf.Tensor, training: bool, seed: tf.Tensor | int = 0
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Call the network with a state's weights on inputs [E, B]: logits [B], moving averages [S], losses of layers."""
    moving = iter(split_vector(state.moving, moving_variables(network)))
    fixed = [
        # Random generators derive their state from the step, so an epoch can be reproduced.
        next(moving) if is_moving(variable) else tf.cast(tf.stack([seed + number, state.step]), variable.dtype)
        for number, variable in enumerate(network.non_trainable_variables)
    ]
    trained = split_vector(state.trained, network.trainable_variables)
    if network.input.shape[0] is None:  # a stock network: rows come first
        inputs = tf.transpose(inputs)
    logits, after, losses = network.stateless_call(trained, fixed, inputs, training=training, return_losses=True)
    variables = network.non_trainable_variables
    kept = [tf.reshape(value, [-1]) for value, one in zip(after, variables, strict=True) if is_moving(one)]
    now = tf.concat(kept, 0) if kept else state.moving
    return tf.reshape(logits, [-1]), now, tf.add_n(losses) if losses else tf.constant(0.0)


def check_same_network(network: keras.Model, saved: keras.Model, precision: str) -> None:
    """Raises ValueError if the trained and the saved network are different functions."""
    if constrained := [variable.path for variable in saved.trainable_variables if variable.constraint]:
        raise ValueError(f"build_network: {constrained[0]} has a constraint, which training does not apply")
    generator, start = np.random.default_rng(0), current_weights(saved)
    weights = start._replace(trained=generator.normal(0, 0.5, start.trained.shape).astype(np.float32))
    inputs = generator.normal(size=(saved.input.shape[1], 5)).astype(np.float32)
    expected, found = (run_network(model, first_state(weights, 0.0), inputs, False)[0] for model in (saved, network))
    exactness = 1e-3 if precision == "float32" else 0.1
    if not np.allclose(expected, found, rtol=exactness, atol=exactness):
        raise ValueError(
            "build_network: the trained network differs from the saved one, because one of its layers gives other "
            "results if rows are the last axis (harvest/training/feature_major.py)"
        )


def read_rows(
    encoding: Encoding, fold_encoding: FoldEncoding, features: Features, rows: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The inputs [E, B] and the labels [B] of some rows [B] int32."""
    numbers = tf.gather(features.numbers, rows, axis=1)
    categories = tf.gather(features.categories, rows, axis=1)
    inputs = encode(numbers, categories, encoding, fold_encoding, axis=0)
    return inputs, tf.gather(features.labels, rows)


def row_losses(config: Config, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The log-loss of each row [B], weighted by its class."""
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
    zero, one = config.class_weights
    return losses if zero == one == 1 else losses * (zero + (one - zero) * labels)


def batch_counts(config: Config, logits: tf.Tensor, labels: tf.Tensor, valid: tf.Tensor | float = 1.0) -> tf.Tensor:
    """Sum of log-losses, true positives, predicted positives and positives: [4]."""
    loss = row_losses(config, logits, labels)
    predicted = tf.cast(logits > 0, tf.float32) * valid
    sums = [loss * valid, predicted * labels, predicted, labels * valid]
    return tf.stack([tf.reduce_sum(values) for values in sums])


def update(state: State, gradient: tf.Tensor, decay: ArrayLike) -> State:
    """One step of AdamW (Loshchilov and Hutter, 2019) on the flat vector, as in keras.optimizers.AdamW."""
    step = tf.cast(state.step + 1, tf.float32)
    rate = state.learning_rate
    first = state.first_moment + (gradient - state.first_moment) * (1 - 0.9)
    second = state.second_moment + (tf.square(gradient) - state.second_moment) * (1 - 0.999)
    size = rate * tf.sqrt(1 - tf.pow(0.999, step)) / (1 - tf.pow(0.9, step))
    trained = state.trained - state.trained * (rate * decay) - size * first / (tf.sqrt(second) + 1e-7)
    return state._replace(trained=trained, first_moment=first, second_moment=second)


def train_step(
    network: keras.Model, config: Config, state: State, inputs: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor
) -> tuple[State, tf.Tensor]:
    """One step on a batch, inputs [E, B] and labels [B]: the new state, and the counts [4] before the update."""
    half = config.precision == "float16"
    with tf.GradientTape() as tape, tf.name_scope("forward"):
        tape.watch(state.trained)
        logits, moving, extra = run_network(network, state, inputs, True, seed)
        loss = tf.reduce_mean(row_losses(config, logits, labels)) + extra
        scaled = loss * state.loss_scale if half else loss
    with tf.name_scope("backward"):
        gradient = tape.gradient(scaled, state.trained)
    if half:
        gradient /= state.loss_scale
    with tf.name_scope("update"):
        kernels = [np.full(variable.shape, len(variable.shape) == 2) for variable in network.trainable_variables]
        after = update(state, gradient, config.weight_decay * flat_vector(kernels))
        after = after._replace(moving=moving, step=state.step + 1)
    if half:
        after = guard_overflow(state, after, tf.reduce_all(tf.math.is_finite(gradient)))
    with tf.name_scope("metrics"):
        return after, batch_counts(config, logits, labels)


def guard_overflow(before: State, after: State, finite: tf.Tensor) -> State:
    """Dynamic loss scaling (Micikevicius et al., 2018): skip a step that overflowed and halve the scale."""
    grown = before.good_steps >= 1_999
    scale = tf.where(finite, tf.where(grown, before.loss_scale * 2, before.loss_scale), before.loss_scale / 2)
    names = ("trained", "moving", "first_moment", "second_moment", "step")
    kept = {name: tf.where(finite, getattr(after, name), getattr(before, name)) for name in names}
    good = tf.where(finite & ~grown, before.good_steps + 1, 0)
    return after._replace(**kept, loss_scale=scale, good_steps=good)


def end_epoch(config: Config, state: State, loss: tf.Tensor) -> State:
    """EarlyStopping and ReduceLROnPlateau, as in Keras, from the validation loss of an epoch."""
    better = loss < state.best_loss
    lower = loss < state.plateau_loss - 0.0001
    plateau_wait = tf.where(lower, 0, state.plateau_wait + 1)
    stalled = plateau_wait >= config.plateau if config.plateau else tf.constant(False)
    reduced = tf.maximum(state.learning_rate * 0.5, MINIMUM_LEARNING_RATE)
    return state._replace(
        epoch=state.epoch + 1,
        learning_rate=tf.where(stalled, reduced, state.learning_rate),
        best_loss=tf.where(better, loss, state.best_loss),
        wait=tf.where(better, 0, state.wait + 1),
        plateau_loss=tf.where(lower, loss, state.plateau_loss),
        plateau_wait=tf.where(stalled, 0, plateau_wait),
    )


def loop(limit: int, body: Callable, values: tuple) -> tuple:
    """Run body(number, *values), which returns the new values, for each number below a limit."""

    def step(number: tf.Tensor, *now: Any) -> tuple:
        return number + 1, *body(number, *now)

    return tf.while_loop(lambda number, *_: number < limit, step, (0, *values), parallel_iterations=1)[1:]


def train_epoch(
    network: keras.Model, config: Config, plan: Plan, read: Callable, order: tf.Tensor, state: State, seed: tf.Tensor
) -> tuple[State, tf.Tensor]:
    """Train on the rows of an epoch in this order; return the new state and the sum of the counts [4]."""
    size, zero = plan.batch_size, tf.zeros(len(COUNTS))

    def segment(index: tf.Tensor, state: State, total: tf.Tensor) -> tuple:
        rows = tf.slice(order, [index * plan.steps * size], [plan.steps * size])
        encoded, labels = read(rows)

        def step(number: tf.Tensor, state: State, part: tf.Tensor) -> tuple:
            inputs = tf.slice(encoded, [0, number * size], [plan.width, size])
            batch_labels = tf.slice(labels, [number * size], [size])
            state, counts = train_step(network, config, state, inputs, batch_labels, seed)
            return state, part + counts

        state, part = loop(plan.steps, step, (state, zero))
        return state, total + part

    return loop(plan.segments, segment, (state, zero))


def validate(
    network: keras.Model, config: Config, plan: Plan, read: Callable, rows: tf.Tensor, state: State
) -> tf.Tensor:
    """The sum of the counts [4] of validation rows, which are padded with -1."""
    size = plan.validation_segment

    def segment(index: tf.Tensor, total: tf.Tensor) -> tuple:
        chosen = tf.slice(rows, [index * size], [size])
        valid, chosen = tf.cast(chosen >= 0, tf.float32), tf.maximum(chosen, 0)
        encoded, labels = read(chosen)
        logits, _, _ = run_network(network, state, encoded, training=False)
        return (total + batch_counts(config, logits, labels, valid),)

    return loop(math.ceil(plan.validation_rows / size), segment, (tf.zeros(len(COUNTS)),))[0]


class Data(NamedTuple):
    """What a fold trains on."""

    features: Features
    encoding: FoldEncoding
    validation: tf.Tensor  # rows, int32, padded with -1


def build_program(network: keras.Model, config: Config, plan: Plan, encoding: Encoding) -> Callable:
    """The training program: one call runs up to plan.epochs_per_call whole epochs and their validation.

    program(data, orders [epochs, rows], state, seed, last epoch) returns the new state and for each epoch a record: the
    values of HISTORY and the weights, trained and moving: [epochs, 9 + P + S]. The network takes inputs [E, B] if it is
    from feature_major(), or [B, E], which is slower.
    """

    def program(data: Data, orders: tf.Tensor, state: State, seed: tf.Tensor, last: tf.Tensor) -> tuple:
        read = functools.partial(read_rows, encoding, data.encoding, data.features)

        def epoch(index: tf.Tensor, state: State, records: tf.Tensor) -> tuple:
            rate = state.learning_rate
            state, counts = train_epoch(network, config, plan, read, orders[index], state, seed)
            validated = validate(network, config, plan, read, data.validation, state)
            loss = validated[0] / tf.reduce_sum(tf.cast(data.validation >= 0, tf.float32))
            record = tf.concat([counts, [loss], validated[1:], [rate], state.trained, state.moving], 0)
            return index + 1, end_epoch(config, state, loss), tf.tensor_scatter_nd_update(records, [[index]], [record])

        def more(index: tf.Tensor, state: State, _: tf.Tensor) -> tf.Tensor:
            going = (index < plan.epochs_per_call) & (state.epoch < last)
            return going & (state.wait < config.patience) if config.patience else going

        width = len(HISTORY) + state.trained.shape[0] + state.moving.shape[0]
        start = (0, state, tf.zeros([plan.epochs_per_call, width]))
        return tf.while_loop(more, epoch, start, parallel_iterations=1)[1:]

    return tf.function(program, jit_compile=config.xla, autograph=False)
