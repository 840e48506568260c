"""A value chosen for the user, with the reason that is printed."""

from typing import Any, NamedTuple


class Decision(NamedTuple):
    value: Any
    reason: str
