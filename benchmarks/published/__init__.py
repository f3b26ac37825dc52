"""How the published toolkit goes about its work, written anew: what the toolkit's own speed is measured against.

`network` moves data through the refiner as the published network does, `reading` makes a training sample as its loader
does, `inference` is its script for folders of pictures.
"""
