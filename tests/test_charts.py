"""Axes and the geometry of charts."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from made_up_run import HOSTILE, RTL

from harvest.results.report import charts
from harvest.results.report.charts import (
    Axis,
    Chart,
    cell_axis,
    is_skewed,
    linear_axis,
    round_ticks,
    share_axis,
    short_number,
)
from harvest.results.report.page import ENVIRONMENT


def draw(macro, *arguments):
    return str(getattr(ENVIRONMENT.get_template("charts.html.jinja").module, macro)(*arguments))


def texts(svg):
    return re.findall(r"<text[^>]*>(?:<title>.*?</title>)?(.*?)</text>", svg, re.DOTALL)


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 1, 5, [0, 0.5, 1]),
        (0, 0.9, 5, [0, 0.2, 0.4, 0.6, 0.8]),
        (1, 40, 5, [10, 20, 30, 40]),
        (1, 2, 5, [1, 1.5, 2]),
        (-3, 7, 4, [0, 5]),
        (5, 5, 5, [5]),
        (0, 0, 5, [0]),
        (1e-9, 3e-9, 4, [1e-9, 2e-9, 3e-9]),
    ],
)
def test_ticks_are_round_numbers(low, high, most, expected):
    assert round_ticks(low, high, most) == pytest.approx(expected)


def test_there_are_never_too_many_ticks_and_all_lie_between_the_ends():
    generator = np.random.default_rng(0)
    for low, size in zip(generator.normal(0, 1e3, 300), 10.0 ** generator.uniform(-6, 9, 300), strict=True):
        for most in (3, 4, 5):
            ticks = round_ticks(low, low + size, most)
            assert 1 <= len(ticks) <= most and np.all(np.diff(ticks) > 0)
            assert low - 1e-6 * size <= ticks[0] and ticks[-1] <= low + size * (1 + 1e-6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.9], ["0.0", "0.2", "0.4", "0.6", "0.8"]),
        ([0, 250_000], ["0", "50,000", "100,000", "150,000", "200,000", "250,000"]),
        ([0, 3e12], ["0", "1e+12", "2e+12", "3e+12"]),
        ([0, 3e-9], ["0", "1e-09", "2e-09", "3e-09"]),
    ],
)
def test_ticks_have_as_many_digits_as_they_need(values, expected):
    shown = [text for _, text in linear_axis("", values, 6).ticks]
    assert shown == expected


@pytest.mark.parametrize(
    ("low", "expected"),
    [(0.0, ["0%", "20%", "40%", "60%", "80%", "100%"]), (0.8, ["80%", "90%", "100%"]), (1.0, ["100%"])],
)
def test_an_axis_of_shares(low, expected):
    axis = share_axis("share", low)
    assert [text for _, text in axis.ticks] == expected and axis.high == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((0, "0"), (1234567, "1,234,567"), (12.3456, "12.3"), (-0.5, "-0.500"), (1e-9, "1e-09"), (3e15, "3e+15")),
        *((1.0, "1"), (-373567866, "-373,567,866"), (0.000123, "0.000123")),
    ],
)
def test_short_numbers(value, expected):
    assert short_number(value) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2, 3], False),
        ([0.0, 0], False),
        ([1, 10, 100, 1e6], True),
        ([-1, 0, 1, 2, -16], True),
        ([1, 1, 7], False),
    ],
)
def test_cells_are_skewed_if_most_are_close_to_zero_compared_with_the_largest(values, expected):
    assert is_skewed(np.array(values, float)) == expected


def test_a_logarithmic_axis_of_cells():
    plain = cell_axis("x", np.array([1.0, 2, 3]), False)
    large = cell_axis("x", np.array([1.0, 10, 100, 1e6]), True)
    assert (plain.unit, plain.title) == (0, "x") and (large.unit, large.title) == (1, "x (logarithmic)")
    assert [text for _, text in large.ticks] == ["1", "100", "10,000", "1,000,000"]
    shares = large.share([1, 10, 100, 1e6])
    assert shares[0] == 0 and shares[-1] == 1 and np.all(np.diff(shares) > 0.1)
    signed = cell_axis("x", np.array([-1e6, -1, 0, 1, 1e6]), True)
    assert signed.share([-1e6, 0, 1e6]) == pytest.approx([0, 0.5, 1])
    assert [text for _, text in signed.ticks][len(signed.ticks) // 2] == "0"
    assert cell_axis("x", np.zeros(1), True).share([0.0]) == [0]  # a column of one value


def test_an_axis_without_extent_is_no_division_by_zero():
    assert Axis("", 5, 5, []).share([5, 5]).tolist() == [0, 0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("logarithmic", [False, True])
def test_the_widest_ranges_do_not_overflow(logarithmic):
    for values in ([5e-324, 1.0, 3.4e38], [-3.4e38, 0, 3.4e38], [-5e-324, 5e-324], [1e-40, 3e-40, 1e-39]):
        axis = cell_axis("x", np.array(values), logarithmic)
        shares = axis.share(values)
        assert shares[0] == 0 and shares[-1] == pytest.approx(1) and np.all(np.diff(shares) >= 0)
        draw("chart", Chart(axis, share_axis("up"), "a chart"))
    assert Axis("", -1.7e308, 1.7e308, []).share([0, 1.7e308]) == pytest.approx([0.5, 1])


def test_places_on_a_chart():
    chart = Chart(share_axis("across"), share_axis("up"), "a chart")
    assert chart.x([0, 1]).tolist() == [charts.LEFT, charts.WIDTH - charts.RIGHT]
    assert chart.y([0, 1]).tolist() == [charts.HEIGHT - charts.BOTTOM, charts.TOP]
    chart.line([0, 0.5, 1], [0, 1, 0], "one")
    chart.steps(np.array([0.5, 1]), np.array([1.0, 0]), "two")
    chart.band(np.array([0.0, 1]), np.array([0.0, 0.5]), np.array([0.5, 1]), "one")
    assert chart.paths == [
        ("line one", "M46.0 230.0L194.0 26.0L342.0 230.0"),
        ("line two", "M46 26.0V26.0H194.0V230.0H342.0"),
        ("band one", "M46.0 230.0L342.0 128.0L342.0 26.0L46.0 128.0Z"),
    ]
    chart.dot(1, 1, "two", "corner")
    assert chart.dots == [("two", 342.0, 26.0, "corner")]
    chart.bars(np.array([0, 0.5, 1]), np.array([0.5, 1]), "one")
    bars = "M46.5 230.0V128.0H193.5V230.0ZM194.5 230.0V26.0H341.5V230.0Z"
    assert chart.paths[3] == ("fill one", bars)


def test_a_line_of_one_point_is_seen():
    chart = Chart(share_axis("across"), share_axis("up"), "a chart")
    chart.line([0.5], [0.5], "one")
    assert chart.dots == [("one", 194.0, 128.0, "")]


def test_labels_of_ticks_do_not_touch_and_stay_within_the_chart():
    generator = np.random.default_rng(1)
    for _ in range(200):
        places = np.sort(generator.uniform(0, 100, generator.integers(1, 9)))
        ticks = [(float(place), "0" * int(generator.integers(1, 12))) for place in places]
        end = 0.0
        labels = [*Chart(Axis("", 0, 100, ticks), share_axis(""), "").x_labels()]
        for x, anchor, text in labels:
            width = 8 * len(text)
            start = x - width if anchor == "end" else x - width / 2
            assert start >= end and (anchor == "end" or start + width <= charts.WIDTH)
            end = start + width
        assert labels


def test_a_chart_is_drawn():
    chart = Chart(linear_axis("epoch", [0, 10]), share_axis("accuracy"), "accuracy by epoch")
    chart.line([0, 10], [0, 1], "one")
    chart.dot(10, 1, "two", "the best")
    svg = draw("chart", chart)
    assert svg.startswith('<svg viewBox="0 0 360 270" role="img" aria-label="accuracy by epoch">')
    assert texts(svg) == ["accuracy", "0%", "20%", "40%", "60%", "80%", "100%", "0", "5", "10", "epoch"]
    assert '<path class="line one" d="M46.0 230.0L342.0 26.0"/>' in svg
    assert '<circle class="dot two" cx="342.0" cy="26.0" r="4"><title>the best</title></circle>' in svg
    right, bottom = charts.WIDTH - charts.RIGHT, charts.HEIGHT - charts.BOTTOM  # which the template knows as numbers
    assert f'<path class="axis" d="M{charts.LEFT} {bottom}H{right}"/>' in svg and svg.count(f"H{right}") == 7


def test_bars_are_as_long_as_their_values():
    svg = draw("bars", [("a", 0.4), ("b", 0.1), ("c", -0.2)])
    assert re.findall(r'width="([\d.]+)"', svg) == ["144.0", "36.0", "0.0"]
    assert texts(svg) == ["a", "0.400", "b", "0.100", "c", "-0.200"] and 'aria-label="bars: a, b, c"' in svg
    assert re.findall(r'width="([\d.]+)"', draw("bars", [("a", 0.0)])) == ["0.0"]


def test_dots_are_where_their_shares_are_the_highest_first():
    axis = linear_axis("mean probability", [0.2, 0.7], 4)
    svg = draw("dots", "by app", [("Word", 1_200, 0.45), (None, 3, 0.2), (7, 5, 0.7)], axis, 0.9)
    assert [float(x) for x in re.findall(r'<circle class="dot one" cx="([\d.]+)"', svg)] == [302, 230, 158]
    assert re.findall(r"<title>([^<]*)</title></circle>|r=.4.><title>([^<]*)</title>", svg)[0][1] == "7: 70.0%, 5 rows"
    assert [text for text in texts(svg) if text in ("7", "Word", "(missing)")] == ["7", "Word", "(missing)"]
    assert '<path class="line faint dashed" d="M302.0 4V72"/>' in svg  # the usual share, at the end of the axis


class Elements(HTMLParser):
    def __init__(self, svg):
        super().__init__()
        self.found = []
        self.feed(svg)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, *(name for name, _ in attributes)))


@pytest.mark.parametrize("text", [*HOSTILE, '"/><script>', "]]>", RTL])
def test_every_text_of_a_drawing_is_escaped(text):
    def drawings(text):
        chart = Chart(cell_axis(text, np.array([1.0, 2]), False), share_axis(text), text)
        chart.dot(1, 1, "one", text)
        cells = [(text, 3, 0.5), (f"{text}2", 3, 0.4)]
        return draw("chart", chart) + draw("bars", [(text, 1.0)]) + draw("dots", text, cells, share_axis(""), 0.5)

    assert Elements(drawings(text)).found == Elements(drawings("plain")).found
