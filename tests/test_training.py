"""The training program against plain, slow references: the same batches, dropout, losses, weights and decisions."""

import numpy as np
import pytest

import train_model_modern as modern


def make(path, architecture="standard", *flags):
    """Table, fold, plan and first weights of a run, as main makes them."""
    options = modern.parse_options([str(path), "--architecture", architecture, *flags])
    table = modern.read_table(options)
    split = modern.split_rows(table.label, "random", options.seed)
    fold = modern.Fold(0, split, modern.fit_encoders(table, [split])[0])
    plan = modern.make_plan(
        options, [split], table.label, fold.encoder.width, modern.decide(options, [split]), "float32"
    )
    lit = modern.lit_inputs(table, fold.encoder, split.training)
    return options, table, fold, plan, modern.initial_weights(plan.units, plan.width, lit, [1])


def train(tf, table, fold, plan, weights, epochs, rate=0.001, on_epoch=None):
    program = modern.build_program(tf, plan, fold.encoder)
    net = modern.start_net(tf, plan, fold, modern.first_state(tf, plan, weights, rate))
    modern.train_nets(tf, plan, program, modern.table_inputs(tf, table), [net], epochs, on_epoch, modern.StopRequest())
    return net


def first_net(plan, weights):
    statistics = np.concatenate([np.full(count, value, np.float32) for count in plan.units for value in (0, 1)])
    return modern.Net(weights, statistics)


def reference(tf, table, fold, plan, weights, epochs, rate=0.001, decay=modern.WEIGHT_DECAY):
    """Train the Keras model itself, eagerly, with keras.optimizers.AdamW and the same rows and masks."""
    import keras

    split = fold.split
    architecture = modern.Architecture(plan.units, plan.dropout)
    model = modern.build_model(table, [fold.encoder], architecture, plan.momentum)
    modern.set_weights(model, modern.model_variables(plan.units, [fold.encoder], [first_net(plan, weights)]))
    optimizer = keras.optimizers.AdamW(rate, weight_decay=decay)
    optimizer.exclude_from_weight_decay(
        var_list=[variable for variable in model.trainable_variables if len(variable.shape) < 2]
    )
    number, logs = 0, []
    for epoch in range(epochs):
        order, losses, right = modern.epoch_order(plan, fold, epoch), [], 0
        for rows in np.split(order, len(order) // plan.batch_size):
            inputs, label = tf.constant(modern.encode(table, fold.encoder, rows)), table.label[rows]
            mask = modern.dropout_mask(tf, plan, tf.constant(plan.seed), tf.constant(number))
            with tf.GradientTape() as tape:
                hidden, start = inputs, 0
                for layer, units in enumerate(plan.units, 1):
                    hidden = model.get_layer(f"hidden_{layer}")(hidden)
                    hidden = model.get_layer(f"normalization_{layer}")(hidden, training=True)
                    hidden *= tf.transpose(mask[start : start + units])
                    start += units
                probability = model.get_layer("probability")(tf.concat([hidden, inputs], 1))[:, 0]
                loss = tf.reduce_mean(keras.losses.binary_crossentropy(label[:, None], probability[:, None]))
            optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
            losses.append(float(loss))
            right += int(np.sum((probability.numpy() > 0.5) == (label > 0.5)))
            number += 1
        predicted = model(modern.raw_inputs(table, split.validation)).numpy()[:, 0]
        logs.append(
            (np.mean(losses), right / len(order), modern.log_losses(table.label[split.validation], predicted).mean())
        )
    flat = np.concatenate([variable.numpy().ravel() for variable in model.trainable_variables])
    moving = np.concatenate(
        [variable.numpy().ravel() for variable in model.non_trainable_variables if "moving" in variable.name]
    )
    return logs, flat, moving


@pytest.mark.parametrize("architecture", modern.ARCHITECTURES)
@pytest.mark.parametrize("xla", [False, True])
def test_program_equals_eager_keras(tf, sample, architecture, xla):
    # threefry exists only under XLA, so the reference's masks are drawn by a compiled function when the program is.
    _, table, fold, plan, weights = make(sample(150), architecture)
    plan = plan._replace(xla=xla)
    live = train(tf, table, fold, plan, weights, 3)
    draw = modern.dropout_mask
    if xla:
        compiled = tf.function(lambda seed, step: draw(tf, plan, seed, step), jit_compile=True, autograph=False)
        modern.dropout_mask = lambda tf, plan, seed, step: compiled(seed, step)
    try:
        logs, flat, moving = reference(tf, table, fold, plan, weights, 3)
    finally:
        modern.dropout_mask = draw
    assert abs(flat - weights).max() > 0.01
    np.testing.assert_allclose(live.now.weights, flat, atol=2e-4)
    np.testing.assert_allclose(live.now.statistics, moving, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose([entry["loss"] for entry in live.history], [entry[0] for entry in logs], rtol=1e-4)
    np.testing.assert_allclose([entry["accuracy"] for entry in live.history], [entry[1] for entry in logs], atol=0.01)
    np.testing.assert_allclose([entry["val_loss"] for entry in live.history], [entry[2] for entry in logs], rtol=1e-4)


@pytest.mark.parametrize("decay", [modern.WEIGHT_DECAY, 0.0])
def test_update_equals_keras_optimizers(tf, decay):
    import keras

    generator = np.random.default_rng(0)
    start = generator.normal(size=50).astype(np.float32)
    variable = keras.Variable(start)
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=decay) if decay else keras.optimizers.Adam(0.01)
    plan = modern.Plan((1,), 0, 1, 1, 1, 1, 1, 1, 0.9, decay, 0, 0, "float32", False, 0)
    state = modern.first_state(tf, plan, start, 0.01)
    for step in range(20):
        gradient = generator.normal(size=50).astype(np.float32) * 10.0 ** (step % 5 - 2)
        optimizer.apply([tf.constant(gradient)], [variable])
        state = modern.update(tf, plan, state, tf.constant(gradient), decay)._replace(step=tf.constant(step + 1))
        np.testing.assert_allclose(state.weights, variable.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_decisions_equal_keras_callbacks(tf, seed):
    import keras

    generator = np.random.default_rng(seed)
    losses = (1 / (1 + np.arange(60) / 5) + generator.normal(0, 0.1, 60)).astype(np.float32)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.001), "mse")
    stopping = keras.callbacks.EarlyStopping(patience=9)
    reducing = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=3, min_lr=modern.MINIMUM_LEARNING_RATE)
    callbacks = keras.callbacks.CallbackList([stopping, reducing], model=model)
    callbacks.on_train_begin()
    plan = modern.Plan((1,), 0, 1, 1, 1, 1, 1, 1, 0.9, 0, 9, 3, "float32", False, 0)
    state = modern.first_state(tf, plan, np.zeros(4, np.float32), 0.001)
    for epoch, loss in enumerate(losses):
        callbacks.on_epoch_end(epoch, {"val_loss": float(loss)})
        state = modern.end_epoch(tf, plan, state, tf.constant(loss))
        assert float(state.learning_rate) == pytest.approx(float(model.optimizer.learning_rate), rel=1e-6)
        assert (int(state.wait) >= 9) == stopping.stopped_epoch > 0 or model.stop_training == (int(state.wait) >= 9)
        if model.stop_training:
            break
    assert float(state.learning_rate) < 0.001


def test_encoding_in_the_program_equals_numpy(tf, tmp_path):
    path = tmp_path / "a.csv"
    modern.write_sample(path, 200, 3)
    lines = path.read_text().splitlines()
    for place in range(10, 100, 7):
        cells = lines[place].split(",")
        cells[place % 4] = ""
        lines[place] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")
    _, table, fold, _, _ = make(path)
    rows = np.arange(200, dtype=np.int32)
    expected = modern.encode(table, fold.encoder, rows)
    found = modern.encode_rows(
        tf, fold.encoder, modern.table_inputs(tf, table), modern.encoder_code(tf, fold.encoder), tf.constant(rows)
    )
    assert len(fold.encoder.gaps) == 3
    np.testing.assert_allclose(tf.transpose(found), expected, atol=1e-5)
    architecture = modern.ARCHITECTURES["standard"]
    model = modern.build_model(table, [fold.encoder], architecture, 0.9)
    weights = modern.initial_weights(architecture.units, fold.encoder.width, np.ones(fold.encoder.width, bool), [5])
    statistics = np.abs(np.random.default_rng(0).normal(size=2 * sum(architecture.units))).astype(np.float32)
    net = modern.Net(weights, statistics)
    modern.set_weights(model, modern.model_variables(architecture.units, [fold.encoder], [net]))
    logits = modern.net_logits(table, fold.encoder, architecture.units, net, rows)
    np.testing.assert_allclose(model(modern.raw_inputs(table, rows)).numpy()[:, 0], modern.sigmoid(logits), atol=1e-5)


@pytest.mark.parametrize("xla", [False, True])
def test_same_seed_same_bits_and_calls_of_any_length(tf, sample, xla):
    _, table, fold, plan, weights = make(sample(120))
    plan = plan._replace(xla=xla)
    first, second = (train(tf, table, fold, plan, weights, 12) for _ in range(2))
    np.testing.assert_array_equal(first.now.weights, second.now.weights)
    assert first.history == second.history
    single = train(tf, table, fold, plan._replace(epochs_per_call=1), weights, 12)
    if xla:  # another program: compiled to other orders of addition
        np.testing.assert_allclose(first.now.weights, single.now.weights, atol=1e-5)
    else:
        np.testing.assert_array_equal(first.now.weights, single.now.weights)
    other = train(tf, table, fold, plan._replace(seed=plan.seed + 1), weights, 12)
    assert (other.now.weights != first.now.weights).any()


def test_several_segments_equal_one(tf, sample, monkeypatch):
    _, table, fold, plan, weights = make(sample(400))
    whole = train(tf, table, fold, plan._replace(segments=1, steps=30), weights, 2)
    monkeypatch.setattr(modern, "VALIDATION_SEGMENT", 32)
    parts = train(tf, table, fold, plan._replace(segments=5, steps=6), weights, 2)
    np.testing.assert_allclose(whole.now.weights, parts.now.weights, atol=1e-5)
    np.testing.assert_allclose(whole.history[-1]["val_loss"], parts.history[-1]["val_loss"], rtol=1e-5)


def test_every_training_row_is_drawn_in_every_epoch(sample):
    _, _, fold, plan, _ = make(sample(117))
    for epoch in range(3):
        order = modern.epoch_order(plan, fold, epoch)
        assert len(order) == plan.rows and set(order) == set(fold.split.training)
        assert len(order) - len(fold.split.training) < plan.batch_size * plan.segments
    assert (modern.epoch_order(plan, fold, 0) != modern.epoch_order(plan, fold, 1)).any()


def test_dropout_keeps_the_mean_and_the_rate(tf, sample):
    _, _, _, plan, _ = make(sample(100))
    plan = plan._replace(batch_size=1000, xla=False)
    mask = modern.dropout_mask(tf, plan, tf.constant(1), tf.constant(2)).numpy()
    assert mask.shape == (20, 1000)
    assert np.mean(mask == 0) == pytest.approx(0.2, abs=0.01) and mask.mean() == pytest.approx(1, abs=0.02)


def test_best_weights_and_stop(tf, sample):
    _, table, fold, plan, weights = make(sample(100))
    live = train(tf, table, fold, plan._replace(patience=5, plateau=2), weights, 400, rate=0.05)
    losses = [entry["val_loss"] for entry in live.history]
    assert live.best_epoch == int(np.argmin(losses)) + 1 and len(losses) == live.best_epoch + 5
    logits = modern.net_logits(table, fold.encoder, plan.units, live.best, fold.split.validation)
    found = modern.log_losses(table.label[fold.split.validation], modern.sigmoid(logits)).mean()
    assert found == pytest.approx(min(losses), rel=1e-4)
    assert live.history[-1]["learning_rate"] < 0.05
    free = train(tf, table, fold, plan._replace(patience=0, plateau=0), weights, 30, rate=0.05)
    assert len(free.history) == 30 and free.history[-1]["learning_rate"] == pytest.approx(0.05)


def test_a_loss_that_is_not_a_number_ends_training(tf, sample):
    _, table, fold, plan, weights = make(sample(100))
    for xla in (False, True):
        live = train(tf, table, fold, plan._replace(xla=xla), weights, 50, rate=1e30)
        assert "not a number" in live.reason and len(live.history) < 50


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("xla", [False, True])
def test_sixteen_bits_learn(tf, sample, precision, xla):
    _, table, fold, plan, weights = make(sample(200))
    live = train(tf, table, fold, plan._replace(precision=precision, xla=xla), weights, 30)
    wide = train(tf, table, fold, plan._replace(xla=xla), weights, 30)
    assert live.now.weights.dtype == np.float32
    assert live.history[-1]["val_loss"] == pytest.approx(wide.history[-1]["val_loss"], abs=0.05)
    assert (live.now.weights != wide.now.weights).any()


def test_an_overflow_skips_the_step_and_halves_the_scale(tf):
    plan = modern.Plan((1,), 0, 1, 1, 1, 1, 1, 1, 0.9, 0, 9, 3, "float16", False, 0)
    before = modern.first_state(tf, plan, np.zeros(4, np.float32), 0.001)
    after = before._replace(weights=before.weights + 1, step=before.step + 1)
    kept = modern.guard_overflow(tf, before, after, tf.constant(False))
    assert float(kept.loss_scale) == 2**14 and int(kept.step) == 0 and float(kept.weights[0]) == 0
    taken = modern.guard_overflow(tf, before._replace(good_steps=tf.constant(1_999)), after, tf.constant(True))
    assert float(taken.loss_scale) == 2**16 and int(taken.step) == 1 and float(taken.weights[0]) == 1


@pytest.mark.parametrize(
    "architecture, units, rate", [("lightweight", [8], 0.2), ("standard", [10, 10], 0.2), ("deep", [16, 12, 8], 0.3)]
)
def test_architectures_layer_by_layer(tf, sample, architecture, units, rate):
    import keras

    _, table, fold, _, _ = make(sample(100))
    model = modern.build_model(table, [fold.encoder], modern.ARCHITECTURES[architecture], 0.9)
    assert type(model).__name__ == "Functional"
    kinds = (keras.layers.Dense, keras.layers.BatchNormalization, keras.layers.Dropout)
    core = [layer for layer in model.layers if isinstance(layer, kinds)]
    assert [type(layer) for layer in core] == [*kinds] * len(units) + [keras.layers.Dense]
    assert [layer.units for layer in core[::3]] == [*units, 1]
    assert [layer.activation.__name__ for layer in core[::3]] == ["relu"] * len(units) + ["sigmoid"]
    assert [layer.rate for layer in core[2::3]] == [rate] * len(units)
    assert core[-1].dtype_policy.name == "float32" and model.output_shape == (None, 1)
    assert core[-1].kernel.shape == (units[-1] + fold.encoder.width, 1)


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
    assert modern.choose_precision(False, device) == ("float32", "as asked")
    assert (
        device.name
        in modern.choose_precision(True, modern.Device("gpu" if device.kind == "gpu" else "cpu", device.name)).reason
    )


def test_choices_follow_the_rows():
    assert [modern.choose_batch_size(None, rows).value for rows in (66, 900, 2_000, 60_000)] == [8, 8, 16, 32]
    assert modern.choose_batch_size(500, 66).value == 66 and modern.choose_batch_size(5, 66).value == 5
    assert modern.choose_patience(9).value == 50 and modern.choose_patience(2_000).value == 10
    assert modern.choose_xla(None, 1_000).value is False and modern.choose_xla(None, 1_000_000).value is True
    assert modern.choose_xla(True, 1).value is True and modern.choose_xla(False, 10**9).value is False
    assert modern.choose_momentum(500).value == 0.9 and modern.choose_momentum(50_000).value == 0.99


def test_any_keras_callback_sees_the_model(tf, sample):
    import keras

    _, table, fold, plan, weights = make(sample(100))
    model = modern.build_model(table, [fold.encoder], modern.Architecture(plan.units, plan.dropout), 0.9)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, logs["val_loss"], self.model.get_layer("hidden_1").kernel.numpy().sum()))
            if epoch == 3:
                self.model.stop_training = True

    drive = modern.drive_callbacks(model, plan, [Watch()], 20)
    live = train(tf, table, fold, plan._replace(epochs_per_call=1), weights, 20, on_epoch=drive)
    assert [entry[0] for entry in seen] == [0, 1, 2, 3] and len(live.history) == 4
    assert len({entry[2] for entry in seen}) == 4
    size = plan.width * plan.units[0]
    assert seen[-1][2] == pytest.approx(live.now.weights[:size].sum(), abs=1e-4)
