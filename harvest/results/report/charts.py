"""Charts on two axes with round ticks: the geometry, which the macros of charts.html.jinja turn into SVG.

Lengths are in units of about a pixel on a phone.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

WIDTH, HEIGHT = 360, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 26, 40  # margins, for the axes


def short_number(value: float) -> str:
    """A number from the data in at most a dozen characters."""
    if value and not 1e-4 <= abs(value) < 1e12:
        return f"{value:.3g}"
    if value == round(value):
        return f"{value:,.0f}"
    return f"{value:,.{max(0, 3 - math.ceil(math.log10(abs(value))))}f}"


class Axis(NamedTuple):
    title: str
    low: float
    high: float
    ticks: list[tuple[float, str]]
    unit: float = 0.0  # above 0: a signed logarithm of values in this unit

    def share(self, values: Any) -> np.ndarray:
        """The positions of values between the ends of the axis: 0 to 1."""
        low, high, values = (self.scale(part) for part in (self.low, self.high, values))
        return (values - low) / ((high - low) or 1.0)

    def scale(self, values: Any) -> np.ndarray:
        """Values as multiples of the larger end, or as signed log(1 + value / unit); finite for any finite ends."""
        values = np.asarray(values, float)
        if not self.unit:
            return values / (max(abs(self.low), abs(self.high)) or 1.0)
        with np.errstate(divide="ignore"):  # the logarithm of 0
            return np.sign(values) * np.logaddexp(0, np.log(np.abs(values)) - math.log(self.unit))


def share_axis(title: str, low: float = 0.0) -> Axis:
    """An axis of shares, from 0 or another low end to 100%."""
    step = 0.2 if low < 0.5 else 0.1
    values = np.arange(round((1 - low) / step) + 1) * step + low
    return Axis(title, low, 1.0, [(float(value), f"{100 * value:.0f}%") for value in values])


def round_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most this many round numbers between two numbers."""
    size = 10.0 ** max(-300, math.floor(math.log10((high - low) / most or abs(low) or 1.0)))
    for step in (1 * size, 2 * size, 5 * size, 10 * size, 20 * size):
        numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        if len(numbers) <= most:
            break
    return [number * step for number in numbers]


def linear_axis(title: str, values: Any, most: int = 5) -> Axis:
    low, high = float(np.min(values)), float(np.max(values))
    ticks = round_ticks(low, high, most)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    plain = digits < 7 and high < 1e12
    return Axis(title, low, high, [(tick, f"{tick:,.{digits}f}" if plain else f"{tick:.3g}") for tick in ticks])


def is_skewed(values: np.ndarray) -> bool:
    """Whether most cells of a column are close to 0 compared with the largest."""
    sizes = np.abs(values[values != 0])
    return bool(len(sizes)) and sizes.max() >= 8 * np.median(sizes)


def cell_axis(title: str, values: np.ndarray, logarithmic: bool) -> Axis:
    """An axis for the cells of a column."""
    sizes = np.abs(values[values != 0])
    if not logarithmic or not len(sizes):
        return linear_axis(title, values, 4)
    low, high, unit = float(values.min()), float(values.max()), float(sizes.min())
    powers = range(math.ceil(math.log10(unit)), math.floor(math.log10(sizes.max())) + 1)
    every = max(1, math.ceil(len(powers) / (2 if low < 0 else 4)))
    tens = [10.0**power for power in [*powers][::-every]]
    ticks = sorted(tick for tick in (*(-ten for ten in tens), 0.0, *tens) if low <= tick <= high)
    ticks = ticks if len(ticks) > 1 else [low, high]
    return Axis(f"{title} (logarithmic)", low, high, [(tick, short_number(tick)) for tick in ticks], unit)


class Chart:
    """A chart as paths and dots, each with its CSS classes."""

    def __init__(self, across: Axis, up: Axis, description: str) -> None:
        self.across, self.up, self.description = across, up, description
        self.paths: list[tuple[str, str]] = []  # classes, data
        self.dots: list[tuple[str, float, float, str]] = []  # classes, x, y, tooltip

    def x(self, values: Any) -> np.ndarray:
        return LEFT + self.across.share(values) * (WIDTH - LEFT - RIGHT)

    def y(self, values: Any) -> np.ndarray:
        return TOP + (1 - self.up.share(values)) * (HEIGHT - TOP - BOTTOM)

    def polyline(self, x: Any, y: Any) -> str:
        return "M" + "L".join(f"{across:.1f} {up:.1f}" for across, up in zip(self.x(x), self.y(y), strict=True))

    def line(self, x: Any, y: Any, kind: str) -> None:
        if len(x) == 1:
            self.dot(x[0], y[0], kind, "")
        self.paths.append((f"line {kind}", self.polyline(x, y)))

    def steps(self, x: np.ndarray, y: np.ndarray, kind: str) -> None:
        """A line of steps, each at the height of its right end."""
        moves = "".join(f"V{up:.1f}H{across:.1f}" for across, up in zip(self.x(x), self.y(y), strict=True))
        self.paths.append((f"line {kind}", f"M{LEFT} {self.y(y[0]):.1f}{moves}"))

    def band(self, x: Any, low: Any, high: Any, kind: str) -> None:
        outline = self.polyline(np.append(x, x[::-1]), np.append(low, high[::-1]))
        self.paths.append((f"band {kind}", f"{outline}Z"))

    def bars(self, edges: np.ndarray, heights: np.ndarray, kind: str) -> None:
        """A histogram from 0 up or down: heights are between edges."""
        (ends, base), tops = (self.x(edges), float(self.y(0))), self.y(heights)
        outlines = zip(ends[:-1] + 0.5, ends[1:] - 0.5, tops, strict=True)
        self.paths.append(
            (f"fill {kind}", "".join(f"M{a:.1f} {base:.1f}V{y:.1f}H{b:.1f}V{base:.1f}Z" for a, b, y in outlines))
        )

    def dot(self, x: float, y: float, kind: str, tooltip: str) -> None:
        self.dots.append((kind, float(self.x(x)), float(self.y(y)), tooltip))

    def x_labels(self) -> Iterable[tuple[float, str, str]]:
        """The ticks with labels that fit the chart and do not overlap, as (x, anchor, text)."""
        free = 0.0
        for value, text in self.across.ticks:
            x, half = float(self.x(value)), 4 * len(text)
            anchor = "end" if x + half > WIDTH else "middle"
            start = x - (2 * half if anchor == "end" else half)
            if start >= free:
                yield x, anchor, text
                free = start + 2 * half + 6
