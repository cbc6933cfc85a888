"""Recipes: vessels, lights and small things of a house."""

import numpy as np

from gsjax.data.shapes import csg, primitives
from gsjax.data.shapes.draft import NUMBERS, Draft, article


def _shell(radius_bottom, radius_top, height, wall, bulge=0.0, steps=8):
    """Profile of an open vessel: outer wall up, rim, inner wall down."""
    t = np.linspace(0, 1, steps)
    outer = radius_bottom + (radius_top - radius_bottom) * t + bulge * np.sin(np.pi * t)
    corners = [(0.0, 0.0), *zip(outer, t * height)]
    corners += [(r - wall, max(h, wall)) for r, h in zip(outer[::-1], t[::-1] * height)]
    return primitives.Revolve(tuple((float(r), float(h)) for r, h in [*corners, (0.0, wall)]))


def mug(d: Draft) -> None:
    height, radius = d.uniform(0.6, 1.4), d.uniform(0.32, 0.5)
    d.paint = d.striped(height) if d.chance(0.25) else d.colour()
    d.word(height / radius, 1.7, 2.9, "short", "tall")
    top = radius * d.uniform(0.85, 1.2)
    d.assembly.add(_shell(radius, top, height, 0.05), "body", d.paint)
    handles = 2 if d.chance(0.15) else 1
    handle = d.colour(d.paint) if d.chance(0.6) else d.paint
    size = height * d.uniform(0.2, 0.32)
    for side in range(handles):
        turn = csg.rotation(z=-90, y=180 * side)
        at = ((1 - 2 * side) * (radius + top) / 2 * 0.97, height / 2, 0)
        d.assembly.add(primitives.Torus(size, 0.05, np.pi), "handle", handle, at, turn)
    words = "two handles" if handles == 2 else "handle"
    if handle is not d.paint:
        words = f"{handle.name} {words}" if handles == 1 else f"two {handle.name} handles"
    d.details.append(article(words) if handles == 1 else words)


def bowl(d: Draft) -> None:
    radius, depth = d.uniform(0.6, 1.0), d.uniform(0.25, 0.7)
    d.paint = d.striped(depth) if d.chance(0.2) else d.pick([d.colour, d.wood, d.glass])()
    d.word(depth / radius, 0.42, 0.75, "shallow", "deep")
    vessel = _shell(radius * 0.4, radius, depth, 0.06, bulge=0.16 * radius, steps=10)
    d.assembly.add(vessel, "body", d.paint, (0, 0.08, 0))
    if d.chance(0.5):
        foot = d.colour(d.paint)
        d.rod(radius * 0.42, 0.12, "base", foot)
        d.details.append(f"{article(foot.name)} foot")
    if d.chance(0.4):
        fruit = d.pick(["red", "orange", "green", "yellow"])
        number = d.integer(2, 5)
        for i in range(number):
            angle = 2 * np.pi * i / number
            at = (0.34 * radius * np.cos(angle), depth * 0.62, 0.34 * radius * np.sin(angle))
            d.ball(0.24 * radius, "content", d.named(fruit), at)
        d.details.append(f"{NUMBERS[number]} {fruit} balls in it")


def bottle(d: Draft) -> None:
    radius, body, neck = d.uniform(0.22, 0.42), d.uniform(0.6, 1.2), d.uniform(0.2, 0.55)
    thin = radius * d.uniform(0.28, 0.5)
    d.paint = d.glass() if d.chance(0.5) else d.colour()
    d.word(body / radius, 2.3, 4.0, "stout", "slim")
    d.word(neck, 0.28, 0.45, "short-necked", "long-necked")
    shoulder = body + radius * 0.8
    profile = ((0, 0), (radius, 0), (radius, body), (thin, shoulder), (thin, shoulder + neck))
    d.assembly.add(primitives.Revolve((*profile, (0, shoulder + neck))), "body", d.paint)
    cap = d.colour(d.paint)
    d.rod(thin * 1.25, 0.12, "cap", cap, (0, shoulder + neck - 0.02, 0))
    d.details.append(f"{article(cap.name)} cap")
    if d.chance(0.5):
        label = d.colour(d.paint, cap)
        d.rod(radius * 1.04, body * 0.45, "label", label, (0, body * 0.25, 0))
        d.details.append(f"{article(label.name)} label")


def candle(d: Draft) -> None:
    radius, height = d.uniform(0.12, 0.4), d.uniform(0.5, 1.3)
    d.paint = d.striped(height) if d.chance(0.3) else d.colour()
    d.word(height / radius, 2.2, 5.5, "thick", "thin")
    d.rod(radius, height, "body", d.paint, (0, 0.05, 0), top=radius * d.uniform(0.8, 1.0))
    d.rod(0.02, 0.12, "wick", d.named("black"), (0, height + 0.04, 0))
    if d.chance(0.6):
        d.ball((0.06, 0.14, 0.06), "flame", d.named("orange"), (0, height + 0.25, 0))
        d.details.append("a burning flame")
    if d.chance(0.6):
        plate = d.metal() if d.chance(0.5) else d.colour(d.paint)
        d.rod(radius + d.uniform(0.15, 0.35), 0.07, "base", plate)
        d.details.append(f"{article(plate.name)} plate under it")


def lamp(d: Draft) -> None:
    height, spread = d.uniform(0.7, 1.9), d.uniform(0.28, 0.55)
    d.paint = d.colour()
    d.word(height, 1.0, 1.5, "low", "tall")
    stand = d.metal() if d.chance(0.6) else d.wood()
    d.rod(d.uniform(0.2, 0.38), 0.07, "base", stand)
    d.rod(0.04, height, "pole", stand, (0, 0.03, 0))
    narrow = spread * d.uniform(0.3, 0.9)
    deep = d.uniform(0.35, 0.6)
    d.assembly.add(_shell(spread, narrow, deep, 0.03), "shade", d.paint, (0, height - 0.1, 0))
    shape = "conical" if narrow < 0.5 * spread else "drum-shaped"
    d.adjectives.append(shape)
    d.details.append(f"{article(stand.name)} stand")


def umbrella(d: Draft) -> None:
    radius, depth = d.uniform(0.6, 1.0), d.uniform(0.2, 0.55)
    d.paint = d.striped(depth * 2) if d.chance(0.3) else d.colour()
    d.word(depth / radius, 0.35, 0.55, "flat", "domed")
    t = np.linspace(0, 1, 9)
    outer = [(radius * np.cos(a), depth * np.sin(a)) for a in t * np.pi / 2]
    inner = [(r * 0.94, h - 0.04) for r, h in outer[::-1]]
    corners = [(max(float(r), 0.0), float(h)) for r, h in [*outer, *inner]]
    corners[8] = (0.0, corners[8][1])
    corners[9] = (0.0, corners[9][1])
    d.assembly.add(primitives.Revolve(tuple(corners)), "canopy", d.paint, (0, 1.0, 0))
    handle = d.wood() if d.chance(0.5) else d.colour(d.paint)
    d.assembly.bar((0, 0.1, 0), (0, 1.05 + depth, 0), 0.03, "pole", handle)
    if d.chance(0.6):
        d.assembly.add(
            primitives.Torus(0.12, 0.035, np.pi),
            "handle",
            handle,
            (0.12, 0.1, 0),
            csg.rotation(z=180),
        )
        d.details.append(f"a hooked {handle.name} handle")
    else:
        d.details.append(f"a straight {handle.name} handle")


def key(d: Draft) -> None:
    d.paint = d.metal() if d.chance(0.7) else d.colour()
    length, ring = d.uniform(0.8, 1.5), d.uniform(0.18, 0.34)
    d.word(length / ring, 3.4, 6.0, "short", "long")
    d.assembly.bar((0, 0, 0), (length, 0, 0), 0.06, "shaft", d.paint)
    round_head = d.chance(0.6)
    if round_head:
        d.assembly.add(primitives.Torus(ring, 0.065), "head", d.paint, (-ring, 0, 0))
    else:
        square = ((-ring, -ring), (ring, -ring), (ring, ring), (-ring, ring))
        d.assembly.add(primitives.Extrude(square, 0.05), "head", d.paint, (-ring, 0, 0))
        hole = primitives.Box((ring * 0.5, ring * 0.5, 0.2))
        d.assembly.cut(hole, "head", d.paint, (-ring, 0, 0))
    teeth = d.integer(2, 4)
    for i in range(teeth):
        size = (0.07, d.uniform(0.14, 0.32), 0.06)
        d.box(size, "teeth", d.paint, (length - 0.06 - 0.15 * i, -size[1] - 0.02, 0))
    d.details.append(f"a {'round' if round_head else 'square'} head")
    d.details.append(f"{NUMBERS[teeth]} teeth")


def die(d: Draft) -> None:
    d.paint = d.colour()
    dots = d.named("black") if d.paint.name != "black" else d.named("white")
    half = 0.5
    tall = d.pick([1.0, 1.0, 0.6, 1.6])
    d.word(tall, 0.8, 1.2, "flattened", "elongated")
    d.assembly.add(primitives.Box((half, half * tall, half)), "body", d.paint)
    number = d.integer(1, 6)
    places = {1: [4], 2: [0, 8], 3: [0, 4, 8], 4: [0, 2, 6, 8], 5: [0, 2, 4, 6, 8]}
    places[6] = [0, 2, 3, 5, 6, 8]
    pip = d.uniform(0.07, 0.11)
    for turn in (csg.rotation(), csg.rotation(y=90), csg.rotation(y=180)):
        for place in places[number]:
            x, y = (place % 3 - 1) * 0.27, (place // 3 - 1) * 0.27 * tall
            d.assembly.add(
                primitives.Ellipsoid((pip, pip, 0.03)), "dots", dots, turn @ (x, y, half), turn
            )
    for place in places[number]:
        x, z = (place % 3 - 1) * 0.27, (place // 3 - 1) * 0.27
        d.ball((pip, 0.03, pip), "dots", dots, (x, half * tall, z))
    dot = "dot" if number == 1 else "dots"
    d.details.append(f"{NUMBERS[number]} {dots.name} {dot} on each side")


RECIPES = {
    "bottle": bottle,
    "bowl": bowl,
    "candle": candle,
    "die": die,
    "key": key,
    "lamp": lamp,
    "mug": mug,
    "umbrella": umbrella,
}
