"""The TensorBoard logs of a run: logs/<run>/train and validation.

Only functions import TensorBoard, because a run without logs does not need it.
"""

import contextlib
import errno
import functools
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from harvest.cli import Console
from harvest.training.config import Config, Plan
from harvest.training.folds import Fold, FoldCallback
from harvest.training.program import State, Weights, train_step
from harvest.training.tensorflow_setup import metadata_version

TELLING = ["data", "architecture", "folds", "learning_rate", "seed"]  # hyperparameters that are shown first
OTHERS = ["adamw", "batch_size", "class_weight", "early_stopping", "epochs", "patience", "precision", "reduce_lr"]
OTHERS += ["split"]

Rows = tuple[np.ndarray, np.ndarray]  # their labels and probabilities: [N], [N]
# For a fold and its weights: the values of the histograms by tag, and the AUC of validation rows.
ValuesOf = Callable[[Fold, Weights], tuple[dict[str, ArrayLike], float]]


class TensorBoardLog(FoldCallback):
    """Writes the event files of a run to its folder, which may contain those of the interrupted run.

    A failure must not lose the model: `failure` keeps its message, and nothing more is written. A folder that cannot be
    written to raises OSError. TensorFlow's record writer writes the events: TensorBoard's EventFileWriter prints a
    traceback from its thread if the disk is full, and spends 0.3 s per run on checksums.
    """

    def __init__(self, folder: Path, folds: list[Fold], epochs: int, epoch_rows: int, values_of: ValuesOf) -> None:
        super().__init__()
        self.folder, self.folds, self.epoch_rows, self.values_of = folder, folds, epoch_rows, values_of
        self.failure, self.writers = "", {}
        for name in ("train", "validation"):
            (folder / name).mkdir(exist_ok=True)
            self.writers[name] = tf.io.TFRecordWriter(f"{folder / name}/events.out.tfevents.{time.time():.6f}")
            self.add(name, file_version="brain.Event:2")
        if self.failure:
            raise OSError(self.failure)
        self.every = max(1, epochs // 10)  # epochs between histograms
        done = max(len(fold.history) for fold in folds)
        self.drawn = done - done % self.every  # the last epoch with histograms
        self.clock, self.rows = (time.perf_counter(), time.process_time()), 0.0

    def add(self, writer: str, step: int = 0, built: Any = None, **content: Any) -> None:
        """Write an event; `built` is a summary of TensorFlow or TensorBoard, which serialize it identically."""
        if self.failure:
            return
        try:
            from tensorboard.compat.proto.event_pb2 import Event

            event = Event(wall_time=time.time(), step=step, **content)
            if built:
                event.summary.MergeFromString(built.SerializeToString())
            self.writers[writer].write(event.SerializeToString())
            self.writers[writer].flush()
        except Exception as error:  # of TensorFlow or the system
            self.failure = (str(error) or type(error).__name__).splitlines()[0]

    def close(self) -> None:
        try:
            for writer in self.writers.values():
                writer.close()
        except Exception as error:
            self.failure = self.failure or str(error)

    def scalars(self, writer: str, step: int, values: Mapping[str, float]) -> None:
        parts = [{"tag": tag, "simple_value": value} for tag, value in values.items()]
        self.add(writer, step, summary={"value": parts})

    def text(self, tag: str, lines: list[str]) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        self.add("train", 0, text_pb(tag, ["\n".join("    " + line for line in lines)]))  # indented: shown verbatim

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Add an epoch: means over folds, and the range of their validation losses."""
        epoch, logs, names = epoch + 1, logs or {}, ("loss", "accuracy", "precision", "recall")
        values = {f"epoch/{name}": logs[name] for name in (*names, "learning_rate")}
        self.scalars("train", epoch, values | self.speed(epoch))
        values = {f"epoch/{name}": logs[f"val_{name}"] for name in names}
        if len(self.folds) > 1:  # a stopped fold keeps its last loss, so that the range does not jump
            losses = [fold.history[:epoch][-1]["val_loss"] for fold in self.folds]
            values |= {"folds/lowest_loss": min(losses), "folds/highest_loss": max(losses)}
        self.scalars("validation", epoch, values)
        if epoch == 1 or epoch % self.every == 0:
            self.histograms(epoch)

    def speed(self, epoch: int) -> dict[str, float]:
        """Speed and memory since the last call. Epochs of one call of the program end together and share its speed."""
        self.rows += self.epoch_rows * sum(len(fold.history) >= epoch for fold in self.folds)
        now = (time.perf_counter(), time.process_time())
        seconds, used = np.subtract(now, self.clock)
        if seconds <= 0.1 and epoch > 1:
            return {}
        values = {"rows_per_second": self.rows / seconds, "cpu_share": used / seconds / (os.cpu_count() or 1)}
        with contextlib.suppress(OSError, ValueError):  # on systems without /proc
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            values["resident_megabytes"] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        self.clock, self.rows = now, 0.0
        return {f"speed/{name}": value for name, value in values.items()}

    def histograms(self, epoch: int) -> None:
        """Write all weights and activations, pooled over folds, and the mean AUC: of the best epoch since the last call
        and of this epoch. AUC is not computed in each epoch, because it takes the probability of every validation row.
        """
        from tensorboard.plugins.histogram.summary_v2 import histogram_pb

        best = max(fold.best_epoch for fold in self.folds)
        for step, name in ((best, "best"), (epoch, "now")):  # TensorBoard wants steps in order
            weights = [getattr(fold, name) for fold in self.folds]
            if step > self.drawn and None not in weights:
                self.drawn = step
                values, scores = zip(*map(self.values_of, self.folds, weights), strict=True)
                for tag in values[0]:
                    self.add("train", step, histogram_pb(tag, np.concatenate([np.ravel(part[tag]) for part in values])))
                if np.isfinite(scores).all():  # rows of one class only have no AUC
                    self.scalars("validation", step, {"epoch/auc": float(np.mean(scores))})

    def graphs(self, first: keras.Model, names: Mapping[str, str], step: tf.Graph) -> None:
        """Write the first fold's model and a training step as operations; `names` are graph names by column."""
        inputs = {column: tf.TensorSpec([None, 1], part.dtype, names[column]) for column, part in first.input.items()}
        forward = tf.function(lambda inputs: first(inputs, training=False), autograph=False)
        graph = forward.get_concrete_function(inputs).graph.as_graph_def(add_shapes=True)
        network = [layer.name for layer in first.layers if isinstance(layer, keras.Model)][-1]
        open_scopes(graph, first.name, network)
        self.add("train", graph_def=graph.SerializeToString())
        metadata = tf.compat.v1.RunMetadata()
        metadata.function_graphs.add().pre_optimization_graph.CopyFrom(step.as_graph_def(add_shapes=True))
        self.graph("training_step", metadata.SerializeToString(), "graph_run_metadata_graph")

    def layers(self, config: dict[str, Any]) -> None:
        """Write the layers of the whole model, from the Keras config in its file. Modifies the config."""
        connect_nested(config)
        self.graph("keras", json.dumps(config), "graph_keras_model")

    def graph(self, tag: str, content: str | bytes, plugin: str) -> None:
        data = {"plugin_data": {"plugin_name": plugin, "content": b"1"}}
        value = {"tag": tag, "tensor": tf.make_tensor_proto(content), "metadata": data}
        self.add("train", 0, tf.compat.v1.Summary(value=[value]))

    def pr_curve(self, tag: str, step: int, y_true: np.ndarray, y_prob: np.ndarray) -> None:
        from tensorboard.plugins.pr_curve import summary

        curve = summary.pb(tag, y_true, y_prob, num_thresholds=101, display_name="")
        curve.value[0].tag = tag  # without the name of the plugin behind it
        self.add("validation", step, curve)

    def trial(self, settings: Mapping[str, Any], results: Mapping[str, float], step: int) -> None:
        """Write this run as a row of the HParams tab: hyperparameters, and metrics on validation and test rows."""
        from tensorboard.plugins.hparams import api_pb2, summary

        self.scalars("validation", step, results)
        values = {name: settings[name] for name in TELLING + OTHERS}
        # TensorBoard shows the first five hyperparameters, and puts those marked as different first.
        columns = [api_pb2.HParamInfo(name=name, differs=name in TELLING) for name in values]
        metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in results]
        self.add("validation", 0, summary.experiment_pb(columns, metrics))
        self.add("validation", 0, summary.session_start_pb(values, group_name=self.folder.name))
        self.add("validation", 0, summary.session_end_pb(api_pb2.STATUS_SUCCESS))

    def results(
        self, metrics: dict[str, Any], validation: Rows, test: Rows, texts: dict[str, list[str]], console: Console
    ) -> None:
        """Add the results of a run, from metrics.json and texts by tag, and close the files."""
        step, settings = metrics["best_epoch"], dict(metrics["settings"])
        del settings["columns"], settings["reasons"]
        settings["data"] = data_label(settings)
        self.histograms(max(len(fold.history) for fold in self.folds))
        self.pr_curve("pr_curve/validation", step, *validation)
        self.pr_curve("pr_curve/test", step, *test)
        kept = [fold.history[(fold.best_epoch if settings["early_stopping"] else 0) - 1] for fold in self.folds]
        results = {}
        for name in ("loss", "accuracy"):
            results[f"validation/{name}"] = sum(logs[f"val_{name}"] for logs in kept) / len(kept)
        names = sorted(metrics["test"], key=lambda name: name not in ("log_loss", "accuracy", "roc_auc"))  # 5 are shown
        results |= {f"test/{name}": value for name in names if isinstance(value := metrics["test"][name], float)}
        self.trial(settings, results, step)
        width = max(map(len, settings))
        texts = {"settings": [f"{name:<{width}}  {value}" for name, value in settings.items()], **texts}
        for tag, lines in texts.items():
            self.text(tag, lines)
        self.close()
        if self.failure:
            console.print(f"TensorBoard: the logs are incomplete: {self.failure}")


def open_scopes(graph: Any, model: str, network: str) -> None:
    """Remove the scopes of a model and of its network from the names of a graph's nodes, if these stay unique, so that
    TensorBoard opens on the layers. Also remove edges that only order operations.
    """
    scope = re.compile(rf"{re.escape(model)}(_\d+)?/({re.escape(network)}(_\d+)?/)?([^/]+?)(_1)?(?=/)")
    nodes = [node for node in graph.node if node.op != "NoOp"]
    names = {node.name: scope.sub(r"\4", node.name, count=1) for node in nodes}
    if len(set(names.values())) < len(names):
        names = {name: name for name in names}
    del graph.node[:]
    for node in nodes:
        sources = [source.partition(":") for source in node.input if not source.startswith("^")]
        node.name, node.input[:] = names[node.name], [names[name] + colon + port for name, colon, port in sources]
    graph.node.extend(nodes)


def connect_nested(model: dict[str, Any]) -> None:
    """In the config of a model, replace nested models as inputs by their layers, so that TensorBoard connects them."""

    def names(layers: list[Any]) -> list[str]:  # from ["name", 0, 0], or a list of these
        return [layer[0] for layer in (layers if isinstance(layers[0], list) else [layers])]

    layers, ends = model["config"].get("layers", []), {}
    for layer in layers:
        if "layers" in (config := layer["config"]):
            ends[layer["name"]] = f"{layer['name']}/{names(config['output_layers'])[0]}"
            config["input_layers"] = names(config["input_layers"])
            connect_nested(layer)
    for node in (node for layer in layers for node in layer["inbound_nodes"]):
        args = [part for parts in node["args"] for part in (parts if isinstance(parts, list) else [parts])]
        node["args"] = [part for part in args if isinstance(part, dict)]  # no constants
        for part in node["args"]:
            if history := part.get("config", {}).get("keras_history"):
                history[0] = ends.get(history[0], history[0])


def training_step(network: keras.Model, config: Config, plan: Plan, state: State) -> tf.Graph:
    """A training step as operations. `network` is the one that is trained, `state` any of its states."""
    specs = State(*(tf.TensorSpec.from_tensor(part, name) for name, part in state._asdict().items()))
    batch = tf.zeros([plan.width, plan.batch_size]), tf.zeros(plan.batch_size), tf.constant(0)
    step = tf.function(functools.partial(train_step, network, config), autograph=False)
    return step.get_concrete_function(specs, *batch).graph


def layer_values(
    weights: list[tuple[keras.Variable, np.ndarray]], activations: Mapping[str, ArrayLike]
) -> dict[str, ArrayLike]:
    """All weights of a network, and the outputs of its layers, by tag: layers/hidden_1/weights and so on."""
    kinds, values = {"kernel": "weights", "moving_mean": "mean", "moving_variance": "variance"}, {}
    for variable, value in weights:
        layer, _, name = variable.path.rpartition("/")
        values[f"layers/{layer}/{kinds.get(name, name)}"] = value
    return values | {f"layers/{layer}/activations": value for layer, value in activations.items()}


def data_label(options: Mapping[str, Any]) -> str:
    """The name of the data in the name of a run: letters, digits, dots and hyphens of the file's name, or "sample"."""
    first, *others = options["csv"]
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", Path(first).stem)[:40].strip("-.") or "data"
    return "sample" if options["sample"] else stem + f"-and-{len(others)}-more" * bool(others)


def run_name(options: Mapping[str, Any], defaults: Mapping[str, Any], folds: int) -> str:
    """The name of a run: its data, architecture and folds, and the other flags that differ from their defaults."""
    parts = [data_label(options), options["architecture"], f"folds{folds}"]
    for name in TELLING + OTHERS:
        value = options.get(name)
        if name not in ("architecture", "folds") and value != defaults.get(name):
            parts.append(f"no_{name}" if value is False else f"{name}{value}")
    return "_".join(parts)


def run_folder(logs: Path, name: str) -> Path:
    """Make a new folder for this run, even if two runs start in one second. Raises OSError."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}_{name}"
    for folder in (logs / name, *(logs / f"{name}_{number}" for number in range(2, 1_000))):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise OSError(f"{logs}: a thousand runs in one second")


def open_log(logs: Path, name: str, earlier: str, console: Console, *parts: Any) -> TensorBoardLog | None:
    """The log of a run, in the folder of the interrupted run or a new one; None, with a printed reason, if it fails.

    `parts` are the arguments of TensorBoardLog after the folder.
    """
    try:
        if not metadata_version("tensorboard"):
            raise ModuleNotFoundError
        if earlier and (logs / earlier).is_symlink():
            raise OSError(errno.ELOOP, "the folder of the run is a link, which is not followed")
        folder = logs / earlier if earlier else run_folder(logs, name)
        return TensorBoardLog(folder, *parts)
    except ModuleNotFoundError:
        fault = "the package tensorboard is not installed (pip install tensorboard)"
    except Exception as error:  # of TensorFlow or the system, depending on how TensorBoard was installed
        fault = f"{logs}: {getattr(error, 'strerror', None) or str(error).splitlines()[0]}"
    console.print(f"TensorBoard: {fault}; training continues without logs")
    return None
