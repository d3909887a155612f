"""Modules of a folder of `benchmarks`, whose short names others may have, too."""

import pathlib
import runpy
import sys
from collections.abc import Iterator

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


def modules_of(folder: str, *names: str) -> Iterator[dict[str, dict]]:
    """Yield what modules define, by module; then what they imported is forgotten."""
    path = BENCHMARKS / folder
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path)
        for name in {file.stem for file in path.glob("*.py")} & {*sys.modules}:
            patch.delitem(sys.modules, name)
        before = {*sys.modules}
        yield {name: runpy.run_path(str(path / f"{name}.py")) for name in names}
        for name in {*sys.modules} - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(path)):
                del sys.modules[name]
