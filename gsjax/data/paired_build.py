"""Makes sets of objects as Gaussians and as pictures from all sides; see ``paired``.

Pictures are of meshes, by the mesh renderer, and Gaussians are either fitted to such pictures
(``gsjax fit-objects --recipe=modelnet10``) or laid on the surface (``paired_surface``). Procedural
objects have no mesh: their pictures are of Gaussians four times as dense. Imports JAX; reading a set does
not.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from etils import epath

from gsjax.data import (
    build,
    features,
    fitted,
    made_up,
    mesh_collections,
    mesh_views,
    paired,
    paired_surface,
    point_examples,
    procedural,
    render,
    store,
    transforms,
)
from gsjax.io import meshes

VERSION = 1  # raise it when records change
NAMES = ("procedural", "objects_cc0", "meshes", made_up.NAME)
_DENSER = 4  # Gaussians in pictures of procedural objects, for one that is stored
_UP = dict(y=mesh_views.Y_UP, z=mesh_views.Z_UP)


@dataclasses.dataclass(frozen=True)
class _Object:
    """What a record is made of.

    Attributes:
        about: uid, name, category.
        gaussians: raw arrays; see ``paired.record``.
        views: uint8 [V, H, W, 4] of the object itself.
        samples: rows of the Gaussians, if not farthest-point samples; see ``paired.record``.
        seen: whether its Gaussians are to be shown too: pictures are of something else.
    """

    about: Mapping
    gaussians: Mapping[str, np.ndarray]
    views: np.ndarray
    seen: bool = True
    samples: np.ndarray | None = None


def recipe_of(d) -> mesh_views.ViewRecipe:
    """Cameras and look of the pictures that a data config asks for.

    Raises:
        ValueError: an unknown axis.
    """
    axis = d.up_axis or ("z" if d.name == "meshes" else "y")
    if axis not in _UP:
        raise ValueError(f"data.up_axis: unknown {axis!r}; known: {', '.join(_UP)}")
    return mesh_views.modelnet10(d.views, d.view_size, up=_UP[axis], use_colors=bool(d.colored))


def plan(d) -> build.Plan:
    """What the set of a config holds.

    Args:
        d: config with ``name`` (of ``NAMES``), ``source``, ``split``, ``fitted`` (folder of `gsjax fit-objects`; '' =
            Gaussians on the surface), ``categories``, ``exclude_categories``, ``min_objects``,
            ``num_objects``, ``num_test``, ``views``, ``view_size``, ``colored``, ``up_axis``,
            ``stored_gaussians``, ``sample_points``, ``samples``, ``opacity_threshold``, ``limit`` and ``seed``.

    Raises:
        ValueError: an unknown set or category, or no object left.
    """
    if d.name not in NAMES:
        raise ValueError(f"data.name: unknown set {d.name!r}; known: {', '.join(NAMES)}")
    makers = {"procedural": _procedural, made_up.NAME: _of_nothing}.get(d.name, _meshes)
    sides, names, identity = makers(d)
    modelnet = d.name == "meshes" and names <= set(paired.MODELNET10)
    names = list(paired.MODELNET10) if modelnet else sorted(names)  # labels are the reference's
    settings = ("views", "view_size", "colored", "up_axis", "stored_gaussians", "sample_points", "samples",
                "opacity_threshold", "seed")  # fmt: skip
    identity = identity | {name: d[name] for name in settings}
    return build.Plan(
        name=f"paired {d.name}",
        identity=identity | dict(set=d.name, categories=names, version=VERSION),
        categories=names,
        parts=("",),
        splits={side: len(made) for side, made in sides.items()},
        spec=paired.feature_spec(names),
        records=functools.partial(_records, d, names, sides),
    )


def ensure(d) -> epath.Path:
    """The folder of the set that a config describes, made first if it is not there; see ``build.ensure``."""
    wanted = plan(d)
    text = json.dumps(wanted.identity, sort_keys=True, default=list)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return build.ensure(wanted, store.cache_root(d.dir) / "paired" / d.name / digest)


def _records(d, names, sides, side: str) -> Iterator[dict]:
    recipe = recipe_of(d)
    logit = float(np.log(d.opacity_threshold / (1 - d.opacity_threshold)))
    for make in sides[side]:
        thing = make(recipe)
        record = paired.record(
            thing.about,
            thing.gaussians,
            min_logit=logit,
            num_points=d.sample_points,
            sets=d.samples,
            categories=names,
            samples=thing.samples,
        )
        shown = dict(views=thing.views, memory=[], between=[])
        if thing.seen and side == "test":
            shown["memory"] = rendered(thing.gaussians, *mesh_views.cameras(recipe), recipe)
            cameras = mesh_views.held_out_cameras(recipe, recipe.num_views - 1)
            shown["between"] = rendered(thing.gaussians, *cameras, recipe)
        for name, images in shown.items():
            record[name] = [features.encode_png(image) for image in _on_white(images)]
        yield record


def _on_white(images) -> np.ndarray:
    return mesh_views.composite(images) if len(images) else np.zeros((0, 1, 1, 3), np.uint8)


# Pictures of Gaussians ----------------------------------------------------------------------------


def rendered(scene: Mapping, viewmats, Ks, recipe: mesh_views.ViewRecipe) -> np.ndarray:
    """Pictures uint8 [V, H, W, 4] of raw Gaussians with SH of degree 3, straight alpha."""
    count = len(scene["means"])
    padded = 1 << max(count - 1, 1).bit_length()  # few compilations serve all objects
    fill = dict(logit_opacities=-30.0, log_scales=-10.0, quats=1.0)
    whole = {
        name: np.pad(
            np.asarray(value, np.float32),
            [(0, padded - count)] + [(0, 0)] * (np.ndim(value) - 1),
            constant_values=fill.get(name, 0.0),
        )
        for name, value in scene.items()
        if name in ("means", "quats", "log_scales", "logit_opacities", "sh")
    }
    scenes = {name: value[None] for name, value in whole.items()}
    return np.asarray(render.render_scenes(scenes, viewmats, Ks, recipe.width, 3, True))[0]


# Sources ------------------------------------------------------------------------------------------

_Maker = Callable[[mesh_views.ViewRecipe], _Object]


def _meshes(d) -> tuple[dict[str, list[_Maker]], set[str], dict]:
    """{side: makers}, categories, identity."""
    if d.name == "meshes" and not d.source:
        raise ValueError(
            "data.source: the set 'meshes' reads a folder, such as the one that the archive "
            "ModelNet10.zip (3dvision.princeton.edu) unpacks to; name it with --config.data.source=FOLDER"
        )
    items, collection = mesh_collections.load(d.source or d.name, d.split)
    identity = dict(collection=collection)
    clouds: dict[int, Mapping] = {}
    if d.fitted:
        if (known := fitted.collection(d.fitted)) != collection:
            raise ValueError(
                f"data.fitted: {d.fitted} holds objects of the collection {known!r}, not of {collection!r}; "
                "name the source that they were fitted from"
            )
        clouds = {item.number: item.gaussians for item in fitted.read(d.fitted)}
        identity["fitted"] = fitted.digest(d.fitted)
        items = [item for item in items if item.number in clouds]
    items = _chosen(items, d)
    if d.limit:
        items = _limited(items, d.limit)
    identity["objects"] = [item.number for item in items]
    sides = {
        side: [
            functools.partial(_mesh_object, item, clouds.get(item.number), d)
            for item in items
            if (item.about["split"] == "test") == (side == "test")
        ]
        for side in ("train", "test")
    }
    for side, made in sides.items():
        if not made:
            raise ValueError(f"data: no object of the side {side!r} is left; change what is chosen")
    return sides, {item.about["category"] for item in items}, identity


def _chosen(items: Sequence[mesh_collections.Item], d) -> list[mesh_collections.Item]:
    """Objects of the categories asked for that have enough of them."""
    counts: dict[str, int] = {}
    for item in items:
        name = item.about["category"]
        counts[name] = counts.get(name, 0) + 1
    unknown = sorted({*d.categories, *d.exclude_categories} - set(counts))
    if unknown:
        raise ValueError(f"data.categories: unknown {unknown}; known: {', '.join(sorted(counts))}")
    wanted = set(d.categories or counts) - set(d.exclude_categories)
    wanted = {name for name in wanted if counts[name] >= d.min_objects}
    return [item for item in items if item.about["category"] in wanted]


def _limited(items, limit: int) -> list:
    """At most ``limit`` objects a side, one of every category after the other."""
    groups: dict[tuple, list] = {}
    for item in items:
        groups.setdefault((item.about["split"] == "test", item.about["category"]), []).append(item)
    kept = []
    for side in (False, True):
        turns = sorted(
            (turn, category, item.number, item)
            for (test, category), group in groups.items()
            if test == side
            for turn, item in enumerate(group)
        )
        kept += [item for *_, item in turns[:limit]]
    return sorted(kept, key=lambda item: item.number)


def _mesh_object(item: mesh_collections.Item, cloud, d, recipe: mesh_views.ViewRecipe) -> _Object:
    mesh = item.mesh()
    views = mesh_views.render_views(mesh, recipe)["images"]
    if cloud is None:
        placed = mesh_views.framed(mesh, recipe)
        rng = np.random.default_rng(features.stable_seed("paired", d.seed, item.about["uid"]))
        points, normals, _, _ = meshes.sample_faces(
            placed.vertices, placed.faces, d.stored_gaussians, rng
        )
        cloud = paired_surface.gaussians(points, normals, placed.area, recipe.shading)
    return _Object(item.about, cloud, views)


def _of_nothing(d) -> tuple[dict[str, list[_Maker]], set[str], dict]:
    """Objects of the right size, for measuring the pipeline."""
    counts = dict(train=d.num_objects, test=d.num_test or max(2, d.num_objects // 4))

    def maker(side, number, recipe):
        del recipe
        return _Object(*made_up.paired_parts(side, number, d), False, made_up.samples(d, number))

    sides = {
        side: [functools.partial(maker, side, number) for number in range(count)]
        for side, count in counts.items()
    }
    return sides, set(made_up.CATEGORIES), dict(objects=counts, made_by=made_up.VERSION)


def _procedural(d) -> tuple[dict[str, list[_Maker]], set[str], dict]:
    known = procedural.CATEGORIES
    unknown = sorted(set(d.categories) - set(known))
    if unknown:
        raise ValueError(f"data.categories: unknown {unknown}; known: {', '.join(known)}")
    names = [name for name in known if name in (set(d.categories) or set(known))]
    names = [name for name in names if name not in set(d.exclude_categories)]
    if not names:
        raise ValueError("data.categories: no category is left; exclude fewer")
    counts = dict(train=d.num_objects, test=d.num_test or max(len(names), d.num_objects // 4))
    sides = {
        side: [
            # object i of a side has category i modulo their number
            functools.partial(
                _made_up, side, i // len(names) * len(known) + known.index(names[i % len(names)]), d
            )
            for i in range(count)
        ]
        for side, count in counts.items()
    }
    return sides, set(names), dict(objects=counts, made_by=procedural.VERSION)


def _made_up(side: str, number: int, d, recipe: mesh_views.ViewRecipe) -> _Object:
    """A procedural object in the frame of the cameras, in grey."""
    clouds = []
    for count in (d.stored_gaussians, _DENSER * d.stored_gaussians):
        made = procedural.generate(
            number, seed=d.seed, split=side, num_gaussians=count, fps_length=0
        )
        raw = made.gaussians
        centre, radius = point_examples.unit_sphere(raw["means"])
        normals = transforms.disc_normals(raw["quats"])
        clouds.append(
            dict(
                means=((raw["means"] - centre) / radius).astype(np.float32),
                quats=raw["quats"],
                log_scales=raw["log_scales"] - np.float32(np.log(radius)),
                logit_opacities=raw["logit_opacities"],
                sh=paired_surface.head_light(normals, recipe.shading),
            )
        )
    about = dict(uid=made.uid, name=made.name, category=procedural.CATEGORIES[made.category])
    views = rendered(clouds[1], *mesh_views.cameras(recipe), recipe)
    return _Object(about, clouds[0], views)
