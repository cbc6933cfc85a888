"""Recipes: things to sit on, lie on, and put things into."""

from gsjax.data.shapes import csg, primitives
from gsjax.data.shapes.draft import NUMBERS, Draft, article


def _corners(width, depth, inset):
    x, z = width / 2 - inset, depth / 2 - inset
    return [(x, z), (x, -z), (-x, z), (-x, -z)]


def chair(d: Draft) -> None:
    width, seat, back = d.uniform(0.5, 0.9), d.uniform(0.35, 0.75), d.uniform(0.3, 1.0)
    d.paint = d.wood() if d.chance(0.4) else d.colour()
    d.word(back, 0.45, 0.8, "low-backed", "high-backed")
    d.box((width, 0.09, width), "seat", d.paint, (0, seat, 0))
    legs = d.colour(d.paint) if d.chance(0.6) else d.paint
    if d.chance(0.25):
        d.rod(0.06, seat + 0.02, "legs", legs)
        d.rod(width * 0.45, 0.06, "legs", legs)
        d.details.append(f"one {legs.name} central leg")
    else:
        for x, z in _corners(width, width, 0.06):
            d.box((0.08, seat + 0.02, 0.08), "legs", legs, (x, 0, z))
        d.details.append(f"four {legs.name} legs")
    if d.chance(0.5):
        d.box((width, back, 0.07), "back", d.paint, (0, seat + 0.05, -width / 2 + 0.04))
        d.details.append("a solid back")
    else:
        bars = d.integer(2, 5)
        for i in range(bars):
            x = (i / (bars - 1) - 0.5) * (width - 0.08)
            d.box((0.06, back, 0.06), "back", d.paint, (x, seat + 0.05, -width / 2 + 0.04))
        top = (0, seat + back, -width / 2 + 0.04)
        d.box((width, 0.1, 0.07), "back", d.paint, top)
        d.details.append(f"{NUMBERS[bars]} bars in its back")
    if d.chance(0.3):
        for side in (-1, 1):
            x = side * (width / 2 - 0.03)
            d.box((0.07, 0.06, width), "arms", d.paint, (x, seat + 0.3, 0))
            d.box((0.07, 0.3, 0.07), "arms", d.paint, (x, seat + 0.04, width / 2 - 0.04))
        d.details.append("armrests")


def table(d: Draft) -> None:
    height, width = d.uniform(0.3, 1.0), d.uniform(0.7, 1.6)
    is_round = d.chance(0.45)
    depth = width if is_round else width * d.uniform(0.5, 1.0)
    d.paint = d.wood() if d.chance(0.5) else d.colour()
    d.adjectives.append("round" if is_round else "square" if depth > 0.85 * width else "long")
    d.word(height / width, 0.42, 0.8, "low", "high")
    if is_round:
        d.rod(width / 2, 0.08, "top", d.paint, (0, height, 0))
    else:
        d.box((width, 0.08, depth), "top", d.paint, (0, height, 0))
    legs = d.metal() if d.chance(0.3) else d.colour(d.paint)
    if d.chance(0.3):
        d.rod(0.08, height + 0.02, "legs", legs)
        d.rod(width * 0.3, 0.06, "legs", legs)
        d.details.append(f"one {legs.name} pedestal")
    else:
        number = 3 if is_round and d.chance(0.5) else 4
        inset = 0.22 * width if is_round else 0.07
        spots = _corners(width, depth, inset)
        if number == 3:
            spots = [
                (0.33 * width, 0),
                (-0.17 * width, 0.29 * width),
                (-0.17 * width, -0.29 * width),
            ]
        for x, z in spots:
            d.rod(0.05, height + 0.02, "legs", legs, (x, 0, z))
        d.details.append(f"{NUMBERS[number]} {legs.name} legs")


def sofa(d: Draft) -> None:
    seats = d.integer(1, 4)
    width, depth = 0.55 * seats + 0.1, d.uniform(0.6, 0.8)
    seat, back = d.uniform(0.25, 0.4), d.uniform(0.3, 0.55)
    d.paint = d.colour()
    d.adjectives.append(f"{NUMBERS[seats]}-seat")
    d.word(back, 0.36, 0.48, "low-backed", "high-backed")
    d.box((width, seat, depth), "seat", d.paint, (0, 0.1, 0))
    d.box((width, seat + back, 0.18), "back", d.paint, (0, 0.1, -depth / 2 + 0.05))
    if d.chance(0.75):
        arm = d.uniform(0.1, 0.2)
        for side in (-1, 1):
            at = (side * (width / 2 + arm / 2 - 0.02), 0.1, 0)
            d.box((arm, seat + back * 0.5, depth), "arms", d.paint, at)
    else:
        d.details.append("no armrests")
    cushions = d.colour(d.paint) if d.chance(0.6) else d.paint
    for i in range(seats):
        x = (i - (seats - 1) / 2) * 0.55
        d.ball((0.24, 0.09, depth * 0.36), "cushions", cushions, (x, 0.12 + seat, 0.05))
    word = "cushion" if seats == 1 else "cushions"
    d.details.append(f"{NUMBERS[seats]} {cushions.name} {word}")
    for x, z in _corners(width, depth, 0.08):
        d.rod(0.04, 0.12, "legs", d.named("black"), (x, 0, z))


def bookshelf(d: Draft) -> None:
    width, height, depth = d.uniform(0.5, 1.2), d.uniform(0.7, 1.7), d.uniform(0.25, 0.4)
    d.paint = d.wood() if d.chance(0.6) else d.colour()
    d.word(height / width, 1.1, 1.9, "wide", "narrow")
    shelves = d.integer(2, 5)
    d.box((width, height, depth), "body", d.paint)
    gap = (height - 0.05) / shelves
    for i in range(shelves):
        size = (width / 2 - 0.05, gap / 2 - 0.03, depth / 2)
        centre = (0, 0.025 + gap * (i + 0.5), 0.05)
        d.assembly.cut(primitives.Box(size), "shelves", d.paint, centre)
    d.details.append(f"{NUMBERS[shelves]} shelves")
    books = d.colour(d.paint) if d.chance(0.6) else None
    if books is None:
        d.adjectives.append("empty")
        return
    for i in range(shelves):
        share = d.uniform(0.3, 0.9)
        size = (share * (width - 0.14), gap * 0.6, depth * 0.6)
        left = -width / 2 + 0.07 + size[0] / 2
        d.box(size, "books", books, (left, 0.05 + gap * i, -0.05))
    d.details.append(f"{books.name} books")


def bed(d: Draft) -> None:
    width, length = d.uniform(0.6, 1.3), d.uniform(1.4, 1.8)
    frame = d.wood() if d.chance(0.6) else d.colour()
    d.paint = d.colour(frame)
    d.adjectives.append("double" if width > 0.95 else "single")
    height = d.uniform(0.12, 0.35)
    d.box((width, 0.12, length), "frame", frame, (0, height, 0))
    for x, z in _corners(width, length, 0.06):
        d.box((0.09, height + 0.02, 0.09), "legs", frame, (x, 0, z))
    d.box((width * 0.96, 0.18, length * 0.97), "mattress", d.paint, (0, height + 0.1, 0))
    head = d.uniform(0.25, 0.7)
    d.box((width, height + head, 0.08), "back", frame, (0, 0, -length / 2))
    pillows = 2 if width > 0.95 else 1
    colour = d.colour(d.paint, frame)
    for i in range(pillows):
        x = (i - (pillows - 1) / 2) * width * 0.47
        d.ball((width * 0.2, 0.08, 0.16), "cushions", colour, (x, height + 0.31, -length * 0.36))
    d.details.append(f"{article(frame.name)} frame")
    d.details.append(f"{NUMBERS[pillows]} {colour.name} {'pillow' if pillows == 1 else 'pillows'}")
    if head > 0.5:
        d.details.append("a high headboard")


def ladder(d: Draft) -> None:
    height, width, rungs = d.uniform(1.0, 2.0), d.uniform(0.3, 0.6), d.integer(3, 8)
    d.paint = d.pick([d.wood, d.metal, d.colour])()
    d.word(height / width, 2.6, 4.4, "wide", "narrow")
    folding = d.chance(0.4)
    lean = d.uniform(12, 22) if folding else 0.0
    for side in (-1, 1):
        size = (0.06, height, 0.08)
        turn = csg.rotation(x=-lean)
        d.assembly.add(
            primitives.Box(tuple(s / 2 for s in size)),
            "rails",
            d.paint,
            turn @ (side * width / 2, -height / 2, 0),
            turn,
        )
        if folding:
            back = csg.rotation(x=lean)
            at = back @ (side * width / 2, -height / 2, 0)
            d.assembly.add(primitives.Box(tuple(s / 2 for s in size)), "rails", d.paint, at, back)
    rung = d.colour(d.paint) if d.chance(0.4) else d.paint
    turn = csg.rotation(x=-lean)
    for i in range(rungs):
        y = -height * (i + 0.7) / (rungs + 0.4)
        ends = [turn @ (side * width / 2, y, 0) for side in (-1, 1)]
        d.assembly.bar(ends[0], ends[1], 0.035, "rungs", rung)
    d.adjectives.insert(0, "folding" if folding else "straight")
    d.details.append(
        f"{NUMBERS[rungs]} {rung.name} rungs" if rung is not d.paint else f"{NUMBERS[rungs]} rungs"
    )


RECIPES = {
    "bed": bed,
    "bookshelf": bookshelf,
    "chair": chair,
    "ladder": ladder,
    "sofa": sofa,
    "table": table,
}
