"""An extension of Griffe: this project's "Example:" is the "Examples:" it knows."""

import re

import griffe

__all__ = ["Sections"]


class Sections(griffe.Extension):
    """Renames the section in every docstring of the package."""

    def on_object(self, *, obj, **kwargs):
        """Rename it in one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE
            )
