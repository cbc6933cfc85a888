"""Cross-modal self-supervision on ten procedural classes, ResNet-18 of full width: does it learn at all?

    gsjax study configs/studies/cross_modal_procedural.py --workdir=DIR
    gsjax study configs/studies/cross_modal_procedural.py --report

400 objects to train on and 100 held out, 64 grey views of 64 pixels, 1,024 Gaussians on the surface, PointNet on
positions, batches of 16 objects. Beside the trained networks stand the same ones as they were made and the
nearest training object by Chamfer distance. Needs no data from elsewhere.
"""

from configs import cross_modal

STEPS = 1500
RATE = 1e-2


def _config():
    config = cross_modal.get_config()
    config.optim.lr = RATE
    config.train.num_steps = STEPS
    config.train.save_every = 50
    config.train.log_every = 25
    config.eval.evaluators.cross_modal.bootstrap = 0  # the table resamples
    config.eval.evaluators.shape_recognition.bootstrap = 0
    return config


def get_study():
    arms = {
        "pointnet/positions/fps": "self_supervised",
        "random weights/pointnet": "random_weights",
        "Chamfer 1-NN": "nearest_paired",
    }
    runs = [dict(arm=arm, kind=kind, config=_config()) for arm, kind in arms.items()]
    return dict(name="cross_modal_procedural", runs=runs, report="cross_modal")
