"""COCO's instances file: read with the standard library and checked as a whole.

What can be understood is taken: an id as 7, 7.0 or "7", a size as 64 or "64". All else is a DataError that names the
file, how many entries are wrong in that way, and the first of them.
"""

import json
import reprlib
from collections import defaultdict
from pathlib import Path

from ..decoding import DataError

FIELDS = {"images": ("id", "file_name"), "categories": ("id", "name"), "annotations": ("image_id", "category_id")}
BAD_BOX = "with a box that is malformed or outside its image"
Problems = dict[str, list[str]]  # what is wrong, to the entries that are


def coco_objects(path: Path, boxes: bool) -> tuple[list[dict], list[dict], list[tuple[int, int, dict]]]:
    """Read an instances file: its images, its categories by id, and of each object the places of its image and category
    in these lists, and its annotation. boxes: each object must have one. Raises DataError, naming the file and the
    first bad entry of each kind."""
    images, categories, annotations = _lists(path)
    categories.sort(key=lambda category: (isinstance(category["id"], str), category["id"]))
    rows, columns = ({entry["id"]: i for i, entry in enumerate(listed)} for listed in (images, categories))
    objects, problems = [], defaultdict(list)
    for number, entry in enumerate(annotations):
        row, column, box = rows.get(entry["image_id"]), columns.get(entry["category_id"]), entry.get("bbox")
        where = f"annotations[{number}]: "
        if row is None:
            problems["of an image that the file does not list"].append(f"{where}image_id {entry['image_id']!r}")
        elif column is None:
            problems["of a category that the file does not list"].append(f"{where}category_id {entry['category_id']!r}")
        elif box in (None, []) and boxes:
            problems["without a box"].append(f"{where}bbox {box} in {images[row]['file_name']}")
        elif box not in (None, []) and not inside(box, images[row]):
            size = f"{images[row].get('width')}×{images[row].get('height')}"
            problems[BAD_BOX].append(f"{where}{reprlib.repr(box)} in {images[row]['file_name']} of {size}")
        elif not all(_is_number(entry.get(name, 0)) and entry.get(name, 0) >= 0 for name in ("area", "iscrowd")):
            problems["whose area or iscrowd is no number from 0 on"].append(
                f"{where}{reprlib.repr(entry.get('area'))} and {reprlib.repr(entry.get('iscrowd'))}")
        else:
            objects.append((row, column, entry))
    check(path, "objects", problems)
    return images, categories, objects


def check(path: Path, what: str, problems: Problems) -> None:
    """Raise DataError, with the number of problems of each kind and the first of them, if there are any."""
    if problems:
        kinds = "; ".join(f"{len(found)} {what} {kind}, as {found[0]}" for kind, found in problems.items())
        raise DataError(f"{path}: {kinds}; repair or remove them")


def inside(box: object, image: dict) -> bool:
    """Return whether `box` is [left, top, width, height] inside the image, give or take a pixel of rounding."""
    sides = [image.get(side, 1e6) for side in ("width", "height")]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, [*box, *sides])):
        return False
    left, top, width, height = box
    right, bottom = left + width, top + height
    return min(left, top) >= -1 and min(width, height) >= 0 and right <= sides[0] + 1 and bottom <= sides[1] + 1


def _lists(path: Path) -> tuple[list[dict], list[dict], list[dict]]:
    """Return images, categories and annotations, with their ids and sizes as numbers."""
    content = _content(path)
    for name, keys in FIELDS.items():
        for number, entry in enumerate(content[name]):
            if isinstance(entry, dict):
                entry |= {key: _plain(entry[key]) for key in keys if key.endswith("id") and key in entry}
            if not isinstance(entry, dict) or not all(
                    type(entry.get(key)) in ((str,) if key == "file_name" else (int, str)) for key in keys):
                raise DataError(f"{path}: {name}[{number}] has no {' or no '.join(keys)}: {reprlib.repr(entry)}")
    for name, key in (("images", "id"), ("categories", "id"), ("categories", "name")):
        if not content[name]:
            raise DataError(f"{path}: has no {name}; nothing can be learnt from it")
        if len({entry[key] for entry in content[name]}) < len(content[name]):
            raise DataError(f"{path}: two {name} have the same {key}")
    problems = defaultdict(list)
    for number, entry in enumerate(content["images"]):
        sides = {side: _plain(entry[side]) for side in ("width", "height") if entry.get(side) is not None}
        if not all(type(side) is int and side > 0 for side in sides.values()):
            problems["whose width or height is no whole number of pixels"].append(
                f"images[{number}]: {reprlib.repr(entry.get('width'))} and {reprlib.repr(entry.get('height'))}")
        entry |= sides
    check(path, "images", problems)
    return tuple(content[name] for name in FIELDS)


def _content(path: Path) -> dict:
    try:
        content = json.loads(path.read_bytes())  # UTF-8, 16 or 32, with a byte-order mark or without
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); COCO's folder holds train2017/, val2017/ and"
                        " annotations/instances_{train,val}2017.json") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: a text in another encoding than UTF-8, or no text; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"{path}: not a JSON file, or cut short ({what}); download it again") from None
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in FIELDS):
        raise DataError(f"{path}: not COCO's instances, which have the lists images, categories and annotations")
    return content


def _plain(value: object) -> object:
    """Return an integer written as 7.0 or "7" as an int; anything else unchanged."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) < 20 and value.isdecimal() and str(int(value)) == value:
        return int(value)
    return value


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and -1e9 < value < 1e9
