"""UniPre3D's train step on eight virtual devices against one; see ``mesh_case``."""

import pytest

from gsjax.systems import base
from tests.systems import mesh_case
from tests.systems.unipre3d import tiny, tiny_scene

pytestmark = pytest.mark.slow
POINTNET2 = dict(
    centers=(16,), scales=(((0.4, 8, (8, 16)),),), top=(24,), decoder=((16,), (16, 16)),
)  # fmt: skip


def build(backbone: str):
    """(system, config, batch of sixteen objects)."""
    config = tiny.config(f"quick,backbone={backbone}", data__num_objects=16)
    if backbone == "pointnet2":
        config.model.backbone_changes = POINTNET2
    system = base.build(config)
    return system, config, tiny.batch(system, 16)


@pytest.mark.parametrize("backbone", ["transformer", "pointnet2"])
def test_an_object_step_on_eight_devices_is_that_on_one(backbone):
    changed = mesh_case.check_one_against_eight(*build(backbone))
    for part in ("params/backbone", "params/fusion", "params/head", "batch_stats/backbone"):
        assert mesh_case.moved(changed, part), part


def test_a_scene_step_on_eight_devices_is_that_on_one(monkeypatch):
    system, config = tiny_scene.system(monkeypatch), tiny_scene.config()
    changed = mesh_case.check_one_against_eight(system, config, tiny_scene.batch(system))
    for part in (
        "params/fusion/conv",
        "params/fusion/adapter",
        "batch_stats/fusion",
        "params/head",
    ):
        assert mesh_case.moved(changed, part), part
    assert mesh_case.moved(changed, "batch_stats/backbone/encoder_0")
