"""Recipes: tools, vehicles, and what stands outside."""

import numpy as np

from gsjax.data.shapes import csg, primitives
from gsjax.data.shapes.draft import NUMBERS, Draft, article


def hammer(d: Draft) -> None:
    length, head = d.uniform(0.8, 1.5), d.uniform(0.35, 0.7)
    handle = d.wood() if d.chance(0.6) else d.colour()
    d.paint = d.metal()
    d.word(length / head, 1.8, 2.9, "short-handled", "long-handled")
    d.rod(0.06, length, "handle", handle)
    heavy = d.chance(0.4)
    if heavy:
        d.box((head, 0.32, 0.32), "head", d.paint, (0, length - 0.1, 0))
        d.adjectives.append("heavy square")
    else:
        turn = csg.rotation(z=-90)
        d.rod(0.11, head, "head", d.paint, (-head / 2, length, 0), turn)
        d.rod(
            0.11, 0.25, "head", d.paint, (0.01 - head / 2, length, 0), csg.rotation(z=90), top=0.03
        )
    d.details.append(f"{article(handle.name)} handle")


def dumbbell(d: Draft) -> None:
    length, weight = d.uniform(0.5, 1.3), d.uniform(0.2, 0.42)
    bar = d.metal()
    d.paint = d.colour()
    d.word(length / weight, 2.0, 4.2, "short", "long")
    d.assembly.bar((-length / 2, 0, 0), (length / 2, 0, 0), 0.06, "bar", bar)
    discs = d.chance(0.5)
    turn = csg.rotation(z=-90)
    plates = d.integer(1, 3) if discs else 1
    for side in (-1, 1):
        if not discs:
            d.ball(weight, "weights", d.paint, (side * length / 2, 0, 0))
            continue
        for i in range(plates):
            x = side * (length / 2 - 0.12 * i)
            d.rod(weight * (1 - 0.15 * i), 0.09, "weights", d.paint, (x - 0.045, 0, 0), turn)
    if discs:
        word = "plate" if plates == 1 else "plates"
        d.details.append(f"{NUMBERS[plates]} {word} on each side")
    else:
        d.details.append("round weights")
    d.details.append(f"{article(bar.name)} bar")


def pipe(d: Draft) -> None:
    radius = d.uniform(0.12, 0.3)
    wall, arm = radius * d.uniform(0.7, 0.85), d.uniform(0.5, 1.0)
    d.paint = d.metal() if d.chance(0.6) else d.colour()
    d.word(radius, 0.16, 0.25, "thin", "thick")
    kind = d.pick(["straight", "t-shaped", "cross-shaped", "bent"])
    d.adjectives.insert(0, kind)
    axes = {
        "straight": [(0, 90), (0, -90)],
        "t-shaped": [(0, 90), (0, -90), (0, 0)],
        "cross-shaped": [(0, 90), (0, -90), (0, 0), (0, 180)],
        "bent": [(0, 90), (0, 0)],
    }[kind]
    d.ball(radius * 1.05, "joint", d.paint)
    for x, z in axes:
        d.rod(radius, arm, "tube", d.paint, turn=csg.rotation(x=x, z=z))
    if d.chance(0.6):
        ring = d.colour(d.paint)
        for x, z in axes:
            turn = csg.rotation(x=x, z=z)
            at = turn @ (0, arm - 0.12, 0)
            d.rod(radius * 1.3, 0.1, "flange", ring, at, turn)
        d.details.append(f"{ring.name} flanges")
    for x, z in axes:  # hollow last, through the flanges too
        bore = primitives.cylinder(wall, arm + 0.2)
        d.assembly.cut(bore, "tube", d.paint, turn=csg.rotation(x=x, z=z))


def wheel(d: Draft) -> None:
    radius, tyre, spokes = d.uniform(0.5, 0.8), d.uniform(0.07, 0.2), d.integer(3, 9)
    d.paint = d.named("black") if d.chance(0.4) else d.colour()
    rim = d.metal() if d.chance(0.5) else d.colour(d.paint)
    d.word(tyre / radius, 0.15, 0.25, "thin", "thick")
    d.assembly.add(primitives.Torus(radius, tyre), "tyre", d.paint)
    d.rod(radius * 0.2, 0.16, "hub", rim, (0, 0, -0.08), csg.rotation(x=90))
    if d.chance(0.25):
        d.rod(radius, 0.06, "spokes", rim, (0, 0, -0.03), csg.rotation(x=90))
        d.details.append(f"a solid {rim.name} disc")
        return
    for i in range(spokes):
        angle = 2 * np.pi * i / spokes
        end = (radius * np.cos(angle), radius * np.sin(angle), 0)
        d.assembly.bar((0, 0, 0), end, 0.04, "spokes", rim)
    d.details.append(f"{NUMBERS[spokes]} {rim.name} spokes")


def gear(d: Draft) -> None:
    teeth, depth = d.integer(6, 10), d.uniform(0.06, 0.2)
    d.paint = d.metal() if d.chance(0.5) else d.colour()
    d.word(depth, 0.09, 0.16, "thin", "thick")
    tall = d.uniform(0.12, 0.28)
    corners = []
    for i in range(teeth):
        for share, radius in ((0, 0.6), (0.2, 0.6 + tall), (0.45, 0.6 + tall), (0.65, 0.6)):
            angle = 2 * np.pi * (i + share) / teeth
            corners.append((radius * np.cos(angle), radius * np.sin(angle)))
    d.assembly.add(primitives.Extrude(tuple(corners), depth), "body", d.paint)
    hole = d.uniform(0.12, 0.38)
    turn = csg.rotation(x=90)
    d.assembly.cut(primitives.cylinder(hole, 1.0), "hub", d.paint, (0, 0, -0.5), turn)
    d.details.append(f"{NUMBERS[teeth]} teeth")
    d.details.append("a large hole" if hole > 0.25 else "a small hole")


def tree(d: Draft) -> None:
    trunk, crown = d.uniform(0.3, 0.9), d.uniform(0.35, 0.6)
    d.paint = d.pick([d.named("green"), d.named("green"), d.named("orange"), d.named("pink")])
    bark = d.named("brown") if d.chance(0.7) else d.named("grey")
    d.rod(d.uniform(0.06, 0.13), trunk + 0.25, "trunk", bark)
    if d.chance(0.5):
        layers = d.integer(2, 4)
        for i in range(layers):
            size = crown * (1 - 0.2 * i)
            d.rod(size, size * 1.1, "crown", d.paint, (0, trunk + 0.38 * crown * 1.3 * i, 0), top=0)
        d.noun = "fir tree"
        d.details.append(f"{NUMBERS[layers]} layers of branches")
    else:
        balls = d.integer(1, 4)
        for i in range(balls):
            angle = 2 * np.pi * i / balls
            out = 0 if balls == 1 else 0.26
            at = (out * np.cos(angle), trunk + crown * (0.7 + 0.2 * (i % 2)), out * np.sin(angle))
            d.ball(crown * (1 if balls == 1 else 0.75), "crown", d.paint, at)
        d.adjectives.append("round" if balls == 1 else "bushy")
    d.word(trunk, 0.42, 0.75, "short-trunked", "long-trunked")
    d.details.append(f"{article(bark.name)} trunk")


def house(d: Draft) -> None:
    width, height, depth = d.uniform(0.7, 1.2), d.uniform(0.5, 1.3), d.uniform(0.6, 1.0)
    d.paint, roof = d.colour(), d.colour()
    d.word(height, 0.7, 1.1, "low", "tall")
    d.box((width, height, depth), "walls", d.paint)
    pitch, eave = d.uniform(0.25, 0.7), width / 2 + 0.08
    if d.chance(0.75):
        gable = ((-eave, 0), (eave, 0), (0, pitch))
        d.assembly.add(
            primitives.Extrude(gable, depth / 2 + 0.06), "roof", roof, (0, height - 0.01, 0)
        )
        d.details.append(f"a {'steep' if pitch > 0.5 else 'pitched'} {roof.name} roof")
    else:
        d.box((width + 0.14, 0.1, depth + 0.14), "roof", roof, (0, height - 0.01, 0))
        d.details.append(f"a flat {roof.name} roof")
    door = d.colour(d.paint, roof)
    d.box((0.2, 0.36, 0.06), "door", door, (0, 0, depth / 2))
    d.details.append(f"{article(door.name)} door")
    if d.chance(0.5):
        at = (width * 0.28, height, -depth * 0.15)
        d.box((0.14, pitch * 0.6 + 0.35, 0.14), "chimney", d.named("grey"), at)
        d.details.append("a chimney")
    for x in (-0.3, 0.3):
        at = (x * width, height * 0.55, depth / 2)
        d.box((0.16, 0.18, 0.04), "windows", d.named("white"), at)


def rocket(d: Draft) -> None:
    radius, height, fins = d.uniform(0.16, 0.34), d.uniform(0.8, 1.6), d.integer(3, 5)
    d.paint = d.striped(height) if d.chance(0.25) else d.colour()
    nose, tail = d.colour(d.paint), d.colour(d.paint)
    d.word(height / radius, 3.6, 6.0, "stubby", "slender")
    d.rod(radius, height, "body", d.paint, (0, 0.1, 0))
    d.rod(radius, d.uniform(1.2, 2.2) * radius, "nose", nose, (0, height + 0.09, 0), top=0)
    span = d.uniform(0.2, 0.45)
    fin = ((0, 0), (radius + span, -0.12), (radius + span, 0.1), (0, 0.5))
    for i in range(fins):
        turn = csg.rotation(y=360 * i / fins)
        d.assembly.add(primitives.Extrude(fin, 0.025), "fins", tail, (0, 0.12, 0), turn)
    d.details += [f"{article(nose.name)} nose", f"{NUMBERS[fins]} {tail.name} fins"]


def snowman(d: Draft) -> None:
    balls = d.integer(2, 3)
    d.paint = d.named("white") if d.chance(0.7) else d.colour()
    size, y = d.uniform(0.4, 0.55), 0.0
    d.adjectives.append("three-ball" if balls == 3 else "two-ball")
    for i in range(balls):
        y += size * (1 if i == 0 else 0.8)
        part = "head" if i == balls - 1 else "body"
        d.ball(size, part, d.paint, (0, y, 0))
        y += size * 0.8
        last, size = size, size * 0.72
    centre = y - last * 0.8
    turn = csg.rotation(x=90)
    d.rod(0.06, 0.3, "nose", d.named("orange"), (0, centre, last * 0.9), turn, top=0)
    hat = d.colour(d.paint)
    if d.chance(0.7):
        d.rod(last * 0.95, 0.05, "hat", hat, (0, centre + last * 0.75, 0))
        d.rod(last * 0.6, d.uniform(0.2, 0.4), "hat", hat, (0, centre + last * 0.75, 0))
        d.details.append(f"{article(hat.name)} hat")
    if d.chance(0.5):
        scarf = d.colour(d.paint, hat)
        ring = primitives.Torus(last * 0.78, 0.08)
        d.assembly.add(ring, "scarf", scarf, (0, centre - last * 0.75, 0), turn)
        d.details.append(f"{article(scarf.name)} scarf")


def mushroom(d: Draft) -> None:
    stem, radius, cap = d.uniform(0.3, 1.0), d.uniform(0.3, 0.7), d.uniform(0.2, 0.5)
    d.paint, foot = d.colour(), d.named("white")
    d.word(stem / radius, 0.8, 1.7, "stocky", "tall")
    d.rod(d.uniform(0.1, 0.2), stem + 0.1, "stem", foot, top=d.uniform(0.08, 0.14))
    dome = [(radius * np.cos(a), cap * np.sin(a)) for a in np.linspace(0, np.pi / 2, 8)]
    profile = [(0.0, 0.0), *[(float(r), float(h)) for r, h in dome[:-1]], (0.0, cap)]
    d.assembly.add(primitives.Revolve(tuple(profile)), "cap", d.paint, (0, stem, 0))
    if d.chance(0.6):
        dots, number = d.colour(d.paint), d.integer(4, 8)
        for i in range(number):
            angle, tilt = 2 * np.pi * i / number, 0.7 if i % 2 else 1.0
            at = (
                radius * np.cos(tilt) * np.cos(angle),
                stem + cap * np.sin(tilt),
                radius * np.cos(tilt) * np.sin(angle),
            )
            d.ball(0.08, "dots", dots, at)
        d.details.append(f"{dots.name} dots")
    d.adjectives.append("wide-capped" if radius > 0.55 else "small-capped")


def car(d: Draft) -> None:
    length, width, height = d.uniform(1.1, 1.9), d.uniform(0.6, 0.8), d.uniform(0.25, 0.4)
    d.paint = d.colour()
    wheels, size = d.named("black"), d.uniform(0.14, 0.26)
    d.box((length, height, width), "body", d.paint, (0, size * 0.8, 0))
    top = size * 0.8 + height
    kind = d.pick(["sedan", "pickup truck", "van"])
    cabin = {"sedan": (0.5, 0.0), "pickup truck": (0.32, 0.15), "van": (0.92, 0.0)}[kind]
    roof = d.colour(d.paint) if d.chance(0.4) else d.paint
    tall = d.uniform(0.22, 0.32) * (1.5 if kind == "van" else 1)
    size_box = (length * cabin[0], tall, width * 0.9)
    d.box(size_box, "cabin", roof, (length * cabin[1], top - 0.01, 0))
    glass = d.named("turquoise")
    d.box(
        (size_box[0] * 0.8, tall * 0.5, width * 0.94),
        "windows",
        glass,
        (length * cabin[1], top + tall * 0.3, 0),
    )
    for x in (-0.32, 0.32):
        for z in (-1, 1):
            at = (x * length, size, z * width / 2 - 0.05)
            d.rod(size, 0.1, "wheels", wheels, at, csg.rotation(x=90))
    d.noun = kind
    d.word(length, 1.3, 1.65, "short", "long")
    d.details.append(f"{'large' if size > 0.2 else 'small'} black wheels")
    if roof is not d.paint:
        d.details.append(f"{article(roof.name)} cabin")


def cross(d: Draft) -> None:
    height, span, bar = d.uniform(0.9, 1.6), d.uniform(0.5, 1.1), d.uniform(0.1, 0.26)
    d.paint = d.pick([d.wood, d.colour, d.metal])()
    d.word(bar, 0.14, 0.21, "slender", "thick")
    d.box((bar, height, bar), "body", d.paint, (0, 0.05, 0))
    at = 0.1 + height * d.pick([0.5, 0.68])
    d.box((span, bar, bar), "arms", d.paint, (0, at - bar / 2, 0))
    if d.chance(0.3):
        ring = d.colour(d.paint)
        d.assembly.add(primitives.Torus(span * 0.3, bar * 0.3), "ring", ring, (0, at, 0))
        d.details.append(f"{article(ring.name)} ring around its centre")
    if d.chance(0.7):
        base = d.colour(d.paint)
        steps = d.integer(1, 3)
        for i in range(steps):
            wide = (0.75 - 0.18 * i) * span
            d.box((wide, 0.1, wide), "base", base, (0, 0.09 * i, 0))
        d.details.append(
            f"{article(base.name)} base of {NUMBERS[steps]} {'step' if steps == 1 else 'steps'}"
        )


RECIPES = {
    "car": car,
    "cross": cross,
    "dumbbell": dumbbell,
    "gear": gear,
    "hammer": hammer,
    "house": house,
    "mushroom": mushroom,
    "pipe": pipe,
    "rocket": rocket,
    "snowman": snowman,
    "tree": tree,
    "wheel": wheel,
}
