"""``gsjax convert``: what it writes can be used, what it prints is right, bad files end in one line."""

import dataclasses
import json
import os
import pickle
import shlex
import weakref
import zipfile

import ml_dtypes
import numpy as np
import pytest

from gsjax.cli import main
from gsjax.io import archive, weights
from gsjax.models import bpe, clip_presets, eva_presets, eva_towers, towers
from tests.models import clip_case, eva_case
from tests.systems.clip_gs import uni3d_case

CLIP = dataclasses.replace(clip_case.CONFIG, vocabulary=bpe.VOCABULARY)
CASE = dict(uni3d_case.SMALL, mlp="swiglu_norm", fused=False)


@pytest.fixture(autouse=True)
def _commands(monkeypatch):
    monkeypatch.setattr(main, "COMMANDS", ("convert",))  # imports no other
    monkeypatch.setitem(towers.FOREIGN, "evaclip", eva_towers.__name__)


def _convert(capsys, *arguments):
    """(exit status, standard output, standard error)."""
    status = main.run(["convert", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def _file(folder, arrays, name="weights.safetensors"):
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    numpy.save_file(arrays, str(folder / name))
    return folder / name


def _small_pair(monkeypatch):
    """A published size as small as ``eva_case``'s."""
    image = eva_presets.eva.EvaConfig(6, 12, 4, 16, 2, 2, 20)
    monkeypatch.setitem(eva_presets.PRESETS, "small", eva_presets.pair(image, 8, 1, 2))


def test_uni3d_becomes_an_archive_and_the_report_names_everything(tmp_path, capsys):
    sd = uni3d_case.state_dict(**CASE)
    out = tmp_path / "made/uni3d.npz"
    source = _file(tmp_path, {f"module.{key}": value for key, value in sd.items()})
    status, text, _ = _convert(
        capsys, "uni3d", source, "--out", out, "--heads", 2, "--licence", "MIT"
    )
    assert status == 0
    stored = archive.read(out)
    assert stored.kind == "clip_gs"
    assert stored.config["heads"] == 2 and stored.config["enc_hidden"] == [8, 12, 20]
    assert stored.notes["licence"] == "MIT"
    used = {key: x for key, x in sd.items() if "num_batches" not in key}
    used = {
        key: x
        for key, x in used.items()
        if not any(p in key for p in ("visual.patch_embed", "visual.cls", "visual.pos"))
    }
    parameters = sum(x.size for key, x in used.items() if "running_" not in key)
    assert sum(x.size for x in stored.arrays.values()) == sum(x.size for x in used.values())
    assert f"{parameters:,} parameters" in text and "licence: MIT" in text
    assert "point_encoder.visual.patch_embed.proj.weight" in text
    assert "params/encoder/gaussian_branch/order_scale" in text
    assert stored.digest[:16] in text
    bias = stored.arrays["params/encoder/visual/blocks_1/mlp/fc1_x/bias"]
    np.testing.assert_array_equal(bias, sd["point_encoder.visual.blocks.1.mlp.fc1_x.bias"])


def test_uni3d_in_bfloat16_without_its_projection(tmp_path, capsys):
    source = _file(tmp_path, uni3d_case.state_dict(**CASE))
    out = tmp_path / "uni3d.npz"
    status, text, _ = _convert(
        capsys, "uni3d", source, "--out", out, "--heads", 2, "--dtype", "bfloat16",
        "--without", "trans2embed/",
    )  # fmt: skip
    stored = archive.read(out)
    assert status == 0 and "left out: 2" in text
    assert {x.dtype for x in stored.arrays.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert not any("trans2embed" in path for path in stored.arrays)
    with zipfile.ZipFile(out) as files:
        assert all(name.endswith(".npy") for name in files.namelist())


@pytest.mark.parametrize("naming", ["timm", "original"])
def test_towers_are_checked_and_written_without_what_is_unused(
    tmp_path, capsys, monkeypatch, naming
):
    _small_pair(monkeypatch)
    sd = eva_case.state_dict(naming=naming)
    source, out = _file(tmp_path, sd), tmp_path / "small.safetensors"
    status, text, _ = _convert(
        capsys, "evaclip", source, "--out", out, "--dtype", "bfloat16", "--licence", "MIT"
    )
    assert status == 0 and "small (evaclip), D = 6" in text and "licence: MIT" in text
    unused = {key for key in sd if "rope" in key}
    assert len(unused) == (2 if naming == "original" else 0)
    assert f"unused keys of the file: {len(unused)}" in text
    stored = weights.read_state_dict(out)
    assert stored.keys() == sd.keys() - unused
    assert {x.dtype for x in stored.values()} == {np.dtype(ml_dtypes.bfloat16)}
    again = towers.load(f"evaclip:{out}?dtype=bfloat16", weights.open_state_dict)
    first = towers.load(f"evaclip:{source}?dtype=bfloat16", weights.open_state_dict)
    assert again.digest == first.digest


def _clip_folder(folder, kind, licence=None):
    """Weights of a small pair, its config file beside them."""
    folder.mkdir()
    state = clip_case.openclip_state(CLIP)
    if kind == "openclip":
        image = dict(image_size=24, head_width=16)
        model = dict(embed_dim=12, vision_cfg=image, text_cfg=dict(heads=3))
        pixels = dict(mean=[0.5] * 3, std=[0.25] * 3, resize_mode="squash")
        files = {"open_clip_config.json": dict(model_cfg=model, preprocess_cfg=pixels)}
    else:
        state = clip_case.hf_state(state)
        sides = [dict(num_attention_heads=heads) for heads in (2, 3)]
        files = {"config.json": dict(vision_config=sides[0], text_config=sides[1])}
        files["preprocessor_config.json"] = dict(image_mean=[0.5] * 3, image_std=[0.25] * 3)
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value | (dict(licence=licence) if licence else {})))
    state = {key: np.array(value, order="C") for key, value in state.items()}
    return _file(folder, state)


def _printed_spec(text):
    return shlex.split(text.split("load it as ")[1])[0]


@pytest.mark.parametrize("kind", ["openclip", "hf_clip"])
def test_the_printed_spec_loads_the_same_towers(tmp_path, capsys, kind):
    source = _clip_folder(tmp_path / "in", kind)
    out = tmp_path / "out/clip.safetensors"
    status, text, _ = _convert(
        capsys, kind, source, "--out", out, "--licence", "CC BY 4.0 & others"
    )
    assert status == 0
    spec = _printed_spec(text)
    assert spec.startswith(f"{kind}:{out}?")
    first = towers.load(f"{kind}:{source}", weights.open_state_dict)
    again = towers.load(spec, weights.open_state_dict)
    assert (again.digest, again.preprocessing) == (first.digest, first.preprocessing)
    assert "std (0.25, 0.25, 0.25)" in again.preprocessing
    assert again.licence == "CC BY 4.0 & others"
    bare = towers.load(f"{kind}:{out}", weights.open_state_dict)
    assert (bare.digest, bare.licence) == (first.digest, again.licence)  # of the config file
    stored, wanted = weights.read_state_dict(out), weights.read_state_dict(source)
    assert stored.keys() == {key for key in wanted if "position_ids" not in key}
    for key, value in stored.items():
        assert value.dtype == wanted[key].dtype
        np.testing.assert_array_equal(value, wanted[key])


def test_a_named_architecture_needs_no_file_beside_the_weights(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(clip_presets.PRESETS, "tiny", CLIP)
    source = _clip_folder(tmp_path / "in", "openclip")
    (source.parent / "open_clip_config.json").unlink()
    out = tmp_path / "clip.safetensors"
    status, text, _ = _convert(
        capsys, "openclip", source, "--out", out, "--arch", "tiny", "--licence", "MIT"
    )
    assert status == 0 and f"written: {tmp_path}/open_clip_config.json" in text
    spec = _printed_spec(text)
    assert spec == f"openclip:{out}?arch=tiny&licence=MIT"
    (tmp_path / "open_clip_config.json").unlink()
    first = towers.load(f"openclip:{source}?arch=tiny", weights.open_state_dict)
    again = towers.load(spec, weights.open_state_dict)
    assert (again.digest, again.licence) == (first.digest, "MIT")


def test_config_files_of_other_towers_are_never_overwritten(tmp_path, capsys):
    source = _clip_folder(tmp_path / "in", "openclip", licence="MIT")
    # Beside the source: the file there says the same in other words, and stays.
    text = (tmp_path / "in/open_clip_config.json").read_text()
    status, out, _ = _convert(
        capsys, "openclip", source, "--out", tmp_path / "in/half.safetensors", "--dtype", "bfloat16"
    )
    assert status == 0 and f"kept as it is: {tmp_path}/in/open_clip_config.json" in out
    assert "licence: MIT" in out
    assert (tmp_path / "in/open_clip_config.json").read_text() == text
    for other in (
        text.replace('"heads": 3', '"heads": 4'),
        text.replace("squash", "shortest"),
        "{",
    ):
        (tmp_path / "open_clip_config.json").write_text(other)
        status, out, err = _convert(
            capsys, "openclip", source, "--out", tmp_path / "clip.safetensors"
        )
        assert status == 2 and out == ""
        assert "describes other towers" in err and "another folder" in err
        assert (tmp_path / "open_clip_config.json").read_text() == other
        assert not (tmp_path / "clip.safetensors").exists()


@pytest.mark.parametrize("dtype", ["keep", "bfloat16"])
def test_arrays_of_towers_are_held_one_at_a_time(tmp_path, capsys, monkeypatch, dtype):
    source = _clip_folder(tmp_path / "in", "hf_clip")
    alive, most, opened = weakref.WeakValueDictionary(), [], weights.open_state_dict(source)

    class Counting(dict):
        def __getitem__(self, key):
            value = np.array(opened[key])
            alive[len(most)] = value
            most.append(len(alive))
            return value

        def shape(self, key):
            return opened.shape(key)

    counting = Counting(dict.fromkeys(opened))
    monkeypatch.setattr(weights, "open_state_dict", lambda path: counting)
    status, _, _ = _convert(capsys, "hf_clip", source)
    assert status == 0 and len(most) == len(opened) - 1  # all but position_ids, once
    out = tmp_path / "out.safetensors"
    assert _convert(capsys, "hf_clip", source, "--out", out, "--dtype", dtype)[0] == 0
    assert max(most) <= 2


def test_a_number_beyond_the_type_leaves_nothing_behind(tmp_path, capsys):
    source = _clip_folder(tmp_path / "in", "openclip")
    arrays = weights.read_state_dict(source)
    arrays["visual.proj"][0, 0] = 1e6
    _file(source.parent, arrays)
    out = tmp_path / "out/clip.safetensors"
    status, text, err = _convert(capsys, "openclip", source, "--out", out, "--dtype", "float16")
    assert status == 2 and "beyond float16" in err and text == ""
    assert not out.parent.exists()


def test_a_type_that_safetensors_lacks_is_refused_before_anything_is_written(
    tmp_path, capsys, monkeypatch
):
    source = _clip_folder(tmp_path / "in", "openclip")
    arrays = weights.read_state_dict(source)
    arrays["visual.proj"] = arrays["visual.proj"].astype(np.complex64)
    monkeypatch.setattr(weights, "open_state_dict", lambda path: arrays)
    out = tmp_path / "out/clip.safetensors"
    status, text, err = _convert(capsys, "openclip", source, "--out", out)
    assert status == 2 and text == "" and not out.parent.exists()
    assert "--out: safetensors has no type for ['complex64']; choose --dtype float32" in err


def test_nothing_is_written_without_a_target(tmp_path, capsys):
    source = _file(tmp_path, uni3d_case.state_dict(**CASE))
    status, text, _ = _convert(capsys, "uni3d", source, "--heads", 2)
    assert status == 0 and "  written:" not in text
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def _hostile(path):
    class Run:
        def __reduce__(self):
            return os.mkdir, (str(path.parent / "run"),)

    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"a": Run()}, 2))


def _truncated(path):
    whole = _file(path.parent, uni3d_case.state_dict(**CASE)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("kind", "name", "make", "message"),
    [
        ("uni3d", "bad.pt", _hostile, "mkdir"),
        ("openclip", "bad.pt", _hostile, "mkdir"),
        ("uni3d", "bad.safetensors", _truncated, "damaged"),
        ("uni3d", "bad.pt", lambda path: path.write_bytes(b"PK not a zip"), "bad.pt"),
        ("uni3d", "none.pt", lambda path: None, "there is no file"),
    ],
)
def test_bad_files_end_in_one_line(tmp_path, capsys, kind, name, make, message):
    make(tmp_path / name)
    status, out, err = _convert(capsys, kind, tmp_path / name, "--out", tmp_path / (
        "x.npz" if kind == "uni3d" else "x.safetensors"
    ))  # fmt: skip
    assert status == 2 and out == ""
    assert err.startswith("gsjax convert: ") and message in err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob("x.*"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("uni3d", "not a Uni3D checkpoint"),
        ("openclip", "Its image tower has timm's names"),
        ("evaclip", "no published EVA-CLIP pair has these sizes"),
    ],
)
def test_wrong_towers_end_in_one_line(tmp_path, capsys, kind, message):
    source = _file(tmp_path, eva_case.state_dict())
    status, out, err = _convert(capsys, kind, source)
    assert status == 2 and message in err and err.count("\n") == 1 and out == ""


def test_arguments_that_do_not_fit_are_refused(tmp_path, capsys):
    source = _file(tmp_path, uni3d_case.state_dict(**CASE))
    _, _, err = _convert(capsys, "uni3d", source, "--out", "x.safetensors")
    assert "files of kind uni3d end in .npz" in err
    _, _, err = _convert(capsys, "uni3d", source, "--heads", 2, "--without", "nothing_such")
    assert "'nothing_such' matches none of the" in err
    for kind, option, value in (
        ("openclip", "--heads", 2),
        ("hf_clip", "--without", "visual"),
        ("evaclip", "--heads", 2),
        ("uni3d", "--arch", "ViT-B-32"),
    ):
        status, out, err = _convert(capsys, kind, source, option, value)
        assert status == 2 and out == "" and f"{option}: kind {kind} has no such option" in err


def test_archive_tells_damage(tmp_path):
    path = tmp_path / "a.npz"
    digest = archive.save(path, "clip_gs", dict(width=3), {"a/b": np.arange(5.0)})
    assert archive.read(path).digest == digest
    other = archive.save(tmp_path / "b.npz", "clip_gs", dict(width=3), {"a/b": np.arange(1, 6.0)})
    assert other != digest
    with np.load(path) as stored:
        parts = dict(stored)
    parts["a/b"][2] = 7
    np.savez(path, **parts)
    with pytest.raises(ValueError, match="do not match their digest"):
        archive.read(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="not an archive of gsjax's, or is damaged"):
        archive.read(path)
    with pytest.raises(ValueError, match="of type object, not of numbers"):
        archive.save(path, "clip_gs", {}, {"a": np.asarray([None])})
