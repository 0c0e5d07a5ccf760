"""An autoencoder that begins as the principal components of its blocks, in closed form.

B clips · F frames · H,W pixels · C latent channels · h,w places of a stage · n places of all clips
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo, LTXVideoResnetBlock3d
from einops import rearrange
from torch import Tensor, nn

FINE_GAIN = 8.0  # a downsampler adds the mean of its input to what it computes; this much louder, it is not drowned
ENCODER_CONSTANT, DECODER_CONSTANT = 30.0, 100.0  # the larger, the more linear a norm, and the slower to learn
LOG_VARIANCE = -9.0  # of the posterior


@torch.no_grad()
def start_well(model: AutoencoderKLLTXVideo, video: Tensor) -> None:
    """Sets the weights so that encoding keeps, and decoding puts back, the first C components of blocks of `video`.

    From a random start such a network takes thousands of steps to get where principal components are at once. Layers
    are set one after another, each by what it is given. Residual blocks begin as the identity; the last norm of either
    half, which would divide by the brightness, is given a large constant beside, so that it hardly changes; the
    constant itself is not read, or two large numbers would have to cancel, which half precision does not bear. What
    every latent channel is scaled by lies between unit variance and the variance in pixels, so that training hears fine
    detail, too; `autoencoder.set_statistics` makes it quiet for diffusion.

    Args:
        video: (B, 3, F, H, W) in [-1, 1], some hundred thousand blocks.
    """
    encoder: Any = model.encoder
    decoder: Any = model.decoder
    for block in model.modules():
        if isinstance(block, LTXVideoResnetBlock3d):
            nn.init.zeros_(block.conv2.conv.weight)
            nn.init.zeros_(block.conv2.conv.bias)  # type: ignore[arg-type]
    pixels = to_patches(video, encoder.patch_size)  # (B, c, F, h, w)
    fine = blocks(pixels)
    targets = rows(blocks(fine))  # (n, values of a block)

    set_centre(encoder.conv_in, torch.eye(pixels.shape[1]))
    x = encoder.conv_in(pixels)
    for gain, block in zip((FINE_GAIN, 1.0), encoder.down_blocks, strict=True):
        convolution = block.downsamplers[0].conv
        set_centre(convolution, gain * principal(rows(x), convolution.out_channels))
        x = block(x)
    x = encoder.mid_block(x)
    quiet = int(rows(x).var(dim=0).argmin())
    constant = ENCODER_CONSTANT * rows(x).pow(2).sum(dim=1).mean().sqrt()
    encoder.mid_block.resnets[-1].conv2.conv.bias[quiet] = constant
    x[:, quiet] += constant
    features = rows(encoder.conv_act(encoder.norm_out(x.movedim(1, -1)).movedim(-1, 1)))
    features[:, quiet] = 0
    weight, _ = least_squares(features, targets)
    fitted = features @ weight
    keep = weight @ principal(fitted - fitted.mean(dim=0), model.config["latent_channels"]).T  # (features, C)
    z = features @ keep
    spread = z.std(dim=0)
    spread = (spread * spread.mean()).sqrt()
    keep, shift = keep / spread, -z.mean(dim=0) / spread
    last_row, last = torch.zeros(1, len(keep)), torch.tensor([LOG_VARIANCE])  # one variance for all channels
    set_centre(encoder.conv_out, torch.cat([keep.T, last_row]), torch.cat([shift, last]))

    z = features @ keep + shift  # (n, C)
    weight, bias = least_squares(z, targets)
    set_centre(decoder.conv_in, torch.eye(z.shape[1]))
    carried = principal(rows(fine), decoder.up_blocks[1].upsamplers[0].conv.in_channels)  # (k, values of a fine block)
    coarse = carried @ rearrange(weight, "c (v s) -> s v c", s=8)  # (8, k, C)
    shifts = torch.einsum("k v, v s -> k s", carried, rearrange(bias, "(v s) -> v s", s=8))
    set_centre(decoder.up_blocks[0].upsamplers[0].conv, rearrange(coarse, "s k c -> (k s) c"), shifts.flatten())
    set_centre(decoder.up_blocks[1].upsamplers[0].conv, carried.T)
    decoder.up_blocks[1].resnets[-1].conv2.conv.bias[-1] = DECODER_CONSTANT
    x = rearrange(z, "(b f h w) c -> b c f h w", b=len(video), h=x.shape[3], w=x.shape[4])
    x = decoder.mid_block(decoder.conv_in(x))
    for block in decoder.up_blocks:
        x = block(x)
    features = rows(decoder.conv_act(decoder.norm_out(x.movedim(1, -1)).movedim(-1, 1)))
    features[:, -1] = 0
    weight, bias = least_squares(features, rows(pixels))
    set_centre(decoder.conv_out, weight.T, bias)


def to_patches(video: Tensor, patch: int) -> Tensor:
    """In the order of diffusers' class: (B, 3, F, H, W) => (B, 3 * patch ** 2, F, h, w)."""
    return rearrange(video, "b c f (h p) (w q) -> b (c q p) f h w", p=patch, q=patch)


def blocks(x: Tensor) -> Tensor:
    """Blocks of 2x2x2, the first frame doubled, as a downsampler has them: (B, c, F, h, w) => (B, 8 c, ...)."""
    x = torch.cat([x[:, :, :1], x], dim=2)
    return rearrange(x, "b c (f r) (h p) (w q) -> b (c r p q) f h w", r=2, p=2, q=2)


def rows(x: Tensor) -> Tensor:
    """(B, c, f, h, w) => (n, c)."""
    return rearrange(x, "b c f h w -> (b f h w) c")


def principal(x: Tensor, count: int) -> Tensor:
    """(n, c) => (count, c), orthonormal, the largest first."""
    return torch.linalg.svd((x.T @ x).double()).Vh[:count].to(x.dtype)


def least_squares(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (c, d) and bias (d,) of the best linear map from (n, c) to (n, d)."""
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    a, b = (x - mean_x).double(), (y - mean_y).double()
    gram = a.T @ a
    ridge = 1e-7 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram + ridge, a.T @ b).to(x.dtype)
    return weight, mean_y - mean_x @ weight


def set_centre(convolution: Any, weight: Tensor, bias: Tensor | None = None) -> None:
    """A matrix (out, in) at the present place of the kernel; all else is zero."""
    kernel, causal = convolution.conv, convolution.is_causal
    now = kernel.kernel_size[0] - 1 if causal else kernel.kernel_size[0] // 2
    kernel.weight.zero_()
    kernel.bias.zero_()
    kernel.weight[: len(weight), : weight.shape[1], now, 1, 1] = weight
    if bias is not None:
        kernel.bias[: len(bias)] = bias
