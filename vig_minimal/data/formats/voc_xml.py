"""VOC's lists of images and XML of objects: read with the standard library and checked as a whole."""

import re
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from ..decoding import DataError
from .coco_json import BAD_BOX, check, inside

VOC_CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
               "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")


def voc_objects(root: Path, listed: Path) -> tuple[list[str], dict[tuple[int, int], list[tuple[int, float]]]]:
    """Read the images that a file lists, of the folder VOC2007: their names without an ending, and of each (image,
    class) the objects' targets (1, or −1 for a «difficult» one) and areas. Raises DataError, naming the first bad
    entry of each kind."""
    names = _names(listed, root / "Annotations")
    objects, problems = defaultdict(list), defaultdict(list)
    for row, name in enumerate(names):
        try:
            tree = _tree((root / "Annotations" / f"{name}.xml").read_bytes())
        except OSError:
            problems["that are missing"].append(f"{name}.xml")
            continue
        except (ValueError, LookupError, ElementTree.ParseError) as error:
            problems["that are no XML, or cut short"].append(f"{name}.xml ({error})")
            continue
        size = {side: _float(tree.findtext(f"size/{side}")) for side in ("width", "height")}
        if tree.tag.lower() != "annotation":
            problems["that are not VOC's"].append(f"{name}.xml, which holds <{tree.tag}> and not <annotation>")
        elif None in size.values():
            problems["without a size"].append(f"{name}.xml")
        else:
            for thing in tree.iter("object"):
                if found := _object(thing, size, name, problems):
                    objects[row, found[0]].append(found[1:])
    check(root / "Annotations", "annotations", problems)
    return names, objects


def _object(thing: ElementTree.Element, size: dict, name: str, problems: dict) -> tuple[int, int, float] | None:
    """Return class, target and area of an object; None, with an entry in `problems`, for a bad one."""
    label, difficult = thing.findtext("name", "").strip(), thing.findtext("difficult", "0").strip()
    corners = [thing.findtext(f"bndbox/{side}", "") for side in ("xmin", "ymin", "xmax", "ymax")]
    left, top, right, bottom = map(_float, corners)
    if label not in VOC_CLASSES:
        problems["with an object of a class that VOC does not have"].append(f"{label!r} in {name}.xml")
    elif difficult not in ("0", "1"):
        problems["with an object whose «difficult» is not 0 or 1"].append(f"{difficult!r} in {name}.xml")
    # corners count from 1 and include the last pixel
    elif None in (left, top, right, bottom) or not inside(
            box := [left - 1, top - 1, right - left + 1, bottom - top + 1], size):
        problems[BAD_BOX].append(f"{corners} in {name}.xml")
    else:
        return VOC_CLASSES.index(label), -1 if difficult == "1" else 1, box[2] * box[3]
    return None


def _names(listed: Path, annotations: Path) -> list[str]:
    """Return the names in a list, one a line; they may hold spaces. A word after a name, such as ±1, is dropped."""
    try:
        lines = listed.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{listed}: a text in another encoding than UTF-8, or no text; save it as UTF-8") from None
    names = [name if len(name.split()) == 1 or (annotations / f"{name}.xml").exists() else name.split()[0]
             for name in map(str.strip, lines) if name]
    if not names:
        raise DataError(f"{listed}: names no image; nothing can be learnt from it")
    return names


def _tree(data: bytes) -> ElementTree.Element:
    """Return the root of an XML file, also in a multi-byte encoding that expat does not know, such as GBK."""
    declared = re.match(rb"""\s*<\?xml[^>]*encoding=["']([\w.-]+)["']""", data)
    if declared and declared[1].lower() not in (b"utf-8", b"utf-16"):
        return ElementTree.fromstring(data.decode(declared[1].decode()))
    return ElementTree.fromstring(data)


def _float(text: str | None) -> float | None:
    """Return a text as a number, or None."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
