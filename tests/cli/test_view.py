"""The viewer: its cameras against known cases, and what a real browser shows of a scene."""

import argparse
import dataclasses
import shutil
import time
import urllib.request

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gsjax.cli import main, render, view, viewer, viewer_scene
from gsjax.core import cameras, gaussians, rotations
from gsjax.io import formats, ply

_BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


def _balls(n=6, seed=0):
    """Opaque balls of strong colours at random places; dense enough to have edges and middles."""
    rng = np.random.default_rng(seed)
    rgb = np.array([[1, 0, 0], [0, 0.7, 0], [0, 0, 1], [1, 0.8, 0], [0.6, 0, 0.6], [0, 0.7, 0.8]])[
        :n
    ]
    return gaussians.RawGaussians(
        means=jnp.asarray(rng.uniform(-1, 1, (n, 3)), jnp.float32),
        quats=jnp.asarray(rng.normal(size=(n, 4)), jnp.float32),
        log_scales=jnp.asarray(np.log(rng.uniform(0.1, 0.3, (n, 3))), jnp.float32),
        logit_opacities=jnp.full(n, 5.0, jnp.float32),
        sh=jnp.asarray((rgb[:, None] - 0.5) / 0.28209479, jnp.float32),
    )


def _wxyz(viewmat):
    return np.asarray(rotations.rotmat_to_quat(jnp.asarray(viewmat)[:3, :3].T))


def test_camera_at_rest_looks_along_z():
    viewmat, K = viewer_scene.client_camera((1, 0, 0, 0), (0, 0, -3), np.pi / 2, 2.0, 200, 100)
    point = viewmat @ [0.5, 0.25, 1, 1]
    np.testing.assert_allclose(point, [0.5, 0.25, 4, 1])
    # 90 degrees over 100 rows: 50 pixels of focal length.
    np.testing.assert_allclose(K, [[50, 0, 100], [0, 50, 50], [0, 0, 1]])


def test_camera_agrees_with_look_at():
    expected = cameras.look_at(
        jnp.array([1.0, -2, 3]), jnp.array([0.2, 0, 0]), jnp.array([0.0, 1, 0])
    )
    viewmat, _ = viewer_scene.client_camera(_wxyz(expected), (1, -2, 3), 1.0, 1.5, 96, 64)
    np.testing.assert_allclose(viewmat, expected, atol=1e-6)


def test_a_frame_of_another_aspect_is_right_once_stretched():
    """A point's relative place on the canvas depends on the camera alone, not on the frame's size."""
    camera = (_wxyz(np.eye(4)), (0, 0, -4), 0.8, 1.6)
    places = []
    for width, height in ((160, 100), (128, 96), (32, 64)):
        viewmat, K = viewer_scene.client_camera(*camera, width, height)
        u, v, w = K @ (viewmat @ [0.7, -0.4, 0.3, 1])[:3]
        places.append((u / w / width, v / w / height))
    np.testing.assert_allclose(places[1:], [places[0]] * 2, rtol=1e-6)
    # Horizontal angle of view of a 1.6 : 1 canvas with 0.8 radians vertically.
    np.testing.assert_allclose(K[0, 0], 16 / (1.6 * np.tan(0.4)), rtol=1e-6)


@pytest.mark.parametrize(
    "aspect, longest, expected",
    [(1.0, 256, (256, 256)), (2.0, 512, (512, 256)), (0.5, 512, (256, 512)), (9.0, 64, (64, 32))],
)
def test_frame_size(aspect, longest, expected):
    assert viewer_scene.frame_size(aspect, longest) == expected


def test_covariances_of_the_browsers_splats():
    """Against R diag(s^2) R^T one by one, and along the axes of an unturned one."""
    g = _balls().activate()
    splats = viewer_scene.browser_splats(g)
    for i in range(g.num):
        turn = np.asarray(rotations.quat_to_rotmat(g.quats[i]), np.float64)
        expected = turn @ np.diag(np.asarray(g.scales[i], np.float64) ** 2) @ turn.T
        np.testing.assert_allclose(splats["covariances"][i], expected, atol=1e-6)
    np.testing.assert_allclose(splats["rgbs"][0], [1, 0, 0], atol=1e-5)
    assert splats["opacities"].shape == (6, 1) and splats["opacities"].dtype == np.float32


@pytest.mark.slow
def test_layers_of_a_frame():
    g, options = _balls(1).activate(), viewer_scene.FrameOptions(background=(0, 0, 0))
    target = np.asarray(g.means[0])
    viewmat = cameras.look_at(jnp.asarray(target - [0, 0, 2]), jnp.asarray(target), jnp.eye(3)[1])
    camera = viewer_scene.client_camera(_wxyz(viewmat), target - [0, 0, 2], 0.9, 1.5, 96, 64)
    draw = lambda layer: viewer_scene.render_frame(  # noqa: E731
        g, *camera, 96, 64, viewer_scene.FrameOptions(layer=layer, background=options.background)
    )
    colour, depth, alpha = map(draw, viewer_scene.LAYERS)
    assert colour.shape == depth.shape == alpha.shape == (64, 96, 3)
    assert colour[32, 48, 0] > 240 and colour[32, 48, 1:].max() < 10
    assert depth[32, 48].min() > 240 and alpha[32, 48].min() > 245
    assert colour[0, 0].max() == depth[0, 0].max() == alpha[0, 0].max() == 0
    with pytest.raises(ValueError, match="layer: found 'normals'"):
        draw("normals")


@pytest.mark.parametrize("said", [False, True])
def test_the_view_is_antialiased_as_the_file_says_or_the_user(tmp_path, monkeypatch, said):
    comments = [ply.ANTIALIASED] if said else []
    formats.save_gaussians(tmp_path / "scene.ply", _balls(), comments=comments)
    asked = []

    class Server:
        def get_port(self):
            return 1

    monkeypatch.setattr(
        viewer, "serve", lambda raw, **options: asked.append(options["antialiased"]) or Server()
    )
    parser = argparse.ArgumentParser()
    view.add_arguments(parser)
    for extra in ([], ["--antialiased"], ["--no-antialiased"]):
        view.start(parser.parse_args([str(tmp_path), *extra]))
    assert asked == [said, True, False]


@pytest.mark.slow
def test_an_antialiased_frame_is_another_one():
    g = _balls(1)
    g = dataclasses.replace(
        g, log_scales=jnp.full((1, 3), -6.0), means=jnp.zeros((1, 3))
    ).activate()
    camera = viewer_scene.client_camera((1, 0, 0, 0), (0, 0, -3), 0.9, 1.0, 64, 64)
    frames = [
        viewer_scene.render_frame(g, *camera, 64, 64, viewer_scene.FrameOptions(antialiased=on))
        for on in (False, True)
    ]
    # Far below a pixel, the filter that keeps the Gaussian's light leaves hardly any of it.
    assert frames[0].min() < 150 < 240 < frames[1].min()


def test_start_camera_sees_the_scene():
    means = np.asarray(_balls().means)
    position, target, radius = viewer_scene.start_camera(means, "-y")
    np.testing.assert_allclose(np.linalg.norm(position - target), 2.6 * radius, rtol=1e-5)
    np.testing.assert_allclose(
        target[1] - position[1], 2.6 * radius * np.sin(np.pi / 12), rtol=1e-4
    )


def test_find_scene(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        viewer_scene.find_scene(tmp_path / "a.ply")
    with pytest.raises(FileNotFoundError, match=r"without scene\.ply"):
        viewer_scene.find_scene(tmp_path)
    formats.save_gaussians(tmp_path / "scene.ply", _balls())
    assert viewer_scene.find_scene(tmp_path) == tmp_path / "scene.ply"
    assert viewer_scene.find_scene(tmp_path / "scene.ply") == tmp_path / "scene.ply"


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--size", "8"], "--size"),
        (["--port", "0"], "--port"),
        (["--background", "255", "0", "0"], "--background"),
        ([], "no such file"),
    ],
)
def test_bad_arguments_are_named(tmp_path, capsys, extra, message):
    assert main.run(["view", str(tmp_path / "none.ply"), *extra]) == 2
    assert message in capsys.readouterr().err


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "viser", None)
    with pytest.raises(ImportError, match=r"pip install 'gsjax\[viewer\]'"):
        viewer.serve(_balls())


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="mode: found 'webgl'"):
        viewer.serve(_balls(), mode="webgl")
    with pytest.raises(ValueError, match="up: found 'x'"):
        viewer.serve(_balls(), up="x")


def test_the_command_starts_a_server_that_answers(tmp_path, capsys):
    pytest.importorskip("viser", reason="the viewer needs viser")
    formats.save_gaussians(tmp_path / "scene.ply", _balls())
    parser = argparse.ArgumentParser()
    view.add_arguments(parser)
    server = view.start(parser.parse_args([str(tmp_path), "--port", "8151", "--size", "128"]))
    try:
        url = f"http://127.0.0.1:{server.get_port()}"
        assert f"6 Gaussians at http://localhost:{server.get_port()}" in capsys.readouterr().out
        assert b"<html" in urllib.request.urlopen(url, timeout=10).read().lower()
    finally:
        server.stop()


@pytest.fixture
def page():
    """An empty page of a headless browser, 1000 x 640 pixels."""
    pytest.importorskip("viser", reason="the viewer needs viser")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if _BROWSER is None:
        pytest.skip("no chromium or chrome on the path")
    software = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_BROWSER, args=[*software, "--enable-unsafe-swiftshader"]
        )
        yield browser.new_page(viewport={"width": 1000, "height": 640})
        browser.close()


def _edges(picture):
    """Size of the grey picture's gradient."""
    grey = picture.mean(axis=-1)
    return np.hypot(*np.gradient(grey))


def _shown_and_expected(page, server, tmp_path, g, seconds=240):
    """The browser's canvas once it shows what our rasterizer draws for its camera, or at the end.

    Both float [H, W, 3] in [0, 1], with the corner that holds the browser's own notices left out.
    """
    page.goto(f"http://127.0.0.1:{server.get_port()}")
    end, difference = time.time() + seconds, 1.0
    while time.time() < end and difference > 0.01:
        page.wait_for_timeout(1500)
        page.screenshot(path=tmp_path / "page.png")
        if not server.get_clients():
            continue
        camera = next(iter(server.get_clients().values())).camera
        width, height = camera.image_width, camera.image_height
        viewmat, K = viewer_scene.client_camera(
            camera.wxyz, camera.position, camera.fov, camera.aspect, width, height
        )
        options = viewer_scene.FrameOptions()
        expected = viewer_scene.render_frame(g, viewmat, K, width, height, options) / 255
        shown = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))[:height, :width] / 255
        for picture in (shown, expected):
            picture[:200, :340] = 1
        difference = np.abs(shown - expected).mean()
    return shown, expected


@pytest.mark.parametrize("mode, mean, similar", [("server", 0.01, 0.98), ("client", 0.015, 0.9)])
def test_a_browser_shows_what_we_render(page, tmp_path, mode, mean, similar):
    """Server mode differs by JPEG and a resampling, client mode by the browser's own rasterizer."""
    g = _balls().activate()
    server = viewer.serve(g, mode=mode, port=8160, size=1024)
    try:
        shown, expected = _shown_and_expected(page, server, tmp_path, g)
        assert expected.std() > 0.1, "the camera must see the scene for the comparison to mean much"
        assert np.abs(shown - expected).mean() < mean
        assert np.corrcoef(shown.ravel(), expected.ravel())[0, 1] > similar
        edges = [_edges(picture).ravel() for picture in (shown, expected)]
        assert np.corrcoef(*edges)[0, 1] > similar - 0.2
        # Mirrored or upside down it would not fit: the comparison has teeth.
        assert np.abs(shown[:, ::-1] - expected).mean() > 2 * mean
        assert np.abs(shown[::-1] - expected).mean() > 2 * mean
    finally:
        server.stop()


def test_the_page_switches_to_the_browsers_renderer(page, tmp_path):
    g = _balls().activate()
    server = viewer.serve(g, mode="both", port=8170, size=512)
    try:
        _shown_and_expected(page, server, tmp_path, g)
        page.get_by_text("Drawn by the browser").wait_for()
        page.locator("input[type=checkbox]:visible").first.check(force=True)
        page.wait_for_timeout(4000)
        page.screenshot(path=tmp_path / "browser.png")
        shown = np.asarray(Image.open(tmp_path / "browser.png").convert("RGB"), float)
        # Without the frame drawn here the splats remain: strong colours, on the canvas's white.
        canvas = shown[200:, :600]
        assert (canvas.max(axis=-1) - canvas.min(axis=-1) > 120).mean() > 0.02
    finally:
        server.stop()


def test_orbit_bounds_ignore_stray_gaussians():
    means = np.concatenate((np.random.default_rng(0).uniform(-1, 1, (1000, 3)), [[900, 0, 0]]))
    center, radius = render.orbit_bounds(means)
    assert np.abs(center).max() < 0.05 and 1.6 < radius < 1.75
