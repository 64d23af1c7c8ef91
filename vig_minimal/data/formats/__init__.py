"""Readers of other programs' files: images, COCO's JSON, VOC's XML."""
