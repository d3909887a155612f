"""What an error suggests in place of a name that nothing has."""

__all__ = ["listed"]

import difflib
from collections.abc import Iterable


def listed(text: str, names: Iterable[str], what: str, most: int | None = None) -> str:
    """Return "Near it: ResNet50." of names like the text, or the first: "What: ...".

    Args:
        text: that no name equals.
        names: that there are.
        what: they are, if none is like the text.
        most: how many of them are named then; None for all.
    """
    lower = {name.lower(): name for name in names}
    near = [lower[name] for name in difflib.get_close_matches(text.lower(), lower)]
    shown = near or [*lower.values()][:most]
    return f"{'Near it' if near else what}: {', '.join(shown)}."
