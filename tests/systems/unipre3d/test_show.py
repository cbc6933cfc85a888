"""The picture of a run: which objects and views, what stands where."""

import numpy as np
import pytest
from PIL import Image

from gsjax.data import picture_sheet
from gsjax.systems.unipre3d import data, scene_data, show
from tests.systems.unipre3d import tiny, tiny_scene


class Rows(list):
    """A split that notes which examples are read."""

    def __init__(self, rows):
        super().__init__(rows)
        self.read = []

    def __getitem__(self, i):
        self.read.append(i)
        return super().__getitem__(i)


def source_of(rows, **facts):
    return data.Source(train=lambda: rows, evaluate=lambda split: rows, **facts)


def flat_example(index, views=4, height=6, width=8):
    """Pictures whose every pixel tells object and view."""
    shade = 10 * index + np.arange(views)
    images = np.broadcast_to(shade[:, None, None, None] / 255, (views, height, width, 3))
    alpha = np.ones((views, height, width), np.float32)
    return dict(index=np.int32(index), category=np.int32(index % 2), images=images, alpha=alpha)


def off_by_a_tenth(variables, batch):
    target = batch["images"]
    return dict(image=target + variables["error"], target=target, target_alpha=batch["alpha"])


def drawn(tmp_path, examples, references=1, error=0.1, **options):
    source = options.pop("source", None) or source_of(Rows(examples), class_names=("cup", "jug"))
    show.write(
        source, off_by_a_tenth, references, {"error": np.float32(error)}, tmp_path, **options
    )
    return np.asarray(Image.open(tmp_path / "novel_views.png").convert("RGB"))


def places(picture, shade):
    """(top, left) of the pictures in that grey, in reading order."""
    same = (picture == round(shade)).all(-1)
    rows, columns = np.nonzero(same)
    starts = [
        (r, c)
        for r, c in zip(rows, columns, strict=True)
        if not same[r - 1, c] and not same[r, c - 1] and same[r : r + 60, c : c + 60].all()
    ]
    return sorted(starts)


def test_truth_stands_left_of_its_rendering_and_the_reference_first(tmp_path):
    picture = drawn(tmp_path, [flat_example(0), flat_example(2), flat_example(4)], targets=2)
    before = -1
    # Views 1 and 3 of (0, 1, 2, 3): the first and the last of the supervised ones.
    for index in (0, 2, 4):
        lefts, tops = [], []
        for shade in (0, 1, 1 + 25.5, 3, 3 + 25.5):
            found = places(picture, 10 * index + shade)
            assert len(found) == 1, (index, shade)
            tops.append(found[0][0])
            lefts.append(found[0][1])
        assert lefts == sorted(lefts) and len(set(tops)) == 1
        assert tops[0] > before
        before = tops[0]
        assert not places(picture, 10 * index + 2)


def test_objects_are_spread_over_the_split_and_always_the_same(tmp_path):
    rows = Rows([flat_example(i) for i in range(11)])
    source = source_of(rows, class_names=("cup", "jug"), uids=lambda split: list("abcdefghijk"))
    first = drawn(tmp_path, None, source=source, rows=3)
    assert rows.read == [0, 5, 10]
    np.testing.assert_array_equal(drawn(tmp_path, None, source=source, rows=3), first)
    few = Rows(rows[:2])
    drawn(tmp_path, None, source=source_of(few, class_names=("cup", "jug")), rows=3)
    assert few.read == [0, 1]


def test_without_fusion_there_is_no_reference_column(tmp_path):
    rows = [flat_example(3)]
    fused, bare = (drawn(tmp_path, rows, references=r, targets=1) for r in (1, 0))
    assert fused.shape[0] == bare.shape[0] and fused.shape[1] > bare.shape[1] + 80
    assert len(places(bare, 30)) == 1 and len(places(bare, 30 + 25.5)) == 1


def test_names_and_scores_are_written(monkeypatch, tmp_path):
    written = []
    pen = type("Pen", (), {"text": lambda self, place, text, fill: written.append(text)})
    monkeypatch.setattr(picture_sheet.ImageDraw, "Draw", lambda image: pen())
    drawn(tmp_path, [flat_example(1)], targets=1)
    assert {"jug", "1", "reference", "view 1 of 1", "truth", "drawn, 20.0 dB"} <= set(written)


@pytest.mark.slow
def test_the_systems_own_picture_at_object_level(tmp_path):
    built = tiny.system()
    built.show(tiny.variables(built), tmp_path / "pictures")
    picture = Image.open(tmp_path / "pictures" / "novel_views.png")
    # name, reference and two targets of 16 pixels sevenfold, truth and rendering; six of eight objects
    assert picture.width == 96 + 5 * 116 and picture.height == 6 * (112 + 36) + 4
    pixels = np.asarray(picture.convert("RGB"))
    example = built.eval_data("test")[0]
    image = example["images"][0]
    expected = np.round(image[..., :3] * (image[..., 3:] / 255.0)).astype(np.uint8)
    shown = pixels[4 : 4 + 112, 96 : 96 + 112][3::7, 3::7]
    assert np.abs(shown.astype(int) - expected).max() <= 1


@pytest.mark.slow
def test_the_systems_own_picture_of_scenes(tmp_path, monkeypatch):
    built = tiny_scene.system(monkeypatch)
    built.show(tiny.variables(built), tmp_path)
    picture = np.asarray(Image.open(tmp_path / "novel_views.png").convert("RGB"))
    example = built.eval_data("test")[0]
    shown = picture[4 : 4 + 84, 96 : 96 + 112][3::7, 3::7]
    np.testing.assert_array_equal(shown, example["images"][0])
    # Cells of names and captions are not white alone, and the right-most rendering is there.
    assert (picture[:40, :96] < 128).any() and (picture[4 : 4 + 84, -116:-4] < 250).any()
    assert show._names(scene_data.load(tiny_scene.config()), "test", example, 0) == ["scene", "8"]
