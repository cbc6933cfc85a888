"""What the kernel backends share, without their kernels; the common suite runs the rest."""

from gsjax.raster.blend import kernel_passes


def test_parts_cover_all_channels_and_none_is_too_wide():
    for channels in (1, 3, 32, 33, 64, 65, 100, 512):
        parts = kernel_passes.parts(channels, 32)
        assert [p.stop for p in parts[:-1]] == [p.start for p in parts[1:]]
        assert (parts[0].start, parts[-1].stop) == (0, channels)
        sizes = [p.stop - p.start for p in parts]
        assert max(sizes) <= 32 and max(sizes) - min(sizes) <= 1


def test_default_capacity_is_bounded_by_what_can_be_needed():
    most = 2**24
    assert kernel_passes.default_capacity(1, 3, 4, most) == 12
    assert kernel_passes.default_capacity(1, 10**6, 8160, most) == 8 * 10**6 + 64 * 8160
    assert kernel_passes.default_capacity(64, 10**7, 8160, most) == most // 64
