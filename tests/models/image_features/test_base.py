import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models.image_features import base


def test_kinds_are_the_files_of_the_folder():
    assert base.names() == ["autoencoder", "efficientnet", "random_conv", "rgb", "sd_vae"]


@pytest.mark.parametrize(
    "spec, expected",
    [
        ("rgb", ("rgb", "", {})),
        ("random_conv?seed=3", ("random_conv", "", {"seed": "3"})),
        ("efficientnet?stage=2,3", ("efficientnet", "", {"stage": "2,3"})),
        (
            "sd_vae:a/b.c?range=-1..1&dtype=bfloat16",
            ("sd_vae", "a/b.c", {"range": "-1..1", "dtype": "bfloat16"}),
        ),
        ("autoencoder:gs://b/x.npz", ("autoencoder", "gs://b/x.npz", {})),
    ],
)
def test_a_spec_has_kind_path_and_options(spec, expected):
    assert base.split_spec(spec) == expected


@pytest.mark.parametrize(
    "spec, message",
    [
        ("resnet", "kind 'resnet'; known: autoencoder, efficientnet"),
        ("base", "kind 'base'; known"),
        ("rgb?band=3", r"unknown options \['band'\]; known: bands"),
        ("autoencoder?seed=1", r"unknown options \['seed'\]; known: none"),
        ("rgb?bands", "not of the form OPTION=VALUE"),
        ("rgb?bands=two", "bands='two'; expected a whole number from 0 to 12"),
        ("rgb?bands=13", "bands='13'"),
        ("rgb:file", "takes no file, found 'file'"),
        ("", "not of the form KIND"),
        ("random_conv?seed=-1", "seed='-1'"),
        ("efficientnet?stage=8", "stage='8'; expected numbers from 1 to 7"),
        ("efficientnet?stage=2,", "stage='2,'"),
        ("efficientnet", "pass open_state_dict"),
        ("sd_vae", "needs a file"),
        ("sd_vae:x?range=0..2", "range='0..2'; known: -1..1, 0..1"),
        ("sd_vae:x?dtype=half", "dtype='half'; known: float32, bfloat16"),
        ("sd_vae:x", "pass open_state_dict"),
        ("autoencoder:nowhere.npz", "no weight file nowhere.npz"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_is_known(spec, message):
    with pytest.raises(ValueError, match=message):
        base.load(spec)


def test_padding_repeats_the_border_and_crop_takes_it_off():
    images = jnp.arange(2 * 3 * 5 * 3.0).reshape(2, 3, 5, 3)
    wide = base.pad(images, 4)
    assert wide.shape == (2, 4, 8, 3)
    np.testing.assert_array_equal(wide[:, 3, :5], images[:, 2])
    np.testing.assert_array_equal(wide[:, :3, 7], images[:, :, 4])
    np.testing.assert_array_equal(base.crop(wide, images), images)
    assert base.pad(images[:, :, :4], 1).shape == (2, 3, 4, 3)


def test_images_of_other_shapes_and_types_are_refused():
    for wrong in (jnp.zeros((4, 4, 3)), jnp.zeros((1, 4, 4, 4)), jnp.zeros((1, 0, 4, 3))):
        with pytest.raises(ValueError, match=r"expected \[B, H, W, 3\]"):
            base.check_images(wrong)
    with pytest.raises(ValueError, match="divide by 255"):
        base.check_images(jnp.zeros((1, 4, 4, 3), jnp.uint8))


def test_digests_tell_kind_settings_and_weights_apart():
    a = {"x": {"kernel": np.ones((2, 2), np.float32)}}
    b = {"x": {"kernel": np.ones((2, 2), np.float32) + 1e-6}}
    one = base.digest("rgb", {"bands": 1}, a)
    assert one == base.digest("rgb", {"bands": 1}, {"x": {"kernel": jnp.ones((2, 2))}})
    others = [
        base.digest("rgb", {"bands": 2}, a),
        base.digest("rgb2", {"bands": 1}, a),
        base.digest("rgb", {"bands": 1}, b),
    ]
    assert len({one, *others}) == 4
