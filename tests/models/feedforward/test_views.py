"""Choice of neighbours."""

import numpy as np
import pytest

from gsjax.models.feedforward import views
from tests.models.feedforward import case


def _c2ws(centers):
    centers = np.asarray(centers, np.float32)
    return case.poses(np.zeros_like(centers), centers)[None].astype(np.float32)


def test_neighbours_are_the_nearest_centres_and_never_the_view_itself():
    line = _c2ws([[0, 0, 0], [1, 0, 0], [3, 0, 0], [3.5, 0, 0]])
    assert views.neighbours(line, 2)[0].tolist() == [[1, 2], [0, 2], [3, 1], [2, 1]]
    same = _c2ws(np.zeros((4, 3)))
    found = np.asarray(views.neighbours(same, 2)[0])
    assert all(i not in row for i, row in enumerate(found))


def test_few_views_are_all_neighbours_in_cyclic_order():
    expected = [[1, 2], [2, 0], [0, 1]]
    for count in (None, 2, 5):
        assert views.neighbours(_c2ws(np.eye(3)), count)[0].tolist() == expected


def test_too_few_views_and_counts_are_refused():
    with pytest.raises(ValueError, match="at least 2 posed pictures, found 1"):
        views.neighbours(_c2ws([[0, 0, 0]]), None)
    with pytest.raises(ValueError, match="count: expected 1 to 3 of 4 views, found 0"):
        views.neighbours(_c2ws(np.zeros((4, 3))), 0)


def test_views_are_gathered_by_example():
    x = np.arange(6.0).reshape(2, 3, 1)
    index = np.asarray([[[1], [0], [0]], [[2], [2], [1]]])
    assert views.take_views(x, index)[..., 0, 0].tolist() == [[1, 0, 0], [5, 5, 4]]
