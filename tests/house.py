"""Measures of the house: python tests/house.py prints them.

    files       in the fullest folder                        at most FILES
    module      lines of the longest                         at most MODULE_LINES
    class       lines of the longest                         at most CLASS_LINES
    function    lines of the longest, docstring left out     at most FUNCTION_LINES
    private     names with an underscore that another file takes      none
    annotated   share of the parameters of public callables

Functions are counted in scripts, too; the rest is that of the package.
"""

import ast
import collections
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "keras_tilt"
SCRIPTS = ("train", "export", "benchmarks")

FILES, MODULE_LINES, CLASS_LINES, FUNCTION_LINES = 14, 450, 250, 40


def modules(folder=PACKAGE):
    """Files of a folder and those within, by dotted name below it."""
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts): path
        for path in sorted(folder.rglob("*.py"))
    }


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def places():
    """Files of the package and of the scripts."""
    return [*modules().values()] + [
        path for folder in SCRIPTS for path in modules(ROOT / folder).values()
    ]


# Sizes


def files_by_folder():
    """Number of Python files in each folder of the package, faces left out."""
    paths = [path for path in modules().values() if path.name != "__init__.py"]
    return collections.Counter(str(path.parent.relative_to(ROOT)) for path in paths)


def lines_by_module():
    """Lines of each file of the package."""
    return {
        name: len(path.read_text(encoding="utf-8").splitlines())
        for name, path in modules().items()
    }


def lines_by_class():
    """Lines of each class of the package."""
    return {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name, path in modules().items()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef)
    }


def lines_by_function():
    """Lines of each function of the package and the scripts, without docstrings."""
    return {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": _lines(node)
        for path in places()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def _lines(node):
    first = node.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(
        getattr(first.value, "value", None), str
    )
    documented = first.end_lineno - first.lineno + 1 if has_docstring else 0
    return node.end_lineno - node.lineno + 1 - documented


# Imports


def imports_of(source):
    """Every module imported, also inside functions, as dotted names."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = ["keras_tilt"] * bool(node.level) + [node.module] * bool(
                node.module
            )
            names |= {".".join([*origin, alias.name]) for alias in node.names}
    return names


def imported_by(name):
    """Modules of the package that one imports, by dotted name below it."""
    known = modules()
    found = set()
    for imported in imports_of(known[name].read_text(encoding="utf-8")):
        first, _, inner = imported.partition(".")
        if first == PACKAGE.name:
            found.add(_module_of(inner, known))
    return found


def _module_of(inner, known):
    """The longest part of a dotted name that is a module: "a.b.name" -> "a.b"."""
    parts = inner.split(".")
    for count in range(len(parts), 0, -1):
        for name in (".".join(parts[:count]), ".".join([*parts[:count], "__init__"])):
            if name in known:
                return name
    return "__init__"


def private_names_taken():
    """Names with an underscore that one file takes of another, file by file."""
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in places()
        for name in sorted(_private_names(tree_of(path)))
    ]


def _private_names(tree):
    modules_here, taken = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            PACKAGE.name
        ):
            names = {alias.name for alias in node.names}
            taken |= {name for name in names if is_private(name)} - {"_start"}
            modules_here |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if isinstance(node.value, ast.Name) and node.value.id in modules_here:
                taken.add(f"{node.value.id}.{node.attr}")
    return taken


def is_private(name):
    """Whether a name has an underscore, and none that its library makes public."""
    named_tuple = {"_asdict", "_fields", "_make", "_replace"}
    return name.startswith("_") and name[:2] != "__" and name not in named_tuple


# The API


def annotated():
    """(annotated, all) parameters of functions and methods without an underscore."""
    has, count = 0, 0
    for path in modules().values():
        for node in _public_functions(tree_of(path)):
            arguments = node.args
            named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            named = [a for a in named if a.arg not in ("self", "cls")]
            has += sum(a.annotation is not None for a in named)
            count += len(named)
    return has, count


def _public_functions(tree):
    for node in tree.body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        if not getattr(node, "name", "_").startswith("_"):
            for inner in inside:
                is_function = isinstance(inner, ast.FunctionDef)
                is_open = is_function and not inner.name.startswith("_")
                if is_open or getattr(inner, "name", "") == "__init__":
                    yield inner


# The report


def largest(sizes, limit, count=3):
    """The largest, and how many are beyond the limit, as text."""
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    beyond = sum(size > limit for size in sizes.values())
    shown = ", ".join(f"{size} {name}" for name, size in ordered[: max(count, beyond)])
    return f"{beyond} beyond {limit}: {shown}"


def main():
    has, count = annotated()
    readme = len((ROOT / "README.md").read_text(encoding="utf-8").split())
    print("files in a folder  ", largest(files_by_folder(), FILES))
    print("lines of a module  ", largest(lines_by_module(), MODULE_LINES))
    print("lines of a class   ", largest(lines_by_class(), CLASS_LINES))
    print("lines of a function", largest(lines_by_function(), FUNCTION_LINES))
    print("private names taken", private_names_taken() or "none")
    print(f"annotated           {has} of {count} public parameters")
    print(f"README              {readme} words")


if __name__ == "__main__":
    main()
