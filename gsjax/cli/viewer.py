"""A scene in the browser: a viser server whose frames our rasterizer draws, or the browser itself.

``serve`` returns at once, so notebooks can call it; ``gsjax view`` blocks on it. What is drawn is in
viewer_scene.py.
"""

import contextlib
import dataclasses
import threading
import time

import numpy as np
from absl import logging

from gsjax.cli import viewer_scene

MODES = ("both", "server", "client")
# A camera at rest for this long gets the full resolution; before that, a quarter of it.
_SETTLED_SECONDS = 0.15
_COARSE = 4


def _viser():
    try:
        import viser
    except ImportError as error:
        raise ImportError("the viewer needs viser: pip install 'gsjax[viewer]'") from error
    return viser


def serve(
    gaussians,
    *,
    mode: str = "both",
    host: str = "127.0.0.1",
    port: int = 8080,
    up: str = "y",
    size: int = 1024,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    label: str = "gsjax",
    antialiased: bool = False,
):
    """Starts a viewer of one scene and returns without waiting.

    Args:
      gaussians: ``Gaussians``, or ``RawGaussians``, which are activated.
      mode: 'server': every client's frames are drawn here by ``gsjax.rasterize``, coarse while the
        camera moves and full when it rests, with view-dependent colour, depth and alpha. 'client':
        the splats are sent once and the browser draws them, at degree 0. 'both': a choice in the
        page's panel, server first.
      host: address to listen on; '0.0.0.0' lets other machines in.
      port: the first to try; the next free one is taken where it is in use.
      up: the scene's up, 'y', '-y', 'z' or '-z'.
      size: pixels along the longer side of a full frame, at the start.
      background: red, green, blue in [0, 1] of frames drawn here.
      label: title in the page's panel.
      antialiased: frames drawn here pass Mip-Splatting's 2D filter; for scenes trained with it.

    Returns:
      The ``viser.ViserServer``: ``get_port()`` tells the port, ``stop()`` ends it.

    Raises:
      ValueError: unknown mode or up.
      ImportError: viser is absent; the message names the extra.
    """
    if mode not in MODES:
        raise ValueError(f"mode: found {mode!r}, expected one of {MODES}")
    if up not in ("y", "-y", "z", "-z"):
        raise ValueError(f"up: found {up!r}, expected y, -y, z or -z")
    viser = _viser()
    g = gaussians.activate() if hasattr(gaussians, "activate") else gaussians
    server = viser.ViserServer(host=host, port=port, label=label, verbose=False)
    try:
        server.gui.configure_theme(control_layout="collapsible", show_logo=False)
        _set_up_camera(server, np.asarray(g.means), up)
        splats = None
        if mode != "server":
            splats = server.scene.add_gaussian_splats(
                "/splats", **viewer_scene.browser_splats(g), visible=mode == "client"
            )
        if mode != "client":
            look = viewer_scene.FrameOptions(
                size, background=tuple(background), antialiased=antialiased
            )
            _Frames(server, g, look, splats=splats)
    except BaseException:
        server.stop()
        raise
    return server


def _set_up_camera(server, means: np.ndarray, up: str):
    position, target, radius = viewer_scene.start_camera(means, up)
    server.scene.set_up_direction(up if up.startswith("-") else f"+{up}")
    camera = server.initial_camera
    camera.position, camera.look_at, camera.fov = position, target, np.deg2rad(45.0)
    camera.near, camera.far = radius / 100, radius * 100


class _Frames:
    """Draws the frames of every client: the panel's controls, and one thread a client."""

    def __init__(self, server, g, look: viewer_scene.FrameOptions, *, splats):
        self._server, self._g, self._look, self._splats = server, g, look, splats
        self._clients: dict[int, _Client] = {}
        # One frame at a time: two would share the same cores or the same device.
        self.drawing = threading.Lock()
        gui = server.gui
        self._by_browser = (
            None if splats is None else gui.add_checkbox("Drawn by the browser", False)
        )
        size = dict(min=128, max=max(2048, look.size), step=1, initial_value=look.size)
        self._size = gui.add_slider("Resolution", **size)
        self._layer = gui.add_dropdown("Show", viewer_scene.LAYERS, initial_value="colour")
        self._degree = None
        if g.sh_degree:
            self._degree = gui.add_slider(
                "SH degree", min=0, max=g.sh_degree, step=1, initial_value=g.sh_degree
            )
        self._status = gui.add_text("Frame", "", disabled=True)
        for control in (self._by_browser, self._size, self._layer, self._degree):
            if control is not None:
                control.on_update(lambda _: self._redraw())
        server.on_client_connect(self._connect)
        server.on_client_disconnect(self._disconnect)

    def _connect(self, client):
        self._clients[client.client_id] = _Client(self, client)

    def _disconnect(self, client):
        gone = self._clients.pop(client.client_id, None)
        if gone is not None:
            gone.stop()

    def _redraw(self):
        if self._by_browser is not None:
            self._splats.visible = self._by_browser.value
        for client in list(self._clients.values()):
            client.request()

    @property
    def is_drawn_here(self) -> bool:
        return self._by_browser is None or not self._by_browser.value

    def options(self) -> viewer_scene.FrameOptions:
        return dataclasses.replace(
            self._look,
            size=int(self._size.value),
            sh_degree=0 if self._degree is None else int(self._degree.value),
            layer=self._layer.value,
        )

    def draw(self, camera, scale: int) -> tuple[np.ndarray, float]:
        """uint8 [H, W, 3] of a client's camera, at 1 / scale of the chosen resolution; seconds."""
        options, aspect = self.options(), camera.aspect
        width, height = viewer_scene.frame_size(aspect, max(options.size // scale, 1))
        viewmat, K = viewer_scene.client_camera(
            camera.wxyz, camera.position, camera.fov, aspect, width, height
        )
        start = time.perf_counter()
        with self.drawing:
            frame = viewer_scene.render_frame(self._g, viewmat, K, width, height, options)
        return frame, time.perf_counter() - start

    def say(self, frame: np.ndarray, seconds: float):
        self._status.value = f"{frame.shape[1]} x {frame.shape[0]}, {1000 * seconds:.0f} ms"

    def has(self, client) -> bool:
        return client.client_id in self._server.get_clients()


class _Client:
    """One browser: a thread that draws a coarse frame when asked, and a full one once asked no more."""

    def __init__(self, frames: _Frames, client):
        self._frames, self._client = frames, client
        self._asked, self._stopped = threading.Event(), threading.Event()
        client.camera.on_update(lambda _: self.request())
        self.request()
        threading.Thread(target=self._run, name="gsjax-viewer", daemon=True).start()

    def request(self):
        self._asked.set()

    def stop(self):
        self._stopped.set()
        self._asked.set()

    def _run(self):
        while True:
            self._asked.wait()
            if self._stopped.is_set():
                return
            self._asked.clear()
            try:
                self._answer()
            except Exception:
                # The thread must outlive a frame that failed; a client that left ends it above.
                if not self._stopped.is_set():
                    logging.exception("viewer: a frame failed")

    def _answer(self):
        if not self._frames.is_drawn_here:
            self._client.scene.set_background_image(None)
            return
        for scale in (_COARSE, 1):
            frame, seconds = self._frames.draw(self._client.camera, scale)
            if self._stopped.is_set() or not self._frames.has(self._client):
                return
            self._send(frame, quality=90 if scale == 1 else 70)
            self._frames.say(frame, seconds)
            if self._asked.wait(_SETTLED_SECONDS if scale > 1 else 0):
                return

    def _send(self, frame: np.ndarray, quality: int):
        self._client.scene.set_background_image(frame, format="jpeg", jpeg_quality=quality)
        with contextlib.suppress(AttributeError):  # an older viser sends by itself
            self._client.flush()
