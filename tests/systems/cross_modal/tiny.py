"""A tiny setting: eight objects of two categories, four views of 16 pixels, 48 points."""

from configs import cross_modal


def config(folder="", **changes):
    """Changes as 'data__views=3'."""
    c = cross_modal.get_config("quick")
    c.data.dir = str(folder)
    c.data.categories = ("chair", "mug")
    c.data.num_objects, c.data.num_test, c.data.views = 8, 4, 4
    c.data.view_size = c.data.image_size = 16
    c.data.stored_gaussians, c.data.sample_points, c.data.num_points = 64, 48, 32
    c.model.image_changes = dict(width=4, blocks=(1, 1))
    c.model.backbone_changes = dict(
        widths=(8, 16), transform_points=(8,), transform_dense=(8,), min_batch=2
    )
    c.model.fusion_dim = 8
    c.train.batch_size = 4
    c.mesh.data = 1
    for name, value in changes.items():
        block, field = name.split("__")
        c[block][field] = value
    return c
