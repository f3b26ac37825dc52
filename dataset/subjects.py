"""What is drawn in front of a background beside people: animals, plants, things, veils.

Each function paints one subject on a `Canvas`, in coordinates of about -1..1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .drawing import Canvas, blob, lathe, limb, rotation, spline, strands, sweep, tube, unit
from .textures import HAIRS, any_colour, colour_map, folds, leaves, near, noise, shades, soften, texture


def animal(rng: np.random.Generator, canvas: Canvas) -> None:
    """Draw an animal from the side, furred, feathered or smooth, with spots or stripes."""
    colour = near(rng, HAIRS[rng.integers(len(HAIRS))], 0.2) if rng.random() < 0.7 else any_colour(rng)
    fat, tall, long = rng.uniform(0.14, 0.32), rng.uniform(0.15, 0.6), rng.uniform(0.3, 0.6)
    hip, chest = np.array([-long, rng.normal(0, 0.06)]), np.array([long, rng.normal(0, 0.06)])
    head = chest + rng.uniform(0.25, 0.5) * unit(rng.uniform(-1.4, 0.2))
    skull = rng.uniform(0.1, 0.22)
    muzzle = head + rng.uniform(0.8, 1.8) * skull * unit(rng.uniform(-0.2, 0.7))
    trunk: tuple[list[ArrayLike], list[float]] = (
        [hip, (0, rng.normal(0, 0.08)), chest],
        [0.9 * fat, fat * rng.uniform(0.8, 1.2), fat],
    )
    limbs: list[tuple[list[ArrayLike], list[float]]] = [
        trunk,
        ([chest, (chest + head) / 2, head], [0.8 * fat, 0.6 * fat, 0.8 * skull]),
        ([head, (head + muzzle) / 2, muzzle], [skull, 0.7 * skull, 0.35 * skull]),
    ]
    for x in (hip[0], hip[0] + 0.12, chest[0], chest[0] - 0.12):
        foot = np.array([x + rng.normal(0, 0.12), fat + tall])
        limbs.append(([(x, 0.3 * fat), (x + rng.normal(0, 0.05), fat + 0.4 * tall), foot], [0.45 * fat, 0.06, 0.045]))
    tail = hip + rng.uniform(0.2, 0.7) * unit(rng.uniform(1.8, 4.5))
    limbs.append(([hip, (hip + tail) / 2 + rng.normal(0, 0.1, 2), tail], [0.06, 0.04, rng.uniform(0.01, 0.07)]))
    for turn in (-2.1, -1.3):
        ear = head + skull * unit(turn)
        tip = ear + rng.uniform(0.3, 1.4) * skull * unit(turn)
        limbs.append(([head + 0.7 * skull * unit(turn), ear, tip], [0.06, 0.05, 0.012]))
    coat = colour_map(noise(rng, canvas.size, 24, 0.9), colour * 0.6, colour, np.minimum(colour * 1.25, 255))
    if rng.random() < 0.4:
        coat = leaves(rng, canvas.size, [colour, any_colour(rng)], 120, (0.01, 0.06), coat)
    smooth = rng.random() < 0.35
    bumps = noise(rng, canvas.size, 12, 0.8) * np.float32(rng.uniform(0, 0.15))
    order = [*limbs[3:5], limbs[7], limbs[0], *limbs[5:7], *limbs[1:3], *limbs[8:]]
    wholes = [[limb(*parts) for parts in order[:3]], [limb(*parts) for parts in order[3:]]]
    for outlines in wholes:
        canvas.paint(
            canvas.fill(*outlines, fillet=0.05), coat, relief=0.6, bumps=bumps, gloss=rng.uniform(0, 0.5) * smooth
        )
    if not smooth:
        length, fall, curl = 0.03 + 0.2 * rng.random() ** 2, rng.uniform(0, 0.8), rng.choice([0.03, 0.25])
        for points, widths in limbs[:9]:
            count = int(rng.integers(80, 160) * (6 if points is trunk[0] else 1.6))
            t = np.sort(rng.random(count))
            centre, along, half = sweep(np.array([*points]), widths, t)
            side = rng.choice([-1, 1], (count, 1)) * rng.uniform(0.3, 1, (count, 1)) ** 0.4
            normal = along[:, ::-1] * (1, -1) * side
            backwards = -along * np.sign(np.subtract(points[2], points[0])[0])
            reach = length * (1 if points is trunk[0] else 0.5)
            roots = centre + 0.95 * half * normal
            hairs = strands(rng, roots, 0.6 * normal + 0.7 * backwards, reach, fall, curl)
            canvas.strokes(hairs, rng.uniform(0.3, 0.8), shades(rng, colour), opacity=0.6)
    eye = head + 0.3 * skull * unit(-0.9)
    canvas.paint(canvas.fill(blob(rng, eye, 0.15 * skull)), np.array([25, 20, 18], np.uint8), relief=0.5, gloss=1)
    canvas.paint(canvas.fill(blob(rng, muzzle, 0.25 * skull, 0.8)), colour // 4, relief=0.8, gloss=0.5)


def plant(rng: np.random.Generator, canvas: Canvas) -> None:
    """Draw a tree, a bush, or leaves in a pot: twigs, and hundreds of leaves with gaps between them."""
    green = np.array([rng.uniform(40, 140), rng.uniform(80, 190), rng.uniform(20, 90)])
    green = near(rng, green if rng.random() < 0.75 else any_colour(rng), 0.15)
    bark, pot = any_colour(rng) // 2 + 20, rng.random() < 0.5
    foot, crown = np.array([0, 0.5 if pot else 0.95]), rng.uniform(0.4, 0.8)
    tips = np.array([0, -0.3]) + crown * np.sqrt(rng.random((40, 1))) * unit(rng.uniform(0, 2 * np.pi, 40)) * (1, 0.8)
    forks = foot + (tips - foot) * rng.uniform(0.3, 0.6, (40, 1)) * (0.4, 1)
    thick = rng.uniform(0.01, 0.07)
    t = np.linspace(0, 1, 10)
    twigs, _, _ = sweep(np.stack([np.broadcast_to(foot, (40, 2)), forks, tips], axis=1), [0, 0, 0], t)
    canvas.strokes(twigs, 250 * thick * 0.3, np.stack([bark, bark // 2]))
    canvas.paint(
        canvas.fill(limb([foot, foot / 2, (0, -0.2)], [thick * 1.3, thick, thick * 0.4]), fillet=0.02),
        bark,
        relief=0.8,
        bumps=noise(rng, canvas.size, 30, 0.9),
    )
    count, length = int(rng.integers(200, 800)), rng.uniform(0.05, 0.16)
    at = rng.integers(40, size=count)
    share = rng.uniform(0.4, 1.05, count)
    roots = twigs[at, np.minimum(share * 9, 9).astype(int)] + rng.normal(0, 0.03, (count, 2))
    curves = strands(rng, roots, unit(rng.uniform(0, 2 * np.pi, count)), length, rng.uniform(0, 0.6), 0.1)
    canvas.strokes(curves[:, ::2], 256 * length * canvas.scale * rng.uniform(0.2, 0.6), shades(rng, green))
    if rng.random() < 0.4:
        flowers = [blob(rng, tip, rng.uniform(0.02, 0.09), 1, 0.5) for tip in tips[:12]]
        canvas.paint(canvas.fill(*flowers), any_colour(rng), relief=0.7)
    if pot:
        vessel = lathe([(0.45, 0.3), (0.5, 0.32), (0.75, 0.26), (1, 0.2)])
        canvas.paint(canvas.fill(vessel), texture(rng, canvas.size), relief=0.8, gloss=rng.uniform(0, 0.8))


def thing(rng: np.random.Generator, canvas: Canvas) -> None:
    """Draw one to three objects: turned, boxy, wheeled, woven or tubular."""
    makers = [_vessel, _box, _wheel, _net, _frame, _star]
    for maker in rng.choice(len(makers), size=rng.integers(1, 4), p=[0.25, 0.2, 0.15, 0.12, 0.13, 0.15]):
        makers[maker](rng, canvas)


def _vessel(rng: np.random.Generator, canvas: Canvas) -> None:
    """A vase, bottle, bell, fruit, lamp or instrument; some are of glass."""
    y = np.sort(rng.uniform(-0.9, 0.9, 5)) + np.linspace(-0.1, 0.1, 5)
    outline = lathe(np.stack([y, rng.uniform(0.05, 0.5, 5)], axis=-1)) @ rotation(rng.normal(0, 0.6))
    mask = canvas.fill(outline + rng.normal(0, 0.2, 2))
    if rng.random() < 0.08:
        canvas.paint(mask, any_colour(rng), rng.uniform(0.3, 0.7), relief=0.5, gloss=1)
    else:
        bumps = noise(rng, canvas.size, 16, 0.9) * np.float32(0.25 * rng.random() ** 3)
        canvas.paint(mask, texture(rng, canvas.size), relief=rng.uniform(0.6, 1), bumps=bumps, gloss=rng.uniform(0, 1))


def _box(rng: np.random.Generator, canvas: Canvas) -> None:
    """A box seen from a corner, or a vehicle with wheels below it."""
    wide, tall, deep, lean = rng.uniform(0.2, 0.8), rng.uniform(0.15, 0.5), rng.uniform(0.1, 0.5), rng.uniform(0.2, 0.7)
    centre, away = rng.normal(0, 0.2, 2), deep * np.array([np.cos(lean), -np.sin(lean)])
    face = centre + np.array([(-wide, -tall), (wide, -tall), (wide, tall), (-wide, tall)])
    stuff = texture(rng, canvas.size)
    for share, quad in (
        (0.6, [face[1], face[1] + away, face[2] + away, face[2]]),
        (1.2, [face[0], face[0] + away, face[1] + away, face[1]]),
        (1, face),
    ):
        shade = np.clip(stuff * np.float32(share), 0, 255).astype(np.uint8)
        canvas.paint(canvas.fill(np.array(quad)), shade, relief=0.05, gloss=0.2)
    if rng.random() < 0.5:
        inset = [centre + (face - centre) * (0.25, 0.5) + (dx * wide, 0) for dx in (-0.55, 0, 0.55)]
        canvas.paint(canvas.fill(*inset), any_colour(rng), relief=0.1, gloss=0.5)
    if rng.random() < 0.4:
        tyres = [blob(rng, centre + (dx * wide, tall), 0.17) for dx in (-0.6, 0.6)]
        canvas.paint(canvas.fill(*tyres), np.array([35, 34, 36], np.uint8), relief=0.4)
        canvas.paint(
            canvas.fill(*(blob(rng, centre + (dx * wide, tall), 0.09) for dx in (-0.6, 0.6))),
            any_colour(rng),
            relief=0.8,
            gloss=0.7,
        )


def _wheel(rng: np.random.Generator, canvas: Canvas) -> None:
    """One or two wheels with spokes, joined by a frame: a bicycle, a fan, a web."""
    radius, steel, colour = rng.uniform(0.25, 0.5), any_colour(rng), any_colour(rng)
    hubs = (
        [np.array([0.0, 0.3])]
        if rng.random() < 0.4
        else [np.array([-radius - 0.1, 0.35]), np.array([radius + 0.1, 0.35])]
    )
    turn = np.linspace(0, 2 * np.pi, int(rng.integers(6, 30)), endpoint=False)[:, None]
    for hub in hubs:
        spokes = np.stack([np.broadcast_to(hub, (len(turn), 2)), hub + radius * unit(turn[:, 0])], axis=1)
        rim = hub + radius * unit(np.linspace(0, 2 * np.pi, 60))
        canvas.strokes(spokes, rng.uniform(0.4, 2), steel[None], taper=False)
        canvas.strokes(rim[None], rng.uniform(2, 9), near(rng, steel, 0.4)[None], taper=False)
    seat, bar = np.array([-0.2, -0.25]), np.array([0.35, -0.35])
    bars = [tube(a, b, 0.022, 0.022) for a in hubs for b in (seat, bar)] + [tube(seat, bar, 0.022, 0.022)]
    canvas.paint(canvas.fill(*bars), colour, relief=0.9, gloss=0.7)
    canvas.paint(
        canvas.fill(limb([seat + (-0.12, -0.05), seat + (0, -0.08), seat + (0.12, -0.05)], [0.04, 0.03, 0.02])),
        colour // 3,
        relief=0.8,
    )


def _net(rng: np.random.Generator, canvas: Canvas) -> None:
    """A net, a fence, a cage or a rack: threads across each other, sagging."""
    count, sag = int(rng.integers(4, 16)), rng.normal(0, 0.15)
    t, s = np.linspace(-1, 1, 16), np.linspace(-1, 1, count)
    bow = sag * (1 - t**2)
    threads = [np.stack([t, np.full(16, line) + bow], axis=-1) for line in s] + [
        np.stack([np.full(16, line) + 0.3 * bow, t], axis=-1) for line in s
    ]
    reach = rng.uniform(0.3, 0.8, 2)
    placed = (np.stack(threads) * reach) @ rotation(rng.uniform(0, np.pi)) + rng.normal(0, 0.15, 2)
    canvas.strokes(placed, rng.uniform(0.5, 5), shades(rng, any_colour(rng))[2:5], taper=False)


def _frame(rng: np.random.Generator, canvas: Canvas) -> None:
    """A chair, a ladder, a stand or scissors: straight tubes between a few points."""
    joints = rng.uniform(-0.8, 0.8, (6, 2))
    width = rng.uniform(0.01, 0.06)
    pairs = [(i, (i + 1) % 6) for i in range(6)] + [(0, 3), (1, 4)]
    canvas.paint(
        canvas.fill(*(tube(joints[a], joints[b], width, width) for a, b in pairs), fillet=width / 2),
        texture(rng, canvas.size),
        relief=0.9,
        gloss=rng.uniform(0, 1),
    )


def _star(rng: np.random.Generator, canvas: Canvas) -> None:
    """A star, a gear or a splash, some with an opening."""
    corners = int(rng.integers(3, 12))
    angle = np.linspace(0, 2 * np.pi, 2 * corners, endpoint=False)
    reach = np.where(np.arange(2 * corners) % 2, rng.uniform(0.3, 0.9), 0.8)[:, None] * rng.uniform(0.5, 1)
    outline = reach * unit(angle)
    outline = (spline(outline) if rng.random() < 0.5 else outline) + rng.normal(0, 0.15, 2)
    mask = canvas.fill(outline)
    canvas.paint(
        mask,
        texture(rng, canvas.size),
        relief=rng.uniform(0, 0.8),
        bumps=folds(rng, canvas.size),
        gloss=rng.uniform(0, 0.8),
    )
    if rng.random() < 0.3:
        canvas.erase(canvas.fill(blob(rng, outline.mean(axis=0), rng.uniform(0.1, 0.3), 1, 0.1)))


def veil(rng: np.random.Generator, canvas: Canvas) -> None:
    """Draw a folded veil, smoke, or a pane of glass with a rim: alpha between 0.15 and 0.85."""
    outline = blob(rng, rng.normal(0, 0.3, 2), rng.uniform(0.3, 0.7), rng.uniform(0.5, 1.6), rng.uniform(0, 0.5))
    low, high = np.sort(rng.uniform(0.15, 0.85, 2)).astype(np.float32)
    kind = rng.integers(3)
    if kind == 0:
        canvas.paint(canvas.fill(outline), any_colour(rng), low, relief=0.3, gloss=1)
        canvas.strokes(np.concatenate([outline, outline[:1]])[None], 3, any_colour(rng)[None], taper=False)
        return
    creases = noise(rng, canvas.size, int(rng.integers(3, 8)), 0.5)
    mask = canvas.fill(outline) if kind == 1 else soften(canvas.fill(outline), 0.04 * canvas.size)
    colour = any_colour(rng)
    canvas.paint(
        mask,
        colour_map(creases, colour, near(rng, colour, 0.2)),
        low + (high - low) * creases,
        relief=0.1,
        bumps=creases if kind == 1 else None,
    )
