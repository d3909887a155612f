"""Run the guides, and write the page of each with its output and its pictures.

    python docs/run_guides.py               all of them, about half an hour
    python docs/run_guides.py look serve    these
    python docs/run_guides.py --text look   without running it: only its text has changed

A guide is a Python file in cells: `# %% [markdown]` starts text, in comments; `# %%`
starts code; `# %% [bash]` starts commands, in comments. What a code cell prints is shown
below it, and so is the value of its last expression: a Figure as a picture, for which
the title of the cell, `# %% the title`, is the alternative text.

The cells run one after the other in a folder of their own, out/guides/NAME, which is
emptied first and which sees the folders train and export of this checkout. Pages and
pictures are committed, so that the site builds without TensorFlow.
"""

import argparse
import ast
import contextlib
import io
import linecache
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import typing

DOCS = pathlib.Path(__file__).resolve().parent
ROOT = DOCS.parent
RESULT = re.compile(
    r"(\n\n```\{\.text \.output\}\n.*?\n```(?=\n))?(\n\n!\[[^\n]*\)(?=\n))?", re.DOTALL
)
HEADER = re.compile(r"^# %%(?: \[(markdown|bash)\])?(?: (.*))?$")


class Cell(typing.NamedTuple):
    """A part of a guide.

    Attributes:
        kind: "markdown", "bash" or "python".
        title: text after `# %%`, or "".
        text: what it holds, without the marks of comments.
    """

    kind: str
    title: str
    text: str


def guides():
    """Return the guides by their names: those of guides/, and pages beside them."""
    found = [*DOCS.glob("guides/*.py"), *DOCS.glob("*.py")]
    return {
        path.stem: path
        for path in sorted(found)
        if path.read_text(encoding="utf-8").startswith("# %%")
    }


def cells_of(source):
    """Return the cells of a guide."""
    found = []
    for line in source.splitlines():
        if header := HEADER.match(line):
            kind, title = header[1] or "python", header[2] or ""
            found.append((kind, title, []))
        else:
            kind, _, lines = found[-1]
            lines.append(line if kind == "python" else re.sub("^# ?", "", line))
    return [Cell(kind, title, "\n".join(text).strip()) for kind, title, text in found]


def shown(cell):
    """Return a cell as a part of its page."""
    if cell.kind == "markdown":
        return cell.text
    return f"```{'sh' if cell.kind == 'bash' else 'python'}\n{cell.text}\n```"


def page_of(path, pictures, folder):
    """Run a guide, and return its page.

    Args:
        path: of the guide.
        pictures: folder of its pictures.
        folder: where it runs.
    """
    start, names, parts = time.monotonic(), {"__name__": "__main__"}, []
    cells = cells_of(path.read_text(encoding="utf-8"))
    with contextlib.chdir(folder):
        for number, cell in enumerate(cells):
            parts.append(shown(cell))
            text, figure = result_of(cell, names)
            text = text.replace(f"{folder}/", "")
            if text:
                parts.append(f"```{{.text .output}}\n{text}\n```")
            if figure is not None:
                target = pictures / f"{path.stem}-{number}.png"
                save(figure, target)
                place = os.path.relpath(target, path.parent)
                parts.append(f"![{cell.title}]({place})")
    minutes = (time.monotonic() - start) / 60
    parts.append(
        f"---\n\nThis page is [`{path.name}`]({path.name}) and what it printed: "
        f"{minutes:.1f} minutes on two cores. Run it again with "
        f"`python docs/run_guides.py {path.stem}`."
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def retold(path, page):
    """Return the page of a guide with its text anew, and what it printed before."""
    parts, place = [], 0
    for cell in cells_of(path.read_text(encoding="utf-8")):
        part = shown(cell)
        if cell.kind != "markdown":
            start = page.find(part, place)
            if start < 0:
                raise SystemExit(f"Run {path.name}, as its code has changed:\n{part}")
            place = start + len(part)
            part += RESULT.match(page, place)[0]
        parts.append(part)
    return "\n\n".join([*parts, page[page.rindex("---\n") :]])


def result_of(cell, names):
    """Run a cell; return what it printed, and the Figure that it ends in or None."""
    if cell.kind == "bash":
        # The python of the commands is this one.
        path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        run = subprocess.run(
            ["bash", "-euc", cell.text],
            env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        if run.returncode:
            raise SystemExit(f"{cell.text}\n\n{run.stdout}\nfailed, see above")
        return run.stdout.rstrip(), None
    if cell.kind == "markdown":
        return "", None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        value = value_of(cell.text, names)
        if hasattr(value, "savefig"):
            return printed.getvalue().rstrip(), value
        if value is not None and " at 0x" not in repr(value):
            print(repr(value))
    return printed.getvalue().rstrip(), None


def value_of(code, names):
    """Run code; return the value of the expression that it ends in, or None."""
    # AutoGraph of TensorFlow reads the source of the functions that it converts.
    file = f"<cell {len(linecache.cache)}>"
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, file, "exec"), names)
    if last is not None:
        return eval(compile(ast.Expression(last.value), file, "eval"), names)
    return None


def save(figure, path):
    """Write a figure in at most 256 colours, which is a third of the bytes."""
    from PIL import Image

    part = io.BytesIO()
    figure.savefig(part, dpi=110, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.open(part).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main():
    """Run the guides that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", help="of guides; if none, all")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "out" / "guides")
    parser.add_argument(
        "--pages", type=pathlib.Path, help="folder to write to, in place of docs"
    )
    parser.add_argument("--text", action="store_true", help="new text, old output")
    flags = parser.parse_args()
    there = guides()
    if unknown := set(flags.names) - set(there):
        parser.error(f"Expected names of {', '.join(there)}. Received: {unknown}.")
    if flags.text:
        for path in (there[name] for name in flags.names or there):
            page = path.with_suffix(".md")
            page.write_text(retold(path, page.read_text(encoding="utf-8")))
        return
    if not flags.names or len(flags.names) > 1:  # each in a process of its own
        for name in flags.names or there:
            subprocess.run([sys.executable, *sys.argv[:1], name], check=True)
        return
    path = there[flags.names[0]]
    folder = (flags.out / path.stem).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("train", "export"):
        (folder / name).symlink_to(ROOT / name)
    os.environ["PYTHONPATH"] = str(ROOT)
    sys.path.insert(0, str(ROOT))
    target = (flags.pages or path.parent).absolute()
    page = page_of(path, target / "pictures", folder)
    target.mkdir(parents=True, exist_ok=True)
    (target / f"{path.stem}.md").write_text(page, encoding="utf-8")
    print(f"{path.stem}: {target / path.stem}.md", file=sys.stderr)


if __name__ == "__main__":
    main()
