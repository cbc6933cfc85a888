"""ModelNet10: one object from mesh to record."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from gsjax.data import fitted, mesh_collections, mesh_views, paired
from gsjax.systems.scene_fit import factory, many, modelnet


def _write_stool(path):
    """A seat on four legs: five boxes, as quads."""
    boxes = [((-0.5, -0.5, 0.45), (0.5, 0.5, 0.55))]
    for x in (-0.4, 0.4):
        boxes += [((x - 0.06, y - 0.06, -0.5), (x + 0.06, y + 0.06, 0.45)) for y in (-0.4, 0.4)]
    points, faces = [], []
    for low, high in boxes:
        first = len(points)
        points += [
            (x, y, z) for x in (low[0], high[0]) for y in (low[1], high[1])
            for z in (low[2], high[2])
        ]  # fmt: skip
        for quad in ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4),
                     (1, 5, 7, 3)):  # fmt: skip
            faces.append("4 " + " ".join(str(first + k) for k in quad))
    lines = [" ".join(f"{x:.4f}" for x in point) for point in points]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"OFF{len(points)} {len(faces)} 0\n" + "\n".join([*lines, *faces]) + "\n")


@pytest.mark.slow
def test_from_an_off_file_to_a_record(tmp_path):
    """The recipe at reduced size: its schedule a hundredth, 8 views of 32 pixels, 256 Gaussians."""
    pytest.importorskip("trimesh")
    _write_stool(tmp_path / "ModelNet10" / "table" / "test" / "table_0001.off")
    items, collection = mesh_collections.load(str(tmp_path / "ModelNet10"))
    recipe = dataclasses.replace(
        modelnet.RECIPE, num_steps=50, num_gaussians=256, sh_every=5, refine_start=5,
        refine_stop=40, refine_every=25,
    )  # fmt: skip
    plan = factory.Plan(recipe, mesh_views.modelnet10(8, 32), num_held_out=2, batch=1)
    out = tmp_path / "out"
    fitted.check_identity(out, json.loads(json.dumps(plan.identity(collection))))
    result = factory.run(items, out, plan, mesh=many.make_mesh(jax.devices()[:1]))
    assert (result["fitted"], result["failed"], result["left"]) == (1, 0, 0)
    (item,) = fitted.read(out)
    assert item.gaussians["sh"].shape[1:] == (16, 3)
    assert item.scores["psnr"] > 20
    found = paired.record(item.about, item.gaussians, num_points=64)
    assert (found["name"], found["category"]) == ("table", 8)
    # Opaque discs stay so: the filter keeps most of them.
    assert 128 <= len(found["xyz"]) <= 256
    # Within the frame that cameras look at: a bounding sphere of radius 1.
    assert np.linalg.norm(found["xyz"], axis=-1).max() < 1.15
    assert found["samples"].shape == (8, 64)
    assert all(len(set(row.tolist())) == 64 for row in found["samples"])
