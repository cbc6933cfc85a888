"""The 32-byte .splat format, and choosing a format by extension."""

import subprocess
import sys

import numpy as np
import pytest

from gsjax.core import gaussians
from gsjax.io import formats, records, splat


def _scene(n=40, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "means": rng.normal(size=(n, 3)).astype(np.float32),
        "quats": rng.normal(size=(n, 4)).astype(np.float32),
        "log_scales": rng.normal(size=(n, 3)).astype(np.float32),
        "logit_opacities": rng.normal(size=n).astype(np.float32),
        "sh": rng.uniform(-1.7, 1.7, (n, 1, 3)).astype(np.float32),
    }


def _row(means=(1, 2, 3), scales=(0.1, 0.2, 0.3), rgba=(255, 0, 51, 204), quats=(255, 128, 0, 128)):
    parts = np.array([*means, *scales], "<f4").tobytes()
    return parts + bytes(rgba) + bytes(quats)


def test_a_row_by_hand(tmp_path):
    path = tmp_path / "a.splat"
    path.write_bytes(_row())
    found = splat.read(path)
    np.testing.assert_array_equal(found["means"], [[1, 2, 3]])
    np.testing.assert_allclose(np.exp(found["log_scales"]), [[0.1, 0.2, 0.3]], rtol=1e-5)
    colour = found["sh"][0, 0] * records.SH_C0 + 0.5
    np.testing.assert_allclose(colour, [1, 0, 0.2], atol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-found["logit_opacities"])), [0.8], rtol=1e-5)
    expected = np.array([127, 0, -128, 0]) / np.hypot(127, 128)
    np.testing.assert_allclose(found["quats"][0], expected, rtol=1e-5)
    assert all(value.dtype == np.float32 for value in found.values())


def test_round_trip_is_exact_to_the_stored_bits(tmp_path):
    path = tmp_path / "a.splat"
    splat.write(path, _scene())
    found, scene = splat.read(path), _scene()
    np.testing.assert_array_equal(found["means"], scene["means"])
    np.testing.assert_allclose(found["log_scales"], scene["log_scales"], atol=1e-5)
    np.testing.assert_allclose(found["sh"], scene["sh"], atol=0.51 / 255 / records.SH_C0)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    np.testing.assert_allclose(
        sigmoid(found["logit_opacities"]), sigmoid(scene["logit_opacities"]), atol=0.51 / 255
    )
    unit = scene["quats"] / np.linalg.norm(scene["quats"], axis=1, keepdims=True)
    np.testing.assert_allclose(found["quats"], unit, atol=0.02)


def test_extreme_opacity_bytes_stay_finite_and_survive(tmp_path):
    path, again = tmp_path / "a.splat", tmp_path / "b.splat"
    path.write_bytes(_row(rgba=(0, 0, 0, 0)) + _row(rgba=(0, 0, 0, 255)))
    found = splat.read(path)
    assert np.isfinite(found["logit_opacities"]).all()
    splat.write(again, found)
    assert [again.read_bytes()[27], again.read_bytes()[59]] == [0, 255]


def test_zero_quaternion_is_the_identity(tmp_path):
    path = tmp_path / "a.splat"
    path.write_bytes(_row(quats=(128, 128, 128, 128)))
    assert splat.read(path)["quats"].tolist() == [[1, 0, 0, 0]]
    splat.write(path, {**splat.read(path), "quats": np.zeros((1, 4))})
    assert splat.read(path)["quats"].tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize("name", ["torus", "bob", "spot", "stanford_bunny"])
def test_real_quaternions_are_w_first(gsjax_data, name):
    """The thin axis of a disc is the normal of the surface through its neighbours' centres."""
    scene = splat.read(gsjax_data / "splats" / "10k" / f"{name}_10k.splat")
    means, quats = scene["means"].astype(np.float64), scene["quats"].astype(np.float64)

    def agreement(wxyz):
        cosines = []
        for i in range(0, len(means), 50):
            near = np.argsort(np.sum((means - means[i]) ** 2, axis=1))[:12]
            normal = np.linalg.svd(means[near] - means[near].mean(axis=0))[2][2]
            w, u = wxyz[i, 0], wxyz[i, 1:]
            axis = np.eye(3)[scene["log_scales"][i].argmin()]
            turned = axis + 2 * np.cross(u, np.cross(u, axis) + w * axis)
            cosines.append(abs(turned @ normal))
        return np.median(cosines)

    assert agreement(quats) > 0.99
    assert agreement(np.roll(quats, 1, axis=1)) < 0.9  # as if the file held x y z w


def test_real_files_are_rewritten_within_one_step(gsjax_data, tmp_path):
    paths = sorted((gsjax_data / "splats" / "10k").glob("*.splat"))
    paths += [gsjax_data / "splats" / "captures" / "academic_tarot_cards.splat"]
    assert len(paths) == 28
    for source in paths:
        scene = formats.load_gaussians(source)
        assert scene["means"].shape == (source.stat().st_size // 32, 3)
        formats.save_gaussians(tmp_path / "copy.splat", scene)
        before, after = (
            np.fromfile(p, np.uint8).reshape(-1, 32) for p in (source, tmp_path / "copy.splat")
        )
        np.testing.assert_array_equal(before[:, :12], after[:, :12])
        scales = [np.ascontiguousarray(x[:, 12:24]).view("<f4") for x in (before, after)]
        np.testing.assert_allclose(*scales, rtol=2e-6)
        np.testing.assert_array_equal(before[:, 24:28], after[:, 24:28])
        # The stored quaternions are not exactly of unit length; a byte may move by one.
        assert np.abs(before[:, 28:].astype(int) - after[:, 28:]).max() <= 1


def test_wrong_size(tmp_path):
    path = tmp_path / "a.splat"
    path.write_bytes(_row() + _row()[:-1])
    with pytest.raises(records.SplatFormatError, match="63 bytes is no multiple of 32"):
        splat.read(path)


def test_zero_gaussians(tmp_path):
    path = tmp_path / "a.splat"
    path.write_bytes(b"")
    with pytest.raises(records.SplatFormatError, match="zero Gaussians"):
        splat.read(path)


def test_a_ply_under_this_name(tmp_path):
    path = tmp_path / "a.splat"
    path.write_bytes(b"ply\nformat ascii 1.0\nend_header\n")
    with pytest.raises(records.SplatFormatError, match="this is a PLY file"):
        splat.read(path)


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"means": (np.nan, 0, 0)}, "1 with NaN or infinite means, first at row 1"),
        ({"scales": (0.1, -1, 0.1)}, "NaN or infinite log_scales"),
        ({"scales": (0.1, 0, 0.1)}, "NaN or infinite log_scales"),
        ({"scales": (1e30, 1, 1)}, "absurd scales"),
    ],
)
def test_bad_rows_are_refused_or_dropped(tmp_path, bad, message):
    path = tmp_path / "a.splat"
    path.write_bytes(_row() + _row(**bad) + _row(means=(4, 5, 6)))
    with pytest.raises(records.SplatFormatError, match=message):
        formats.load_gaussians(path)
    found, dropped = formats.load_gaussians_counted(path, on_bad_rows="drop")
    assert dropped == 1 and found["means"].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_view_dependent_colour_is_not_lost_silently(tmp_path):
    scene = {**_scene(), "sh": np.zeros((40, 4, 3))}
    path = tmp_path / "a.splat"
    with pytest.raises(ValueError, match="sh: .splat holds degree 0 only, found K = 4"):
        formats.save_gaussians(path, scene)
    formats.save_gaussians(path, scene, drop_sh=True)
    assert formats.load_gaussians(path)["sh"].shape == (40, 1, 3)


def test_the_record_is_a_raw_gaussians_and_back(tmp_path):
    for suffix in (".ply", ".splat", ".PLY"):
        path = tmp_path / f"a{suffix}"
        formats.save_gaussians(path, gaussians.RawGaussians(**_scene()))
        raw = gaussians.RawGaussians(**formats.load_gaussians(path)).check()
        assert raw.num == 40 and raw.sh_degree == 0


def test_unknown_extension_lists_the_known(tmp_path):
    with pytest.raises(ValueError, match=r"'.ksplat'.*known are \[.*'.ply', '.splat', '.spz'\]"):
        formats.load_gaussians(tmp_path / "a.ksplat")


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.splat"
    splat.write(path, _scene(3))
    before = path.read_bytes()

    def broken(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(type(records.epath.Path(tmp_path)), "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        splat.write(path, _scene(4))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.splat"]


def test_reading_does_not_import_jax():
    code = "import sys, gsjax.io.formats; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
