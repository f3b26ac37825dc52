"""People, in front of a background: limbs, clothes with folds, a face, hair of hundreds of strands, what they hold."""

from __future__ import annotations

import numpy as np

from .drawing import Canvas, blob, lathe, limb, spline, strands, tube, unit
from .textures import HAIRS, any_colour, colour_map, near, noise, shades, texture
from .textures import folds as folds_of

_SKINS = np.array([[243, 208, 178], [224, 172, 125], [198, 134, 86], [141, 95, 66], [92, 62, 46], [240, 205, 190]])


def person(rng: np.random.Generator, canvas: Canvas) -> None:
    """Draw a person: head at (0, -0.62), hips at (0, 0.1), feet at (0, 0.9)."""
    skin = near(rng, _SKINS[rng.integers(len(_SKINS))], 0.06)
    hair = near(rng, HAIRS[rng.integers(len(HAIRS))] if rng.random() < 0.85 else any_colour(rng), 0.1)
    cloth, trousers = texture(rng, canvas.size), texture(rng, canvas.size)
    folds, gloss = folds_of(rng, canvas.size), rng.uniform(0, 0.6) ** 2
    head, width = np.array([rng.normal(0, 0.03), -0.62]), rng.uniform(0.85, 1.3)
    style = rng.choice(['long', 'short', 'bald'], p=[0.45, 0.45, 0.1])
    curl = rng.choice([0.04, 0.12, 0.35], p=[0.5, 0.3, 0.2])
    if style == 'long':
        _long_hair(rng, canvas, head, hair, rng.uniform(0.2, 0.6), curl)
    if rng.random() < 0.2:  # a cloak, a rucksack
        hem = rng.uniform(0.1, 0.8)
        cape = lathe([(-0.42, 0.08), (-0.36, 0.22), (-0.1, rng.uniform(0.2, 0.4)), (hem, rng.uniform(0.2, 0.5))])
        canvas.paint(canvas.fill(cape, fillet=0.02), texture(rng, canvas.size), relief=0.6, bumps=folds)

    legs = []
    for side in (-1, 1):
        knee, foot = (side * rng.uniform(0.08, 0.18), 0.45), (side * rng.uniform(0.06, 0.3), 0.9)
        legs.append(limb([(side * 0.08, 0.05), knee, foot], [0.1, 0.075, 0.045]))
        legs.append(tube(foot, (foot[0] + side * 0.07, 0.93), 0.045, 0.03))
    legs.append(lathe([(0.0, 0.12 * width), (0.06, 0.155 * width), (0.14, 0.13), (0.18, 0.02)]))
    canvas.paint(canvas.fill(*legs, fillet=0.03), trousers, relief=0.8, bumps=folds)
    neck = tube(head + (0, 0.05), (0, -0.4), 0.052, 0.065)
    canvas.paint(canvas.fill(neck, fillet=0.02), near(rng, skin * 0.85, 0.03), relief=0.5)

    hem = rng.choice([0.12, 0.2, 0.5, 0.8], p=[0.55, 0.2, 0.15, 0.1])  # shirt, coat, dress, robe
    flare = 0.16 * width + rng.uniform(0.1, 0.4) * (hem - 0.12)
    waist = rng.uniform(0.11, 0.16) * width
    profile = [(-0.445, 0.055), (-0.42, 0.12 * width), (-0.37, 0.165 * width), (-0.15, waist), (hem, flare)]
    hands, sleeves = [], []
    for side in (-1, 1):
        shoulder = np.array([side * 0.135 * width, -0.375])
        elbow = shoulder + rng.uniform(0.2, 0.27) * unit(np.pi / 2 - side * 1.5 * rng.beta(1, 2.5))
        hand = elbow + rng.uniform(0.17, 0.25) * unit(np.pi / 2 + side * rng.uniform(-2.8, 1.2) * rng.random())
        sleeves += [tube(shoulder, elbow, 0.068, 0.052), tube(elbow, hand, 0.05, 0.036)]
        hands.append((elbow, hand))
    front = rng.random() < 0.6  # arms before the body or partly behind
    torso = canvas.fill(lathe(profile), *(() if front else sleeves), fillet=0.025)
    if not front:
        _hands(rng, canvas, skin, hands)
    canvas.paint(torso, cloth, relief=0.55, bumps=folds, gloss=gloss)
    if rng.random() < 0.4:  # a neckline, the opening of a jacket, a scarf
        depth = rng.uniform(0.05, 0.5)
        opening = np.array([(-0.055, -0.445), (0.055, -0.445), (rng.normal(0, 0.02), -0.44 + depth)])
        canvas.paint(canvas.fill(opening), skin if depth < 0.2 else any_colour(rng), relief=0.2, bumps=folds)
    if rng.random() < 0.3:  # a strap across the chest
        canvas.strokes(
            spline([(-0.12, -0.4), (0.02, -0.1), (0.14, 0.1), (0.02, -0.12)])[None], 8, any_colour(rng)[None]
        )
    if front:
        _hands(rng, canvas, skin, hands)
        canvas.paint(canvas.fill(*sleeves, fillet=0.02), cloth, relief=0.7, bumps=folds, gloss=gloss)
    _head(rng, canvas, head, skin, hair)
    if style == 'short' or style == 'long':
        _cap(rng, canvas, head, hair, rng.uniform(0.04, 0.16), curl)
    if rng.random() < 0.2:
        _hat(rng, canvas, head)


def _hands(
    rng: np.random.Generator, canvas: Canvas, skin: np.ndarray, hands: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    """Draw hands, with fingers, and now and then what one of them holds."""
    if rng.random() < 0.35:
        _held(rng, canvas, hands[0][1])
    for elbow, hand in hands:
        ahead = (hand - elbow) / (np.linalg.norm(hand - elbow) + 1e-9)
        across = ahead[::-1] * (1, -1)
        palm = hand + 0.03 * ahead
        spread = rng.uniform(0.2, 1)
        fingers = [tube(palm + 0.02 * s * across, palm + 0.065 * ahead + 0.05 * spread * s * across, 0.011, 0.008)
                   for s in (-1, -0.33, 0.33, 1)]  # fmt: skip
        outlines = canvas.fill(blob(rng, palm, 0.034, 1, 0.1), tube(elbow, hand, 0.03, 0.028), *fingers)
        canvas.paint(outlines, skin, relief=0.6)


def _head(rng: np.random.Generator, canvas: Canvas, head: np.ndarray, skin: np.ndarray, hair: np.ndarray) -> None:
    turn = rng.normal(0, 0.02)  # where the face looks
    pores = noise(rng, canvas.size, 12, 0.8) * np.float32(0.06)
    ears = [blob(rng, head + (side * 0.112, 0.01), 0.02, 1.6) for side in (-1, 1)]
    face = lathe(
        [(-0.145, 0.05), (-0.1, 0.1), (0, 0.113), (0.07, 0.095), (0.13, rng.uniform(0.03, 0.06)), (0.15, 0.01)]
    )
    blush = colour_map(noise(rng, canvas.size, 8, 0.7), skin * 0.93, skin, np.minimum(skin * 1.05, 255))
    canvas.paint(canvas.fill(*ears), skin, relief=0.6)
    canvas.paint(canvas.fill(face + head, fillet=0.02), blush, relief=0.75, bumps=pores, gloss=rng.uniform(0, 0.3))
    dark, middle = (skin * 0.55).astype(np.uint8), head + (turn, 0)
    eyes = [middle + (side * 0.045, -0.015) for side in (-1, 1)]
    sockets, white = [blob(rng, e, 0.03, 0.6) for e in eyes], [blob(rng, e, 0.018, 0.4) for e in eyes]
    canvas.paint(canvas.fill(*sockets, fillet=0.01), dark, 0.35, relief=0)
    canvas.paint(canvas.fill(*white), np.array([225, 220, 215], np.uint8), relief=0)
    canvas.paint(
        canvas.fill(*(blob(rng, e, 0.009) for e in eyes)), np.array([35, 28, 25], np.uint8), relief=0, gloss=0.5
    )
    brows = [limb([e + (-0.028, -0.03), e + (0, -0.04), e + (0.028, -0.03)], [0.004, 0.007, 0.004]) for e in eyes]
    canvas.paint(canvas.fill(*brows), hair // 2, 0.8, relief=0)
    nose = limb([middle + (0, -0.01), middle + (turn, 0.03), middle + (turn, 0.055)], [0.008, 0.014, 0.018])
    canvas.paint(canvas.fill(nose, fillet=0.02), skin, 0.8, relief=1)
    canvas.paint(
        canvas.fill(blob(rng, middle + (0, 0.088), 0.034, 0.3, 0.1)), near(rng, dark + (40, 0, 0), 0.1), 0.8, 0.5
    )
    if rng.random() < 0.2:  # a beard
        side = rng.uniform(-1, 1, 400)
        chin = head + np.stack([0.09 * side, 0.15 - 0.08 * side**2 - rng.uniform(0, 0.04, 400)], axis=-1)
        curves = strands(rng, chin, unit(np.pi / 2 - 0.6 * side), rng.uniform(0.03, 0.2), 0.3, 0.1, 12)
        canvas.strokes(curves, 0.7, shades(rng, hair), opacity=0.6)
    if rng.random() < 0.15:  # glasses
        rims = np.stack([blob(rng, e, 0.036, 0.8) for e in eyes])
        canvas.strokes(np.concatenate([rims, rims[:, :1]], axis=1), 1.3, any_colour(rng)[None], taper=False)


def _long_hair(
    rng: np.random.Generator, canvas: Canvas, head: np.ndarray, colour: np.ndarray, length: float, curl: float
) -> None:
    """Draw hair that falls behind the shoulders: a mass, and hundreds of strands."""
    mass = lathe([(-0.17, 0.05), (-0.08, 0.13), (0.05, 0.14), (0.8 * length, rng.uniform(0.1, 0.2)), (length, 0.06)])
    streaks = colour_map(noise(rng, canvas.size, 40, 0.8), colour * 0.4, colour * 0.8)
    canvas.paint(canvas.fill(mass + head, fillet=0.05), streaks, relief=0.4)
    count = int(rng.integers(400, 1400))
    angle = np.sort(rng.uniform(np.pi - 0.6, 2 * np.pi + 0.6, count))
    roots = head + (0, -0.02) + rng.uniform(0.8, 1.05, (count, 1)) * unit(angle) * (0.125, 0.145)
    out = unit(angle) * (1, 0.3) * rng.uniform(0.2, 0.6)
    curves = strands(rng, roots, out + (0, 0.2), 1.3 * length, 0.9, curl, int(rng.integers(8, 40)))
    canvas.strokes(curves, rng.uniform(0.3, 0.9), shades(rng, colour), opacity=rng.uniform(0.4, 1))


def _cap(
    rng: np.random.Generator, canvas: Canvas, head: np.ndarray, colour: np.ndarray, length: float, curl: float
) -> None:
    """Draw the hair on top of a head, which leaves the face free."""
    line = head[1] - rng.uniform(0.05, 0.1)
    crown = head + np.array([(-0.125, 0), (-0.12, -0.1), (-0.06, -0.165), (0.06, -0.165), (0.12, -0.1), (0.125, 0)])
    parting = rng.uniform(-0.06, 0.06)
    fringe = np.array([head[0] + 0.1, line + 0.01]), (head[0] + parting, line - 0.02), (head[0] - 0.1, line)
    scalp = spline([*crown, *fringe])
    canvas.paint(
        canvas.fill(scalp, fillet=0.01), colour_map(noise(rng, canvas.size, 40, 0.8), colour * 0.5, colour), relief=0.5
    )
    count = int(rng.integers(300, 1200))
    angle = np.sort(rng.uniform(np.pi - 0.1, 2 * np.pi + 0.1, count))
    depth = np.sqrt(rng.uniform(0.3, 1, (count, 1)))
    roots = head + (0, -0.03) + depth * unit(angle) * (0.12, 0.13)
    roots[:, 1] = np.minimum(roots[:, 1], np.where(np.abs(roots[:, 0] - head[0]) < 0.09, line, head[1] + 0.03))
    comb = rng.normal(0, 0.8)  # to one side
    curves = strands(
        rng,
        roots,
        unit(angle + comb * np.abs(np.sin(angle))),
        length,
        rng.uniform(0, 0.9),
        curl,
        int(rng.integers(0, 30)),
    )
    canvas.strokes(curves, rng.uniform(0.3, 0.9), shades(rng, colour), opacity=rng.uniform(0.4, 1))


def _hat(rng: np.random.Generator, canvas: Canvas, head: np.ndarray) -> None:
    top, brim = rng.uniform(0.06, 0.2), rng.uniform(0.13, 0.26)
    crown = lathe([(-0.1 - top, 0.05), (-0.09 - top, 0.09), (-0.07, 0.122)]) + head
    rim = limb([head + (-brim, -0.06), head + (0, -0.085), head + (brim, -0.06)], [0.012, 0.02, 0.012])
    stuff, gloss = texture(rng, canvas.size), rng.choice([0, 0.8], p=[0.7, 0.3])
    canvas.paint(canvas.fill(crown), stuff, relief=0.8, gloss=gloss)
    canvas.paint(canvas.fill(rim), any_colour(rng), relief=0.6, gloss=gloss)


def _held(rng: np.random.Generator, canvas: Canvas, hand: np.ndarray) -> None:
    """Draw a staff, a blade, a bow, a racket or an umbrella through a hand."""
    way = unit(rng.normal(-np.pi / 2, 0.6))
    up, down, side = hand + rng.uniform(0.3, 0.8) * way, hand - rng.uniform(0.1, 0.6) * way, way[::-1] * (1, -1)
    kind, colour = rng.integers(4), any_colour(rng)
    if kind == 0:
        canvas.paint(canvas.fill(tube(down, up, 0.012, 0.01)), colour, relief=0.8, gloss=0.3)
        canvas.paint(canvas.fill(blob(rng, up, rng.uniform(0.02, 0.1), 1, 0.4)), any_colour(rng), relief=0.8, gloss=0.6)
    elif kind == 1:
        steel = np.array([[190, 195, 205]], np.uint8)[0]
        blade = np.array(
            [
                hand + 0.022 * side,
                up - 0.08 * way + 0.018 * side,
                up,
                up - 0.08 * way - 0.018 * side,
                hand - 0.022 * side,
            ]
        )
        canvas.paint(canvas.fill(blade), steel, relief=0.6, gloss=0.9)
        canvas.paint(canvas.fill(tube(hand + 0.08 * side, hand - 0.08 * side, 0.012, 0.012)), colour, relief=0.8)
    elif kind == 2:
        bow = limb([down, hand + 0.2 * side, up], [0.006, 0.014, 0.006])
        canvas.paint(canvas.fill(bow), colour, relief=0.8)
        canvas.strokes(np.stack([down, up])[None], 0.5, near(rng, colour, 0.3)[None], taper=False)
    else:
        t = np.linspace(-1, 1, 9)[:, None]
        frame = up + 0.16 * blob(rng, (0, 0), 1, rng.uniform(0.7, 1.3))
        strings = [
            np.stack([up + 0.15 * (s * way + e * np.sqrt(1 - s * s) * side) for e in (-1, 1)]) for s in 0.9 * t[:, 0]
        ]
        strings += [
            np.stack([up + 0.15 * (s * side + e * np.sqrt(1 - s * s) * way) for e in (-1, 1)]) for s in 0.9 * t[:, 0]
        ]
        canvas.strokes(np.stack(strings), 0.6, np.array([[220, 215, 200]], np.uint8), taper=False)
        canvas.strokes(np.concatenate([frame, frame[:1]])[None], 3, colour[None], taper=False)
        canvas.paint(canvas.fill(tube(hand, up - 0.16 * way, 0.014, 0.012)), colour, relief=0.8)
