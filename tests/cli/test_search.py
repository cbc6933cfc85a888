"""``gsjax embed`` and ``gsjax search`` on a debug-size run and towers made here."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import clip_gs
from gsjax.cli import embed, main, search, search_page
from gsjax.data import splats
from gsjax.io import formats
from gsjax.metrics import search as nearest
from gsjax.models import towers as towers_lib
from gsjax.models import toy_towers
from gsjax.systems.clip_gs import embedder, model
from gsjax.train import checkpoint, trained
from gsjax.train import state as state_lib

NAMES = ("ball.ply", "deep/rod & <b>.splat", "z.spz")
DIM = 32


def _scene(kind, count=200):
    rng = np.random.default_rng(kind)
    means = rng.normal(size=(count, 3)).astype(np.float32)
    means /= np.linalg.norm(means, axis=-1, keepdims=True)
    return dict(
        means=means * np.float32([(1, 1, 1), (0.1, 1, 0.1), (1, 0.1, 1)][kind]),
        quats=np.tile(np.float32([1, 0, 0, 0]), (count, 1)),
        log_scales=np.full((count, 3), -2.5, np.float32),
        logit_opacities=np.full(count, 3.0, np.float32),
        sh=np.full((count, 1, 3), 0.5, np.float32) * (kind - 1),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("splats")
    (root / "deep").mkdir()
    for kind, name in enumerate(NAMES):
        formats.save_gaussians(root / name, _scene(kind))
    (root / "notes.txt").write_text("not a splat")
    return root


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """Weight files of two pairs of untrained towers."""
    config = toy_towers.TowerConfig(
        dim=DIM, image_size=32, image_widths=(8, 8, 8, 8), text_width=8, text_heads=2, buckets=64
    )
    module, root = toy_towers.ToyTowers(config), tmp_path_factory.mktemp("towers")
    pixels = jnp.zeros((1, 32, 32, 3))
    tokens = jnp.zeros((1, *config.tokenizer.shape), jnp.int32)
    paths = []
    for seed in (0, 1):
        params = jax.jit(module.init)(jax.random.key(seed), pixels, tokens)["params"]
        paths.append(str(root / f"towers{seed}.npz"))
        towers_lib.save(paths[-1], "toy_clip", vars(config), params)
    return paths


@pytest.fixture(scope="module")
def config(towers):
    result = clip_gs.get_config("quick")
    result.model.depth = 1
    result.data.num_gaussians = 128
    result.data.towers = towers[0]
    return result


@pytest.fixture(scope="module")
def variables(config):
    filled = config.copy_and_resolve_references()
    filled.model.embed_dim = DIM
    blank = splats.example(_scene(0), num_points=128, anchors=16)
    batch = {name: x[None] for name, x in blank.items()}
    found = jax.jit(
        lambda b: model.build(filled).init(jax.random.key(3), model.patchify(b, filled))
    )(batch)
    rng = np.random.default_rng(0)  # off its start, where a fresh gate hides the Gaussian branch
    return jax.tree.map(lambda x: x + 0.05 * rng.normal(size=x.shape).astype(x.dtype) ** 2, found)


@pytest.fixture(scope="module")
def run_folder(config, variables, tmp_path_factory):
    """What a training run leaves: config.json with embed_dim 0, and a checkpoint."""
    root = tmp_path_factory.mktemp("run")
    (root / "config.json").write_text(config.to_json_best_effort())
    state = dict(params=variables["params"], collections=dict(batch_stats=variables["batch_stats"]))
    saver = checkpoint.Checkpoints(root, keep=1)
    saver.save(7, jax.tree.map(jnp.asarray, state), {}, {}, wait=True)
    saver.close()
    return root


@pytest.fixture(scope="module")
def gallery(run_folder, folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("gallery") / "embeddings.npz"
    assert main.run(["embed", str(folder), "--run", str(run_folder), "--out", str(path)]) == 0
    return path


# The archive of a run ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_folder_gives_its_weights_and_an_archive_gives_them_again(
    run_folder, variables, config, tmp_path
):
    found = trained.load(run_folder)
    assert found.step == 7 and found.system == "clip_gs" and found.towers is None
    flat = state_lib.flat(variables)
    assert set(found.arrays) == set(flat)
    for name, value in flat.items():
        np.testing.assert_array_equal(found.arrays[name], value)
    assert trained.load(run_folder / "checkpoints" / "7").digest == found.digest
    path = tmp_path / "run.npz"
    trained.export(found, path, towers=dict(name="toy_clip", digest="ab", dim=DIM))
    again = trained.load(path)
    assert again.step == 7 and again.towers["digest"] == "ab" and "optim" not in again.config
    plain = json.loads(config.to_json_best_effort())
    assert again.config.model.to_dict() == plain["model"]
    for name, value in flat.items():
        np.testing.assert_allclose(again.arrays[name], value, rtol=1e-3, atol=1e-6)
        assert again.arrays[name].dtype == np.float16


def test_what_cannot_be_exported_or_loaded_is_named(run_folder, tmp_path):
    with pytest.raises(ValueError, match="has no config.json"):
        trained.load(tmp_path)
    found = trained.load(run_folder)
    huge = dict(found.arrays, **{"params/logit_scale": np.float32(1e9)})
    broken = trained.Trained("clip_gs", found.config, huge, 7, None)
    with pytest.raises(ValueError, match="params/logit_scale.* not finite in float16"):
        trained.export(broken, tmp_path / "x.npz")
    fewer = dict(found.variables(), params=dict(found.variables()["params"]))
    del fewer["params"]["logit_scale"]
    with pytest.raises(ValueError, match="1 of its arrays do not fit .*logit_scale"):
        embedder.Embedder(found.config, fewer)


# Embedding --------------------------------------------------------------------------------------


def test_embeddings_are_the_encoders_unit_vectors(gallery, run_folder, folder, config, variables):
    found = splats.read_gallery(gallery)
    assert found.names == NAMES and found.embeds.shape == (3, DIM)
    np.testing.assert_allclose(np.linalg.norm(found.embeds, axis=1), 1, atol=1e-6)
    assert found.meta["model"]["digest"] == trained.load(run_folder).digest
    filled = config.copy_and_resolve_references()
    filled.model.embed_dim = DIM
    module = model.build(filled)
    apply = jax.jit(lambda batch: module.apply(variables, model.patchify(batch, filled))[0])
    for name, own in zip(NAMES, found.embeds, strict=True):
        batch = splats.example(splats.load(folder / name), num_points=128, anchors=16)
        vector = np.asarray(apply({key: x[None] for key, x in batch.items()}))[0]
        np.testing.assert_allclose(own, vector / np.linalg.norm(vector), atol=2e-5)
    assert np.abs(found.embeds[0] - found.embeds[1]).max() > 1e-3


def test_bad_files_are_left_out_and_reported_or_end_a_strict_run(
    run_folder, folder, tmp_path, capsys
):
    root = tmp_path / "mixed"
    root.mkdir()
    (root / "good.ply").write_bytes((folder / "ball.ply").read_bytes())
    (root / "bad.ply").write_bytes(b"garbage")
    out = str(tmp_path / "e.npz")
    arguments = ["embed", str(root), "--run", str(run_folder), "--out", out]
    assert main.run(arguments) == embed.SKIPPED == 1
    assert "left out bad.ply: " in capsys.readouterr().err
    found = splats.read_gallery(out)
    assert found.names == ("good.ply",) and found.meta["skipped"] == ["bad.ply"]
    assert main.run([*arguments, "--strict"]) == 2
    assert "bad.ply: " in capsys.readouterr().err
    (root / "good.ply").unlink()
    assert main.run(arguments) == 2
    assert "none of its 1 splat files" in capsys.readouterr().err


def test_a_files_name_and_axes_do_not_change_what_it_is():
    scene = _scene(0, 500)
    one, two = (splats.example(scene, num_points=64, anchors=8) for _ in range(2))
    np.testing.assert_array_equal(one["means"], two["means"])
    centers, rest = one["means"][:8], one["means"][8:]
    gaps = np.linalg.norm(centers[:, None] - centers, axis=-1)[np.triu_indices(8, 1)]
    reach = np.linalg.norm(rest[:, None] - centers, axis=-1).min(1).max()
    assert gaps.min() >= reach  # the first rows are farthest points
    few = splats.example(_scene(0, 20), num_points=64, anchors=8)
    assert few["mask"].all() and len(np.unique(few["means"], axis=0)) == 20


def test_export_writes_one_file_that_embeds_alike(run_folder, folder, gallery, tmp_path, capsys):
    path, out = str(tmp_path / "run.npz"), str(tmp_path / "e.npz")
    assert main.run(["embed", "--run", str(run_folder), "--export", path]) == 0
    capsys.readouterr()
    assert main.run(["embed", str(folder), "--run", path, "--out", out]) == 0
    assert "does not record" not in capsys.readouterr().err
    found, first = splats.read_gallery(out), splats.read_gallery(gallery)
    np.testing.assert_allclose(found.embeds, first.embeds, atol=2e-2)  # float16 weights
    assert found.meta["towers"] == first.meta["towers"]
    assert main.run(["embed", "--run", path]) == 2
    assert "either a folder" in capsys.readouterr().err


# Searching --------------------------------------------------------------------------------------


def test_top_k_is_a_sorted_full_search():
    rng = np.random.default_rng(0)
    queries, items = rng.normal(size=(3, 8)), rng.normal(size=(57, 8))
    items[30] = items[4]  # a tie keeps the gallery's order
    full = queries.astype(np.float32) @ items.astype(np.float32).T
    for block in (1, 7, 57, 100):
        places, scores = nearest.top_k(queries, items, 10, block=block)
        np.testing.assert_array_equal(places, np.argsort(-full, 1, kind="stable")[:, :10])
        np.testing.assert_allclose(scores, np.take_along_axis(full, places, 1), atol=1e-5)
    assert nearest.top_k(queries, items, 99)[0].shape == (3, 57)
    with pytest.raises(ValueError, match="k, block"):
        nearest.top_k(queries, items, 0)
    with pytest.raises(ValueError, match=r"\(3, 8\) and \(57, 7\)"):
        nearest.top_k(queries, items[:, 1:], 3)


def test_a_sentence_ranks_by_cosine(gallery, towers, capsys):
    assert main.run(["search", str(gallery), "--text", "a red ball", "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    pair, stored = towers_lib.load(towers[0]), splats.read_gallery(gallery)
    vector = np.asarray(pair.encode_texts(pair.tokenize(["a red ball"])))[0]
    scores = stored.embeds @ vector
    assert len(lines) == 2
    for line, place in zip(lines, np.argsort(-scores), strict=False):
        assert stored.names[place] in line and line.endswith(f"{scores[place]:+.3f}")


def test_a_picture_ranks_by_cosine(gallery, towers, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 4)).astype(np.uint8)
    path = tmp_path / "query.png"
    Image.fromarray(pixels).save(path)
    assert main.run(["search", str(gallery), "--image", str(path)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    pair, stored = towers_lib.load(towers[0]), splats.read_gallery(gallery)
    vector = np.asarray(pair.encode_images(pair.prepare_image(pixels)[None]))[0]
    scores = stored.embeds @ vector
    assert stored.names[scores.argmax()] in first and f"{scores.max():+.3f}" in first


@pytest.mark.slow
def test_a_folder_is_embedded_once_and_brought_up_to_date(
    run_folder, folder, gallery, tmp_path, capsys, monkeypatch
):
    root, read = tmp_path / "mine", []
    shutil.copytree(folder, root)
    load = splats.load
    monkeypatch.setattr(splats, "load", lambda p, **o: read.append(p.name) or load(p, **o))
    command = ["search", str(root), "--run", str(run_folder), "--text", "a red ball"]
    assert main.run(command) == 0
    first = capsys.readouterr().out
    assert main.run(["search", str(gallery), "--text", "a red ball"]) == 0
    assert capsys.readouterr().out == first  # as after `gsjax embed`
    assert len(read) == 3 and (root / search.KEPT).is_file()
    assert main.run(command) == 0 and len(read) == 3  # all known
    assert capsys.readouterr().out == first
    formats.save_gaussians(root / "new.ply", _scene(1, 150))
    (root / "z.spz").unlink()
    assert main.run(command) == 0
    assert read[3:] == ["new.ply"]
    listed = capsys.readouterr().out
    assert "new.ply" in listed and "z.spz" not in listed
    assert main.run([*command, "--up=z"]) == 0 and len(read) == 7  # other axes, other vectors
    assert main.run([*command, f"--index={root / 'ball.ply' / 'x.npz'}"]) == 0
    assert "cannot be kept" in capsys.readouterr().err
    assert main.run(["search", str(gallery), "--text=x", "--run=y"]) == 2
    assert "they go with a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_page_and_picture_show_the_files_and_escape_every_text(gallery, tmp_path, capsys):
    page, sheet = tmp_path / "new" / "out.html", tmp_path / "out.png"
    text = 'a <script>alert(1)</script> & "ball"'
    arguments = ["search", str(gallery), "--text", text, "--size", "48"]
    assert main.run([*arguments, "--html", str(page), "--png", str(sheet)]) == 0
    written = page.read_text()
    assert (
        "<script" not in written and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;" in written
    )
    assert "rod &amp; &lt;b&gt;.splat" in written and "<b>" not in written
    assert written.count("data:image/png;base64,") == 3
    assert "http://" not in written and "https://" not in written
    picture = np.asarray(Image.open(sheet))
    assert picture.shape[1] == 3 * (48 + 8) + 8
    for column in range(3):  # every thumbnail shows an object before white
        x = 8 + column * 56
        part = picture[40:88, x : x + 48]
        assert (part[0, 0] == 255).all() and (part[24, 24] < 250).any()


def test_files_that_are_gone_leave_a_blank(gallery, tmp_path, capsys):
    page = tmp_path / "out.html"
    arguments = ["search", str(gallery), "--text", "x", "--folder", str(tmp_path / "nowhere")]
    assert main.run([*arguments, "--html", str(page)]) == 0
    assert "no picture of ball.ply" in capsys.readouterr().err
    assert page.read_text().count('<div class="blank">') == 3


def test_a_query_picture_stands_on_the_page():
    asked = np.zeros((20, 60, 4), np.uint8)
    results = [search_page.Result(1, "one", 0.5, None)]
    page = search_page.Page("query.png", asked, results, 1)
    assert 'alt="query" src="data:image/png' in search_page.as_html(page, 32)
    assert search_page._shrunk(asked, 30).shape == (10, 30, 3)
    assert (search_page._shrunk(asked, 30) == 255).all()  # transparent on white


def test_queries_through_other_towers_are_refused(gallery, towers, capsys):
    arguments = ["search", str(gallery), "--text", "x"]
    assert main.run([*arguments, "--towers", towers[1]]) == 2
    error = capsys.readouterr().err
    assert "was trained with digest" in error and "--towers" in error
    assert main.run([*arguments, "--towers", towers[0]]) == 0


def test_a_run_that_records_other_towers_is_refused(run_folder, folder, tmp_path, capsys):
    record = run_folder / trained.TOWERS_FILE
    record.write_text(json.dumps(dict(name="toy_clip", digest="0" * 64, dim=DIM)))
    try:
        out = str(tmp_path / "e.npz")
        assert main.run(["embed", str(folder), "--run", str(run_folder), "--out", out]) == 2
    finally:
        record.unlink()
    assert "was trained with digest '0000" in capsys.readouterr().err


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--text", " "], "expected a sentence"),
        (["--text", "x", "--top", "0"], "--top: found 0"),
        (["--image", "nowhere.png"], "there is no file"),
    ],
)
def test_bad_queries_are_named(gallery, extra, message, capsys):
    assert main.run(["search", str(gallery), *extra]) == 2
    assert message in capsys.readouterr().err


def test_bad_queries_are_refused_before_a_folder_is_embedded(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(embed, "_open", lambda *a: pytest.fail("the run was opened"))
    for query, message in (
        (["--text", "  "], "--text: expected a sentence, found nothing"),
        (["--text=\t\n"], "--text: expected a sentence, found nothing"),
        (["--image", str(tmp_path / "none.png")], f"--image: there is no file {tmp_path}/none.png"),
        (["--image", str(folder / "notes.txt")], "notes.txt is no picture"),
    ):
        assert main.run(["search", str(folder), *query]) == 2
        assert message in capsys.readouterr().err
    for query in ("--text=", "--image="):
        with pytest.raises(SystemExit, match="2"):
            main.run(["search", str(folder), query])
        assert "one of the arguments --text --image is required" in capsys.readouterr().err
    assert not (folder / search.KEPT).exists()


def test_files_of_another_kind_are_refused(tmp_path, folder):
    path = tmp_path / "x.npz"
    np.savez(path, names=np.array(["a"]))
    with pytest.raises(ValueError, match="is no file of `gsjax embed`"):
        splats.read_gallery(path)
    meta = dict(folder="", up="y")
    splats.Gallery(("a",), np.full((1, 4), 2.0), meta).save(path)
    with pytest.raises(ValueError, match="not of length one"):
        splats.read_gallery(path)
    with pytest.raises(ValueError, match="no picture that can be read"):
        search.read_picture(str(folder / "notes.txt"))
    with pytest.raises(ValueError, match="holds no file of"):
        splats.find(tmp_path)


def test_a_target_that_cannot_be_written_is_refused_before_the_work(folder, capsys, monkeypatch):
    monkeypatch.setattr(embed, "_open", lambda *a: pytest.fail("the run was opened"))
    for command in (
        ["embed", str(folder), "--out", "vectors.h5"],
        ["search", str(folder), "--text", "x", "--index", "vectors.h5"],
    ):
        assert main.run(command) == 2
        assert "'vectors.h5' must end in .npz" in capsys.readouterr().err


def test_pictures_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.jpg", exif=exif)
    assert search.read_picture(str(tmp_path / "a.jpg")).shape == (40, 20, 3)


def test_faint_gaussians_are_left_out_before_the_choice():
    scene = _scene(0, 200)
    scene["logit_opacities"][::2] = -9.0
    found = splats.example(scene, num_points=64, anchors=8, prune_alpha=0.01)
    assert (found["logit_opacities"] == 3.0).all()
    gaps = np.linalg.norm(found["means"][:8, None] - found["means"][:8], axis=-1)
    rest = np.linalg.norm(found["means"][8:, None] - found["means"][:8], axis=-1).min(1)
    assert (
        gaps[np.triu_indices(8, 1)].min() >= rest.max()
    )  # centres are farthest points of the rest
