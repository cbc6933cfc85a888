"""PointNet and PointNet++ against torch models with the same random weights.

The torch models are rebuilt here from public layers, with the parameter names of the common PyTorch
versions. Differences met here: torch's running variance is the unbiased one, n / (n - 1) of ours;
farthest points start at the first point; and a ball has all its slots even where the whole cloud has
fewer points (CUDA versions do so, plain ones do not), which the statistics of norms show.

Needs torch (any build); see BUILD_NOTES.md.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsjax.models import name_tables, pointnet_tables
from gsjax.models.backbones import base, pointnet, pointnet2
from tests.models.backbones import suite
from tests.parity import timm_eva

torch = pytest.importorskip("torch", reason="torch is not installed")
nn = torch.nn

pytestmark = pytest.mark.parity


class Transform(nn.Module):
    """Predicts a k x k matrix from columns [B, C, N]."""

    def __init__(self, columns, k):
        super().__init__()
        self.k = k
        widths = [columns, 64, 128, 1024, 512, 256]
        for i in range(5):
            layer = nn.Conv1d(*widths[i : i + 2], 1) if i < 3 else nn.Linear(*widths[i : i + 2])
            setattr(self, f"conv{i + 1}" if i < 3 else f"fc{i - 2}", layer)
            setattr(self, f"bn{i + 1}", nn.BatchNorm1d(widths[i + 1]))
        self.fc3 = nn.Linear(256, k * k)

    def forward(self, x):
        for i in (1, 2, 3):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)).relu()
        x = x.amax(2)
        x = self.bn4(self.fc1(x)).relu()
        x = self.bn5(self.fc2(x)).relu()
        return self.fc3(x).unflatten(1, (self.k, self.k)) + torch.eye(self.k, dtype=x.dtype)


class PointNet(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        widths = [3 + config.channels, *config.widths]
        for i in range(len(config.widths)):
            setattr(self, f"conv{i + 1}", nn.Conv1d(*widths[i : i + 2], 1))
            setattr(self, f"bn{i + 1}", nn.BatchNorm1d(widths[i + 1]))
        if config.input_transform:
            self.stn = Transform(widths[0], 3)
        if config.feature_transform:
            self.fstn = Transform(widths[config.local], widths[config.local])

    def forward(self, xyz, feat):
        """[B, N, 3], [B, N, F] -> features of points and of the cloud."""
        c = self.config
        x = torch.cat([xyz, feat], 2).transpose(1, 2)
        if c.input_transform:
            x = torch.cat([torch.bmm(xyz, self.stn(x)), feat], 2).transpose(1, 2)
        for i in range(1, len(c.widths) + 1):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            if i < len(c.widths) or c.last_relu:
                x = x.relu()
            if i == c.local:
                if c.feature_transform:
                    x = torch.bmm(x.transpose(1, 2), self.fstn(x)).transpose(1, 2)
                local = x
        top = x.amax(2)
        wide = top[:, :, None].expand(-1, -1, x.shape[2])
        return torch.cat([local, wide], 1).transpose(1, 2), top


def _perceptron(convs, norms, x):
    """x: [B, C, ...]."""
    for conv, norm in zip(convs, norms, strict=True):
        x = norm(conv(x)).relu()
    return x


def _convs(widths, kind, norm):
    pairs = list(zip(widths[:-1], widths[1:], strict=True))
    return (
        nn.ModuleList(kind(a, b, 1) for a, b in pairs),
        nn.ModuleList(norm(b) for _, b in pairs),
    )


def _rows(x, idx):
    """x: [B, N, C], idx: [B, ...] -> [B, ..., C]."""
    return torch.stack([cloud[i] for cloud, i in zip(x, idx, strict=True)])


def _farthest(xyz, num):
    chosen = torch.zeros(len(xyz), 1, dtype=torch.long)
    for _ in range(num - 1):
        gaps = (xyz[:, :, None] - _rows(xyz, chosen)[:, None]).square().sum(3).amin(2)
        chosen = torch.cat([chosen, gaps.argmax(1, keepdim=True)], 1)
    return chosen


def _in_ball(centers, xyz, radius, num):
    """The first ``num`` points in each ball; the first of all fills what is left."""
    outside = (centers[:, :, None] - xyz[:, None]).square().sum(3) >= radius**2
    order = torch.arange(xyz.shape[1]) + outside * xyz.shape[1]
    idx = order.sort(2).values[:, :, :num]
    short = num - idx.shape[2]  # a cloud of fewer points than slots
    idx = torch.cat([idx, idx[:, :, :1].expand(-1, -1, max(short, 0))], 2)
    return torch.where(idx < xyz.shape[1], idx, idx[:, :, :1])


class Abstraction(nn.Module):
    def __init__(self, num, scales, channels, order):
        super().__init__()
        self.num, self.scales, self.order = num, scales, order
        made = [_convs([3 + channels, *s.widths], nn.Conv2d, nn.BatchNorm2d) for s in self.scales]
        if len(made) == 1:
            self.mlp_convs, self.mlp_bns = made[0]
        else:
            self.conv_blocks, self.bn_blocks = (nn.ModuleList(x) for x in zip(*made, strict=True))

    def forward(self, xyz, feat):
        centers = _rows(xyz, _farthest(xyz, self.num))
        found = []
        for i, scale in enumerate(self.scales):
            idx = _in_ball(centers, xyz, scale.radius, scale.samples)
            parts = [_rows(xyz, idx) - centers[:, :, None], _rows(feat, idx)]
            x = torch.cat(parts if self.order == "xyz_first" else parts[::-1], 3)
            one = len(self.scales) == 1
            convs = self.mlp_convs if one else self.conv_blocks[i]
            norms = self.mlp_bns if one else self.bn_blocks[i]
            found.append(_perceptron(convs, norms, x.permute(0, 3, 1, 2)).amax(3))
        return centers, torch.cat(found, 1).transpose(1, 2)


class Perceptron(nn.Module):
    def __init__(self, widths, two_axes):
        super().__init__()
        kinds = (nn.Conv2d, nn.BatchNorm2d) if two_axes else (nn.Conv1d, nn.BatchNorm1d)
        self.two_axes = two_axes
        self.mlp_convs, self.mlp_bns = _convs(widths, *kinds)

    def forward(self, x):
        """[B, N, C] -> [B, N, D]."""
        x = x.transpose(1, 2)
        x = _perceptron(self.mlp_convs, self.mlp_bns, x[..., None] if self.two_axes else x)
        return (x[..., 0] if self.two_axes else x).transpose(1, 2)


def _interpolated(xyz, places, feat):
    squared, idx = (xyz[:, :, None] - places[:, None]).square().sum(3).sort(2)
    weights = 1 / (squared[:, :, :3] + 1e-8)
    weights = weights / weights.sum(2, keepdim=True)
    return (_rows(feat, idx[:, :, :3]) * weights[..., None]).sum(2)


class PointNet2(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = c = config
        channels = [c.channels]
        for i, scales in enumerate(c.scales):
            stage = Abstraction(c.centers[i], scales, channels[-1], c.order)
            setattr(self, f"sa{i + 1}", stage)
            channels.append(sum(s.widths[-1] for s in scales))
        levels = len(c.centers)
        setattr(self, f"sa{levels + 1}", Perceptron([3 + channels[-1], *c.top], True))
        width, channels[0] = c.top[-1], 3 + c.channels
        for i, widths in enumerate(c.decoder):
            stage = Perceptron([channels[-1 - i] + width, *widths], False)
            setattr(self, f"fp{levels + 1 - i}", stage)
            width = widths[-1]

    def forward(self, xyz, feat):
        c = self.config
        levels = [(xyz, feat)]
        for i in range(len(c.centers)):
            levels.append(getattr(self, f"sa{i + 1}")(*levels[-1]))
        x = getattr(self, f"sa{len(c.centers) + 1}")(torch.cat(levels[-1], 2))
        top = x.amax(1)
        if not c.decoder:
            return levels[-1][1], top
        levels[0] = xyz, torch.cat([xyz, feat], 2)
        x = top[:, None].expand(-1, levels[-1][0].shape[1], -1)
        for i in range(len(c.decoder)):
            place, skip = levels[-1 - i]
            x = getattr(self, f"fp{len(c.centers) + 1 - i}")(torch.cat([skip, x], 2))
            if i + 1 < len(c.decoder):
                x = _interpolated(levels[-2 - i][0], place, x)
        return x, top


def _fewer(name, **changes):
    """A preset with all its widths, and fewer centres."""
    return dataclasses.replace(pointnet2.PRESETS[name], centers=(24, 12), **changes)


CASES = {
    "PointNet of cross-modal learning": (
        pointnet,
        PointNet,
        dataclasses.replace(pointnet.PRESETS["cross_modal"], channels=7),
    ),
    "PointNet without transforms": (pointnet, PointNet, pointnet.PRESETS["paper"]),
    "PointNet++ of cross-modal learning": (
        pointnet2,
        PointNet2,
        _fewer("cross_modal", channels=7),
    ),
    "PointNet++ with decoder": (pointnet2, PointNet2, _fewer("paper")),
    "PointNet++, 512 points": (pointnet2, PointNet2, _fewer("small", channels=3)),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_statistics_are_those_of_the_torch_model(case):
    file, kind, config = CASES[case]
    torch_model = timm_eva.randomised(kind(config), 2)
    points = suite.cloud(3, 8, 64, config.channels, extent=2.0)
    state = {key: value.numpy() for key, value in torch_model.state_dict().items()}
    variables = pointnet_tables.convert(state, config)
    count = sum(p.numel() for p in torch_model.parameters())
    assert suite.num_parameters(file.Model(config), points) == count
    model = file.Model(config)
    print(f"\n{case}: {count} parameters")
    with torch.no_grad():
        theirs = torch_model(*(torch.from_numpy(np.array(x)) for x in points[:2]))
    ours = suite.apply(model, variables, points)
    _assert_near("feat", ours.feat, theirs[0].numpy(), 1e-4)
    _assert_near("pooled", ours.pooled, theirs[1].numpy(), 1e-4)
    # Norms that divide by the small deviations of a few rows magnify rounding, so in training mode
    # both compute in float64; in float32 the torch model is up to 1e-3 from that, ours 1e-5.
    with jax.enable_x64(True), torch.no_grad():
        wide = [np.asarray(x, np.float64) for x in points[:2]]
        theirs = torch_model.double().train()(*map(torch.from_numpy, wide))
        ours, moved = suite.apply(
            file.Model(config, jnp.float64),
            variables,
            base.PointBatch(*map(jnp.asarray, wide), points.mask),
            train=True,
            mutable=["batch_stats"],
        )
    _assert_near("feat, training", ours.feat, theirs[0].numpy(), 1e-9)
    _assert_near("pooled, training", ours.pooled, theirs[1].numpy(), 1e-9)
    after = pointnet_tables.convert(
        {key: value.numpy() for key, value in torch_model.state_dict().items()}, config
    )
    stats = [name_tables.flatten(x["batch_stats"]) for x in (variables, after, moved)]
    worst = 0.0
    for path, before in stats[0].items():
        mine, other = np.asarray(stats[2][path]) - 0.9 * before, stats[1][path] - 0.9 * before
        if path.endswith("var"):
            other = other * (1 - 1 / _rows_seen(path, config))
        error = np.abs(mine - other).max() / max(1.0, np.abs(other).max())
        worst = max(worst, error)
        assert error <= 1e-5, path
    print(f"  running statistics   max error {worst:.2e}")


def _rows_seen(path, config, batch=8, num=64):
    """How many rows a norm's statistics are of."""
    stage = path.split("/")[0]
    if "dense_" in path:
        return batch
    if isinstance(config, pointnet.Config):
        return batch * num
    levels = len(config.centers)
    place, _, number = stage.partition("_")
    number = int(number)
    if place == "decoder":
        return batch * [num, *config.centers][levels - number]
    if number == levels:
        return batch * config.centers[-1]
    scale = config.scales[number][int(path.split("scale_")[1][0])]
    return batch * config.centers[number] * scale.samples


def _assert_near(name, mine, other, tolerance):
    size = max(1.0, np.abs(other).max())
    error = np.abs(np.asarray(mine) - other).max()
    print(f"  {name:20s} max error {error:.2e} of {size:.2f}")
    assert error <= tolerance * size, name


def test_points_that_carry_nothing_do_not_change_the_parity():
    _, kind, config = CASES["PointNet++ with decoder"]
    torch_model = timm_eva.randomised(kind(config), 4)
    points = suite.cloud(5, 2, 40, 0, extent=2.0)
    with torch.no_grad():
        theirs = torch_model(*(torch.from_numpy(np.array(x)) for x in points[:2]))
    state = {key: value.numpy() for key, value in torch_model.state_dict().items()}
    variables = pointnet_tables.convert(state, config)
    padded = suite.padded(points, 9)
    assert isinstance(padded, base.PointBatch) and bool(jnp.isnan(padded.xyz).any())
    ours = suite.apply(pointnet2.Model(config), variables, padded)
    _assert_near("feat, padded", ours.feat[:, :40], theirs[0].numpy(), 1e-4)
    _assert_near("pooled, padded", ours.pooled, theirs[1].numpy(), 1e-4)
    assert jax.tree.all(jax.tree.map(lambda x: bool(jnp.isfinite(x).all()), ours.feat))
