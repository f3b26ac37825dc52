"""What the networks return, by name and in order. Importing this does not import torch."""

from __future__ import annotations

OUTPUTS = {
    'mattingrefine': ('pha', 'fgr', 'pha_sm', 'fgr_sm', 'err_sm', 'ref_sm'),
    'mattingbase': ('pha', 'fgr', 'err', 'hid'),
}
ALL = tuple(dict.fromkeys(name for names in OUTPUTS.values() for name in names))
MEANINGS = {
    'pha': 'alpha, 0..1: how much of each pixel is the subject',
    'fgr': 'colours of the subject, RGB, to be shown where alpha is above 0',
    'pha_sm': 'alpha of the coarse network, 0..1',
    'fgr_sm': 'colours of the subject from the coarse network, 0..1',
    'err_sm': 'error that the coarse network expects of its alpha, 0..1',
    'ref_sm': 'cells of 4 x 4 pixels that were refined, 1 or 0',
    'err': 'error that the network expects of its alpha, 0..1',
    'hid': 'features for a refiner',
}
