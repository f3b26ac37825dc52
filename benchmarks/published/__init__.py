"""The published toolkit's way of working, written anew, against which this toolkit's speed is measured.

`network` moves data through the refiner as the published network does, `reading` makes a training sample as its loader
does, `inference` is its script for folders of pictures.
"""
