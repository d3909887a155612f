"""Scenes: every pixel of a data set comes back, and what is wrong with a file is said.

Each data set is built here in small, in the layout in which it is distributed.
"""

import io
import json
import shutil

import numpy as np
import pytest
import scipy.io
from data_files import data_file
from PIL import Image

from keras_tilt.data import tfds_builders
from keras_tilt.masking import scenes
from keras_tilt.masking.scenes import Scene

# Small files


def photo(shape, seed=0):
    return np.random.default_rng([seed, 1]).integers(0, 256, (*shape, 3), np.uint8)


def numbers(shape, values, seed=0):
    """Random numbers of a list, uint8, that are all there."""
    found = np.random.default_rng([seed, 2]).choice(values, shape).astype(np.uint8)
    found.flat[: len(values)] = values
    return found


def write_jpeg(file, pixels):
    """Write an image; what every reader of JPEG makes of it again."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, quality=90)
    return np.array(Image.open(file).convert("RGB"))


def palette_of_voc():
    """Colour c: bit 3 j + k of c is bit 7 - j of channel k."""
    colours = np.zeros([256, 3], np.uint8)
    for c in range(256):
        for bit in range(8):
            colours[c, bit % 3] |= (c >> bit & 1) << (7 - bit // 3)
    return colours


def write_palette(file, indices):
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(palette_of_voc().ravel().tolist())
    image.save(file)


def assert_scene(scene, image, labels, instances):
    np.testing.assert_array_equal(scene.image, image)
    np.testing.assert_array_equal(scene.labels, labels)
    assert scene.image.dtype == np.uint8 and scene.labels.dtype == np.int32
    if instances is None:
        assert scene.instances is None
    else:
        np.testing.assert_array_equal(scene.instances, instances)
        assert scene.instances.dtype == np.int32


def replaced(array, old, new):
    return np.where(array == old, new, array.astype(int))


# PASCAL VOC

SHAPES = {"2007_000032": (9, 12), "2007_000039": (7, 5), "2008_000001": (6, 6)}
CLASSES, OBJECTS = [0, 1, 15, 20, 255], [0, 1, 2, 255]


def write_voc(devkit, train, val=(), year="VOC2012"):
    """VOCdevkit with the images of two lists; image, classes and objects by name."""
    folder, written = devkit / year, {}
    for split, keys in (("train", train), ("val", val)):
        for places in ("Segmentation", "Main"):
            file = folder / "ImageSets" / places / f"{split}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{key}\n" for key in keys))
    for seed, key in enumerate([*train, *val]):
        shape = SHAPES.get(key, (8, 8))
        pixels = write_jpeg(folder / "JPEGImages" / f"{key}.jpg", photo(shape, seed))
        classes, objects = (numbers(shape, v, seed) for v in (CLASSES, OBJECTS))
        write_palette(folder / "SegmentationClass" / f"{key}.png", classes)
        write_palette(folder / "SegmentationObject" / f"{key}.png", objects)
        written[key] = (pixels, replaced(classes, 255, -1), replaced(objects, 255, 0))
    return written


@pytest.mark.parametrize("part", [".", "VOC2012"])
def test_every_pixel_of_voc_comes_back(tmp_path, part):
    written = write_voc(tmp_path, list(SHAPES))
    found = scenes.voc(tmp_path / part, "train")
    assert len(found) == 3
    assert [found.name(i) for i in range(3)] == list(SHAPES)
    for scene, expected in zip(found, written.values(), strict=True):
        assert_scene(scene, *expected)


def test_voc_has_20_classes_of_objects_in_the_order_of_their_names(tmp_path):
    write_voc(tmp_path, ["a"])
    found = scenes.voc(tmp_path, "train")
    assert len(found.class_names) == 21 and found.class_names[0] == "background"
    assert found.class_names[1:] == sorted(found.class_names[1:])
    assert found.background == 0 and found.stuff == frozenset()


def test_labels_of_voc_are_indices_of_the_palette_and_not_its_colours(tmp_path):
    write_voc(tmp_path, ["a"])
    file = tmp_path / "VOC2012" / "SegmentationClass" / "a.png"
    image = Image.open(file)
    colours = np.asarray(image.convert("RGB"))
    assert image.mode == "P" and (128, 0, 0) in set(map(tuple, colours[0].tolist()))
    assert set(np.unique(scenes.voc(tmp_path, "train")[0].labels)) == {-1, 0, 1, 15, 20}
    Image.fromarray(colours).save(file)  # as many programs would
    with pytest.raises(
        ValueError, match=r"SegmentationClass/a.png to have a palette.*R"
    ):
        scenes.voc(tmp_path, "train")[0]


def test_gray_values_of_labels_are_indices_too(tmp_path):
    written = write_voc(tmp_path, ["a"])
    file = tmp_path / "VOC2012" / "SegmentationClass" / "a.png"
    with Image.open(file) as image:
        Image.fromarray(np.asarray(image)).save(file)
    assert_scene(scenes.voc(tmp_path, "train")[0], *written["a"])


def test_images_are_read_when_they_are_asked_for(tmp_path):
    written = write_voc(tmp_path, list(SHAPES))
    found = scenes.voc(tmp_path, "train")
    (tmp_path / "VOC2012" / "JPEGImages" / "2007_000039.jpg").unlink()
    assert_scene(found[2], *written["2008_000001"])
    with pytest.raises(FileNotFoundError, match="JPEGImages/2007_000039.jpg"):
        found[1]


def test_missing_folders_and_lists_of_voc_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}, which neither is nor"):
        scenes.voc(tmp_path, "train")
    write_voc(tmp_path, ["a"])
    message = "Segmentation/test.txt, which is not a file. Lists there: train, val"
    with pytest.raises(FileNotFoundError, match=message):
        scenes.voc(tmp_path, "test")
    with pytest.raises(ValueError, match="Segmentation/val.txt to name images"):
        scenes.voc(tmp_path, "val")
    (named,) = tmp_path.rglob("Segmentation/val.txt")
    named.write_bytes("katze_groß".encode("latin-1"))
    with pytest.raises(ValueError, match=r"Segmentation/val.txt to be text in UTF-8"):
        scenes.voc(tmp_path, "val")


@pytest.mark.parametrize("folder", ["SegmentationClass", "SegmentationObject"])
def test_labels_of_another_size_are_refused(tmp_path, folder):
    write_voc(tmp_path, ["a"])
    write_palette(tmp_path / "VOC2012" / folder / "a.png", np.zeros([8, 9]))
    message = rf"{folder}/a.png to have the size of the image, \[8, 8\].*\[8, 9\]"
    with pytest.raises(ValueError, match=message):
        scenes.voc(tmp_path, "train")[0]


def test_a_label_beyond_the_classes_is_refused(tmp_path):
    write_voc(tmp_path, ["a"])
    file = tmp_path / "VOC2012" / "SegmentationClass" / "a.png"
    write_palette(file, np.full([8, 8], 21))
    with pytest.raises(ValueError, match=r"Class/a.png to be in -1..20.*21..21"):
        scenes.voc(tmp_path, "train")[0]


@pytest.mark.parametrize(
    "file", ["JPEGImages/a.jpg", "SegmentationClass/a.png", "SegmentationObject/a.png"]
)
@pytest.mark.parametrize("left", [0, 20, 0.6])
def test_truncated_images_are_refused(tmp_path, file, left):
    write_voc(tmp_path, ["a"])
    path = tmp_path / "VOC2012" / file
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content)) if left < 1 else left])
    with pytest.raises(ValueError, match=f"{file} to be whole.*fetch it again"):
        scenes.voc(tmp_path, "train")[0]


# SBD


def write_sbd(folder, train, val, with_images=True):
    """The folder dataset of SBD; image, classes and objects by name."""
    written = {}
    for name, keys in (("train", train), ("val", val)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text("".join(f"{key}\n" for key in keys))
    for seed, key in enumerate([*train, *val], 100):
        shape = SHAPES.get(key, (8, 8))
        classes = numbers(shape, [0, 3, 20], seed)
        objects = numbers(shape, [0, 1, 2], seed)
        write_annotation(folder, key, classes, objects)
        pixels = photo(shape, seed)
        if with_images:
            pixels = write_jpeg(folder / "img" / f"{key}.jpg", pixels)
        written[key] = (pixels, classes, objects)
    return written


def write_annotation(folder, key, classes, objects):
    """Structs with cells of sparse matrices, as SBD has them."""
    boundaries = np.empty([20, 1], object)
    boundaries[:, 0] = [scipy.sparse.csc_matrix(classes == c) for c in range(1, 21)]
    shared = {"Boundaries": boundaries}
    present = {"CategoriesPresent": np.unique(classes[classes > 0])}
    categories = {"Categories": np.array([[3], [20]], np.uint8)}
    for kind, struct in (
        ("cls", {**shared, "Segmentation": classes, **present}),
        ("inst", {"Segmentation": objects, **shared, **categories}),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        file = folder / kind / f"{key}.mat"
        scipy.io.savemat(file, {f"GT{kind}": struct}, do_compression=True)


def test_voc_and_sbd_are_voc_train_and_sbd_without_voc_val(tmp_path):
    """Annotations of VOC win, so do its images; no image is there twice."""
    voc = write_voc(tmp_path / "VOC", ["both", "mine"], ["both_val", "my_val"])
    sbd = write_sbd(tmp_path / "SBD", ["both", "its"], ["both_val", "more", "its"])
    found = scenes.voc_and_sbd(tmp_path / "VOC", tmp_path / "SBD")
    names = [found.name(i) for i in range(len(found))]
    assert names == ["both", "mine", "its", "more"]
    expected = [voc["both"], voc["mine"], sbd["its"], sbd["more"]]
    for scene, arrays in zip(found, expected, strict=True):
        assert_scene(scene, *arrays)
    assert len(found.class_names) == 21 and found.background == 0


@pytest.mark.parametrize("part", ["", "dataset", "benchmark_RELEASE/dataset"])
def test_images_of_sbd_may_be_those_of_voc(tmp_path, part):
    write_voc(tmp_path / "VOC", ["a"], ["b"])
    sbd = write_sbd(tmp_path / "SBD" / part, ["2007_000032"], ["a"], False)
    file = tmp_path / "VOC" / "VOC2012" / "JPEGImages" / "2007_000032.jpg"
    pixels = write_jpeg(file, photo(SHAPES["2007_000032"]))
    scene = scenes.voc_and_sbd(tmp_path / "VOC", tmp_path / "SBD")[1]
    assert_scene(scene, pixels, *sbd["2007_000032"][1:])


def test_a_missing_folder_of_sbd_is_named(tmp_path):
    write_voc(tmp_path, ["a"], ["b"])
    with pytest.raises(FileNotFoundError, match="dataset of SBD.*none, which neither"):
        scenes.voc_and_sbd(tmp_path, tmp_path / "none")


@pytest.mark.parametrize("kind", ["cls", "inst"])
def test_damaged_files_of_sbd_are_told_apart(tmp_path, kind):
    write_voc(tmp_path / "VOC", ["a"], ["b"])
    write_sbd(tmp_path / "SBD", ["c"], ["b"])
    scene = scenes.voc_and_sbd(tmp_path / "VOC", tmp_path / "SBD")
    file = tmp_path / "SBD" / kind / "c.mat"
    content = file.read_bytes()
    for damaged in (b"", content[:200], content[:-9], b"text" * 99):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{kind}/c.mat to be whole"):
            scene[1]
    scipy.io.savemat(file, {f"GT{kind}": {"Boundaries": 1}})
    with pytest.raises(ValueError, match=f"{kind}/c.mat to be whole.*Segmentation"):
        scene[1]
    scipy.io.savemat(file, {f"GT{kind}": {"Segmentation": np.zeros([3, 4])}})
    with pytest.raises(ValueError, match=rf"{kind}/c.mat .* size .*\[3, 4\]"):
        scene[1]
    file.unlink()
    with pytest.raises(FileNotFoundError, match=f"{kind}/c.mat"):
        scene[1]


# PASCAL-Context

# 59_labels.txt, and those of its names that labels.txt has in another form.
CONTEXT_59 = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor bag bed bench book "
    "building cabinet ceiling clothes computer cup door fence floor flower food grass "
    "ground keyboard light mountain mouse curtain platform sign plate road rock "
    "shelves sidewalk sky snow bedcloth track tree truck wall water window wood"
).split()
OTHER_FORM = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}


def write_context(folder, label_maps, tasks=None):
    """Lists and matrices; the name of the class by its number in a LabelMap."""
    (folder / "trainval").mkdir(parents=True, exist_ok=True)
    names = {OTHER_FORM.get(name, name) for name in CONTEXT_59}
    names = sorted(names | {"accordion", "air conditioner", "unknown", "wool"})
    lines = [f"{number}: {name}\n" for number, name in enumerate(names, 1)]
    (folder / "labels.txt").write_text("".join(lines))
    tasks = CONTEXT_59 if tasks is None else tasks
    lines = [f"{number}: {name}\n" for number, name in enumerate(tasks, 1)]
    (folder / "59_labels.txt").write_text("".join(lines))
    for key, label_map in label_maps.items():
        scipy.io.savemat(folder / "trainval" / f"{key}.mat", {"LabelMap": label_map})
    return {number: name for number, name in enumerate(names, 1)}


def test_classes_of_context_are_the_59_and_all_other_pixels_void(tmp_path):
    voc = write_voc(tmp_path, ["a"], ["b"], "VOC2010")
    label_map = np.arange(64, dtype=np.uint16).reshape(8, 8)  # 63 names, and none
    names = write_context(tmp_path / "context", {"b": label_map})
    found = scenes.pascal_context(tmp_path / "context", tmp_path, "val")
    assert found.class_names == CONTEXT_59 and found.background is None
    expected = [
        next(
            (c for c, n in enumerate(CONTEXT_59) if names[k] == OTHER_FORM.get(n, n)),
            -1,
        )
        if k
        else -1
        for k in label_map.ravel()
    ]
    assert sum(c >= 0 for c in expected) == 59
    assert_scene(found[0], voc["b"][0], np.reshape(expected, [8, 8]), None)
    assert len(found) == 1 and found.name(0) == "b"


def test_stuff_of_context_is_none_of_the_classes_of_voc(tmp_path):
    write_voc(tmp_path, ["a"], [], "VOC2010")
    write_context(tmp_path, {})
    found = scenes.pascal_context(tmp_path, tmp_path / "VOC2010", "train")
    stuff = {found.class_names[c] for c in found.stuff}
    assert len(stuff) == 28 and not stuff & set(CONTEXT_59[:20])
    assert {"sky", "road", "clothes", "bedcloth"} < stuff
    assert not {"diningtable", "bag", "truck", "mouse", "sign", "plate"} & stuff


def test_lists_of_context_are_those_of_main(tmp_path):
    write_voc(tmp_path, ["a"], [], "VOC2010")
    write_context(tmp_path, {})
    (tmp_path / "VOC2010/ImageSets/Main/train.txt").write_text("a\nb\nc\n")
    assert len(scenes.pascal_context(tmp_path, tmp_path, "train")) == 3
    (tmp_path / "VOC2010/ImageSets/Main/aeroplane_train.txt").write_text("a -1\n")
    message = "Main/trainval.txt, which is not a file. Lists there: train, val"
    with pytest.raises(FileNotFoundError, match=message):
        scenes.pascal_context(tmp_path, tmp_path, "trainval")


def test_a_line_for_background_is_no_class_of_context(tmp_path):
    """As in the copy of 59_labels.txt that Long et al. distribute."""
    write_voc(tmp_path, ["a"], [], "VOC2010")
    write_context(tmp_path, {})
    file = tmp_path / "59_labels.txt"
    file.write_text("0: background\n" + file.read_text())
    found = scenes.pascal_context(tmp_path, tmp_path, "train")
    assert found.class_names == CONTEXT_59


def test_bad_files_of_context_are_told_apart(tmp_path):
    write_voc(tmp_path, ["a"], [], "VOC2010")
    arguments = (tmp_path, tmp_path, "train")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/59_labels.txt"):
        scenes.pascal_context(*arguments)
    write_context(tmp_path, {"a": np.full([8, 8], 64)})
    with pytest.raises(ValueError, match=r"a.mat to be in 0..63. Received: 64..64"):
        scenes.pascal_context(*arguments)[0]
    write_context(tmp_path, {"a": np.zeros([8, 7])})
    with pytest.raises(ValueError, match=r"a.mat .*\[8, 8\]. Received: \[8, 7\]"):
        scenes.pascal_context(*arguments)[0]
    write_context(tmp_path, {}, [*CONTEXT_59[:-1], "wool"])
    with pytest.raises(ValueError, match="59 names; wood, wool too many or too few"):
        scenes.pascal_context(*arguments)
    write_context(tmp_path, {}, [*CONTEXT_59, "sky"])
    with pytest.raises(ValueError, match="60 names; some twice"):
        scenes.pascal_context(*arguments)
    write_context(tmp_path, {})
    (tmp_path / "labels.txt").write_text("1: wood\n")
    with pytest.raises(ValueError, match="labels.txt to number.*without aeroplane"):
        scenes.pascal_context(*arguments)
    (tmp_path / "labels.txt").write_text("wood\n")
    with pytest.raises(ValueError, match='labels.txt to have lines as "1: accordion"'):
        scenes.pascal_context(*arguments)
    (tmp_path / "labels.txt").write_bytes(b"1: fa\xe7ade\n")
    with pytest.raises(ValueError, match="labels.txt to be text in UTF-8"):
        scenes.pascal_context(*arguments)


# COCO

# Category ids have gaps, and the ids of stuff come after those of things.
CATEGORIES = {
    "person": 1,
    **{f"thing {k}": k for k in range(3, 81)},
    "toothbrush": 90,
    "banner": 92,
    **{f"stuff {k}": k for k in range(100, 151)},
    "rug-merged": 200,
}
# Segments by image: number, category, crowd.
SEGMENTS = {
    "000000000139": [
        (6202563, "person", 0),
        (255, "person", 0),
        (256, "toothbrush", 0),
        (2**24 - 1, "banner", 0),
        (65536, "rug-merged", 0),
        (7, "person", 1),
    ],
    "000000000285": [(4000000, "toothbrush", 0)],
    "000000000632": [],
}


def write_coco(folder, split, segments, size=(6, 8)):
    """Images, panoptic images and JSON as distributed; arrays by name."""
    (folder / "annotations" / f"panoptic_{split}2017.zip").mkdir(parents=True)
    rows, written = [], {}
    for seed, (key, described) in enumerate(segments.items(), 200):
        shape = (size[0] + seed % 3, size[1])
        pixels = photo(shape, seed)[..., 0] if seed % 3 else photo(shape, seed)
        pixels = write_jpeg(folder / f"{split}2017" / f"{key}.jpg", pixels)
        found = np.random.default_rng(seed).choice(
            [0, *(s[0] for s in described)], shape
        )
        found.flat[: len(described)] = [s[0] for s in described]
        write_panoptic(folder, split, key, found)
        rows.append((key, shape, described, found))
        written[key] = (pixels, *expected_of_coco(described, found))
    (folder / "annotations" / f"panoptic_{split}2017.json").write_text(as_json(rows))
    return written


def write_panoptic(folder, split, key, segments):
    name = f"panoptic_{split}2017"
    colours = np.stack([segments % 256, segments // 256 % 256, segments // 65536], -1)
    file = folder / "annotations" / f"{name}.zip" / name / f"{key}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours.astype(np.uint8)).save(file)


def as_json(rows):
    images, annotations = [], []
    for key, (height, width), described, segments in rows:
        images.append(
            {
                "id": int(key),
                "file_name": f"{key}.jpg",
                "height": height,
                "width": width,
            }
        )
        info = [
            {
                "id": number,
                "category_id": CATEGORIES[name],
                "iscrowd": crowd,
                "area": int((segments == number).sum()),
                "bbox": [0, 0, width, height],
            }
            for number, name, crowd in described
        ]
        annotations.append(
            {"image_id": int(key), "file_name": f"{key}.png", "segments_info": info}
        )
    categories = [{"id": k, "name": name} for name, k in CATEGORIES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return json.dumps(content)


def expected_of_coco(described, segments):
    """Classes and instances, pixel by pixel."""
    names, labels = list(CATEGORIES), np.full(segments.shape, -1)
    instances, count = np.zeros(segments.shape, int), 0
    for number, name, crowd in described:
        labels[segments == number] = names.index(name)
        if names.index(name) < 80 and not crowd:
            count += 1
            instances[segments == number] = count
    return labels, instances


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Folders of TFDS by format, made by its own builder; and what is in them.

    The training set is bad: one image has a segment that is not described, the other
    is of another size.
    """
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("coco")
    written = write_coco(folder, "val", SEGMENTS)
    bad = {"000000000009": [(5, "person", 0)], "000000000025": [(5, "person", 0)]}
    write_coco(folder, "train", bad)
    write_panoptic(folder, "train", "000000000009", np.full([6 + 200 % 3, 8], 6))
    write_panoptic(folder, "train", "000000000025", np.full([2, 2], 5))
    manager, folders = tfds.download.DownloadManager, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            manager,
            "download_and_extract",
            lambda self, urls: dict.fromkeys(urls, folder),
        )
        patch.setattr(manager, "extract", lambda self, path: path)
        for file_format in ("array_record", "tfrecord"):
            folders[file_format] = folder / file_format
            tfds.builder(
                "coco/2017_panoptic",
                data_dir=folder / file_format,
                file_format=file_format,
            ).download_and_prepare()
    return folders, written


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_every_pixel_of_coco_comes_back(prepared, file_format):
    folders, written = prepared
    found = scenes.coco_panoptic(folders[file_format], "validation")
    names = [found.name(i) for i in range(len(found))]
    assert sorted(names) == sorted(SEGMENTS)
    for _ in range(2):
        for name, scene in zip(names, found, strict=True):
            assert_scene(scene, *written[name])


def test_crowds_of_coco_have_a_class_and_are_no_instances(prepared):
    labels, instances = prepared[1]["000000000139"][1:]
    assert instances.max() == 3 and np.any((labels == 0) & (instances == 0))


def test_the_first_80_classes_of_coco_are_objects(prepared):
    found = scenes.coco_panoptic(prepared[0]["array_record"], "validation")
    assert len(found.class_names) == 133 and found.background is None
    assert found.class_names[79:81] == ["toothbrush", "banner"]
    assert found.stuff == frozenset(range(80, 133))


def test_bad_segments_of_coco_are_told_apart(prepared):
    found = scenes.coco_panoptic(prepared[0]["array_record"], "train")
    place = {found.name(i): i for i in range(2)}
    message = r"000000000009.jpg \(image . of train in .*described. Received: 6, which"
    with pytest.raises(ValueError, match=message):
        found[place["000000000009"]]
    with pytest.raises(ValueError, match=r"000000000025.jpg .* size .*\[2, 2\]"):
        found[place["000000000025"]]


def test_coco_that_is_not_prepared_is_never_fetched(prepared, tmp_path):
    message = r"tfds.builder\('coco/2017_panoptic', data_dir='.*array_record"
    with pytest.raises(FileNotFoundError, match=message):
        scenes.coco_panoptic(tmp_path, "train")
    for split in ("test", "validation[3:]"):
        with pytest.raises(ValueError, match="Choose among train, validation"):
            scenes.coco_panoptic(prepared[0]["array_record"], split)
    assert len(scenes.coco_panoptic(prepared[0]["tfrecord"], "validation[1:]")) == 2


def test_coco_that_cannot_be_read_at_random_must_be_small(prepared, monkeypatch):
    monkeypatch.setattr(tfds_builders, "_LARGEST_IN_MEMORY", 100)
    scenes.coco_panoptic(prepared[0]["array_record"], "validation")
    message = "tfds convert_format --dataset_version_dir=.*2017_panoptic/1.1.0 --out"
    with pytest.raises(ValueError, match=message):
        scenes.coco_panoptic(prepared[0]["tfrecord"], "validation")


def test_coco_converted_beside_its_first_format_is_read_at_random(
    prepared, tmp_path, monkeypatch
):
    """As `tfds convert_format` leaves it: files of both, an alternative format."""
    folders, written = prepared
    shutil.copytree(folders["tfrecord"], tmp_path, dirs_exist_ok=True)
    (info,) = tmp_path.rglob("dataset_info.json")
    for file in folders["array_record"].rglob("*.array_record*"):
        shutil.copy(file, info.parent)
    content = {
        **json.loads(info.read_text()),
        "alternativeFileFormats": ["array_record"],
    }
    info.write_text(json.dumps(content))
    monkeypatch.setattr(tfds_builders, "_LARGEST_IN_MEMORY", 100)
    found = scenes.coco_panoptic(tmp_path, "validation")
    assert_scene(found[0], *written[found.name(0)])


# npz

NAMES = ["sky", "car", "nothing", "unlabelled"]


def encoded(images):
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(file.getvalue())
    return {
        "test_buf": np.frombuffer(b"".join(files), np.uint8),
        "test_off": np.cumsum([0, *map(len, files)]),
    }


def write_npz(path, values=(0, 1, 2, 3, 255), names=NAMES, as_files=False, **others):
    """Three images and their label maps; both."""
    images = np.stack([photo((6, 7), seed) for seed in range(3)])
    labels = np.stack([numbers((6, 7), values, seed) for seed in range(3)])
    arrays = {"y_test": labels, "class_names": np.array(names)}
    arrays |= encoded(images) if as_files else {"x_test": images}
    np.savez(path, **(arrays | others))
    return images, labels


@pytest.mark.parametrize("as_files", [False, True])
def test_every_pixel_of_an_npz_comes_back(tmp_path, as_files):
    """The class that is called unlabelled is void, and so is 255."""
    images, labels = write_npz(tmp_path / "x.npz", as_files=as_files)
    found = scenes.npz(tmp_path / "x.npz", "test", ["sky"], "nothing")
    assert found.class_names == NAMES[:3]
    assert found.stuff == {0} and found.background == 2
    assert [found.name(i) for i in range(3)] == ["test_0", "test_1", "test_2"]
    expected = replaced(replaced(labels, 255, -1), 3, -1)
    for scene, image, classes in zip(found, images, expected, strict=True):
        assert_scene(scene, image, classes, None)


@pytest.mark.parametrize("void", ["car", 1])
def test_a_void_class_that_is_not_the_last_keeps_its_number(tmp_path, void):
    _, labels = write_npz(tmp_path / "x.npz", [0, 1, 2, 3])
    found = scenes.npz(tmp_path / "x.npz", "test", void=void)
    assert found.class_names == NAMES and found.background is None
    for scene, classes in zip(found, labels, strict=True):
        np.testing.assert_array_equal(scene.labels, replaced(classes, 1, -1))


def test_what_is_void_may_be_chosen(tmp_path):
    write_npz(tmp_path / "x.npz", [0, 1, 2, 3, 255])
    with pytest.raises(ValueError, match=r"image 0 of test in .* -1..2. .* 0..255"):
        scenes.npz(tmp_path / "x.npz", "test", void="unlabelled")[0]
    found = scenes.npz(tmp_path / "x.npz", "test", void=255)
    assert found.class_names == NAMES and found[0].labels.max() == 3
    write_npz(tmp_path / "x.npz", [0, 1], ["sky", "Void"])
    assert scenes.npz(tmp_path / "x.npz", "test").class_names == ["sky"]


@pytest.mark.parametrize("void", ["void", "unlabelled", "Unlabeled"])
def test_class_names_as_bytes_are_the_same_names(tmp_path, void):
    """Of NumPy, which stores text so where it was told to, or read it from HDF5."""
    names = [name.encode() for name in ("sky", "Stra\xdfe", void)]
    _, labels = write_npz(tmp_path / "x.npz", [0, 1, 2, 255], names)
    found = scenes.npz(tmp_path / "x.npz", "test", ["Stra\xdfe"], "sky")
    assert found.class_names == ["sky", "Stra\xdfe"]
    assert found.stuff == {1} and found.background == 0
    expected = replaced(replaced(labels, 255, -1), 2, -1)
    for scene, classes in zip(found, expected, strict=True):
        np.testing.assert_array_equal(scene.labels, classes)
    write_npz(tmp_path / "x.npz", [0], ["Stra\xdfe".encode("latin-1")])
    with pytest.raises(ValueError, match=r"class_names of .*UTF-8.*Stra.xdfe"):
        scenes.npz(tmp_path / "x.npz", "test")


@pytest.mark.parametrize("dtype", [np.dtype(c) for c in "bBhHiIqQ"], ids=str)
def test_label_maps_of_every_integer_type_have_the_same_classes(tmp_path, dtype):
    labels = numbers((3, 6, 7), [0, 1, 2]).astype(dtype)
    write_npz(tmp_path / "x.npz", y_test=labels)
    found = scenes.npz(tmp_path / "x.npz", "test")
    for scene, classes in zip(found, labels, strict=True):
        assert_scene(scene, scene.image, classes, None)
    made = Scene(found[0].image, labels[0], labels[1])
    assert made.labels.dtype == made.instances.dtype == np.int32
    for c, mask in scenes.objects(Scene(made.image, labels[0], None), [1, 2]):
        assert np.all(labels[0][mask] == c)


@pytest.mark.parametrize(
    "number", [np.int64(2**32), np.uint64(2**32 + 1), np.uint32(2**32 - 1)]
)
def test_a_label_beyond_int32_does_not_become_another_class(tmp_path, number):
    labels = np.zeros([3, 6, 7], number.dtype)
    labels[1, 2, 3] = number
    write_npz(tmp_path / "x.npz", y_test=labels)
    found = scenes.npz(tmp_path / "x.npz", "test")
    assert found[0].labels.max() == 0
    with pytest.raises(ValueError, match=f"image 1 of test.*0..{number}"):
        found[1]
    with pytest.raises(ValueError, match="from -1 to 2.31"):
        Scene(found[0].image, labels[1], None)


def test_labels_held_in_memory_are_not_changed_by_who_reads_them(tmp_path):
    images, _ = write_npz(tmp_path / "x.npz")
    found = scenes.npz(tmp_path / "x.npz", "test")
    before = found[0].labels.copy()
    found[0].labels[:] = 0
    found[0].image[:] = 0
    assert_scene(found[0], images[0], before, None)


def test_names_that_are_no_classes_are_quoted(tmp_path):
    write_npz(tmp_path / "x.npz")
    message = "Received: 'road'. Classes: sky, car, nothing"
    for arguments in ({"stuff": ["road"]}, {"background": "road"}, {"void": "road"}):
        with pytest.raises(ValueError, match=message):
            scenes.npz(tmp_path / "x.npz", "test", **arguments)
    with pytest.raises(ValueError, match="`void` must be a whole number"):
        scenes.npz(tmp_path / "x.npz", "test", void=1.5)


def test_bad_npz_files_are_told_apart(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(FileNotFoundError, match="x.npz, which is not a file"):
        scenes.npz(path, "test")
    write_npz(path)
    message = "y_train, class_names, and x_train or .*class_names, x_test, y_test"
    with pytest.raises(ValueError, match=message):
        scenes.npz(path, "train")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="x.npz to be a complete .npz archive"):
        scenes.npz(path, "test")
    for wrong in (
        {"x_test": np.zeros([3, 6, 7, 3])},
        {"x_test": np.zeros([2, 6, 7, 3], np.uint8)},
        {"x_test": np.zeros([3, 6, 7], np.uint8)},
        {"y_test": np.zeros([3, 6, 7])},
        {"y_test": np.zeros([3], int), "x_test": np.zeros([3, 3], np.uint8)},
    ):
        write_npz(path, **wrong)
        with pytest.raises(ValueError, match="hold label maps, integers"):
            scenes.npz(path, "test")
    for offsets in ([0, 1], [0, 2, 1, 3], [-1, 0, 1, 2], [0, 1, 2, 10**6]):
        write_npz(path, as_files=True, test_off=np.array(offsets))
        with pytest.raises(ValueError, match="n . 1 offsets"):
            scenes.npz(path, "test")
    write_npz(path, as_files=True, test_off=np.arange(4))
    with pytest.raises(ValueError, match="image 2 of test in .*x.npz to be whole"):
        scenes.npz(path, "test")[2]
    write_npz(path, as_files=True, y_test=np.zeros([3, 6, 6], int))
    with pytest.raises(ValueError, match=r"image 1 .* \[6, 7\]. Received: \[6, 6\]"):
        scenes.npz(path, "test")[1]


def test_camvid_has_11_classes_and_its_twelfth_is_void():
    path = data_file("camvid_180x240_jpg.npz")
    stuff = ["sky", "building", "road", "pavement", "tree", "fence"]
    counts = {"train": 367, "val": 101, "test": 233}
    for split, count in counts.items():
        found = scenes.npz(path, split, stuff)
        assert len(found) == count and len(found.class_names) == 11
        assert [found.class_names[c] for c in sorted(found.stuff)] == stuff
    with np.load(path) as arrays:
        buffer, offsets = arrays["test_buf"], arrays["test_off"]
        labels = arrays["y_test"]
    for i in (0, 100, 232):
        content = buffer[offsets[i] : offsets[i + 1]].tobytes()
        image = np.asarray(Image.open(io.BytesIO(content)))
        assert_scene(found[i], image, replaced(labels[i], 11, -1), None)
    assert found[0].image.shape == (180, 240, 3)


# Parts


def test_a_part_has_the_images_that_were_selected_in_their_order(tmp_path):
    images, labels = write_npz(tmp_path / "x.npz", [0, 1])
    found = scenes.npz(tmp_path / "x.npz", "test", ["sky"])
    part = found.select([2, 0])
    assert len(part) == 2 and [part.name(i) for i in range(2)] == ["test_2", "test_0"]
    assert_scene(part[0], images[2], labels[2], None)
    assert_scene(part.select(np.array([1]))[0], images[0], labels[0], None)
    assert len(found.select(range(2))) == 2 and len(found) == 3
    assert part.stuff == found.stuff and part.class_names == found.class_names


@pytest.mark.parametrize(
    "indices", [[3], [-1], [], [0.0], [True, False, True], [[0]], 1, "12"]
)
def test_what_is_no_number_of_an_image_is_not_selected(tmp_path, indices):
    write_npz(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="image indices in 0..2, at least one"):
        scenes.npz(tmp_path / "x.npz", "test").select(indices)


# Objects


def filled(labels, start, seen):
    """The pixels that can be reached from one by steps of a king on its own class."""
    mask, todo = np.zeros(labels.shape, bool), [start]
    while todo:
        v, u = todo.pop()
        inside = 0 <= v < labels.shape[0] and 0 <= u < labels.shape[1]
        if inside and not mask[v, u] and labels[v, u] == labels[start]:
            mask[v, u] = seen[v, u] = True
            todo += [(v + i, u + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return mask


def scene_of(labels, instances=None):
    labels = np.array(labels, np.int32)
    instances = None if instances is None else np.array(instances, np.int32)
    return Scene(np.zeros([*labels.shape, 3], np.uint8), labels, instances)


@pytest.mark.parametrize("seed", range(5))
def test_without_instances_objects_are_connected_components(seed):
    labels = np.random.default_rng(seed).integers(-1, 3, (9, 11))
    found = scenes.objects(scene_of(labels), [0, 2])
    seen, expected = np.zeros(labels.shape, bool), []
    for start in np.ndindex(labels.shape):
        if not seen[start] and labels[start] in (0, 2):
            expected.append((labels[start], filled(labels, start, seen)))
    assert len(found) == len(expected) > 4
    for (c, mask), (expected_c, expected_mask) in zip(found, expected, strict=True):
        assert c == expected_c and type(c) is int and mask.dtype == bool
        np.testing.assert_array_equal(mask, expected_mask)


def test_with_instances_touching_objects_are_two_and_one_cut_in_two_is_one():
    labels = [[1, 1, 0, 2], [1, 1, 0, 2], [1, 0, 1, -1]]
    instances = [[1, 3, 0, 2], [1, 3, 0, 2], [1, 0, 3, 2]]
    found = scenes.objects(scene_of(labels, instances), [1, 2])
    assert [c for c, _ in found] == [1, 2, 1]
    for number, (_, mask) in enumerate(found, 1):
        np.testing.assert_array_equal(mask, np.array(instances) == number)
    assert [c for c, _ in scenes.objects(scene_of(labels, instances), {2})] == [2]


def test_the_class_of_an_instance_is_that_of_most_of_its_pixels_that_are_not_void():
    labels = [[-1, -1, -1, 4, 4, 1], [-1, -1, 0, 0, 0, 0]]
    instances = [[1, 1, 1, 1, 1, 1], [2, 2, 0, 0, 0, 0]]
    ((c, mask),) = scenes.objects(scene_of(labels, instances), range(5))
    assert c == 4 and mask.sum() == 6


def test_a_scene_without_objects_has_none():
    assert scenes.objects(scene_of(np.full([4, 4], -1)), [0, 1]) == []
    assert scenes.objects(scene_of(np.zeros([4, 4]), np.zeros([4, 4])), [0]) == []
    assert scenes.objects(scene_of(np.zeros([4, 4])), [1]) == []


# Made


def test_synthetic_scenes_are_functions_of_seed_and_number():
    one, same, other = (scenes.synthetic(5, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one[3].image, same[3].image)
    assert np.any(one[3].image != other[3].image)
    assert np.any(one[3].image != one[2].image)


def test_synthetic_objects_are_what_their_class_says():
    """A square fills its box, a disc pi / 4 of it; where another one does not cover."""
    shares = {3: [], 4: []}
    for scene in scenes.synthetic(20, (120, 160)):
        found = scenes.objects(scene, [3, 4])
        assert {int(v) for v in np.unique(scene.labels)} <= set(range(5))
        for label, mask in found:
            assert np.all(scene.labels[mask] == label)
            rows, columns = np.nonzero(mask)
            box = np.ptp(rows) + 1, np.ptp(columns) + 1
            shares[label].append(mask.sum() / np.prod(box))
    assert np.median(shares[4]) == 1
    assert abs(np.median(shares[3]) - np.pi / 4) < 0.05
