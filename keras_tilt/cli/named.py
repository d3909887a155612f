"""Networks, units and noise by the names that a command line gives them.

    MODEL.keras     a network, or a `GenerativeClassifier` of one
    alexnet         a network to be trained, or ResNet50, of keras.applications
    class:3         a class, read at one or several sizes of the image
    class:goldfish  the same by its name
    conv5:0-7       channels of a layer, on the pixels that they see; conv5:all
    caffe           pixels as keras.applications prepares them for a network

Commands read the flags of `keras_tilt.cli.flags`; what they mean is said here, for all.
"""

__all__ = [
    "MODES",
    "NOISES",
    "as_exit",
    "class_names",
    "class_number",
    "count",
    "image_shape",
    "labels",
    "layer_table",
    "load_model",
    "load_names",
    "names_of",
    "network",
    "noise",
    "num_classes",
    "pixel_range",
    "preprocessing",
    "readable_sizes",
    "saved_model",
    "unit_of",
    "use_modules",
    "use_threads",
]

import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import json
import os
import pathlib
import random
import re
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_tilt import networks
from keras_tilt.cli.flags import MODES, NOISES, count
from keras_tilt.networks import graph, outputs
from keras_tilt.networks.receptive_fields import layers_of
from keras_tilt.reference.distributions import (
    box,
    spectral_noise,
    squash,
    white_noise,
)
from keras_tilt.units.selection import unit

# Functions of (input_shape, num_classes, seed).
_NETWORKS = {
    "lenet": functools.partial(networks.lenet, scale=1 / 256),
    "convnet": networks.convnet,
    "alexnet": networks.alexnet,
    "zf_fast": networks.zf_fast,
}
_APPLICATIONS = dict(inspect.getmembers(keras.applications, inspect.isfunction))

# Of the pixels of 1,000 photographs, one of each ImageNet class: red, green, blue.
_PHOTOS_COVARIANCE = [[4852, 4247, 3865], [4247, 4647, 4403], [3865, 4403, 5075]]


@contextlib.contextmanager
def as_exit():
    """Within it a ValueError or an OSError ends the script, with its sentence alone."""
    try:
        yield
    except ValueError as error:
        raise SystemExit(f"{error}") from error
    except OSError as error:
        raise SystemExit(_of_files(error)) from error


def _of_files(error):
    """Return what an OSError says, whole sentences as they are."""
    if error.filename is None:
        return str(error)
    if str(error.strerror).startswith("Expected"):
        return f"{error.strerror}: {error.filename}"
    return (
        "Expected files that can be read and folders that can be written. Received: "
        f"{error.filename}: {error.strerror}. Mend the rights, or name another one."
    )


def use_threads(number):
    """Let TensorFlow use so many threads; None: all cores. Before it has started."""
    if number:
        tf.config.threading.set_intra_op_parallelism_threads(number)
        tf.config.threading.set_inter_op_parallelism_threads(number)


def use_modules(names):
    """Import modules with layers of one's own, which Keras then knows by their names.

    Layers that are registered, by `keras.saving.register_keras_serializable`, need the
    import alone; others, and functions, are known by their plain names afterwards.

    Args:
        names: list of modules, as in an import, also of the folder that one is in; or
            of files that end in .py.

    Raises:
        ValueError: for a module that is not found, or that imports one that is not.
    """
    for name in names:
        module = _imported(name)
        own = {
            key: value
            for key, value in vars(module).items()
            if (inspect.isclass(value) or inspect.isfunction(value))
            and value.__module__ == module.__name__
        }
        keras.saving.get_custom_objects().update(own)


def _imported(name):
    """Return a module by its name, or of a file."""
    path = pathlib.Path(name)
    try:
        if path.suffix != ".py":
            sys.path.append(os.getcwd())
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except (ImportError, OSError) as error:
        raise ValueError(
            f"Expected --import of a module that Python finds. Received: {name!r}: "
            f"{error}. Name it as in an import, or its file, which ends in .py."
        ) from error


def load_model(path):
    """Return the model of a .keras file.

    Raises:
        ValueError: if there is none, or Keras cannot load it.
    """
    if not path.is_file():
        raise ValueError(
            f"Expected a .keras file. Received: {path}, which is not there. "
            "Save a network with: network.save('network.keras')"
        )
    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(
            "Expected a .keras file that Keras can load. Received: "
            f"{path}: {_reason(error)}"
        ) from error


def _reason(error):
    """Return why Keras loads no model, without the configuration that it shows."""
    unknown = re.search(r"Could not locate (class|function) ('[^']*')", f"{error}")
    if unknown:
        return (
            f"the {unknown[1]} {unknown[2]} is not Keras's own. Name the module or the "
            "file that has it: --import MODULE."
        )
    return next(iter(f"{error}".splitlines()), type(error).__name__)


def network(text, input_shape, num_classes, seed=0):
    """Return the network that --network names: images to logits `[batch, classes]`.

        lenet, convnet, alexnet, zf_fast   of `keras_tilt.networks`, new weights
        ResNet50, VGG16, ...               of `keras.applications`, new weights
        NETWORK.keras                      as it was saved

    Pixels are in [0, 255], for the first four; what the others take, their makers say.

    Args:
        text: one of these; upper and lower case as there.
        input_shape: (height, width, channels) of the images.
        num_classes: number of logits.
        seed: integer; equal seeds give equal new weights.

    Returns:
        network: `keras.Model`, logits in nats.

    Raises:
        ValueError: an unknown name (the error names those near); a saved network of
            other images or with other outputs; images that the network cannot take.
    """
    if text.endswith(".keras"):
        model = saved_model(pathlib.Path(text), input_shape, num_classes)
        return graph.network_of(model)
    if text in _NETWORKS:
        return _NETWORKS[text](input_shape, num_classes, seed)
    if text in _APPLICATIONS:
        return _application(text, input_shape, num_classes, seed)
    raise ValueError(
        "Expected --network to name a network, or a .keras file. Received: "
        f"{text!r}. {_listed(text, [*_NETWORKS, *_APPLICATIONS], 'Networks')}"
    )


def _listed(text, names, what, most=None):
    """Return "Near it: ResNet50." of names like the text, or the first: "What: ..."."""
    lower = {name.lower(): name for name in names}
    near = [lower[name] for name in difflib.get_close_matches(text.lower(), lower)]
    shown = near or [*lower.values()][:most]
    return f"{'Near it' if near else what}: {', '.join(shown)}."


def _application(name, input_shape, num_classes, seed):
    """Return a network of keras.applications; its layers' seeds are drawn from seed."""
    state = random.getstate()
    random.seed(seed)
    try:
        return _APPLICATIONS[name](
            weights=None,
            input_shape=tuple(input_shape),
            classes=num_classes,
            classifier_activation=None,
        )
    finally:
        random.setstate(state)


def saved_model(path, input_shape, num_classes):
    """Return the model of a .keras file that takes such images and ends in logits.

    Raises:
        ValueError: if it is another one.
    """
    model = load_model(path)
    found = graph.network_of(model)
    if not graph.has_graph(found):
        raise ValueError(
            "Expected a functional or Sequential network with known inputs. Received: "
            f"{path}, {type(found).__name__}. Save one made by keras.Model(inputs, "
            "outputs)."
        )
    images = [tuple(tensor.shape) for tensor in found.inputs]
    made = [tuple(tensor.shape) for tensor in found.outputs]
    taken = tf.TensorShape(images[0]).is_compatible_with((None, *input_shape))
    if len(images) != 1 or not taken or made != [(None, num_classes)]:
        raise ValueError(
            f"Expected a network of images {tuple(input_shape)} that ends in "
            f"{num_classes} logits. Received: {path}, of inputs {images} and outputs "
            f"{made}. Save one that fits, or pass other data."
        )
    output = outputs.output_of(found)
    if output.activation is not None:
        raise ValueError(
            f"Expected a network that ends in logits. Received: {path}, which ends in "
            f"a {output.activation}, by layer {output.layer!r}. Build its last layer "
            "without an activation."
        )
    return model


def class_names(path, number, model=None):
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


def names_of(path, model, number=None):
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


def load_names(path):
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
        found = {
            int(number): name if isinstance(name, str) else name[-1]
            for number, name in names.items()
        }
    except (AttributeError, TypeError, ValueError, IndexError):
        found = {None: None}
    if not all(isinstance(name, str) for name in found.values()):
        raise ValueError(
            f"Expected --names of text, in a list or by number. Received: {path}, "
            'with something else. Write for example ["cat", "dog"].'
        )
    return found


def labels(specifications, network=None, names=None):
    """Return labels of single units: "class:0-2" -> class:0, class:1, class:2.

    Args:
        specifications: list of "class:3", "class:0-9", "class:goldfish", "class:all",
            "LAYER:12", "LAYER:0-7" or "LAYER:all".
        network: `keras.Model`, of which "all" counts the channels.
        names: dict of the names of the classes by their numbers.

    Raises:
        ValueError: for a text of another form, and a name that no class has, or several
            have; an unknown name is told those near it.
    """
    return [
        f"{layer}:{number}"
        for text in specifications
        for layer, number in _single_units(text, network, names or {})
    ]


def _single_units(text, network, names):
    """Return (layer, number) of every unit that a text names."""
    layer, _, channels = text.rpartition(":")
    if text.startswith("class:"):
        layer, channels = "class", text.removeprefix("class:")
    if layer and channels == "all":
        return [(layer, number) for number in range(_num_units(network, layer))]
    first, _, last = channels.partition("-")
    if layer and first.isdecimal() and (last or first).isdecimal():
        numbers = range(int(first), int(last or first) + 1)
        if not numbers:
            raise ValueError(
                f"Expected a range that rises, as 0-7. Received: {text}. Turn it round."
            )
        return [(layer, number) for number in numbers]
    if layer == "class":
        return [(layer, _class_named(channels, names))]
    raise ValueError(
        "Expected --unit class:3, class:0-9, class:NAME, LAYER:12, LAYER:0-7 or "
        f"LAYER:all. Received: {text}."
    )


def _num_units(network, layer):
    """Return how many classes a network, or channels a layer, has."""
    if layer == "class":
        one = unit(network, class_index=0)
    else:
        one = unit(network, f"{layer}:0")
    ((_, weights),) = one.terms
    return len(weights)


def _class_named(text, names):
    """Return the number of the class of a name, or of one of several synonyms."""
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
        f"{text}. {_listed(wanted, known, 'The first names', most=5)}"
    )


def _plain(name):
    """Return a name as it is compared: upper case and underscores tell none apart."""
    return name.strip().lower().replace("_", " ")


def layer_table(network):
    """Return the layers of a network as text: a line for each whose channels are units.

    Columns: how to name all its channels as --unit, its shape, and the patch of the
    image that one cell of it sees, in pixels; or that it is drawn on the whole image.

    Args:
        network: functional or Sequential `keras.Model`.

    Raises:
        ValueError: a network without a graph of layers.
    """
    rows = [("--unit", "shape", "sees", "drawn on")]
    for layer in layers_of(network):
        sees = layer.receptive_field
        rows.append(
            (
                f"{layer.path}:0-{layer.channels - 1}",
                " x ".join(map(str, layer.shape)),
                "-" if sees is None else " x ".join(map(str, sees)),
                "what it sees" if layer.can_be_cropped else "the whole image",
            )
        )
    if number := num_classes(network):
        rows.append((f"class:0-{number - 1}", f"{number}", "-", "the whole image"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def class_number(label):
    """Return 3 of "class:3"; None of another unit."""
    layer, _, number = label.rpartition(":")
    return int(number) if layer == "class" else None


def unit_of(network, label, mode="none", sizes=(1.0,), posterior_weight=0.0):
    """Return a class in several views, or a channel on what it sees.

    Args:
        network: a `keras.Model` of images of one size.
        label: "class:3" or "LAYER:12".
        mode: of `preprocessing`.
        sizes: of the image at which a class is read, 1 as the network takes it; every
            other one mirrored and moved by an eighth of the image.
        posterior_weight: of log p(class | x), as in `keras_tilt.unit`.

    Raises:
        ValueError: for a unit that is not there.
    """
    if class_number(label) is None:
        return _layer_unit(network, label, preprocessing(mode))
    try:
        views = [
            _class_view(network, label, i, size, mode, posterior_weight)
            for i, size in enumerate(sizes)
        ]
    except ValueError as error:
        if "resize" not in str(error):
            raise
        raise ValueError(f"{error} Here: pass --sizes 1.") from error
    return sum(views) / len(views)


def _class_view(network, label, number, size, mode, posterior_weight):
    """Return a class as it is read at one size of the image."""
    height, width, _ = image_shape(network)
    resize = (round(size * height), round(size * width))
    return unit(
        network,
        class_index=class_number(label),
        posterior_weight=posterior_weight,
        preprocess=_view(mode, mirrored=bool(number % 2)),
        resize=resize if resize != (height, width) else None,
    )


def _layer_unit(network, label, preprocess):
    """Return a channel on its receptive field, or on the whole image if it has no crop.

    As that of a dense layer, of tokens, or of a map that sees padding everywhere.
    """
    whole = unit(network, label, preprocess=preprocess)
    try:
        return whole.crop()
    except ValueError:
        return whole


def readable_sizes(network, sizes, mode="none"):
    """Return those of the sizes at which the network's classes can be read.

    A network with a Flatten and a Dense takes images of one size alone, 1.

    Args:
        network: a `keras.Model` of images of one size.
        sizes: list, of the image, 1 as the network takes it.
        mode: of `preprocessing`.

    Returns:
        sizes: list, [1.0] if there are no others.
    """
    found = []
    for size in sizes:
        with contextlib.suppress(ValueError):
            _class_view(network, "class:0", 0, size, mode, 0.0)
            found.append(size)
    return found or [1.0]


def num_classes(network):
    """Return the number of outputs of a network of one output [n, classes], or None."""
    shapes = [tensor.shape for tensor in getattr(network, "outputs", None) or ()]
    single = len(shapes) == 1 and len(shapes[0]) == 2
    return shapes[0][1] if single else None


def image_shape(network):
    """Return that of the one input that is an image of a known size, or raise."""
    shape = getattr(network, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise ValueError(
            "Expected a network of one input, images of one size. Received: input "
            f"shape {shape}. Build it with an Input of [height, width, channels]."
        )
    return shape[1:]


@functools.cache
def _view(mode, mirrored):
    """Return the preprocessing of an image, or of its mirror image, moved."""
    preprocess = preprocessing(mode)
    if not mirrored:
        return preprocess

    def of_other_side(images):
        eighths = [size // 8 for size in images.shape[1:3]]
        return preprocess(tf.roll(tf.reverse(images, [2]), eighths, axis=[1, 2]))

    return of_other_side


@functools.cache
def preprocessing(mode):
    """Return the function of images that prepares them as keras.applications does."""
    if mode == "none":
        return tf.identity
    return lambda images: keras.applications.imagenet_utils.preprocess_input(
        images, data_format="channels_last", mode=mode
    )


def pixel_range(network, low=None, high=None, mode="none"):
    """Return black and white as pixels of a network, and how they are known.

        given, else 255 of a --preprocess, else the white of which the first Rescaling
        or Normalization makes a number near 1, else 255

    Args:
        network: a `keras.Model` of images.
        low: black, if it is given; else 0.
        high: white, if it is given.
        mode: of `preprocessing`.

    Returns:
        low, high: numbers.
        reason: text.

    Raises:
        ValueError: unless black is below white.

    Example:
        >>> layers = [keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 127.5, -1)]
        >>> pixel_range(keras.Sequential(layers))[:2]
        (0.0, 255.0)
    """
    white, reason = 255.0, "assumed; --low and --high say otherwise"
    if high is not None:
        white, reason = high, "as --high says"
    elif mode != "none":
        reason = f"as --preprocess {mode} takes them"
    else:
        layer = _scaling_layer(network)
        found = None if layer is None else _white_of(_gain(layer))
        if found is not None:
            white, reason = found, f"as its layer {layer.name!r} takes them"
    black = 0.0 if low is None else low
    if not black < white:
        raise ValueError(
            f"Expected --low below --high. Received: {black:g}, {white:g}. Swap them, "
            "or pass both."
        )
    return black, white, reason


def _scaling_layer(network):
    """Return the Rescaling or Normalization that pixels meet before any weights."""
    scaling = (keras.layers.Rescaling, keras.layers.Normalization)
    for step in graph.steps(network) if graph.has_graph(network) else ():
        if isinstance(step.operation, scaling):
            return step.operation
        if getattr(step.operation, "weights", ()):
            return None
    return None


def _gain(layer):
    """Return the factor of a Rescaling or a Normalization, a mean over channels."""
    if isinstance(layer, keras.layers.Rescaling):
        return float(np.mean(np.abs(layer.scale)))
    return float(np.mean(np.asarray(layer.variance) ** -0.5))


def _white_of(gain):
    """Return the white, 1 or 255, that a factor brings near 1, or to 255; or None."""
    fits = [w for w in (1.0, 255.0) if 0.5 <= w * gain <= 15 or 250 <= w * gain <= 260]
    return fits[0] if len(fits) == 1 else None


def noise(kind, shape, low, high, contrast=0.3, exponent=1.7):
    """Return the reference of images whose pixels lie between black and white.

    Args:
        kind: "spectral", a 1/f spectrum within the range, in the colours of photographs
            if there are three; "box", uniform in it; "white", Gaussian around its
            middle, which leaves it.
        shape: of one image.
        low: black.
        high: white.
        contrast: standard deviation of a pixel, as a share of the range.
        exponent: of 1/f.
    """
    middle, width = (low + high) / 2, high - low
    if kind == "white":
        return white_noise(shape, middle, contrast * width)
    if kind == "box":
        return box(shape, low, high)
    colours = np.array(_PHOTOS_COVARIANCE) if shape[2] == 3 else np.eye(shape[2])
    colours = colours * (contrast * width) ** 2 / np.trace(colours) * shape[2]
    natural = spectral_noise(
        shape, mean=middle, exponent=exponent, colour_covariance=colours
    )
    return squash(natural, low, high, scale=0.3 * width)
