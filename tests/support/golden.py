"""Weights and pictures that follow from a tensor's name, to which the golden numbers in tests/data belong."""

import functools
import zlib

import numpy as np
import torch


def generator(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def fill(model):
    """Gives every tensor of a model its value."""
    state = {name: torch.from_numpy(_tensor(name, tuple(t.shape))) for name, t in model.state_dict().items()}
    model.load_state_dict(state)
    return model.eval()


@functools.lru_cache(maxsize=400)  # about all of MobileNetV2
def _tensor(name, shape):
    g, leaf = generator(name), name.rpartition('.')[2]
    if leaf == 'num_batches_tracked':
        return np.zeros(shape, np.int64)
    if leaf == 'running_mean':
        value = g.standard_normal(shape) * 0.1
    elif leaf == 'running_var':
        value = g.uniform(0.8, 1.2, shape)
    elif len(shape) == 4:
        value = g.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif leaf == 'weight':
        value = g.uniform(0.8, 1.2, shape)
    else:
        value = g.standard_normal(shape) * 0.1
    value = np.asarray(value, np.float32)
    if name.startswith('backbone.layer') and name.endswith('bn3.weight'):
        value *= np.float32(0.25)
    factor = {'decoder.conv4.weight': 0.15, 'refiner.conv4.weight': 0.3}.get(name)
    if factor:
        value *= np.float32(factor)
    for channel, offset in {'decoder.conv4.bias': {0: 0.5, 4: 0.3}, 'refiner.conv4.bias': {0: 0.5}}.get(
        name, {}
    ).items():
        value[channel] += offset
    return value


def image(name, batch, channels, height, width):
    """A smooth picture of six waves a channel and a little noise, 0..1."""
    g = generator(name)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = np.zeros((batch, channels, height, width))
    for b in range(batch):
        for c in range(channels):
            for _ in range(6):
                fy, fx = g.uniform(0, 12), g.uniform(0, 12)
                phase, amplitude = g.uniform(0, 6.283), g.uniform(0.2, 1)
                waves[b, c] += amplitude * np.sin(6.283 * (fy * y / height + fx * x / width) + phase)
    picture = 0.5 + waves / 6 + 0.02 * g.standard_normal(waves.shape)
    return torch.from_numpy(picture.clip(0, 1).astype(np.float32))
