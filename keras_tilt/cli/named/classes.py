"""Classes by name: "goldfish" of class:goldfish, from a JSON file of names."""

__all__ = ["class_named", "class_names", "load_names", "names_of"]

import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from keras_tilt.cli.named.similar import listed


def class_names(
    path: pathlib.Path | None, number: int, model: pathlib.Path | None = None
) -> list[str]:
    """Return the names of so many classes, "class 3" where the file has none.

    Args:
        path: of --names, or None.
        number: of classes.
        model: path of the model, whose own names are taken where there are no others.

    Raises:
        ValueError: what `load_names` raises, or for names of other classes.
    """
    names = names_of(path, model, number)
    if not set(names) <= set(range(number)):
        raise ValueError(
            f"Expected --names of the classes 0..{number - 1}. Received: "
            f"{len(names)} names, up to number {max(names)}. Leave out the others."
        )
    return [names.get(i, f"class {i}") for i in range(number)]


def names_of(
    path: pathlib.Path | None, model: pathlib.Path | None, number: int | None = None
) -> dict[int, str]:
    """Return the names of classes by their numbers: those given, or the model's own.

    A model's own are in class_names.json beside its file, or in the folder above, where
    train/imagenet.py writes it.

    Args:
        path: of --names, or None.
        model: path of the model, or None.
        number: of classes; if it is known, a file of other classes is not the model's.

    Raises:
        ValueError: what `load_names` raises, of the names that were given.
    """
    if path is not None or model is None:
        return load_names(path)
    for folder in model.absolute().parents[:2]:
        with contextlib.suppress(ValueError):
            names = load_names(folder / "class_names.json")
            if number is None or len(names) == number:
                return names
    return {}


def load_names(path: pathlib.Path | None) -> dict[int, str]:
    """Return the names of classes by their numbers, of a JSON file; {} of None.

    Raises:
        ValueError: if it is neither a list nor a dict of names, or of pairs that end
            in one.
    """
    if path is None:
        return {}
    try:
        names = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Expected a JSON file of --names. Received: {path}: {error}"
        ) from error
    if isinstance(names, list):
        names = dict(enumerate(names))
    try:
        # Of a pair, as Keras has them for ImageNet, the last is the name.
        found: dict[int, Any] = {
            int(number): name if isinstance(name, str) else name[-1]
            for number, name in names.items()
        }
    except (AttributeError, TypeError, ValueError, IndexError):
        found = {0: None}
    if not all(isinstance(name, str) for name in found.values()):
        raise ValueError(
            f"Expected --names of text, in a list or by number. Received: {path}, "
            'with something else. Write for example ["cat", "dog"].'
        )
    return found


def class_named(text: str, names: Mapping[int, str]) -> int:
    """Return the number of the class of a name, or of one of several synonyms.

    Args:
        text: "goldfish"; upper case and underscores tell no names apart.
        names: of classes, by their numbers; with commas between synonyms.

    Raises:
        ValueError: if no class has the name, or several have.
    """
    if not names:
        raise ValueError(
            "Expected --unit class:3 or class:0-9, or a name with --names of the "
            f"classes. Received: class:{text}, and no names. Pass --names FILE.json."
        )
    wanted = _plain(text)
    synonyms = {
        number: {_plain(part) for part in (name, *name.split(","))}
        for number, name in names.items()
    }
    found = [number for number, name in names.items() if _plain(name) == wanted]
    found = found or [n for n, parts in synonyms.items() if wanted in parts]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"Expected --unit with the name of one class. Received: class:{text}, the "
            f"name of {len(found)}. Write {' or '.join(f'class:{n}' for n in found)}."
        )
    known = sorted(set.union(*synonyms.values()))
    raise ValueError(
        "Expected --unit class:NAME with a name of --names. Received: class:"
        f"{text}. {listed(wanted, known, 'The first names', most=5)}"
    )


def _plain(name):
    """Return a name as it is compared: upper case and underscores tell none apart."""
    return name.strip().lower().replace("_", " ")
