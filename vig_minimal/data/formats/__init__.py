"""What is inside files that other programs wrote: pictures, COCO's JSON, VOC's XML."""
