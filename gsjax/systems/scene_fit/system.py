"""Wires a fit of one scene: config -> scene, first Gaussians, chunks of steps, results."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath

from gsjax.core import sh
from gsjax.io import formats, ply
from gsjax.systems import base
from gsjax.systems.scene_fit import data, default, evaluate, model, optimizer, start, steps
from gsjax.systems.scene_fit import state as states
from gsjax.systems.scene_fit.recipe import Recipe

_MOST_CAPACITY = 1.5  # times the rows there are, where the default strategy ran out of them


def build(config) -> base.Procedure:
    """The procedure of a config, see ``configs/scene_fit.py``."""
    scene, constants = data.load(config.data), config.fit.to_dict()
    if constants["background"] == "auto":  # cut out of their background, or not
        constants["background"] = "random" if scene.train.images.shape[-1] == 4 else "black"
    recipe = Recipe(**constants, seed=config.seed)
    fit = Fit(
        recipe, scene, evaluate.load_lpips(config.eval.lpips_backbone, config.eval.lpips_heads)
    )
    return base.Procedure(
        name="scene_fit", num_steps=recipe.num_steps, begin=fit.begin, abstract=fit.abstract,
        advance=fit.advance, step=lambda state: int(state.step), evaluate=fit.evaluate,
        finish=fit.finish, show=("psnr", "gaussians"),
    )  # fmt: skip


class Fit:
    """A scene and how it is fitted."""

    def __init__(self, recipe: Recipe, scene: data.Scene, lpips=None):
        self.recipe, self.scene, self.lpips = recipe, scene, lpips
        self._full = jax.tree.map(jnp.asarray, scene.train)
        self._half = self._full.halved() if recipe.half_steps else None
        self._advance = jax.jit(steps.advance, static_argnums=(0, 3), donate_argnums=2)
        grey = evaluate.background(recipe)
        if len(scene.test.images):
            self._baselines = evaluate.baselines(scene.train, scene.test, grey)
        width, height = scene.train.size
        logging.info(
            "%s: %d training and %d held-out views of %d x %d, %s", scene.name,
            len(scene.train.images), len(scene.test.images), width, height,
            "no points" if scene.points is None else f"{len(scene.points)} points",
        )  # fmt: skip

    def begin(self) -> states.FitState:
        """First Gaussians: at the scene's points, or in front of the cameras."""
        recipe, scene = self.recipe, self.scene
        used = max(1, round(recipe.num_gaussians * recipe.start_fraction))
        points, rgb = scene.points, scene.rgb
        if points is None:
            points, rgb = start.frustum_points(
                scene.train.viewmats, scene.train.Ks, scene.train.images, used, seed=recipe.seed
            )
        if recipe.strategy == "default":  # it multiplies what is there
            used = min(used, len(points))
        params, alive = start.from_points(
            points, rgb, recipe.num_gaussians, sh_degree=recipe.sh_degree,
            opacity=recipe.init_opacity, scale=recipe.init_scale, used=used,
            normals=scene.normals, seed=recipe.seed,
        )  # fmt: skip
        return states.begin(recipe, params, alive, self._full.viewmats, jax.random.key(recipe.seed))

    def abstract(self, layout) -> states.FitState:
        """Shapes of a state with as many rows as a checkpoint has."""
        rows = layout["alive"][0][0]
        shapes = {
            "means": (3,), "log_scales": (3,), "quats": (4,), "logit_opacities": (), "sh0": (1, 3),
            "shN": (sh.num_coeffs(self.recipe.sh_degree) - 1, 3),
        }  # fmt: skip
        params = {k: jax.ShapeDtypeStruct((rows, *v), jnp.float32) for k, v in shapes.items()}
        alive = jax.ShapeDtypeStruct((rows,), bool)
        key = jax.random.key(0)
        state = jax.eval_shape(
            lambda p, a: states.begin(self.recipe, p, a, self._full.viewmats, key), params, alive
        )
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        put = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)  # noqa: E731
        return jax.tree.map(put, state)

    def advance(self, state: states.FitState) -> tuple[states.FitState, dict]:
        """Steps up to the next refinement, and room for more Gaussians where it ran out."""
        recipe, done = self.recipe, int(state.step)
        every = recipe.refine_every
        num = min(every - done % every, recipe.num_steps - done)
        views = self._half if done < recipe.half_steps else self._full
        state, metrics = self._advance(recipe, views, state, num)
        state = self._with_room(state)
        loss = float(jnp.mean(metrics["loss"])) if bool(state.ok) else float("nan")
        rate = optimizer.lr_means(recipe, state.step, state.scene_scale)
        return state, {
            "loss": loss, "psnr": float(jnp.mean(metrics["psnr"])),
            "gaussians": int(jnp.sum(state.alive)), "lr": float(rate),
        }  # fmt: skip

    def _with_room(self, state):
        """More rows, on the host, where the default strategy had to drop requests."""
        recipe, rows = self.recipe, state.alive.shape[0]
        most = recipe.max_gaussians or 2**31
        if (
            recipe.strategy != "default"
            or not recipe.grow
            or not int(state.dropped)
            or rows >= most
        ):
            return state
        wanted = min(int(rows * _MOST_CAPACITY), most)
        logging.info("%d Gaussians found no room: from %d rows to %d", state.dropped, rows, wanted)
        kept = {
            k: {n: m[n] for n in state.views}
            for k, m in state.opt._asdict().items()
            if k != "count"
        }
        moments = {k: {n: getattr(state.opt, k)[n] for n in state.params} for k in kept}
        params, alive, moments = default.grow_capacity(state.params, state.alive, moments, wanted)
        opt = state.opt._replace(**{k: moments[k] | kept[k] for k in kept})
        return state._replace(
            params=params, alive=alive, opt=opt, stats=default.Stats.empty(wanted),
            filter3d=jnp.pad(state.filter3d, (0, wanted - rows)), dropped=jnp.int32(0),
        )  # fmt: skip

    def evaluate(self, state: states.FitState) -> dict[str, float]:
        """PSNR, SSIM (and LPIPS) of held-out views, baselines beside them; of training views where none is."""
        held = len(self.scene.test.images) > 0
        views = self.scene.test if held else self.scene.train
        values = evaluate.scores(self.recipe, state, views, self.lpips)
        prefix = "test" if held else "train"
        values = {f"{prefix}_{name}": value for name, value in values.items()}
        values["gaussians"] = int(jnp.sum(state.alive))
        return values | (self._baselines if held else {})

    def finish(self, state: states.FitState, folder) -> None:
        """scene.ply, cameras.json and a picture of held-out views."""
        folder = epath.Path(folder)
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        said = [ply.ANTIALIASED] if self.recipe.antialiased else []
        formats.save_gaussians(folder / "scene.ply", self.baked(state), comments=said)
        cameras = {
            "convention": "opencv world-to-camera, pixels", "size": list(self.scene.train.size),
            "train": _cameras(self.scene.train), "test": _cameras(self.scene.test),
        }  # fmt: skip
        (folder / "cameras.json").write_text(json.dumps(cameras))
        views = self.scene.test if len(self.scene.test.images) else self.scene.train
        evaluate.write_grid(folder / "pictures" / "held_out.png", self.recipe, state, views)

    def baked(self, state: states.FitState):
        """The Gaussians alone, the 3D filter made part of scales and opacities."""
        kept = np.asarray(model.visible(state.params, state.alive, self.recipe.min_opacity))
        params = state.params
        if self.recipe.antialiased:  # it fades thin ones, which stay
            scene = model.activated(params, state.alive, filter3d=state.filter3d).deactivate()
            params = params | dict(
                log_scales=scene.log_scales, logit_opacities=scene.logit_opacities
            )
        return model.compact(params, kept)


def _cameras(views) -> dict:
    return {k: np.asarray(getattr(views, k), float).tolist() for k in ("viewmats", "Ks")}
