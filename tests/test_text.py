"""Numbers as text."""

import pytest

from harvest.text import six_digits


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((0.0, "0"), (12.0, "12"), (-0.5, "-0.5"), (1 / 3, "0.333333"), (3919.5, "3,919.5"), (-3919.5, "-3,919.5")),
        *((999_999.4, "999,999"), (999_999.6, "1,000,000"), (1_002_350, "1,002,350"), (-1_002_350, "-1,002,350")),
        *((1_234_567, "1,234,570"), (1e14, "100,000,000,000,000"), (1e15, "1e+15"), (1.5e20, "1.5e+20")),
        *((1.5e-7, "1.5e-07"), (float("nan"), "nan"), (float("inf"), "inf")),
    ],
)
def test_six_digits(value, expected):
    assert six_digits(value) == expected
