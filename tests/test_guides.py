"""Every guide of docs runs, and its page shows the code that runs.

Pages are committed with what the guides printed. The quick test holds their code to the
guides; the slow one runs each guide as `python docs/run_guides.py NAME` does.
"""

import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
RUNNER = ROOT / "docs" / "run_guides.py"
runner = runpy.run_path(str(RUNNER))
GUIDES = runner["guides"]()

every_guide = pytest.mark.parametrize("name", sorted(GUIDES))


def test_there_are_guides():
    assert {"start", "pretrain", "look", "serve", "extending"} <= set(GUIDES)


@every_guide
def test_the_page_of_a_guide_shows_its_cells_in_their_order(name):
    page = GUIDES[name].with_suffix(".md").read_text(encoding="utf-8")
    place = 0
    for cell in runner["cells_of"](GUIDES[name].read_text(encoding="utf-8")):
        place = page.find(runner["shown"](cell), place)
        assert place >= 0, f"Run: python docs/run_guides.py {name}\n{cell.text}"


def test_text_and_commands_lose_the_marks_of_comments():
    source = ["# %% [markdown]", "# # Head", "#", "# text", "# %% [bash]", "# ls"]
    source += ["# %% a title", "x = 1  # one"]
    text, command, code = runner["cells_of"]("\n".join(source))
    assert text.text == "# Head\n\ntext"
    assert runner["shown"](command) == "```sh\nls\n```"
    assert (code.title, code.text) == ("a title", "x = 1  # one")


def test_what_a_cell_prints_and_ends_in_is_its_result():
    cell = runner["Cell"]("python", "", "print(1 + 1)\n'three'")
    assert runner["result_of"](cell, {}) == ("2\n'three'", None)


@pytest.mark.slow
def test_the_code_of_the_readme_runs(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        timeout=1800,
    )
    assert {"digits.keras", "threes.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
@every_guide
def test_every_guide_runs(name, tmp_path):
    subprocess.run(
        [
            *(sys.executable, RUNNER, name, "--out", tmp_path / "run"),
            *("--pages", tmp_path / "pages"),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        timeout=1800,
    )
    assert (tmp_path / "pages" / f"{name}.md").is_file()
