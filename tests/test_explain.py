"""Importance, partial dependence and suspect labels, against plain definitions."""

import argparse
from dataclasses import replace

import numpy as np
import pytest
from small_table import small_table

from harvest.data.columns import Column
from harvest.data.encoding import encode, fit_encoding, fit_scaler, make_features
from harvest.data.repeats import Repeats
from harvest.data.splits import split_folds
from harvest.data.times import TIMESTAMP
from harvest.decision import Decision
from harvest.results import explain
from harvest.results.evaluation import Baseline, Evaluation
from harvest.results.explain import FoldNetworks
from harvest.results.metrics import log_losses, measure, sigmoid
from harvest.results.summary import FINDINGS
from harvest.results.verdict import BASELINES, FEW_COMBINATIONS


def predictions(rows=300, seed=0):
    generator = np.random.default_rng(seed)
    y_prob = np.round(generator.random(rows), 6)
    return (generator.random(rows) < y_prob).astype(np.float32), y_prob


def test_thresholds_are_listed_when_a_class_is_rare():
    y_true, y_prob = predictions(1_000)
    assert explain.threshold_lines(y_true, y_prob) == []
    rare = np.where(np.arange(1_000) % 3, 0, y_true).astype(np.float32)
    lines = explain.threshold_lines(rare, y_prob)
    assert [line.split()[1] for line in lines[2:]] == ["0.5", "f1", "balanced"]
    taken = y_prob >= 0.5
    precision, recall = 100 * rare[taken].mean(), 100 * taken[rare == 1].mean()
    assert lines[2] == f"  --threshold 0.5       0.500: precision {precision:.1f}%, recall {recall:.1f}%"


@pytest.fixture(scope="module")
def networks():
    """Four folds on a table with missing cells; a "network" is a linear model of encoded rows, which ignores idle."""
    generator = np.random.default_rng(4)
    key = np.where(generator.random(200) < 0.1, np.nan, generator.normal(size=200))
    label = np.nan_to_num(key) + generator.normal(size=200) > 0.2
    app = [("", "edit", "mail", "play")[code] for code in generator.integers(0, 4, 200)]
    table = small_table(
        label, key=key, idle=generator.random(200), app=app, user=generator.integers(0, 3, 200).tolist()
    )
    splits = split_folds(table.label, 4, 0)
    encoding, fold_encodings, features = fit_encoding(table, splits)
    weights = generator.normal(size=(4, encoding.width)).astype(np.float32)
    names = [column.name for column in explain.feature_columns(table)]
    weights[:, encoding.inputs_of_columns()[names.index("idle")]] = 0
    return table, FoldNetworks(
        features, splits, encoding, fold_encodings, lambda fold, encoded: encoded @ weights[fold], [1.5] * 4
    )


def test_importance_is_the_rise_of_the_log_loss(tf, networks):
    table, folds = networks
    found = explain.permutation_importance(table, folds, 7)
    assert set(found) == {"key", "idle", "app", "user"} and found["idle"] == pytest.approx(0, abs=1e-8)
    assert [*found.values()] == sorted(found.values(), reverse=True)
    assert found == explain.permutation_importance(table, folds, 7)

    def loss(fold, table):
        rows = folds.splits[fold].test
        encoded = encode(*make_features(table, folds.encoding).take(rows), folds.encoding, folds.fold_encodings[fold])
        return log_losses(table.label[rows], sigmoid(folds.predict_logits(fold, np.asarray(encoded)) / 1.5)).sum()

    generator, rises = np.random.default_rng([7, 4]), dict.fromkeys(found, 0.0)
    for fold, split in enumerate(folds.splits):
        for column in explain.feature_columns(table):  # the columns are shuffled in this order
            frame = table.frame.copy()
            shuffled = split.test[generator.permutation(len(split.test))]
            frame.loc[split.test, column.name] = table.frame[column.name].to_numpy()[shuffled]
            frame[column.name] = frame[column.name].astype(table.frame[column.name].dtype)
            rises[column.name] += loss(fold, replace(table, frame=frame)) - loss(fold, table)
    assert found == pytest.approx({name: rise / 200 for name, rise in rises.items()}, abs=1e-5)


def test_importance_takes_few_columns_at_a_time(tf, networks, monkeypatch):
    table, folds = networks
    expected = explain.permutation_importance(table, folds, 7)
    monkeypatch.setattr(explain, "IMPORTANCE_BATCH", 1)
    assert explain.permutation_importance(table, folds, 7) == pytest.approx(expected, abs=1e-6)


def test_bars_show_the_columns_that_matter():
    assert explain.importance_lines({}) == [] and explain.importance_lines({"a": -0.1}) == []
    lines = explain.importance_lines({"key": 0.3, "mouse": 0.1, "idle": 0.001, "rest": -0.2})
    assert lines[2:] == [f"  key     0.300  {'#' * 30}", f"  mouse   0.100  {'#' * 10}"]


def test_effects_are_the_means_of_rows_that_share_a_cell(tf, networks):
    table, folds = networks
    effects = explain.partial_dependence(table, folds, ["key", "app", "user"])
    assert [(effect["column"], effect["kind"]) for effect in effects] == [
        ("key", "number"),
        ("app", "category"),
        ("user", "category"),
    ]
    key, app, user = effects
    assert key["values"][-1] is None and len(key["values"]) == explain.EFFECT_VALUES + 1
    assert key["rows"][-1] == np.isnan(table.numbers("key")).sum() and sum(key["rows"]) == 200
    assert set(app["values"]) == {"edit", "mail", "play", None} and app["values"][-1] is None
    assert set(user["values"]) == {0, 1, 2} and user["rows"] == sorted(user["rows"], reverse=True)
    own = 0.0
    for fold, (split, fold_encoding) in enumerate(zip(folds.splits, folds.fold_encodings, strict=True)):
        encoded = np.asarray(encode(*folds.features.take(split.test), folds.encoding, fold_encoding))
        own += sigmoid(folds.predict_logits(fold, encoded) / 1.5).sum()
    assert [effect["mean"] for effect in effects] == pytest.approx([own / 200] * 3, abs=1e-5)
    for effect in effects:
        for value, expected in zip(effect["values"], effect["probability"], strict=True):
            frame = table.frame.copy()
            missing = np.nan if effect["kind"] == "number" else ""
            frame[effect["column"]] = missing if value is None else value
            frame = frame.astype(table.frame.dtypes.to_dict())
            features, total = make_features(replace(table, frame=frame), folds.encoding), 0.0
            for fold, (split, fold_encoding) in enumerate(zip(folds.splits, folds.fold_encodings, strict=True)):
                encoded = np.asarray(encode(*features.take(split.test), folds.encoding, fold_encoding))
                total += sigmoid(folds.predict_logits(fold, encoded) / 1.5).sum()
            assert expected == pytest.approx(total / 200, abs=1e-5)


def test_only_real_surprises_are_listed():
    table = small_table(np.zeros(100), key=np.arange(100.0))
    rows, generator = np.arange(99, -1, -1), np.random.default_rng(0)
    y_true, y_prob = np.arange(100) % 2, generator.uniform(0.2, 0.8, 100)
    scaler = fit_scaler(table, rows)
    assert explain.suspect_labels(table, rows, y_true, y_prob, scaler, ["key"]) == [] == explain.suspect_lines([])
    y_prob[3], y_prob[10:70:2] = 0.02, 0.95
    suspects = explain.suspect_labels(table, rows, y_true, y_prob, scaler, ["key"])
    lines = explain.suspect_lines(suspects)
    assert len(suspects) == explain.MOST_SUSPECTS and len(lines) == 7
    assert suspects[0] == {"line": table.line_numbers[96], "label": 1, "probability": 0.02, "cells": {"key": 96}}
    assert [row["line"] for row in suspects[1:]] == sorted(table.line_numbers[99 - np.arange(10, 70, 2)])[:19]
    assert lines[2:4] == [
        "  line 98  labeled 1, probability of 1: 0.020",
        f"  line {suspects[1]['line']}  labeled 0, probability of 1: 0.950",
    ]


def test_suspects_that_are_generated_name_no_line_of_a_file():
    suspects = [{"line": 2, "label": 1, "probability": 0.01}, {"line": 31, "label": 0, "probability": 0.97}]
    lines = explain.suspect_lines(suspects, generated=True)
    assert lines[2:] == [
        "  generated row 1   labeled 1, probability of 1: 0.010",
        "  generated row 30  labeled 0, probability of 1: 0.970",
    ]


def test_suspects_have_the_cells_of_their_rows():
    columns = {"key": [0.5, np.nan, 2.0, 3.0], "app": ["edit", "", "mail", "mail"], "user": [7, 8, None, 7]}
    table, rows = small_table(np.zeros(4), **columns), np.array([2, 0, 1])
    scaler, y_prob = fit_scaler(table, rows), np.array([0.91, 0.93, 0.92])
    suspects = explain.suspect_labels(table, rows, np.zeros(3), y_prob, scaler, ["user", "key", "app"])
    assert [(row["line"], row["cells"]) for row in suspects] == [
        (2, {"user": 7, "key": 0.5, "app": "edit"}),
        (3, {"user": 8, "key": None, "app": None}),
        (4, {"user": None, "key": 2.0, "app": "mail"}),
    ]


def test_suspects_of_several_files_have_their_name():
    table = small_table(np.zeros(4), files=[0, 1, 0, 1], names=("a.csv", "b.csv"), key=np.arange(4.0))
    rows, y_prob = np.arange(4), np.array([0.1, 0.99, 0.95, 0.95])
    suspects = explain.suspect_labels(table, rows, np.zeros(4), y_prob, fit_scaler(table, rows), [])
    assert [(row["file"], row["line"]) for row in suspects] == [("b.csv", 3), ("a.csv", 4), ("b.csv", 5)]
    assert explain.suspect_lines(suspects)[2].startswith("  b.csv, line 3  labeled 0, ")


def test_all_that_is_explained(tf, networks):
    table, folds = networks
    rows = np.concatenate([split.test for split in folds.splits])
    y_true, y_prob = table.label[rows], np.random.default_rng(0).random(200)
    baselines = {name: Baseline(np.full(200, 0.4), {}) for name in BASELINES}
    test, decision = measure(y_true, y_prob, 0.3), Decision(0.3, "")
    answered = (y_true, y_prob, test, decision, [1.5] * 4, np.full(200, 0.3))
    evaluation = Evaluation(*answered, (y_true, y_prob), baselines)
    table = replace(table, columns=[*table.columns, Column("at", "dropped", TIMESTAMP)])
    leaks, repeated = ["app: on its own it predicts all; use --drop app"], ["3 of 200 rows repeat another row"]
    args = argparse.Namespace(label="y", seed=0, split="random", sample=None, given={})
    facts, lines = explain.explain(args, evaluation, table, folds, 0.4, repeated, leaks)
    assert [*facts] == list(FINDINGS)
    assert [effect["column"] for effect in facts["effects"]] == [*facts["importance"]]
    text = " ".join(" ".join(lines).split())
    assert " ".join(facts["verdict"]) in text and max(map(len, lines)) <= 80
    assert "threshold is 0.3" in text and "mean: 40% network, 60% logistic" in text
    assert "ensemble of all 4, which was more accurate in our benchmarks." in text
    caveats = [explain.LEAKING, explain.TIMED, "3 of 200 rows repeat another row."]
    assert facts["verdict"][1:4] == caveats
    assert facts["next_steps"][0] == f"{leaks[0]}." and "--split time" in facts["next_steps"][1]
    assert all(step in text for step in facts["next_steps"])
    assert all([*row["cells"]] == [*facts["importance"]] for row in facts["suspect_labels"])
    assert "Labels worth" not in text  # the probabilities are random, so no label is suspected
    table = replace(table, repeats=Repeats(np.arange(200, dtype=np.int32) // 2 * 2, np.zeros(200, bool)))
    for args.split, caveat in (("random", FEW_COMBINATIONS), ("time", explain.LEAKING)):
        facts, _ = explain.explain(args, evaluation, table, folds, 1.0, [], leaks)
        assert facts["verdict"][1] == caveat
        assert facts["verdict"][0].startswith("Not worth" if args.split == "time" else "Not shown to be worth using: ")
