"""What is drawn behind a subject: rooms, landscapes, heaps of things, walls; out of focus as behind a portrait."""

from __future__ import annotations

import cv2
import numpy as np

from .textures import any_colour, colour_map, grid, leaves, near, noise, ramp, shaded, soften, texture, tiles

_TILES = 6  # of a room's surfaces


def scenery(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a background: uint8 RGB (size, size, 3)."""
    kind = rng.choice(['room', 'landscape', 'heap', 'wall', 'backdrop'], p=[0.35, 0.25, 0.15, 0.15, 0.1])
    depth = None  # 0 near, 1 far
    if kind == 'room':
        picture, depth = _room(rng, size)
    elif kind == 'landscape':
        picture, depth = _landscape(rng, size)
    elif kind == 'heap':
        colours = [any_colour(rng) for _ in range(rng.integers(2, 7))]
        picture = leaves(rng, size, colours, int(rng.integers(100, 300)), (0.01, rng.uniform(0.1, 0.6)))
    elif kind == 'wall':
        picture = tiles(rng, size) if rng.random() < 0.4 else texture(rng, size)
    else:
        hues = [any_colour(rng) for _ in range(rng.integers(2, 4))]
        picture = colour_map((ramp(size, rng.uniform(0, 2 * np.pi)) + noise(rng, size, 2, 0.4)) / 2, *hues)
    if rng.random() < 0.5:
        light = noise(rng, size, 2, 0.3)
        picture = shaded(picture, light, rng.uniform(0.3, 1))
    return _focused(rng, picture, depth)


def _focused(rng: np.random.Generator, picture: np.ndarray, depth: np.ndarray | None) -> np.ndarray:
    """Blur what is far from the plane of focus, or in some pictures everything or nothing."""
    sigma, how = len(picture) * rng.uniform(0.003, 0.03), rng.random()
    if how < 0.35:
        return picture
    blurred = soften(picture, sigma)
    if how < 0.6 or depth is None:
        return blurred
    weight = np.minimum(np.abs(depth - np.float32(rng.random())) * 3, 1)
    return cv2.blendLinear(picture, blurred, 1 - weight, weight)


def _room(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cast a ray through each pixel into a room with furniture; return the picture and its depth (size, size)."""
    extent = rng.uniform((3, 2.4, 3), (8, 3.5, 9)).astype(np.float32)  # metres: right, down, ahead
    eye = (extent * (rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.6), rng.uniform(0.02, 0.2))).astype(np.float32)
    rays = _rays(rng, size)
    inverse = 1 / np.where(np.abs(rays) < 1e-4, np.float32(1e-4), rays)
    ends = np.maximum(-eye[:, None, None] * inverse, (extent - eye)[:, None, None] * inverse)
    reach = ends.min(0)
    side = _axis(ends, reach)  # across which a ray's wall lies
    surface = side * 2 + (_along(side, rays) > 0)
    lamp = extent * (rng.uniform(0.1, 0.9), rng.uniform(0, 0.4), rng.uniform(0.2, 0.9))
    for number in range(rng.integers(2, 9)):
        low, high = _furniture(rng, extent, eye)
        first, last = ((corner - eye)[:, None, None].astype(np.float32) * inverse for corner in (low, high))
        enter = np.minimum(first, last)
        near_end, far_end = enter.max(0), np.maximum(first, last).min(0)
        seen = (near_end < far_end) & (near_end > 0.1) & (near_end < reach)
        np.copyto(reach, near_end, where=seen)
        np.copyto(side, _axis(enter, near_end), where=seen)
        surface[seen] = 6 + number
    points = eye[:, None, None] + rays * reach
    picture = _papered(rng, points, side, surface, size)
    to_lamp = lamp.astype(np.float32)[:, None, None] - points
    distance = np.sqrt((to_lamp**2).sum(0)) + np.float32(0.1)
    falling = np.abs(_along(side, to_lamp)) / distance
    x, y, z = np.minimum(np.minimum(points, extent[:, None, None] - points), np.float32(0.4))
    second = np.maximum(np.minimum(x, y), np.minimum(np.maximum(x, y), z))  # distance from the nearest corner or edge
    shelter = second + np.float32(0.6)  # where it is darker
    light = (np.float32(0.5) + np.float32(rng.uniform(1, 4)) * falling / (1 + distance**2 / 8)) * shelter
    picture = cv2.multiply(picture, cv2.cvtColor(np.clip(light, 0.1, 1.6), cv2.COLOR_GRAY2RGB), dtype=cv2.CV_8U)
    return picture, np.minimum(reach / extent[2], 1)


def _axis(planes: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return which of three planes (3, H, W) the chosen values (H, W) come from: uint8."""
    return np.where(planes[0] == chosen, np.uint8(0), np.where(planes[1] == chosen, np.uint8(1), np.uint8(2)))


def _along(side: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Return of three planes (3, H, W) each pixel's value along its axis `side` (H, W)."""
    return np.where(side == 0, planes[0], np.where(side == 1, planes[1], planes[2]))


def _rays(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return the direction of each pixel's ray, float32 (3, size, size), ahead, but turned."""
    spread = rng.uniform(0.4, 0.9)
    across, down = grid(size)
    x, y = np.broadcast_arrays((across - 0.5) * np.float32(2 * spread), (down - 0.5) * np.float32(2 * spread))
    yaw, pitch = rng.normal(0, 0.4), rng.normal(0, 0.12)
    ahead = np.cos(pitch) - y * np.sin(pitch)
    y = y * np.cos(pitch) + np.sin(pitch)
    return np.stack([x * np.cos(yaw) + ahead * np.sin(yaw), y, ahead * np.cos(yaw) - x * np.sin(yaw)]).astype(
        np.float32
    )


def _furniture(rng: np.random.Generator, extent: np.ndarray, eye: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw a box, two opposite corners (3,): on the floor, or flat on the wall ahead or at a side."""
    half = rng.uniform((0.15, 0.2, 0.15), (0.9, 0.9, 0.7))
    centre = rng.uniform(0.05, 0.95, 3) * extent
    where = rng.integers(4)
    if where < 2:
        centre[1] = extent[1] - half[1]
        centre[2] = max(centre[2], eye[2] + 1 + half[2])
    elif where == 2:
        centre[2], half[2] = extent[2], 0.05
        centre[1] = extent[1] * rng.uniform(0.2, 0.6)
    else:
        centre[0], half[0] = rng.choice([0, extent[0]]), 0.05
        centre[1] = extent[1] * rng.uniform(0.2, 0.6)
    return centre - half, centre + half


def _papered(
    rng: np.random.Generator, points: np.ndarray, side: np.ndarray, surface: np.ndarray, size: int
) -> np.ndarray:
    """Look up the colour of each point (3, H, W) of a surface, whose number (H, W) says which texture it has."""
    patch = max(32, size // 2)
    makers = [texture, tiles, texture, texture, texture, texture]
    atlas = np.concatenate([make(rng, patch) for make in makers], axis=1)
    number = rng.integers(_TILES, size=20)
    number[:6] = [0, 0, 2, 1, 0, 0]  # wallpaper, ceiling, wallpaper, floor
    scale = rng.uniform(0.3, 1.2)
    u = np.where(side == 0, points[2], points[0]) * np.float32(scale)
    v = np.where(side == 1, points[2], points[1]) * np.float32(scale)
    u, v = (1 - np.abs(x - 2 * np.floor(x / 2) - 1) for x in (u, v))  # back and forth, so that no seam shows
    column = (number * patch).astype(np.float32).take(surface) + u * (patch - 1)
    return cv2.remap(atlas, column, v * (patch - 1), cv2.INTER_LINEAR)


def _landscape(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw sky, hills behind hills in haze, and ground with plants; return the picture and its depth (size, size)."""
    horizon = rng.uniform(0.2, 0.75)
    _, down = grid(size)
    blue = np.array([rng.uniform(60, 200), rng.uniform(110, 210), rng.uniform(150, 250)])
    haze = near(rng, np.array([210, 210, 215]) if rng.random() < 0.7 else any_colour(rng), 0.1)
    height = np.broadcast_to(np.minimum(down / np.float32(horizon), 1), (size, size))
    picture = colour_map(height, blue, haze)
    clouds = np.clip(noise(rng, size, 3, 0.7) * 3 - np.float32(rng.uniform(0.8, 2)), 0, 1)
    white = np.full_like(picture, 240)
    picture = cv2.blendLinear(picture, white, 1 - clouds, clouds)
    depth = np.ones((size, size), np.float32)
    x = np.linspace(-0.05, 1.05, 64)
    earth = (
        np.array([rng.uniform(50, 130), rng.uniform(70, 140), rng.uniform(30, 90)])
        if rng.random() < 0.7
        else any_colour(rng)
    )
    count = int(rng.integers(2, 5))
    for i in range(count):
        share = (i + 1) / count
        waves = (np.sin(x[:, None] * 2.0 ** np.arange(1, 7) + rng.uniform(0, 6, 6)) / 2.0 ** np.arange(1, 7)).sum(1)
        ridge = horizon + (1 - horizon) * share**2 * 0.6 + rng.uniform(0.03, 0.2) * waves
        outline = np.rint(
            np.concatenate([np.stack([x, ridge], axis=-1), [(1.1, 1.1), (-0.1, 1.1)]]) * size * 16
        ).astype(np.int32)
        mask = np.zeros((size, size), np.uint8)
        cv2.fillPoly(mask, [outline], 255, cv2.LINE_AA, 4)
        ground = earth * share + haze * (1 - share)
        hill = colour_map(
            noise(rng, size, int(8 + 12 * rng.random()), 0.8), ground * 0.6, ground, np.minimum(ground * 1.25, 255)
        )
        if rng.random() < 0.6:
            greens = [near(rng, ground, 0.3) for _ in range(4)]
            hill = leaves(rng, size, greens, int(rng.integers(60, 200)), (0.008, 0.02 + 0.06 * share), hill)
        cover = mask.astype(np.float32) / 255
        picture = cv2.blendLinear(picture, hill, 1 - cover, cover)
        depth = np.where(mask > 127, np.float32(1 - share * 0.9), depth)
    return picture, depth
