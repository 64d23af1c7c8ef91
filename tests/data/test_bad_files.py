"""One table of everything that can be wrong with files of data: what is done to good data, and what is said about it.

Nothing of it may be a traceback, wait or fill the memory. What is said names the file and the entry in it.
"""

import json
import os
import re
import reprlib
import socket
import struct
import zlib

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image

from helpers import coco_folder, image_folder, thing, voc_folder, xml
from vig_minimal.data.batches import ValidationBatches
from vig_minimal.data.datasets import open_data
from vig_minimal.data.decoding import DataError
from vig_minimal.data.loading import PreparedImages
from vig_minimal.training.recipes import Recipe

NOISE = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
DEEP = 10_000  # levels of nesting


# ---- what is done to good data: functions of its folder ------------------------------------------------------------


def odd(make, name, place="train/cat"):
    """Let `make` write an image file of that name."""
    return lambda folder: make(folder / place / name)


def content(data):
    return lambda path: path.write_bytes(data)


def saved(image, **options):
    return lambda path: image.save(path, **options)


def values(array):
    return saved(Image.fromarray(np.array(array)))


def cut(size):
    def make(path):
        Image.fromarray(NOISE).resize((64, 48)).save(path)
        path.write_bytes(path.read_bytes()[:size])
    return make


def png_of_16_bits(path):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in NOISE)
    header = struct.pack(">IIBBBBB", 16, 12, 16, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    chunks = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
              for kind, data in parts]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def unsigned(path):
    """A TIFF of unsigned numbers, of which Pillow writes signed ones only."""
    Image.fromarray(np.array([[0, -1], [5, 7]], np.int32)).save(path)
    kind = bytes([0x53, 1, 3, 0, 1, 0, 0, 0])  # tag 339, one short number: 2 is signed, 1 is unsigned
    assert (data := path.read_bytes()).count(kind + b"\2") == 1
    path.write_bytes(data.replace(kind + b"\2", kind + b"\1"))


def listens(path):
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # the path of a socket must be short
        server.bind(path.name)


def link(name, to):
    return lambda folder: (folder / name).symlink_to(to)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.fromarray(NOISE), exif=exif)


def instances(change):
    """Change the content of COCO's training annotations."""
    def spoil(folder):
        path = folder / "annotations" / "instances_train2017.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    return spoil


def objects(*things):
    return instances(lambda content: content | {"annotations": list(things)})


def entries(name, /, **fields):
    """Set fields in every entry of a list of COCO's annotations; None removes one."""
    def change(content):
        content[name] = [{key: value for key, value in (entry | fields).items() if value is not None}
                         for entry in content[name]]
        return content
    return instances(change)


def more(name, *new):
    return instances(lambda content: content | {name: content[name] + list(new)})


def file(name, change):
    """Change the bytes of a file."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def recoded(name, encoding):
    return file(name, lambda data: data.decode().replace('"person"', '"persön"').encode(encoding))


def renamed(name, to):
    return lambda folder: (folder / name).rename(folder / to)


def removed(name):
    return lambda folder: (folder / name).unlink()


JSON = "annotations/instances_train2017.json"
ROOT = "VOCdevkit/VOC2007/"
XML, LIST = ROOT + "Annotations/000005.xml", ROOT + "ImageSets/Main/trainval.txt"


def annotation(text):
    return file(XML, lambda _: text.encode() if isinstance(text, str) else text)


BOX = "annotations[0]: {} in 0.jpg of 32×24"
OUTSIDE = "1 objects with a box that is malformed or outside its image, as " + BOX
AREA = "whose area or iscrowd is no number from 0 on, as annotations[0]: "
BROKEN = "odd{}: this image is broken ({})"
NO_FILE = BROKEN.format(".jpg", "no file, but a folder, a pipe, a device or a link to nothing")
ENCODING = "a text in another encoding than UTF-8"
LINKS = "links are not followed, since each folder is read once: "

# name of the data set: (what is done to it, "refused", "listed", "said" or "read"; parts of what is said)
CASES = {
    "imagefolder": [
        # images that cannot be read
        (odd(cut(700), "odd.jpg"), "refused", "odd.jpg: this image is broken (", "truncated", "repair or remove it"),
        (odd(cut(200), "odd.png"), "refused", "odd.png: this image is broken (", "runcated"),
        (odd(cut(60), "odd.tif"), "refused", "odd.tif: this image is broken ("),
        (odd(cut(100), "odd.webp"), "refused", "odd.webp: this image is broken ("),
        (odd(content(b""), "odd.jpg"), "refused", BROKEN.format(".jpg", "an empty file")),
        (odd(content(b"a text"), "odd.jpg"), "refused", BROKEN.format(".jpg", "not an image that Pillow can read")),
        (odd(content(b"\x89PNG\r\n\x1a\n" + bytes(40)), "odd.png"), "refused", "odd.png: this image is broken ("),
        (odd(content(b"P6 100000 100000 255\n"), "odd.ppm"), "refused",
         "odd.ppm: ", "as large as a decompression bomb"),
        (odd(values([[np.nan, np.nan]]), "odd.tif"), "refused", BROKEN.format(".tif", "no pixel is a number")),
        (odd(content(b""), "odd.jpg", "val/cat"), "refused", "val/cat/odd.jpg: this image is broken (an empty file)"),
        # what is no file
        (odd(os.mkfifo, "odd.jpg"), "refused", NO_FILE),
        (odd(listens, "odd.jpg"), "refused", NO_FILE),
        (link("train/cat/odd.jpg", "/dev/zero"), "refused", NO_FILE),
        (link("train/cat/odd.jpg", "no.jpg"), "refused", NO_FILE),
        (link("train/cat/odd.jpg", "odd.jpg"), "refused", NO_FILE),
        (odd(os.mkdir, "odd.jpg"), "read"),
        # names
        (odd(cut(700), "\udcfe.jpg"), "refused", "\udcfe.jpg: this image is broken ("),
        (odd(values([[1.0, 2.0]]), "\udcfe.tif"), "listed", "\udcfe.tif: 1 to 2 as black to white"),
        (renamed("train/dog", "train/\udcff"), "refused",
         "different classes (only in train/: \udcff; only in val/: dog)"),
        (odd(saved(Image.fromarray(NOISE)), "a\nb\t\u202e.png"), "read"),
        # links to folders
        *((link("train/cat/loop", to), "said", "1 " + LINKS, "train/cat/loop") for to in (".", "..", "../..", "/")),
        (link("train/cat/loop", "loop"), "said", "train: 1 files are left out, which are no images by their endings: 1"
         " without an ending"),
        (link("train/cat/more", "../dog"), "said", "1 " + LINKS, "train/cat/more"),
        (link("train/fox", "dog"), "refused",
         "train: no images (.jpg, ", "of the classes fox; 1 " + LINKS, "train/fox"),
        # folders
        (renamed("train/dog", "train/fox"), "refused", "different classes (only in train/: fox; only in val/: dog)"),
        (renamed("train/dog", "val/fox"), "refused", "train: one class only (cat)"),
        (renamed("train", "cats"), "refused", "train: no such folder; an image folder holds train/CLASS/*.jpg"),
        (renamed("val", "cats"), "refused", "val: no such folder"),
        (renamed("val/cat", "val/.cat"), "refused", "val: one class only (dog)"),
        (lambda folder: os.mkdir(folder / "train" / "fox"), "refused",
         "train: no images (.jpg, ", "of the classes fox"),
        # files that are converted
        (odd(saved(Image.new("CMYK", (8, 8))), "odd.jpg"), "listed", "cat/odd.jpg: CMYK"),
        (odd(saved(Image.new("CMYK", (8, 8))), "odd.jpg", "val/cat"), "listed", "val/cat/odd.jpg: CMYK"),
        (odd(saved(Image.new("RGBA", (8, 8))), "odd.png"), "listed", "cat/odd.png: partly transparent"),
        (odd(turned(), "odd.jpg"), "listed", "cat/odd.jpg: rotated by EXIF"),
        (odd(values(np.full((8, 8), 32767, np.uint16)), "odd.png"), "listed", "cat/odd.png: 16 bit"),
        (odd(png_of_16_bits, "odd.png"), "listed", "cat/odd.png: 16 bit"),
        (odd(content(b"P6 2 1 65535\n" + bytes(12)), "odd.ppm"), "listed", "cat/odd.ppm: 16 bit"),
        (odd(content(b"P5 2 1 65535\n" + bytes(4)), "odd.pgm"), "listed", "cat/odd.pgm: 16 bit"),
        (odd(values(np.array([[-5, 300_000]], np.int32)), "odd.tif"), "listed",
         "odd.tif: -5 to 300000 as black to white"),
        (odd(unsigned, "odd.tif"), "listed", "odd.tif: 0 to 4.29497e+09 as black to white"),
        (odd(values(np.array([[-1.5, np.nan, 0, np.inf]], np.float32)), "odd.tiff", "val/dog"), "listed",
         "val/dog/odd.tiff: -1.5 to 0 as black to white"),
        # extreme proportions
        *((odd(values(np.zeros(size, np.uint8)), "odd.png", place), "read") for place in ("train/cat", "val/cat")
          for size in ((1, 65500), (65500, 1), (1, 1))),
    ],
    "coco": [
        # objects
        (objects(thing(99, 1), thing(98, 1)), "refused", JSON, "2 objects of an image that the file does not list, as"
         " annotations[0]: image_id 99"),
        (objects(thing(10, 1), thing("10", 1), thing(10.0, "1")), "read"),
        (objects(thing(10, 1), thing("ten", 1)), "refused", "not list, as annotations[1]: image_id 'ten'"),
        (objects(thing(10, 1), thing("010", 1)), "refused", "not list, as annotations[1]: image_id '010'"),
        (entries("images", id="10"), "refused", JSON, "two images have the same id"),
        (entries("categories", supercategory=None), "read"),
        (objects(thing(10, 3)), "refused", "1 objects of a category that the file does not list, as annotations[0]:"
         " category_id 3"),
        (objects(thing(10, 3), thing(99, 1), thing(98, 1)), "refused",
         "1 objects of a category", "; 2 objects of an image"),
        *((objects(thing(10, 1) | {"bbox": box}), "refused", JSON, OUTSIDE.format(said)) for box, said in [
            ([20, 2, 14, 8], "[20, 2, 14, 8]"), ([-3, 2, 5, 8], "[-3, 2, 5, 8]"), ([1, 2, -5, 8], "[1, 2, -5, 8]"),
            ([1, 2, 5], "[1, 2, 5]"), ([1, 2, float("nan"), 3], "[1, 2, nan, 3]"),
            ([1, 2, 10**400, 3], reprlib.repr([1, 2, 10**400, 3])),
            (["1", "2", "5", "8"], "['1', '2', '5', '8']"), ("all", "'all'"), ([1, 2, True, 3], "[1, 2, True, 3]"),
            ([1, 2, [3], 4], "[1, 2, [3], 4]"), ({"x": 1}, "{'x': 1}")]),
        *((objects(thing(10, 1) | {"bbox": box}), "read") for box in (None, [])),
        *((objects(thing(10, 1, **{name: value})), "refused", JSON, AREA + said) for name, value, said in [
            ("area", "50", "'50' and 0"), ("area", -1, "-1 and 0"), ("area", float("inf"), "inf and 0"),
            ("area", None, "None and 0"), ("iscrowd", "0", "None and '0'"), ("iscrowd", [0], "None and [0]")]),
        # entries
        *((objects(thing(10, 1), entry), "refused", JSON, "annotations[1] has no image_id or no category_id: " + said)
          for entry, said in [({"image_id": 10}, "{'image_id': 10}"), (7, "7"), (None, "None"), ("text", "'text'"),
                              ({"image_id": 10, "category_id": 1.5}, "{'category_id': 1.5, 'image_id': 10}"),
                              ({"image_id": True, "category_id": 1}, "{'category_id': 1, 'image_id': True}"),
                              ({"image_id": [10], "category_id": 1}, "{'category_id': 1, 'image_id': [10]}")]),
        (entries("images", file_name=None), "refused",
         JSON, "images[0] has no id or no file_name: {'height': 24, 'id'"),
        (entries("images", file_name=5), "refused", "images[0] has no id or no file_name: {'file_name': 5,"),
        *((entries("images", width=width), "refused", JSON, "3 images whose width or height is no whole number of"
           f" pixels, as images[0]: {width!r} and 24") for width in ("", "wide", "32 px", 31.5, 0, -32, [32], True)),
        *((entries("images", width=width), "read") for width in ("32", 32.0)),
        (entries("images", width=None, height=None), "read"),
        (entries("categories", name=None), "refused", JSON, "categories[0] has no id or no name: {'id': 7}"),
        (entries("annotations", bbox=None), "read"),
        (entries("annotations", iscrowd=None), "read"),
        (more("images", {"id": 10, "file_name": "1.jpg"}), "refused", JSON, "two images have the same id"),
        (more("categories", {"id": 1, "name": "cat"}), "refused", JSON, "two categories have the same id"),
        (more("categories", {"id": 2, "name": "person"}), "refused", JSON, "two categories have the same name"),
        (more("categories", {"id": "2", "name": "cat"}), "refused", "train2017 and val2017 name different categories"),
        (more("images", {"id": 1, "file_name": "gone.jpg"}), "refused",
         JSON, "train2017: 1 of 4 images that", "gone.jpg"),
        (more("images", {"id": 1, "file_name": "a\0b\ud800"}), "refused", "1 of 4 images that", "is a\0b\ud800"),
        # the file
        (instances(lambda content: content | {"images": []}), "refused", JSON, "has no images; nothing can be learnt"),
        (instances(lambda content: content | {"categories": []}), "refused", JSON, "has no categories"),
        (instances(lambda content: {"images": content["images"]}), "refused", JSON, "lists images, categories and ann"),
        *((file(JSON, lambda _, data=data: data), "refused",
         JSON, "not COCO's instances") for data in (b"{}", b"[]", b"7")),
        *((file(JSON, lambda _, data=data: data), "refused", JSON, "not a JSON file, or cut short (")
          for data in (b"", b"{", b"{'images': []}", b"[" * DEEP, b'{"a":' * DEEP)),
        (file(JSON, lambda data: data[:-9]), "refused", JSON, "not a JSON file, or cut short ("),
        (objects(*[thing(10, 1) | {"bbox": 900 * "[" }]), "refused", "annotations[0]: '[[["),
        (file(JSON, lambda data: data.replace(b'tations": [', b'tations": [' + b"[" * 300 + b"]" * 300 + b",")),
         "refused", "annotations[0] has no image_id or no category_id: [[[["),
        *((recoded(JSON, code), "refused", "train2017 and val2017 name different") for code in ("utf-8", "utf-8-sig",
                                                                                           "utf-16", "utf-32-le")),
        (file(JSON, lambda data: b"\xef\xbb\xbf" + data), "read"),
        (file(JSON, lambda data: data.decode().encode("utf-16")), "read"),
        (recoded(JSON, "latin-1"), "refused", JSON, ENCODING),
        (file(JSON, lambda _: b"\xff\xd8\xff\xe0" + bytes(9)), "refused", JSON, ENCODING),
        (removed(JSON), "refused", JSON, "cannot be read (No such file"),
        (removed("val2017/2.jpg"), "refused", "val2017: 1 of 3 images that", "instances_val2017.json lists are missing",
         "2.jpg"),
        (odd(content(b""), "0.jpg", "val2017"), "refused", "val2017/0.jpg: this image is broken (an empty file)"),
        (odd(saved(Image.new("CMYK", (32, 24))), "1.jpg", "val2017"), "listed", "val2017/1.jpg: CMYK"),
    ],
    "voc2007": [
        (annotation(xml(("unicorn", 0, 1, 1, 4, 4))), "refused",
         "Annotations: 1 annotations with an object of a class that"
         " VOC does not have, as 'unicorn' in 000005.xml"),
        *((annotation(xml(("dog", 0, *box))), "refused",
         "with a box that is malformed or outside its image, as ['", said)
          for box, said in [((1, 1, 40, 4), "'40', '4'] in 000005.xml"), ((9, 1, 4, 4), "'9'"),
                            (("", 1, 4, 4), "['', '1'"), (("one", 1, 4, 4), "['one', '1'"), ((1, 1, "nan", 4), "'nan'"),
                            ((1, 1, "inf", 4), "'inf'")]),
        (annotation(xml(("dog", "yes", 1, 1, 4, 4))), "refused",
         "whose «difficult» is not 0 or 1, as 'yes' in 000005.xml"),
        (annotation(xml(("dog", 0, 1, 1, 4, 4)).replace("<bndbox>", "<box>").replace("</bndbox>", "</box>")), "refused",
         "outside its image, as ['', '', '', ''] in 000005.xml"),
        (annotation("<annotation><object/><size><width>3</width><height>3</height></size></annotation>"), "refused",
         "as '' in 000005.xml"),
        *((annotation(text), "refused", "1 annotations without a size, as 000005.xml") for text in (
            "<annotation/>", "<Annotation/>", xml(size=("", 24)), xml(size=("wide", 24)))),
        (annotation("<html/>"), "refused",
         "1 annotations that are not VOC's, as 000005.xml, which holds <html> and not <annotation>"),
        (annotation(xml(("dog", 0, 1, 1, 4, 4)).replace("annotation>", "Annotation>")), "read"),
        *((annotation((f'<?xml version="1.0" encoding="{code}"?>' + xml(("dog", 0, 1, 1, 4, 4)).replace(
            "<size>", "<folder>\u5927</folder><size>")).encode(code)), "read")
          for code in ("gbk", "GB2312", "big5", "shift_jis")),
        (annotation(xml().replace("<size>", "<folder>\u5927</folder><size>").encode("gbk")), "refused",
         "no XML, or cut short, as 000005.xml (not well-formed (invalid token)"),
        *((annotation(text), "refused", "1 annotations that are no XML, or cut short, as 000005.xml") for text in (
            "", "<annotation>", "text", b"\xff\xd8\xff", b"<annotation>\xe9</annotation>", "<a>" * DEEP,
            '<?xml version="1.0" encoding="nothing"?><annotation/>')),
        (annotation("<a>" * DEEP + "</a>" * DEEP), "refused", "as 000005.xml"),
        (annotation(b"\xef\xbb\xbf" + xml().encode()), "read"),
        (annotation(xml().encode("utf-16")), "read"),
        (annotation(b'<?xml version="1.0" encoding="latin-1"?>' + xml().encode("latin-1")), "read"),
        (removed(XML), "refused", "1 annotations that are missing, as 000005.xml"),
        (removed(ROOT + "JPEGImages/000005.jpg"), "refused", "1 of 2 images", LIST, "000005.jpg"),
        (file(LIST, lambda _: b"\n"), "refused", LIST, "names no image"),
        (file(LIST, lambda data: b"\xef\xbb\xbf" + data), "read"),
        (file(LIST, lambda _: b"\xff\xfe0\0"), "refused", LIST, ENCODING),
        (removed(LIST), "refused", "no VOCdevkit/VOC2007 with ImageSets/Main/trainval.txt in it"),
        (odd(content(b""), "000009.jpg", ROOT + "JPEGImages"), "refused",
         "000009.jpg: this image is broken (an empty file)"),
    ],
}


def outcome(name, folder):
    """Open the data and read every image, as an evaluation and as training do; return what is said, and how."""
    try:
        data = open_data(name, str(folder), (8, 8), None)
        notes = {}
        for source in (data.train, data.val):
            images = PreparedImages(source, (8, 8), 0.9)
            batches = ValidationBatches(images, Recipe(batch_size=50), (0, 1), torch.device("cpu"), 0)
            assert sum(len(labels) for _, labels in batches) == len(source)
            notes |= batches.notes
            keys = [(0, index, 0) for index in range(len(source))]
            trained_on = PreparedImages(source, (8, 8), 0.9, Recipe(rand_augment=9))[keys]
            assert len(trained_on.labels) == len(keys)
    except DataError as error:
        return "refused", str(error)
    said = [f"{note.name}: {note.text}" for note in notes.values()]
    return "listed" if said else "said" if data.remarks else "read", "; ".join([*said, *data.remarks])


@pytest.mark.parametrize(("name", "spoil", "how", "says"), [
    pytest.param(name, spoil, how, says, id=f"{name} {number} {how} {' '.join(says)[-40:]!r}")
    for name, cases in CASES.items() for number, (spoil, how, *says) in enumerate(cases)])
def test_a_bad_file_is_one_sentence(tmp_path, monkeypatch, name, spoil, how, says):
    monkeypatch.chdir(tmp_path)
    make = {"imagefolder": lambda folder: image_folder(folder, count=1, size=(8, 8)), "coco": coco_folder,
            "voc2007": voc_folder}[name]
    spoil(make(tmp_path))
    ended, said = outcome(name, tmp_path)
    assert ended == how, said
    assert all(part in said for part in says) and "Traceback" not in said, said
    assert re.sub(r"a\n?b", "", said).count("\n") == 0 and len(said) < 600


def test_good_data_have_nothing_said_about_them(tmp_path):
    for name, make in (("imagefolder", image_folder), ("coco", coco_folder), ("voc2007", voc_folder)):
        assert outcome(name, make(tmp_path / name)) == ("read", "")


def test_a_thin_image_does_not_become_gigabytes(monkeypatch):
    sizes, resize = [], TF.resize
    monkeypatch.setattr(TF, "resize", lambda image, size, *how: sizes.append(size) or resize(image, size, *how))
    row = np.zeros((1, 65500), np.uint8)
    row[:, 32750:] = 255  # the middle is an edge, and stays in the middle
    for pixels in (row, row.T):
        image = PreparedImages([(Image.fromarray(pixels), 0)], (224, 224), 0.9)[[(0, 0, 0)]].images[0, 0]
        image = image if pixels is row else image.T
        assert image.shape == (224, 224) and 110 < image[0, 111] < 140
        assert (image[:, 0] < 30).all() and (image[:, -1] > 225).all()
    assert max(map(max, sizes)) < 17 * 224 / 0.9
