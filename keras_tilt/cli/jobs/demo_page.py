"""The page of the demo: what its commands left in a folder, as one HTML file.

models/, q.json, report.json, log_partition.json, served/, *.png -> index.html
"""

__all__ = ["write"]

import html
import importlib.resources
import json
import pathlib
import string
from collections.abc import Mapping, Sequence
from typing import Any

from keras_tilt.cli.jobs import digit_units, learning, two_halves
from keras_tilt.serving.asking import newest_version
from keras_tilt.storage import replace


def write(out: pathlib.Path, steps: Sequence[Mapping[str, Any]]) -> pathlib.Path:
    """Write steps.json and index.html, and return the path of the page.

    Args:
        out: folder of the demo.
        steps: command, a list of words, and seconds of each.
    """
    (out / "steps.json").write_text(json.dumps(steps, indent=1) + "\n")
    units = _read(out / "report.json")["units"]
    law, halves = _read(out / "q.json")["law"], _read(out / "log_partition.json")
    version = newest_version(out / "served" / "digits")
    certificate = _read(version / "assets" / "certificate.json")
    texts = {
        "summary": _summary(units),
        **_training(_read(out / "models" / "mnist.json")),
        "law": learning.law_table(law),
        "verdicts": digit_units.table(units, "the learned reference"),
        "halves": two_halves.table(halves),
        "certificate": " ".join(
            f"{one['unit']}: {one['verdict']}" for one in certificate["certificates"]
        ),
        "seconds": "\n".join(f"{s['seconds']:7.1f}  {_line(s)}" for s in steps),
    }
    texts |= {f"command_{_name(step)}": _line(step) for step in steps}
    safe = {name: html.escape(text) for name, text in texts.items()}
    files = importlib.resources.files(__package__) / "templates"
    page = string.Template((files / "demo.html").read_text(encoding="utf-8"))
    path = out / "index.html"
    replace(path, lambda part: part.write(page.substitute(safe).encode()))
    return path


def _read(path):
    return json.loads(path.read_text())


def _line(step):
    return f"keras-tilt {' '.join(step['command'])}"


def _name(step):
    words = step["command"]
    return "_".join(words[:2]) if words[0] == "export" else words[0]


def _summary(units):
    """What was found, in a sentence."""
    converged = sum(one["verdict"].startswith("converged") for one in units)
    called = sum(one["share_classified"] for one in units) / len(units)
    return (
        f"The chains of {converged} of {len(units)} digits have converged; the network "
        f"calls {called:.1%} of the last draws their digit."
    )


def _training(records):
    """Epochs and test error of the last record."""
    last = records[-1]
    return {
        "generative": f"{last['generative_epochs']}",
        "refining": f"{last['epochs'] - last['generative_epochs']}",
        "error": f"{last['test_error']:.1f}",
    }
