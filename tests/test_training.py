"""The training program against plain, slow references: the same batches, dropout, losses, weights and decisions."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

import train_model_modern as modern


def make(path, architecture="standard", *flags):
    """A run as main makes it before it trains, with initial weights that are not those of a linear model."""
    options = modern.parse_options([str(path), "--architecture", architecture, "--folds", "1", *map(str, flags)])
    table = modern.read_table(options)
    splits = modern.split_table(options, table)
    decisions = modern.decide(options, splits, table.label) | {"precision": modern.Choice("float32", "")}
    run = modern.Run(options, table, splits, decisions, modern.Output(True))
    modern.plan_training(run)
    modern.build(run)
    generator = np.random.default_rng(0)
    for network in run.saved.networks:
        for variable in network.trainable_variables:
            if "from_hidden/kernel" in variable.path:
                variable.assign(generator.normal(0, 0.5, variable.shape))
    run.weights = [modern.current_weights(network) for network in run.saved.networks]
    run.fold = run.folds[0]
    return run


def fresh(fold):
    return modern.Fold(fold.number, fold.split, fold.encoder, fold.linear)


def train(tf, made, epochs, rate=0.001, callbacks=(), plan=None, folds=None):
    """Train folds anew, and give the first."""
    plan = plan or made.plan
    folds = [fresh(fold) for fold in folds or made.folds]
    for fold in folds:
        modern.start_fold(plan, fold)
        fold.state = modern.first_state(made.weights[fold.number], rate)
    program = modern.build_program(plan, made.encoding)
    data = modern.Features(*map(tf.constant, made.features))
    driver = modern.callback_list(list(callbacks), made.saved, folds, epochs, plan.steps * plan.segments)
    driver.on_train_begin()
    modern.train_folds(plan, program, data, folds, epochs, driver, modern.StopRequest())
    driver.on_train_end()
    made.trained = folds
    return folds[0]


def dropout_masks(plan, layers, values):
    """The factors [units, B] of each dropout layer of rate r: 0 where its byte is below 256 r."""
    start = 0
    for layer, units in layers:
        dropped = round(layer.rate * 256)
        yield (values[start : start + units] >= dropped) * np.float32(256 / (256 - dropped))
        start += units


def reference(tf, made, epochs, draw, rate=0.001, decay=modern.WEIGHT_DECAY):
    """Train the saved model's own layers, eagerly, with keras.optimizers.AdamW and the same rows and bytes."""
    import keras

    plan, fold, features = made.plan, made.fold, made.features
    made.saved.assign(made.weights)
    network, units = made.saved.networks[0], modern.ARCHITECTURES[made.options.architecture].units
    layers = {layer.name: layer for layer in network.layers}
    optimizer = keras.optimizers.AdamW(rate, weight_decay=decay)
    optimizer.exclude_from_weight_decay(
        var_list=[variable for variable in network.trainable_variables if len(variable.shape) < 2]
    )
    number, logs = 0, []
    for epoch in range(epochs):
        order, losses, right = modern.epoch_order(plan, fold, epoch), [], 0
        for rows in np.split(order, len(order) // plan.batch_size):
            inputs = modern.encode(*features.take(rows), made.encoding, fold.encoder)
            label = features.label[rows]
            values = draw(plan, fold.seed_value, number).numpy()
            dropouts = [(layers[f"dropout_{place}"], count) for place, count in enumerate(units, 1)]
            masks = list(dropout_masks(plan, dropouts, values))
            with tf.GradientTape() as tape:
                hidden = inputs
                for place, mask in enumerate(masks, 1):
                    hidden = layers[f"hidden_{place}"](hidden)
                    hidden = layers[f"normalization_{place}"](hidden, training=True) * mask.T
                logits = (layers["from_hidden"](hidden) + layers["from_inputs"](inputs))[:, 0]
                loss = tf.reduce_mean(keras.losses.binary_crossentropy(label[:, None], logits[:, None], True))
            optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
            losses.append(float(loss))
            right += int(np.sum((logits.numpy() > 0) == (label > 0.5)))
            number += 1
        validation = fold.split.validation
        predicted = made.saved.model(modern.raw_inputs(made.table, validation)).numpy()[:, 0]
        loss = modern.log_losses(features.label[validation], predicted).mean()
        logs.append((np.mean(losses), right / len(order), loss))
    return logs, modern.current_weights(network)


@pytest.mark.parametrize("architecture", modern.ARCHITECTURES)
@pytest.mark.parametrize("xla", [False, True])
def test_program_equals_eager_keras(tf, sample, architecture, xla):
    # threefry exists only under XLA, so the reference's bytes are drawn by a compiled function when the program is.
    made = make(sample(150), architecture)
    made.plan, made.fold.seed_value = made.plan._replace(xla=xla), made.plan.seed
    live = train(tf, made, 3)
    draw = modern.draw_bytes
    if xla:
        plan = made.plan
        compiled = tf.function(lambda seed, step: draw(plan, seed, step), jit_compile=True, autograph=False)
        logs, weights = reference(tf, made, 3, lambda _, *place: compiled(*map(tf.constant, place)))
    else:
        logs, weights = reference(tf, made, 3, draw)
    assert abs(weights.trained - made.weights[0].trained).max() > 0.01
    np.testing.assert_allclose(live.now.trained, weights.trained, atol=2e-4)
    np.testing.assert_allclose(live.now.moving, weights.moving, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose([entry["loss"] for entry in live.history], [entry[0] for entry in logs], rtol=1e-4)
    np.testing.assert_allclose([entry["accuracy"] for entry in live.history], [entry[1] for entry in logs], atol=0.01)
    np.testing.assert_allclose([entry["val_loss"] for entry in live.history], [entry[2] for entry in logs], rtol=1e-4)


def state_of(vector):
    return modern.first_state(modern.Weights(vector, np.zeros(2, np.float32)), 0.01)


@pytest.mark.parametrize("decay", [modern.WEIGHT_DECAY, 0.0])
def test_update_equals_keras_optimizers(tf, decay):
    import keras

    generator = np.random.default_rng(0)
    start = generator.normal(size=50).astype(np.float32)
    variable = keras.Variable(start)
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=decay) if decay else keras.optimizers.Adam(0.01)
    state = state_of(start)
    for step in range(20):
        gradient = generator.normal(size=50).astype(np.float32) * 10.0 ** (step % 5 - 2)
        optimizer.apply([tf.constant(gradient)], [variable])
        state = modern.update(state, tf.constant(gradient), decay)._replace(step=tf.constant(step + 1))
        np.testing.assert_allclose(state.trained, variable.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_decisions_equal_keras_callbacks(tf, seed):
    import keras

    generator = np.random.default_rng(seed)
    losses = (1 / (1 + np.arange(60) / 5) + generator.normal(0, 0.1, 60)).astype(np.float32)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    stopping = keras.callbacks.EarlyStopping(patience=9)
    reducing = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=3, min_lr=modern.MINIMUM_LEARNING_RATE)
    callbacks = keras.callbacks.CallbackList([stopping, reducing], model=model)
    callbacks.on_train_begin()
    plan = SimpleNamespace(patience=9, plateau=3)
    state = state_of(np.zeros(4, np.float32))
    for epoch, loss in enumerate(losses):
        callbacks.on_epoch_end(epoch, {"val_loss": float(loss)})
        state = modern.end_epoch(plan, state, tf.constant(loss))
        assert float(state.learning_rate) == pytest.approx(float(model.optimizer.learning_rate), rel=1e-6)
        assert model.stop_training == (int(state.wait) >= 9)
        if model.stop_training:
            break
    assert float(state.learning_rate) < 0.01


def slow_encoding(made, rows):
    """The inputs of rows by the words of the documentation, cell by cell."""
    table, encoding, encoder = made.table, made.encoding, made.fold.encoder
    training, scales = made.fold.split.training, encoding.scales
    result = []

    def scaled_number(number, place):
        scaled = (number - scales.offset[place]) * scales.gain[place]
        if scales.logarithmic[place]:
            scaled = np.sign(scaled) * np.log1p(abs(scaled))
        return np.clip(scaled, -1e6, 1e6)

    def parts_of_bins(number, edges):
        return [0.25 * min(max((number - low) / (high - low), 0), 1) for low, high in pairwise(edges)]

    for row in rows:
        cells, gaps = [], []
        for place, number in enumerate(table.numbers[row]):
            value = (scaled_number(number, place) - encoder.center[place]) * encoder.scale[place]
            cells.append(0 if np.isnan(number) else value / np.sqrt(1 + (value / 3) ** 2))
            if np.isnan(table.numbers[:, place]).any():
                gaps.append(np.isnan(number) and np.isnan(table.numbers[training, place]).any())
        cells += gaps
        for codes in table.codes.T:
            learned = sorted(set(codes[training]))
            cells += [codes[row] == code for code in learned]
        for place, number in enumerate(table.numbers[row]):
            count = min(16, len(training) // 20, len({*table.numbers[:, place]} - {np.nan}) - 1)
            known = [scaled_number(other, place) for other in table.numbers[training, place] if not np.isnan(other)]
            edges = sorted(set(np.quantile(known, np.linspace(0, 1, count + 1)).tolist()))
            assert np.all(np.diff(edges) > 0.002 * np.abs(edges[1:]))  # else they would be merged
            mean = np.mean([parts_of_bins(other, edges) for other in known], axis=0)
            own = np.zeros(len(mean)) if np.isnan(number) else parts_of_bins(scaled_number(number, place), edges) - mean
            cells += [*own, *[0] * (count - len(own))]
        result.append(cells)
    return np.array(result, np.float32)


def write_with_gaps(path):
    modern.write_sample(path, 200, 3)
    lines = path.read_text().splitlines()
    for place in range(10, 100, 7):
        cells = lines[place].split(",")
        cells[place % 4] = ""
        lines[place] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")
    return path


def test_encoding_equals_a_slow_one_everywhere(tf, tmp_path):
    made = make(write_with_gaps(tmp_path / "a.csv"))
    rows = np.arange(200, dtype=np.int32)
    expected = slow_encoding(made, rows)
    assert len(made.encoding.gaps) == 3 and expected.shape == (200, made.encoding.width)
    np.testing.assert_allclose(
        modern.encode(*made.features.take(rows), made.encoding, made.fold.encoder), expected, atol=1e-5
    )
    last = modern.encode_rows(made.encoding, made.fold.encoder, made.features, tf.constant(rows))
    np.testing.assert_allclose(tf.transpose(last), expected, atol=1e-5)
    width = made.encoding.linear_width
    vector = np.random.default_rng(1).normal(size=width)
    sparse = modern.encode_sparse(made.features, rows, made.encoding, made.fold.encoder)
    np.testing.assert_allclose(sparse.times(vector), expected[:, :width] @ vector, atol=1e-4)
    values = np.random.default_rng(2).normal(size=200)
    np.testing.assert_allclose(sparse.transposed_times(values, width), values @ expected[:, :width], atol=1e-4)
    moving = np.abs(np.random.default_rng(0).normal(1, 0.3, made.weights[0].moving.shape)).astype(np.float32)
    weights = made.weights[0]._replace(moving=moving)
    made.saved.assign([weights])
    found = made.saved.model(modern.raw_inputs(made.table, rows)).numpy()[:, 0]
    logits = made.predictor.logits(made.features, made.fold, weights, rows)
    np.testing.assert_allclose(found, modern.sigmoid(logits), atol=1e-5)
    np.testing.assert_allclose(made.saved.networks[0](expected)[:, 0], logits, atol=1e-4)


@pytest.mark.parametrize("xla", [False, True])
def test_same_seed_same_bits_and_calls_of_any_length(tf, sample, xla):
    made = make(sample(120))
    plan = made.plan._replace(xla=xla)
    first, second = (train(tf, made, 12, plan=plan) for _ in range(2))
    np.testing.assert_array_equal(first.now.trained, second.now.trained)
    assert first.history == second.history
    single = train(tf, made, 12, plan=plan._replace(epochs_per_call=1))
    if xla:  # another program: compiled to other orders of addition
        np.testing.assert_allclose(first.now.trained, single.now.trained, atol=1e-5)
    else:
        np.testing.assert_array_equal(first.now.trained, single.now.trained)
    other = train(tf, made, 12, plan=plan._replace(seed=plan.seed + 1))
    assert (other.now.trained != first.now.trained).any()


def test_several_segments_equal_one(tf, sample, monkeypatch):
    made = make(sample(400))
    whole = train(tf, made, 2, plan=made.plan._replace(segments=1, steps=30))
    monkeypatch.setattr(modern, "VALIDATION_SEGMENT", 32)
    parts = train(tf, made, 2, plan=made.plan._replace(segments=5, steps=6))
    np.testing.assert_allclose(whole.now.trained, parts.now.trained, atol=1e-5)
    np.testing.assert_allclose(whole.history[-1]["val_loss"], parts.history[-1]["val_loss"], rtol=1e-5)


def test_every_training_row_is_drawn_in_every_epoch(tf, sample):
    made = make(sample(117))
    plan, fold = made.plan, made.fold
    for epoch in range(3):
        order = modern.epoch_order(plan, fold, epoch)
        assert len(order) == plan.rows and set(order) == set(fold.split.training)
        assert len(order) - len(fold.split.training) < plan.batch_size * plan.segments
    assert (modern.epoch_order(plan, fold, 0) != modern.epoch_order(plan, fold, 1)).any()


@pytest.mark.parametrize("batch_size", [1, 8, 256, 5_000, 9_000, 28_000, 65_536])
@pytest.mark.parametrize("rows", [1, 20, 28_000, 70_001, 700_000])
def test_an_epoch_is_cut_into_segments_that_draw_few_rows_twice(rows, batch_size):
    steps = math.ceil(rows / batch_size)
    for width in (1, 63, 5_000):
        segments, in_each = modern.segment_steps(rows, batch_size, width)
        assert steps <= segments * in_each <= 1.15 * steps
        cells = max(modern.SEGMENT_CELLS, batch_size * width)
        assert in_each * batch_size <= max(modern.SEGMENT_ROWS, batch_size) and in_each * batch_size * width <= cells


def test_the_quick_mish_is_that_of_keras(tf):
    from keras import activations

    values = tf.constant(np.concatenate([np.linspace(-30, 30, 10_001), [-1e30, -200, 0, 200, 1e30]]), tf.float32)
    found = []
    for activation in (modern.quick_mish, activations.mish):
        with tf.GradientTape() as tape:
            tape.watch(values)
            outputs = activation(values)
        found.append((outputs, tape.gradient(outputs, values)))
    for quick, plain in zip(*found, strict=True):
        np.testing.assert_allclose(quick, plain, rtol=1e-5, atol=1e-6)
    half = tf.cast(values, tf.float16)
    assert modern.quick_mish(half).dtype == tf.float16
    np.testing.assert_allclose(modern.quick_mish(half)[:-5], activations.mish(values)[:-5], rtol=0.01, atol=0.01)


@pytest.mark.parametrize("counts", [[3, 0, 2], [1] * (modern.SLICED_COLUMNS + 1)])
def test_columns_are_spread_alike_in_training_and_in_the_saved_model(tf, counts):
    values = np.random.default_rng(0).normal(size=(5, len(counts)))
    expected = np.repeat(values, counts, axis=1)
    np.testing.assert_array_equal(modern.spread(tf.constant(values), counts, -1), expected)
    np.testing.assert_array_equal(modern.spread(tf.constant(values.T), counts, 0), expected.T)


def test_dropout_keeps_the_mean_and_the_rate(tf):
    _, _, dropout = modern.rows_last_layers()
    plan = SimpleNamespace(batch_size=1000, byte_rows=30, xla=False)
    values = modern.draw_bytes(plan, tf.constant(1), tf.constant(2))
    assert (
        values.shape == (30, 1000) and (modern.draw_bytes(plan, tf.constant(1), tf.constant(3)) != values).numpy().any()
    )
    layer = dropout(0.2, 10)
    kept = layer([tf.ones([20, 1000]), values], training=True).numpy()
    assert np.mean(kept == 0) == pytest.approx(0.2, abs=0.01) and kept.mean() == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(layer([tf.ones([20, 1000]), values], training=False), np.ones([20, 1000]))


def test_best_weights_and_stop(tf, sample):
    made = make(sample(100))
    live = train(tf, made, 400, rate=0.05, plan=made.plan._replace(patience=5, plateau=2))
    losses = [entry["val_loss"] for entry in live.history]
    assert live.best_epoch == int(np.argmin(losses)) + 1 and len(losses) == live.best_epoch + 5
    rows = live.split.validation
    logits = made.predictor.logits(made.features, live, live.best, rows)
    found = modern.log_losses(made.table.label[rows], modern.sigmoid(logits)).mean()
    assert found == pytest.approx(min(losses), rel=1e-4)
    assert live.history[-1]["learning_rate"] < 0.05
    free = train(tf, made, 30, rate=0.05, plan=made.plan._replace(patience=0, plateau=0))
    assert len(free.history) == 30 and free.history[-1]["learning_rate"] == pytest.approx(0.05)


def test_a_loss_that_is_not_a_number_ends_training(tf, sample):
    made = make(sample(100))
    for xla in (False, True):
        live = train(tf, made, 50, rate=1e30, plan=made.plan._replace(xla=xla))
        assert "not a number" in live.reason and len(live.history) < 50


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("xla", [False, True])
def test_sixteen_bits_learn(tf, sample, precision, xla):
    made = make(sample(200))
    plan = made.plan._replace(xla=xla)
    network, _ = modern.training_network(modern.ARCHITECTURES["standard"], plan.width, 0.9, precision)
    live = train(tf, made, 30, plan=plan._replace(precision=precision, network=network))
    wide = train(tf, made, 30, plan=plan)
    assert live.now.trained.dtype == np.float32
    assert live.history[-1]["val_loss"] == pytest.approx(wide.history[-1]["val_loss"], abs=0.05)
    assert (live.now.trained != wide.now.trained).any()


def test_an_overflow_skips_the_step_and_halves_the_scale(tf):
    before = state_of(np.zeros(4, np.float32))
    after = before._replace(trained=before.trained + 1, step=before.step + 1)
    kept = modern.guard_overflow(before, after, tf.constant(False))
    assert float(kept.loss_scale) == 2**14 and int(kept.step) == 0 and float(kept.trained[0]) == 0
    taken = modern.guard_overflow(before._replace(good_steps=tf.constant(1_999)), after, tf.constant(True))
    assert float(taken.loss_scale) == 2**16 and int(taken.step) == 1 and float(taken.trained[0]) == 1


@pytest.mark.parametrize(
    "architecture, units, rate", [("lightweight", [8], 0.2), ("standard", [10, 10], 0.2), ("deep", [16, 12, 8], 0.3)]
)
def test_architectures_layer_by_layer(tf, sample, architecture, units, rate):
    from keras import layers

    made = make(sample(100), architecture)
    model = made.saved.model
    assert type(model).__name__ == "Functional"
    hidden = [
        layer for layer in model.layers if layer.name.rpartition("_")[0] in ("hidden", "normalization", "dropout")
    ]
    assert [type(layer) for layer in hidden] == [layers.Dense, layers.BatchNormalization, layers.Dropout] * len(units)
    assert [layer.units for layer in hidden[::3]] == units
    assert {layer.activation.__name__ for layer in hidden[::3]} == {"mish"}
    assert [layer.rate for layer in hidden[2::3]] == [rate] * len(units)
    output = model.layers[-1]
    assert (type(output), output.units, output.activation.__name__) == (layers.Dense, 1, "sigmoid")
    assert output.dtype_policy.name == "float32" and model.output_shape == (None, 1)
    assert model.get_layer("from_hidden").kernel.shape == (units[-1], 1)
    assert model.get_layer("from_inputs").kernel.shape == (made.encoding.width, 1)
    trained = made.plan.network
    assert [variable.shape for variable in trained.variables] == [
        variable.shape for variable in made.saved.networks[0].variables if variable.dtype == "float32"
    ]


def test_a_network_starts_as_the_logistic_regression(tf, sample):
    made = make(sample(100))
    fold, network = made.fold, made.saved.networks[0]
    linear = modern.fit_linear(made.features, fold.split.training, made.encoding, fold.encoder)
    network.get_layer("from_hidden").kernel.assign(np.zeros((10, 1)))
    modern.start_from_linear_model(network, linear)
    inputs = modern.encode(*made.features.take(fold.split.test), made.encoding, fold.encoder).numpy()
    np.testing.assert_allclose(
        network(inputs)[:, 0], inputs[:, : len(linear) - 1] @ linear[:-1] + linear[-1], atol=1e-5
    )


@pytest.mark.parametrize("weighting", ["none", "balanced"])
def test_one_net_answers_together_with_a_logistic_regression(tf, sample, weighting):
    made = make(sample(150), "standard", "--class-weight", weighting)
    made.folds = [train(tf, made, 5, 0.01)]
    (kept,), temperature, _ = modern.kept_weights(made)
    share = made.decisions["network_share"].value
    assert 0 < share < 1 and temperature > 0
    fold = made.folds[0]
    known = np.concatenate(fold.split[:2])
    linear = modern.fit_linear(made.features, known, made.encoding, fold.encoder, modern.MIXED_PENALTY)
    zero, one = made.plan.class_weights
    assert (weighting == "none") == (zero == one)
    inputs = modern.encode(*made.features.take(fold.split.test), made.encoding, fold.encoder).numpy()
    straight = inputs[:, : len(linear) - 1] @ linear[:-1] + linear[-1] + np.log(one / zero)
    net = made.predictor.logits(made.features, fold, fold.best, fold.split.test)
    both = made.predictor.logits(made.features, fold, kept, fold.split.test)
    np.testing.assert_allclose(both, share * net + (1 - share) * straight, atol=1e-4)


def test_ten_nets_are_kept_as_they_were_trained(tf, sample):
    made = make(sample(150), "standard", "--folds", "4")
    train(tf, made, 2, folds=made.folds)
    made.folds = made.trained
    weights, _, _ = modern.kept_weights(made)
    assert all(kept is fold.best for kept, fold in zip(weights, made.folds, strict=True))
    assert "network_share" not in made.decisions


DEVICES = {
    "volta": (modern.Device("gpu", "V100", (7, 0)), "float16", "float16"),
    "ampere": (modern.Device("gpu", "A100", (8, 0)), "float16", "float16"),
    "pascal": (modern.Device("gpu", "P100", (6, 0)), "float32", "float32"),
    "new cpu": (modern.Device("cpu", "EPYC", flags=frozenset({"avx512_bf16"})), "float32", "bfloat16"),
    "amx": (modern.Device("cpu", "Xeon", flags=frozenset({"amx_bf16"})), "float32", "bfloat16"),
    "old cpu": (modern.Device("cpu", "Core"), "float32", "float32"),
}


@pytest.mark.parametrize("name", DEVICES)
def test_precision_by_device(name):
    device, default, asked = DEVICES[name]
    assert modern.choose_precision(None, device).value == default
    assert modern.choose_precision(True, device).value == asked
    assert modern.choose_precision(False, device) == ("float32", "as requested")
    assert device.name in modern.choose_precision(True, modern.Device(device.kind, device.name)).reason


def test_choices_follow_the_rows():
    assert [modern.choose_batch_size(None, rows).value for rows in (66, 900, 2_000, 20_000, 60_000)] == [
        8,
        8,
        16,
        32,
        256,
    ]
    assert modern.choose_batch_size(500, 66).value == 66 and modern.choose_batch_size(5, 66).value == 5
    assert modern.choose_patience(9).value == 50 and modern.choose_patience(2_000).value == 10
    assert modern.choose_xla(None, 1_000, 32).value is False and modern.choose_xla(None, 1_000_000, 32).value is True
    assert modern.choose_xla(True, 1, 32).value is True and modern.choose_xla(False, 10**9, 32).value is False
    assert modern.choose_momentum(500).value == 0.9 and modern.choose_momentum(50_000).value == 0.99


def test_any_keras_callback_sees_the_model_and_may_stop_it(tf, sample, tmp_path):
    import keras

    made, seen = make(sample(100)), []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, logs["val_loss"], self.model.get_layer("hidden_1").kernel.numpy()))
            if epoch == 3:
                self.model.stop_training = True

    path = tmp_path / "best.keras"
    best = keras.callbacks.ModelCheckpoint(path, monitor="val_loss", save_best_only=True)
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    live = train(tf, made, 20, callbacks=[Watch(), best, log], plan=made.plan._replace(epochs_per_call=7))
    assert [entry[0] for entry in seen] == [0, 1, 2, 3] and len(live.history) == 4
    assert [entry[1] for entry in seen] == [logs["val_loss"] for logs in live.history]
    assert live.reason == "a callback asked for it"
    kernel = live.now.trained[: seen[0][2].size].reshape(seen[0][2].shape)
    np.testing.assert_array_equal(seen[-1][2], kernel)
    rows = live.split.validation
    predicted = keras.models.load_model(path)(modern.raw_inputs(made.table, rows)).numpy()[:, 0]
    assert modern.log_losses(made.table.label[rows], predicted).mean() == pytest.approx(live.best_loss, rel=1e-4)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 5
