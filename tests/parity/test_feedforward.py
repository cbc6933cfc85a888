"""Parts of MVSplat and DepthSplat against twins in torch with the same random weights, named as released files are.

The twins are written from the papers' descriptions with torch's own layers: what is compared are layouts,
orders, paddings, eps and activations. Needs torch (any build); see BUILD_NOTES.md.
"""

import jax
import numpy as np
import pytest

from gsjax.models import name_tables
from gsjax.models.feedforward import cnn, mv_transformer, shared_tables, unet

torch = pytest.importorskip("torch", reason="torch is not installed")
nn, F = torch.nn, torch.nn.functional

pytestmark = pytest.mark.parity


def _randomised(module):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in module.parameters():
            fan_in = value[0].numel() if value.ndim > 1 else 25
            value.copy_(torch.randn(value.shape, generator=generator) * fan_in**-0.5)
            if value.ndim == 1:  # norms' weights and all biases
                value += 0.5
    return module.eval()


def _params(module, entries, ours, *args):
    """Our parameters, every one from the twin's state dict."""
    state = {f"at.{k}": v.numpy() for k, v in module.state_dict().items()}
    shapes = jax.eval_shape(lambda: ours.init(jax.random.key(0), *args))["params"]
    shapes = {f"here/{k}": v for k, v in name_tables.flat_shapes(shapes).items()}
    found = name_tables.convert(state, entries, shapes, what="twin")
    return {"params": found.variables["here"]}


def _nchw(x):
    return torch.from_numpy(np.moveaxis(x, -1, -3).copy())


def _close(found, expected):
    expected = np.moveaxis(expected.detach().numpy(), -3, -1)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


class Stage(nn.Module):
    """Two convolutions with norms beside a shortcut, where either sides or channels change."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm = nn.InstanceNorm2d(outputs)
        if (inputs, stride) != (outputs, 1):
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), self.norm)

    def forward(self, x):
        y = self.norm(self.conv1(x)).relu()
        y = self.norm(self.conv2(y)).relu()
        return (getattr(self, "downsample", nn.Identity())(x) + y).relu()


class Cnn(nn.Module):
    def __init__(self, widths, strides, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.norm1 = nn.InstanceNorm2d(widths[0])
        before = widths[0]
        for i, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            stage = nn.Sequential(Stage(before, width, stride), Stage(width, width, 1))
            setattr(self, f"layer{i + 1}", stage)
            before = width
        self.conv2 = nn.Conv2d(before, outputs, 1)

    def forward(self, x):
        x = self.layer1(self.norm1(self.conv1(x)).relu())
        return x, self.layer2(x), self.conv2(self.layer3(self.layer2(x)))


@pytest.mark.parametrize("lowest, last", [(4, 1), (4, 2), (8, 2)])
def test_cnn(lowest, last):
    widths, strides = (4, 6, 6), cnn.stage_strides(lowest, last)
    assert strides == {(4, 1): (1, 2, 1), (4, 2): (1, 1, 2), (8, 2): (1, 2, 2)}[lowest, last]
    twin = _randomised(Cnn(widths, strides, 8))
    model = cnn.Cnn(lowest, widths, 8, last)
    images = np.random.default_rng(0).normal(size=(2, 32, 48, 3)).astype(np.float32)
    entries = shared_tables.cnn("at", "here", widths, strides)
    maps = jax.jit(model.apply)(_params(twin, entries, model, images), images)
    for found, expected in zip(maps, twin(_nchw(images)), strict=True):
        _close(found, expected)


class Layer(nn.Module):
    """One attention with its merge and norm, and an MLP where there is one."""

    def __init__(self, width, mlp):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "merge"):
            setattr(self, name, nn.Linear(width, width, bias=False))
        self.norm1 = nn.LayerNorm(width)
        if mlp:
            self.mlp = nn.Sequential(
                nn.Linear(2 * width, 8 * width, bias=False),
                nn.GELU(),
                nn.Linear(8 * width, width, bias=False),
            )
            self.norm2 = nn.LayerNorm(width)

    def forward(self, x, source, allowed):
        """x [L, C], source [M, C]; allowed [L, M]."""
        q, k, v = self.q_proj(x), self.k_proj(source), self.v_proj(source)
        logits = q @ k.T / x.shape[-1] ** 0.5
        message = self.norm1(self.merge(logits.masked_fill(~allowed, -1e9).softmax(-1) @ v))
        if hasattr(self, "mlp"):
            message = self.norm2(self.mlp(torch.cat((x, message), -1)))
        return x + message


class Transformer(nn.Module):
    def __init__(self, width, blocks):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"self_attn": Layer(width, False), "cross_attn_ffn": Layer(width, True)})
            for _ in range(blocks)
        )

    def forward(self, maps, size):
        """maps: list of [H W, C], with positions."""
        row, column = (
            x.reshape(-1) for x in torch.meshgrid(*map(torch.arange, size), indexing="ij")
        )
        for i, layer in enumerate(self.layers):
            # Windows of half the sides; in odd blocks they lie half a window further, and cells of the
            # map's opposite ends, which fall into one window, do not see one another.
            label = 0
            for place, length in ((row, size[0]), (column, size[1])):
                half = length // 2
                part = place // half if i % 2 == 0 else (place + half // 2) // half
                label = 10 * label + part
            allowed = label[:, None] == label[None]
            new = []
            for j, x in enumerate(maps):
                y = layer["self_attn"](x, x, allowed)
                others = [m for k, m in enumerate(maps) if k != j]
                everywhere = allowed.repeat(1, len(others))
                new.append(layer["cross_attn_ffn"](y, torch.cat(others), everywhere))
            maps = new
        return maps


def test_transformer():
    width, size, views = 8, (8, 16), 3
    twin = _randomised(Transformer(width, 2))
    model = mv_transformer.MultiViewTransformer(2)
    maps = np.random.default_rng(1).normal(size=(1, views, *size, width)).astype(np.float32)
    index = np.asarray([[[1, 2], [2, 0], [0, 1]]])
    entries = shared_tables.transformer("at", "here", 2)
    found = jax.jit(model.apply)(_params(twin, entries, model, maps, index), maps, index)
    placed = np.array(mv_transformer.add_position(maps, 2))[0].reshape(views, -1, width)
    expected = twin([torch.from_numpy(x) for x in placed], size)
    expected = torch.stack(expected).reshape(1, views, *size, width)
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-4)


def _norm(width):
    return nn.GroupNorm(4 if width % 8 else 8, width)


class UBlock(nn.Module):
    def __init__(self, inputs, outputs, post):
        super().__init__()

        def half(first, last, dropout):
            conv = nn.Conv2d(first, last, 3, 1, 1)
            if post:
                return nn.Sequential(conv, _norm(last), nn.SiLU())
            return nn.Sequential(_norm(first), nn.SiLU(), *[nn.Identity()] * dropout, conv)

        self.in_layers, self.out_layers = half(inputs, outputs, 0), half(outputs, outputs, 1)
        self.skip_connection = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x):
        return self.skip_connection(x) + self.out_layers(self.in_layers(x))


class UAttention(nn.Module):
    def __init__(self, width, head, post, views):
        super().__init__()
        self.norm, self.post, self.heads, self.views = _norm(width), post, width // head, views
        self.qkv, self.proj_out = nn.Conv1d(width, 3 * width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x):
        """Tokens of all views of an example together; q, k, v of a head are neighbours."""
        n, c, h, w = x.shape
        y = x.reshape(n, c, h * w)
        y = self.qkv(y if self.post else self.norm(y))
        y = y.reshape(n // self.views, self.views, self.heads, 3, -1, h * w)
        q, k, v = (y[:, :, :, i].permute(0, 2, 1, 4, 3).flatten(2, 3) for i in range(3))
        y = F.scaled_dot_product_attention(q, k, v)  # [n, heads, views h w, c / heads]
        y = y.unflatten(2, (self.views, h * w)).permute(0, 2, 1, 4, 3).reshape(n, c, h * w)
        y = self.proj_out(y)
        return x + (self.norm(y) if self.post else y).reshape(x.shape)


class Step(nn.Module):
    """Down by a convolution of stride 2, or up by repetition and a convolution."""

    def __init__(self, width, down):
        super().__init__()
        if down:
            self.op = nn.Conv2d(width, width, 3, 2, 1)
        else:
            self.conv = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x):
        if hasattr(self, "op"):
            return self.op(x)
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class UNet(nn.Module):
    def __init__(self, config, views):
        super().__init__()
        post, channels = config.post_norm, config.width
        blocks = [nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1))]
        kept, last = [channels], len(config.multipliers) - 1

        def block(inputs, level):
            width = config.width * config.multipliers[level]
            parts = [UBlock(inputs, width, post)]
            if 2**level in config.attention:
                parts.append(UAttention(width, config.head, post, views))
            return width, parts

        for level in range(last + 1):
            channels, parts = block(channels, level)
            blocks.append(nn.Sequential(*parts))
            kept.append(channels)
            if level < last:
                blocks.append(nn.Sequential(Step(channels, True)))
                kept.append(channels)
        self.input_blocks, ups = nn.ModuleList(blocks), []
        self.middle_block = nn.Sequential(
            UBlock(channels, channels, post), nn.Identity(), UBlock(channels, channels, post)
        )
        for level in reversed(range(last + 1)):
            for i in range(2):
                channels, parts = block(channels + kept.pop(), level)
                ups.append(nn.Sequential(*parts, *[Step(channels, False)] * (i and level > 0)))
        self.output_blocks = nn.ModuleList(ups)
        conv = nn.Conv2d(config.width, config.width, 3, 1, 1)
        parts = (conv, _norm(config.width), nn.SiLU())
        self.out = nn.Sequential(*(parts if post else (*parts[1:], conv)))

    def forward(self, x):
        kept = []
        for block in self.input_blocks:
            x = block(x)
            kept.append(x)
        x = self.middle_block(x)
        for block in self.output_blocks:
            x = block(torch.cat((x, kept.pop()), 1))
        return self.out(x)


@pytest.mark.parametrize(
    "multipliers, attention, post", [((1, 1, 1), (4,), True), ((1, 2), (1, 2), False)]
)
def test_unet(multipliers, attention, post):
    config, views = unet.Config(8, multipliers, attention, head=4, post_norm=post), 2
    twin = _randomised(UNet(config, views))
    model = unet.UNet(config)
    maps = np.random.default_rng(2).normal(size=(2 * views, 8, 12, 8)).astype(np.float32)
    params = _params(twin, shared_tables.unet_entries("at", "here", config), model, maps, views)
    _close(jax.jit(model.apply, static_argnums=2)(params, maps, views), twin(_nchw(maps)))
