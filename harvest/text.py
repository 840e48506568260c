"""Numbers and lists as text for terminals, reports and messages."""

import re
import textwrap
from collections.abc import Sequence

import numpy as np

HARD_SPACE = "\xa0"


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def six_digits(value: float) -> str:
    """A number rounded to six significant digits, without an exponent unless it is huge or tiny: 1,002,350."""
    rounded = float(f"{value:.6g}")
    return f"{rounded:,.0f}" if 1e6 <= abs(rounded) < 1e15 else f"{rounded:,.6g}"


def interval(values: Sequence[float], scale: float = 100, digits: int = 1) -> str:
    return f"{scale * values[0]:.{digits}f} to {scale * values[1]:.{digits}f}"


def count_range(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def name_files(names: Sequence[str]) -> str:
    first, *others = names
    return f"{len(names)} files, {first} to {others[-1]}" if others else first


def wrap(text: str, first: str = "", indent: str = "", width: int = 80) -> list[str]:
    """A text as lines of at most `width` columns; words joined by HARD_SPACE stay together."""
    wrapper = textwrap.TextWrapper(width, first, indent, break_long_words=False, break_on_hyphens=False)
    return [line.replace(HARD_SPACE, " ") for line in wrapper.wrap(text)]


def titled_list(title: str, parts: list[str]) -> list[str]:
    """Lines of at most 80 columns that list parts without breaking them; the first line has the title."""
    return wrap(", ".join(part.replace(" ", HARD_SPACE) for part in parts), f"{title:<11}", " " * 11)


def name_some(names: Sequence[str] | np.ndarray, most: int = 5) -> str:
    """Names or numbers for a message: the first ones, and how many more there are."""
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def name_lines(lines: np.ndarray) -> str:
    return f"line{'s' * (len(lines) > 1)} {name_some(lines)}"


def rows_of(label: str, value: int) -> str:
    """The name of the rows of a class in messages."""
    return f"{'' if value else 'un'}productive rows" if label == "productive" else f"rows with {label} = {value}"


def split_words(name: str) -> list[str]:
    """The words of a name in lower case: identical for appId, App_ID and "app id"."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z](?!s(?![a-z]))[a-z])", "_", name)
    return re.split(r"[\W_]+", name.lower())


def name_words(name: str) -> set[str]:
    return set(split_words(name))
