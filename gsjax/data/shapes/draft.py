"""What a category's recipe writes into: solids, paints, and the facts that captions may use."""

import dataclasses

import numpy as np

from gsjax.data.shapes import csg, primitives

COLOURS = {
    "red": (0.85, 0.12, 0.12),
    "orange": (0.95, 0.52, 0.10),
    "yellow": (0.95, 0.86, 0.16),
    "green": (0.16, 0.62, 0.22),
    "turquoise": (0.15, 0.75, 0.72),
    "blue": (0.12, 0.30, 0.85),
    "purple": (0.52, 0.20, 0.70),
    "pink": (0.96, 0.52, 0.70),
    "white": (0.88, 0.88, 0.86),
    "grey": (0.50, 0.50, 0.52),
    "black": (0.10, 0.10, 0.11),
    "brown": (0.42, 0.25, 0.12),
}
_WOODS = {"light wooden": (0.80, 0.62, 0.38), "dark wooden": (0.38, 0.22, 0.11)}
_METALS = {
    "golden": (0.86, 0.68, 0.20),
    "silver": (0.70, 0.72, 0.75),
    "copper": (0.72, 0.42, 0.27),
    "dark metal": (0.25, 0.27, 0.30),
}
_GLASSES = {
    "clear glass": (0.80, 0.92, 0.95),
    "green glass": (0.30, 0.65, 0.42),
    "amber glass": (0.72, 0.42, 0.12),
}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclasses.dataclass
class Draft:
    """One object while its recipe runs.

    Attributes:
        rng: the only source of randomness.
        assembly: its solids.
        noun: what captions call it.
        adjectives: words for its shape, most telling first.
        paint: the paint that names the whole object's colour.
        details: phrases that fit behind "with".
    """

    rng: np.random.Generator
    assembly: csg.Assembly
    noun: str
    paint: csg.Paint | None = None
    adjectives: list[str] = dataclasses.field(default_factory=list)
    details: list[str] = dataclasses.field(default_factory=list)

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def integer(self, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, options):
        return options[int(self.rng.integers(len(options)))]

    def word(self, value: float, low: float, high: float, below: str, above: str) -> None:
        """Notes ``below`` or ``above`` where a parameter lies outside [low, high]."""
        if value < low:
            self.adjectives.append(below)
        elif value > high:
            self.adjectives.append(above)

    def _paint(self, table: dict, alpha: float = 0.95) -> csg.Paint:
        name = self.pick(list(table))
        # A little variation, so that colours are regions and not twelve points.
        rgb = np.clip(np.array(table[name]) + self.rng.normal(0, 0.025, 3), 0, 1)
        return csg.Paint(name, tuple(float(c) for c in rgb), alpha)

    def colour(self, *others: csg.Paint) -> csg.Paint:
        """A plain colour, different from the paints given."""
        taken = {paint.name for paint in others}
        return self._paint({k: v for k, v in COLOURS.items() if k not in taken})

    def wood(self) -> csg.Paint:
        return self._paint(_WOODS)

    def metal(self) -> csg.Paint:
        return self._paint(_METALS)

    def glass(self) -> csg.Paint:
        return self._paint(_GLASSES, alpha=0.45)

    def named(self, name: str) -> csg.Paint:
        """The colour of that name."""
        return self._paint({name: COLOURS[name]})

    def striped(self, height: float) -> csg.Paint:
        """Two colours in horizontal stripes over something ``height`` tall."""
        one = self.colour()
        two = self.colour(one)
        number = self.integer(5, 8)
        name = f"{one.name} and {two.name} striped"
        return dataclasses.replace(one, name=name, second=two.rgb, stripes=number / height)

    def box(self, size, part: str, paint, at=(0, 0, 0), turn=None) -> None:
        """A box of full ``size`` [3] whose bottom centre is ``at``."""
        half = tuple(float(s) / 2 for s in size)
        centre = np.asarray(at, float) + (0, half[1], 0)
        self.assembly.add(primitives.Box(half), part, paint, centre, turn)

    def rod(self, radius, height, part: str, paint, at=(0, 0, 0), turn=None, top=None) -> None:
        """A cylinder, frustum (``top`` radius) or cone (``top=0``) that starts at ``at``."""
        self.assembly.add(primitives.cylinder(radius, height, top), part, paint, at, turn)

    def ball(self, radii, part: str, paint, at=(0, 0, 0), turn=None) -> None:
        """An ellipsoid with semi-axes ``radii`` (a number or three) around ``at``."""
        radii = tuple(float(r) for r in np.broadcast_to(radii, 3))
        self.assembly.add(primitives.Ellipsoid(radii), part, paint, at, turn)


def article(noun: str) -> str:
    """The noun phrase with 'a' or 'an'."""
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"
