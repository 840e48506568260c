"""The verdict, importance, partial dependence and suspect labels, against plain definitions."""

import math
from dataclasses import replace

import numpy as np
import pytest
from small_table import small_table

from harvest.data.encoding import encode, fit_encoding, make_features
from harvest.data.splits import split_folds
from harvest.decision import Decision
from harvest.results import explain
from harvest.results.evaluation import Baseline, Evaluation
from harvest.results.explain import FoldNetworks, compare, judge, judge_baseline
from harvest.results.metrics import log_losses, measure, sigmoid


def predictions(rows=300, seed=0):
    generator = np.random.default_rng(seed)
    y_prob = np.round(generator.random(rows), 6)
    return (generator.random(rows) < y_prob).astype(np.float32), y_prob


@pytest.mark.parametrize("rows", [2_000, 40_000])
def test_a_comparison_has_the_intervals_of_paired_differences(rows):
    y_true, y_prob = predictions(rows)
    other = np.clip(y_prob + np.random.default_rng(5).normal(0, 0.2, rows), 0.01, 0.99)
    found = compare(y_true, (y_prob, 0.5), (other, 0.5))
    losses = log_losses(y_true, y_prob) - log_losses(y_true, other)
    correct = ((y_prob >= 0.5) == y_true).astype(int) - ((other >= 0.5) == y_true)
    for name, differences, slack in (("log_loss", losses, 0.01), ("accuracy", correct, 0.02)):
        (low, high), difference = found[name]["ci95"], found[name]["difference"]
        assert difference == pytest.approx(differences.mean()) and low < difference < high
        assert (high - low) / 2 == pytest.approx(1.96 * differences.std() / math.sqrt(rows), rel=slack)


def compared(rows, gained, lost):
    """Models of which one is correct and the other wrong in so many rows; both are correct in all others."""
    y_true = np.arange(rows) % 2
    model, other = (np.where(y_true, 0.8, 0.2) for _ in range(2))
    model[:lost], other[lost : lost + gained] = 1 - model[:lost], 1 - other[lost : lost + gained]
    return compare(y_true.astype(np.float32), (model, 0.5), (other, 0.5))


@pytest.mark.parametrize(("gained", "lost"), [(10, 2), (2, 10), (30, 10), (7, 7), (0, 0), (60, 85)])
def test_a_difference_in_accuracy_is_tested_by_the_rows_that_one_gets_wrong(gained, lost):
    rows, fewer = gained + lost, min(gained, lost)
    chances = [math.comb(rows, count) / 2**rows for count in range(fewer + 1)]
    mid_p = 2 * sum(chances) - chances[-1] if gained != lost else 1.0  # Fagerland, Lydersen and Laake (2013)
    accuracy = compared(400, gained, lost)["accuracy"]
    assert accuracy["p_value"] == pytest.approx(mid_p, rel=0.15)
    low, high = accuracy["ci95"]
    assert (low > 0 or high < 0) == (accuracy["p_value"] < 0.05)


def test_the_verdict_on_a_baseline_follows_from_paired_differences():
    def sentence(*counts):
        return judge_baseline("a stone", **compared(*counts))

    assert sentence(400, 30, 10).startswith("Better than a stone in log-loss and accuracy. Difference in log-loss -0.0")
    assert sentence(400, 10, 30).startswith("Worse than a stone in log-loss and accuracy. Difference in log-loss +0.0")
    assert sentence(400, 12, 8).startswith("No significant improvement over a stone. ")
    assert "McNemar p = 0.371" in sentence(400, 12, 8)
    mixed = compared(400, 30, 10) | {"accuracy": compared(400, 10, 30)["accuracy"]}
    assert judge_baseline("it", **mixed).startswith("Better than it in log-loss, worse than it in accuracy. ")


def test_the_verdict_says_how_far_it_can_be_trusted():
    better, none = compared(400, 30, 10), compared(400, 5, 5)
    test = {"accuracy_ci95": [0.8, 0.86], "confusion": [[200, 20], [20, 160]]}
    assert len(judge({"majority": better, "logistic_regression": none}, test, 1)) == 2
    assert "More labelled rows" in judge({"majority": none, "logistic_regression": none}, test, 1)[2]
    wide = judge({"majority": better}, test | {"accuracy_ci95": [0.6, 0.9]}, 10)
    assert "30 points wide, as only 400 rows" in wide[0] and "mean of all 10" in wide[2]
    unlike = judge({"majority": none}, test, 1, 1.0, 0.13)
    assert len(unlike) == 2 and "has a threshold of 0.13" in unlike[1] and "compare them by ROC AUC" in unlike[1]
    mixed = judge({"majority": better}, test, 1, 0.3)
    assert "30 % that of the net and 70 % that of a logistic regression" in mixed[1]
    few = {"majority": better | {"log_loss": {"difference": -0.01, "ci95": None}}}
    text = judge(few, test, 1)[0]
    assert text.startswith(
        "Better than always predicting the majority class in accuracy. Difference in log-loss -0.010 "
    )
    assert "(no interval: one class has too few rows)" in text


@pytest.mark.parametrize("ones", [9, 10, 291])
def test_few_rows_of_a_class_leave_the_log_loss_without_an_interval(ones):
    y_true, y_prob = (np.arange(300) < ones).astype(np.float32), np.linspace(0.1, 0.9, 300)
    found = compare(y_true, (y_prob, 0.5), (np.full(300, 0.5), 0.5))
    assert (found["log_loss"]["ci95"] is None) == (ones != 10) and found["accuracy"]["ci95"]


def test_thresholds_are_listed_when_a_class_is_rare():
    y_true, y_prob = predictions(1_000)
    assert explain.threshold_lines(y_true, y_prob) == []
    rare = np.where(np.arange(1_000) % 3, 0, y_true).astype(np.float32)
    lines = explain.threshold_lines(rare, y_prob)
    assert [line.split()[1] for line in lines[2:]] == ["0.5", "f1", "balanced"]
    taken = y_prob >= 0.5
    precision, recall = 100 * rare[taken].mean(), 100 * taken[rare == 1].mean()
    assert lines[2] == f"  --threshold 0.5       0.500: precision {precision:.1f} %, recall {recall:.1f} %"


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
    assert explain.suspect_labels(table, rows, y_true, y_prob) == [] and explain.suspect_lines([]) == []
    y_prob[3], y_prob[10:70:2] = 0.02, 0.95
    suspects = explain.suspect_labels(table, rows, y_true, y_prob)
    lines = explain.suspect_lines(suspects)
    assert len(suspects) == explain.MOST_SUSPECTS and len(lines) == 7
    assert suspects[0] == {"line": table.line_numbers[96], "label": 1, "probability": 0.02}
    assert [row["line"] for row in suspects[1:]] == sorted(table.line_numbers[99 - np.arange(10, 70, 2)])[:19]
    assert lines[2:4] == [
        "  line 98  labelled 1, probability of 1: 0.020",
        f"  line {suspects[1]['line']}  labelled 0, probability of 1: 0.950",
    ]


def test_suspects_that_are_generated_name_no_line_of_a_file():
    suspects = [{"line": 2, "label": 1, "probability": 0.01}, {"line": 31, "label": 0, "probability": 0.97}]
    lines = explain.suspect_lines(suspects, generated=True)
    assert lines[2:] == [
        "  generated row 1   labelled 1, probability of 1: 0.010",
        "  generated row 30  labelled 0, probability of 1: 0.970",
    ]


def test_suspects_of_several_files_have_their_name():
    table = small_table(np.zeros(4), files=[0, 1, 0, 1], names=("a.csv", "b.csv"), key=np.arange(4.0))
    suspects = explain.suspect_labels(table, np.arange(4), np.zeros(4), np.array([0.1, 0.99, 0.95, 0.95]))
    assert [(row["file"], row["line"]) for row in suspects] == [("b.csv", 3), ("a.csv", 4), ("b.csv", 5)]
    assert explain.suspect_lines(suspects)[2].startswith("  b.csv, line 3  labelled 0, ")


def test_all_that_is_explained(tf, networks):
    table, folds = networks
    rows = np.concatenate([split.test for split in folds.splits])
    y_true, y_prob = table.label[rows], np.random.default_rng(0).random(200)
    baselines = {name: Baseline(np.full(200, 0.4), {}) for name in explain.BASELINES}
    test, decision = measure(y_true, y_prob, 0.3), Decision(0.3, "")
    answered = (y_true, y_prob, test, decision, 1.5, [1.5] * 4, np.full(200, 0.3))
    evaluation = Evaluation(*answered, (y_true, y_prob), baselines)
    facts, lines = explain.explain(evaluation, table, folds, seed=0, network_share=0.4)
    assert [*facts] == ["comparison", "verdict", "importance", "suspect_labels", "effects"]
    assert [effect["column"] for effect in facts["effects"]] == [*facts["importance"]]
    text = " ".join(" ".join(lines).split())
    assert " ".join(facts["verdict"]) in text and "The model has a threshold of 0.3, the baselines have 0.5" in text
    assert "40 % that of the net" in text and "mean of all 4" in text
    assert text.index("rise in test log-loss") < text.index("Labels worth")
