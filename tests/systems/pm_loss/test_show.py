"""Pictures and clouds of runs: what stands where, and what is in the files."""

import numpy as np
import pytest
from PIL import Image

from gsjax.data import picture_sheet
from gsjax.io import formats, point_cloud
from gsjax.systems.pm_loss import show
from tests.evals import made_up_views as made_up


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(folder, examples, rows of each sheet) of two runs over two of three examples."""
    examples = [made_up.example(i, step=0.5) for i in range(3)]
    runs = {
        "none": show.Run(made_up.system(examples, error=0.1).predict_fns, {}),
        "PM": show.Run(made_up.system(examples, error=0.01, shift=0.0).predict_fns, {}),
    }
    folder, sheets, sheet = tmp_path_factory.mktemp("show") / "new", [], picture_sheet.sheet
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(show.picture_sheet, "sheet", lambda x, **o: sheets.append(x) or sheet(x, **o))
        show.write(examples, runs, folder, rows=2)
    return folder, examples, sheets


def test_rows_are_runs_and_columns_what_was_promised(written):
    folder, examples, (lines, _) = written
    assert [names for names, _ in lines] == [
        ["none", "number 0"], ["PM", "number 0"], ["none", "number 2"], ["PM", "number 2"],
    ]  # fmt: skip
    columns = [below for below, _ in lines[1][1]]
    assert [below[1] for below in columns[:4]] == ["context", "context", "truth", "40.0 dB"]
    assert [below[0] for below in columns[4:]] == [
        "depth", "depth", "error x 4", "enlarged", "enlarged",
    ]  # fmt: skip
    pictures = [picture for _, picture in lines[0][1]]
    np.testing.assert_array_equal(pictures[0], examples[0]["context_images"][0])
    np.testing.assert_array_equal(pictures[1], examples[0]["context_images"][1])
    np.testing.assert_array_equal(pictures[2], examples[0]["target_images"][0])
    assert np.abs(pictures[3].astype(int) - pictures[2] - 25.5).max() <= 1
    assert np.abs(pictures[6].astype(int) - 102).max() <= 1  # 4 x 0.1
    image = Image.open(folder / "novel_views.png")
    # 20 x 24 pixels eightfold, nine panels; four rows.
    assert image.width == 96 + 9 * 196 and image.height == 4 * (160 + 36) + 4


def test_the_enlarged_part_shows_the_jump(written):
    _, examples, (lines, _) = written
    truth = lines[0][1][7][1]
    # The window has 5 x 6 pixels, each fourfold; the jump is between columns 11 and 12.
    row = examples[0]["target_images"][0]
    matches = [
        (i, j)
        for i in range(16)
        for j in range(19)
        if np.array_equal(truth[::4, ::4], row[i : i + 5, j : j + 6])
    ]
    assert len(matches) == 1 and matches[0][1] <= 11 < matches[0][1] + 6
    assert all(np.array_equal(truth[::4, ::4], truth[k::4, k::4]) for k in range(1, 4))


def test_clouds_lie_in_files_that_viewers_read(written):
    folder, examples, (_, clouds) = written
    count = 2 * made_up.SIZE[0] * made_up.SIZE[1]
    points, colors = point_cloud.read(folder / "0_true_points.ply")
    assert points.shape == (count, 3) and len(np.unique(np.round(points[:, 2], 4))) == 2
    np.testing.assert_array_equal(colors, examples[0]["context_images"].reshape(-1, 3))
    drawn, grey = point_cloud.read(folder / "0_none_points.ply")
    # The transparent floater is not among them.
    np.testing.assert_allclose(drawn, points + np.array([0, 0, 0.05]), atol=1e-5)
    assert (grey == 128).all()
    scene = formats.load_gaussians(folder / "2_PM_gaussians.ply")
    assert scene["means"].shape == (count, 3)
    np.testing.assert_allclose(scene["log_scales"], np.log(0.01), rtol=1e-5)
    names = [[below[0] for below, _ in panels] for _, panels in clouds]
    assert names == [["truth", "none", "PM"]] * 2


def test_depth_colours_are_even_in_inverse_depth_and_black_where_unknown():
    depth = np.array([[1.0, 2.0, 4.0 / 3, 0.0, 0.5, 9.0]])
    colours = show.coloured(depth, 1.0, 2.0)[0].tolist()
    assert colours[0] == [253, 231, 37] and colours[1] == [68, 1, 84] and colours[3] == [0, 0, 0]
    assert colours[2] == [33, 145, 140]  # half way: 1 / 1.333 = 0.75
    assert colours[4] == colours[0] and colours[5] == colours[1]
    assert show.depth_range(np.zeros((2, 2))) == (1.0, 2.0)


def test_the_busiest_window_is_that_of_the_loop():
    weight = np.random.default_rng(0).random((17, 26))
    height, width = 4, 6
    sums = {
        (i, j): weight[i : i + height, j : j + width].sum()
        for i in range(17 - height + 1)
        for j in range(26 - width + 1)
    }
    assert show.busiest(weight) == max(sums, key=sums.get)


def test_near_dots_hide_far_ones_and_what_is_behind_is_not_drawn():
    points = np.array([[0, 0, 1.0], [0, 0, 2], [0.3, 0, 1], [0, 0, -1], [9, 0, 1]])
    colours = np.uint8([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9], [8, 8, 8]])
    picture = show.dots(points, colours, np.eye(4), side=20)
    assert (picture[10:12, 10:12] == [255, 0, 0]).all()
    # 0.3 times the focal length of 17.3 pixels: 5.2 to the right.
    assert (picture[10:12, 15:17] == [0, 0, 255]).all()
    assert (picture != 255).any(-1).sum() == 8


def test_clouds_are_seen_from_above_and_beside_with_their_middle_in_the_picture():
    rng = np.random.default_rng(0)
    viewmat = np.asarray(made_up.example(0)["context_viewmats"][0], np.float64)
    points = np.array([1.0, 2.0, 5.0]) + 0.1 * rng.normal(size=(501, 3))
    view = show.aside(points, viewmat)
    np.testing.assert_allclose(view[:3, :3] @ view[:3, :3].T, np.eye(3), atol=1e-5)
    middle = view[:3, :3] @ np.median(points, 0) + view[:3, 3]
    np.testing.assert_allclose(middle[:2], 0, atol=1e-4)
    eye = viewmat[:3, :3] @ (-view[:3, :3].T @ view[:3, 3]) + viewmat[:3, 3]
    assert eye[0] > 1 and eye[1] < -1 and middle[2] > 1  # y points down


def test_a_run_without_opaque_gaussians_or_true_depth_still_has_pictures(tmp_path):
    example = made_up.example(0)
    fns = dict(made_up.system([example]).predict_fns)
    shown = {k: v for k, v in example.items() if not k.endswith("_depths")}

    def render(variables, batch):
        truth = batch["target_images"] / 255.0
        return dict(images=truth, depths=truth[..., 0] * 0, alphas=truth[..., 0] * 0)

    def gaussians(variables, batch):
        ones = np.ones((1, 3), np.float32)
        return dict(
            means=ones[None], scales=ones[None], sh=ones[None, :, None], quats=np.ones((1, 1, 4)),
            opacities=np.zeros((1, 1)),
        )  # fmt: skip

    fns |= dict(render=render, gaussians=gaussians)
    show.write([shown], {"": show.Run(fns, {})}, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"novel_views.png", "clouds.png"}
