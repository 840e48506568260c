"""What is decided for the user, with the reason that is shown."""

from typing import Any, NamedTuple


class Decision(NamedTuple):
    value: Any
    reason: str
