"""Triangle meshes with colours and textures: reading, normalising, sampling. Imports no JAX.

``read`` takes .off, .obj, .glb, .gltf, .ply and .stl through trimesh (extra ``mesh``), and the
``.npz`` layout below without it (trimesh ignores colours in .off files). Base colour only: normal
maps, roughness and the like are left out. Rendering is in ``raster/mesh.py``.

The ``.npz`` layout: ``vertices`` [P, 3], ``faces`` [F, 3], ``uv`` [P, 2] (origin bottom-left) and
``face_texture`` [F]; texture k of ``NAME.npz`` is the picture ``NAME_tex<k>.jpg`` (or .png) beside it.
``face_rgb`` and ``vertex_rgb``, uint8, are read where they are present.
"""

import dataclasses

import numpy as np
from etils import epath

from gsjax.io import npz, picture_file

TRIMESH_FORMATS = (".off", ".obj", ".glb", ".gltf", ".ply", ".stl")
_PICTURES = (".jpg", ".png", ".jpeg")


class MeshFormatError(ValueError):
    """A file that holds no usable mesh."""


@dataclasses.dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh; arrays are checked and converted where it is made.

    The colour of a face is that of its texture, else ``face_rgb``, else ``vertex_rgb``, else none.

    Attributes:
      vertices: float32 [P, 3].
      faces: int32 [F, 3] indices of vertices.
      face_rgb: uint8 [F, 3] sRGB, or None.
      vertex_rgb: uint8 [P, 3] sRGB, or None.
      uv: float32 [P, 2] texture coordinates, origin bottom-left, repeating; or None.
      face_texture: int32 [F] index into ``textures``, -1 for none; None where there are none.
      textures: uint8 pictures [h, w, 3], sRGB.

    Raises:
      ValueError: no faces, indices out of range, numbers that are not finite, shapes that do not fit,
        or a texture that is missing.
    """

    vertices: np.ndarray
    faces: np.ndarray
    face_rgb: np.ndarray | None = None
    vertex_rgb: np.ndarray | None = None
    uv: np.ndarray | None = None
    face_texture: np.ndarray | None = None
    textures: tuple[np.ndarray, ...] = ()

    def __post_init__(self):
        vertices, faces = np.asarray(self.vertices), np.asarray(self.faces)
        if vertices.ndim != 2 or vertices.shape[1] != 3:
            raise ValueError(f"vertices: expected shape [P, 3], found {list(vertices.shape)}")
        if faces.size == 0:
            raise ValueError(
                "faces: expected at least one, found none; a point cloud has no surface"
            )
        if faces.ndim != 2 or faces.shape[1] != 3 or not np.issubdtype(faces.dtype, np.integer):
            raise ValueError(
                f"faces: expected integers of shape [F, 3], found {faces.dtype} "
                f"{list(faces.shape)}; split larger polygons into triangles"
            )
        points, count = len(vertices), len(faces)
        if faces.min() < 0 or faces.max() >= points:
            raise ValueError(
                f"faces: indices must be in [0, {points}), found {faces.min()} to {faces.max()}"
            )
        self._set("vertices", (points, 3), np.float32)
        self._set("faces", (count, 3), np.int32)
        self._set("face_rgb", (count, 3), np.uint8)
        self._set("vertex_rgb", (points, 3), np.uint8)
        self._set("uv", (points, 2), np.float32)
        self._set("face_texture", (count,), np.int32)
        self._check_textures()

    def _set(self, name, shape, dtype):
        value = getattr(self, name)
        if value is None:
            return
        value = np.asarray(value)
        if value.shape != shape:
            raise ValueError(f"{name}: expected shape {list(shape)}, found {list(value.shape)}")
        if dtype == np.uint8 and value.dtype != np.uint8:
            raise ValueError(f"{name}: expected uint8, found {value.dtype}; scale to 0-255 first")
        value = np.ascontiguousarray(value, dtype)
        bad = 0 if dtype != np.float32 else int(np.sum(~np.isfinite(value).all(-1)))
        if bad:
            raise ValueError(f"{name}: {bad} of {len(value)} rows are not finite; repair the mesh")
        object.__setattr__(self, name, value)

    def _check_textures(self):
        object.__setattr__(self, "textures", tuple(self.textures))
        for k, picture in enumerate(self.textures):
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                raise ValueError(
                    f"textures[{k}]: expected uint8 [h, w, 3], found {picture.dtype} "
                    f"{list(picture.shape)}"
                )
        if self.textures and self.face_texture is None:
            object.__setattr__(self, "face_texture", np.zeros(len(self.faces), np.int32))
        if self.face_texture is None:
            return
        low, high = self.face_texture.min(), self.face_texture.max()
        if low < -1 or high >= len(self.textures):
            raise ValueError(
                f"face_texture: names texture {high if high >= 0 else low}, found "
                f"{len(self.textures)} textures (-1 means none)"
            )
        if high >= 0 and self.uv is None:
            raise ValueError("uv: faces have textures but the mesh has no texture coordinates")

    @property
    def area(self) -> float:
        """Of the surface, one side."""
        return float(np.linalg.norm(_cross(self.vertices, self.faces), axis=-1).sum() / 2)


def read(path: epath.PathLike) -> Mesh:
    """Reads a mesh; the extension tells the format.

    Args:
      path: .npz (local or remote), or a local .off, .obj, .glb, .gltf, .ply or .stl. Polygons are
        split into triangles; the parts of a scene become one mesh, in world coordinates.

    Raises:
      MeshFormatError: unknown extension, unreadable file, no faces, indices out of range, vertices
        that are not finite, or a texture that is missing.
      FileNotFoundError: there is no such file.
      ImportError: trimesh is needed and not installed.
    """
    path = epath.Path(path)
    suffix = path.suffix.lower()
    if suffix != ".npz" and suffix not in TRIMESH_FORMATS:
        raise MeshFormatError(
            f"path: unknown extension {suffix!r} of {path}; known are "
            f"{sorted((*TRIMESH_FORMATS, '.npz'))}"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return _read_npz(path) if suffix == ".npz" else _read_trimesh(path)
    except (ValueError, TypeError, OSError) as error:
        raise MeshFormatError(f"{path}: {error}") from error


def _read_npz(path) -> Mesh:
    arrays = npz.read(path)
    absent = [name for name in ("vertices", "faces") if name not in arrays]
    if absent:
        raise ValueError(f"lacks {', '.join(absent)}; found {sorted(arrays)}")
    known = {field.name for field in dataclasses.fields(Mesh)} - {"textures"}
    arrays = {name: value for name, value in arrays.items() if name in known}
    count = 0
    if "face_texture" in arrays and arrays["face_texture"].size:
        count = int(arrays["face_texture"].astype(np.int64).max()) + 1
    return Mesh(**arrays, textures=tuple(_picture_beside(path, k) for k in range(count)))


def _picture_beside(path, number: int) -> np.ndarray:
    names = [path.parent / f"{path.stem}_tex{number}{suffix}" for suffix in _PICTURES]
    found = next((name for name in names if name.exists()), None)
    if found is None:
        raise ValueError(
            f"texture {number} is missing: there is no {names[0].name} beside the file"
        )
    return picture_file.decoded(found.read_bytes(), found.name, "RGB")


def _read_trimesh(path) -> Mesh:
    try:
        import trimesh
    except ImportError as error:
        raise ImportError(
            f"reading {path.suffix} meshes needs trimesh: pip install 'gsjax[mesh]'"
        ) from error
    if path.suffix.lower() == ".obj":
        _check_obj_pictures(path)
    try:
        scene = trimesh.load_scene(str(path), process=False)
    except Exception as error:  # its parsers fail in many ways, IndexError among them
        raise ValueError(f"not a readable {path.suffix} file ({error!r})") from error
    parts = []
    for node in sorted(scene.graph.nodes_geometry):
        transform, name = scene.graph[node]
        geometry = scene.geometry[name]
        if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces):
            parts.append(_part(geometry, transform))
    if not parts:
        raise ValueError("no faces; a point cloud has no surface")
    return join(parts)


def _check_obj_pictures(path) -> None:
    """trimesh reads an OBJ without its textures where they are absent; here that is an error."""
    for library in _values(path, "mtllib"):
        library = path.parent / library
        if not library.exists():
            raise ValueError(f"material library {library.name} is missing")
        for picture in _values(library, "map_Kd"):
            name = picture.split()[-1] if picture.startswith("-") else picture
            if not (library.parent / name.replace("\\", "/")).exists():
                raise ValueError(f"texture {name} of {library.name} is missing")


def _values(path, key: str) -> list[str]:
    lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    words = [line.split(maxsplit=1) for line in lines]
    return [pair[1].strip() for pair in words if len(pair) == 2 and pair[0] == key]


def _part(geometry, transform: np.ndarray) -> Mesh:
    """One geometry of a trimesh scene."""
    vertices = np.asarray(geometry.vertices, np.float64)
    vertices = vertices @ transform[:3, :3].T + transform[:3, 3]
    faces, visual = np.asarray(geometry.faces), geometry.visual
    found = {}
    if visual.kind == "texture":
        picture, colour = _material(visual.material)
        if picture is not None and visual.uv is None:
            raise ValueError("uv: a part has a texture but no texture coordinates")
        if picture is not None:
            found = {"uv": np.asarray(visual.uv)[:, :2], "textures": (picture,)}
        else:
            found = {"face_rgb": np.tile(colour, (len(faces), 1))}
    elif visual.kind == "face":
        found = {"face_rgb": np.asarray(visual.face_colors, np.uint8)[:, :3]}
    elif visual.kind == "vertex":
        found = {"vertex_rgb": np.asarray(visual.vertex_colors, np.uint8)[:, :3]}
    return Mesh(vertices, faces, **found)


def _material(material) -> tuple[np.ndarray | None, np.ndarray]:
    """Picture (or None) and uint8 colour [3] of a trimesh material."""
    material = getattr(material, "materials", [material])[0]
    picture = getattr(material, "baseColorTexture", None)
    picture = getattr(material, "image", None) if picture is None else picture
    colour = np.asarray(material.main_color, np.uint8)[:3]
    if picture is None:
        return None, colour
    picture = np.asarray(picture.convert("RGB"))
    factor = getattr(material, "baseColorFactor", None)
    if factor is not None and np.any(colour < 255):
        # glTF 2.0, 3.9.2: the factor multiplies linear values, the picture is sRGB.
        linear = _to_linear(picture / 255) * (colour / 255.0)
        picture = np.round(_to_srgb(linear) * 255).astype(np.uint8)
    return picture, colour


def _to_linear(x):
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def _to_srgb(x):
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055)


def join(parts: list[Mesh], plain=(179, 179, 179)) -> Mesh:
    """One mesh of several; ``plain`` is the colour of parts without one where others have some.

    Corners' colours are kept as vertex colours where a part has those, so parts with colours per face
    get vertices of their own for every face.
    """
    if len(parts) == 1:
        return parts[0]
    if any(p.vertex_rgb is not None and p.face_rgb is None for p in parts):
        parts = [_with_vertex_colours(p, plain) for p in parts]
    coloured = {
        n: any(getattr(p, n) is not None for p in parts) for n in ("face_rgb", "vertex_rgb")
    }
    textured = any(p.textures for p in parts)
    lists = {name: [] for name in ("vertices", "faces", "face_rgb", "vertex_rgb", "uv", "texture")}
    points, pictures = 0, []
    for p in parts:
        none = np.full(len(p.faces), -1)
        number = none if p.face_texture is None else p.face_texture
        lists["vertices"].append(p.vertices)
        lists["faces"].append(p.faces + points)
        for name, size in (("face_rgb", len(p.faces)), ("vertex_rgb", len(p.vertices))):
            own = getattr(p, name)
            lists[name].append(np.tile(np.uint8(plain), (size, 1)) if own is None else own)
        lists["uv"].append(np.zeros((len(p.vertices), 2)) if p.uv is None else p.uv)
        lists["texture"].append(np.where(number < 0, -1, number + len(pictures)))
        points += len(p.vertices)
        pictures.extend(p.textures)
    whole = {name: np.concatenate(values) for name, values in lists.items()}
    return Mesh(
        whole["vertices"], whole["faces"],
        face_rgb=whole["face_rgb"] if coloured["face_rgb"] else None,
        vertex_rgb=whole["vertex_rgb"] if coloured["vertex_rgb"] else None,
        uv=whole["uv"] if textured else None,
        face_texture=whole["texture"] if textured else None,
        textures=tuple(pictures),
    )  # fmt: skip


def _with_vertex_colours(mesh: Mesh, plain) -> Mesh:
    """The same mesh with ``vertex_rgb`` and no ``face_rgb``."""
    if mesh.face_rgb is None:
        rgb = np.tile(np.uint8(plain), (len(mesh.vertices), 1))
        return mesh if mesh.vertex_rgb is not None else dataclasses.replace(mesh, vertex_rgb=rgb)
    corners = mesh.faces.reshape(-1)
    return dataclasses.replace(
        mesh,
        vertices=mesh.vertices[corners],
        faces=np.arange(len(corners)).reshape(-1, 3),
        face_rgb=None,
        vertex_rgb=np.repeat(mesh.face_rgb, 3, axis=0),
        uv=None if mesh.uv is None else mesh.uv[corners],
    )


def normalized(mesh: Mesh, how: str = "sphere") -> Mesh:
    """The mesh with the centre of its bounding box at the origin, scaled to a standard size.

    Vertices that no face uses count for nothing (scans and CAD files have strays).

    Args:
      mesh: any.
      how: 'sphere', largest distance from the centre 1; or 'box', longest side 1.

    Raises:
      ValueError: unknown ``how``, or all vertices coincide.
    """
    if how not in ("sphere", "box"):
        raise ValueError(f"how: expected 'sphere' or 'box', found {how!r}")
    used = mesh.vertices[np.unique(mesh.faces)].astype(np.float64)
    low, high = used.min(0), used.max(0)
    centre = (low + high) / 2
    radius = np.linalg.norm(used - centre, axis=-1).max()
    size = radius if how == "sphere" else (high - low).max()
    if not size > 0:
        raise ValueError("mesh: all vertices coincide; there is nothing to scale")
    return dataclasses.replace(mesh, vertices=(mesh.vertices - centre) / size)


def _cross(vertices, faces) -> np.ndarray:
    """Face normals [F, 3] float64, as long as twice the face's area."""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    return np.cross(b - a, c - a)


def sample_faces(
    vertices: np.ndarray, faces: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points on the faces, uniform by area.

    Faces are drawn systematically (one place in each of ``count`` equal slices of the area), which
    keeps the counts of neighbouring faces even.

    Returns:
      points [count, 3], unit normals [count, 3] (sign as the faces wind), face numbers [count],
      barycentric weights [count, 3].

    Raises:
      ValueError: the mesh has no area.
    """
    cross = _cross(vertices, faces)
    area = np.linalg.norm(cross, axis=-1)
    total = np.cumsum(area)
    if not len(area) or total[-1] <= 0:
        raise ValueError("mesh: there is no face with an area")
    places = (np.arange(count) + rng.random(count)) / count * total[-1]
    face = np.minimum(np.searchsorted(total, places, side="right"), len(area) - 1)
    # Uniform in a triangle: fold the unit square over its diagonal by a square root.
    root, t = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    a, b, c = (vertices[faces[face, k]].astype(np.float64) for k in range(3))
    points = (1 - root) * a + root * (1 - t) * b + root * t * c
    normals = cross[face] / np.maximum(area[face], 1e-20)[:, None]
    weights = np.concatenate((1 - root, root * (1 - t), root * t), -1)
    order = rng.permutation(count)
    return points[order], normals[order], face[order], weights[order]


def sample_surface(
    mesh: Mesh, num: int, seed: int, *, plain=(0.7, 0.7, 0.7)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points uniform by area with normals and colours.

    Args:
      mesh: any with an area.
      num: how many.
      seed: the same seed gives the same points.
      plain: colour where the mesh has none, in [0, 1].

    Returns:
      points [num, 3], unit normals [num, 3] (sign as the faces wind), rgb [num, 3] in [0, 1], all
      float32.

    Raises:
      ValueError: the mesh has no area, or num is below 1.
    """
    if num < 1:
        raise ValueError(f"num: expected at least 1, found {num}")
    rng = np.random.default_rng(seed)
    points, normals, face, weights = sample_faces(mesh.vertices, mesh.faces, num, rng)
    corners = mesh.faces[face]
    if mesh.face_rgb is not None:
        rgb = mesh.face_rgb[face] / 255
    elif mesh.vertex_rgb is not None:
        rgb = np.einsum("nk,nkc->nc", weights, mesh.vertex_rgb[corners] / 255)
    else:
        rgb = np.tile(np.asarray(plain, np.float64), (num, 1))
    if mesh.textures:
        uv = np.einsum("nk,nkc->nc", weights, mesh.uv[corners].astype(np.float64))
        number = mesh.face_texture[face]
        for k, picture in enumerate(mesh.textures):
            rgb[number == k] = bilinear(picture, uv[number == k])
    return tuple(x.astype(np.float32) for x in (points, normals, rgb))


def bilinear(picture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Colours [..., 3] in [0, 1] of a uint8 picture [h, w, 3] at uv [..., 2]; it repeats."""
    height, width = picture.shape[:2]
    x = (uv[..., 0] - np.floor(uv[..., 0])) * width - 0.5
    y = (1 - (uv[..., 1] - np.floor(uv[..., 1]))) * height - 0.5
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    tx, ty = (x - column)[..., None], (y - row)[..., None]

    def texel(down, right):
        return picture[(row + down) % height, (column + right) % width] / 255.0

    upper = (1 - tx) * texel(0, 0) + tx * texel(0, 1)
    lower = (1 - tx) * texel(1, 0) + tx * texel(1, 1)
    return (1 - ty) * upper + ty * lower
