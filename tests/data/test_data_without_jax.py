"""The input pipeline never needs JAX: worker processes must not touch an accelerator."""

import os
import subprocess
import sys

from gsjax.data import prepare

_PROGRAM = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jax", "jaxlib", "flax"):
            raise ImportError(f"{name} is not allowed here")

sys.meta_path.insert(0, Refuse())
from gsjax.data import cloud_sets, labelled_clouds, modelnet, scanobjectnn, shapenetpart
from gsjax.data import scene_arrays, scene_cloud_sets, scene_clouds, scene_labels
from gsjax.data import clouds, embeddings, examples, features, folder, grammar, hololens_room
from gsjax.data import label_splits, loader, objects_cc0, point_examples, prepare, procedural
from gsjax.data import scannet, scene_sets, scene_store, scene_windows, scenes, shapenet_renders
from gsjax.data import pointmap_cache, posed_examples, posed_sets, scene_records, view_index
from gsjax.data import store, transforms, twins, view_examples
from gsjax.data.rooms import source as rooms

procedural.generate(0, seed=0, num_gaussians=32)
source = store.open_split(sys.argv[1], "train")
made = examples.gaussian_examples(
    source, num_points=16, seed=0, train=True, fields=("index", "means", "mask", "valid")
)
batches = loader.train_iterator(made, seed=0, global_batch=4, num_threads=2)
assert next(batches)["means"].shape == (4, 16, 3)
batches.close()
assert not {"jax", "jaxlib", "tensorflow"} & set(sys.modules)
print("fine")
"""


def test_reading_and_batching_work_where_jax_cannot_be_imported(tmp_path):
    made = prepare.ensure(
        dict(
            name="procedural",
            dir=str(tmp_path),
            num_objects=8,
            num_test=2,
            num_gaussians=96,
            views=3,
            view_size=24,
        )
    )
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(made)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        timeout=120,
    )
    assert result.returncode == 0 and "fine" in result.stdout, result.stderr[-2000:]
