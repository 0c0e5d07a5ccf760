"""Pixels and words -> what the transformer learns from, by the frozen networks; what was precomputed is taken as it is.

B clips · F frames · H,W pixels · S text tokens · M pictures of all clips · N of one clip · L tokens of a picture ·
W word_length
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from video_alchemist.dataset.batch import Batch
from video_alchemist.dataset.loader import ClipBatch
from video_alchemist.model.binding import token_index
from video_alchemist.pretrained.autoencoder import Autoencoder
from video_alchemist.pretrained.image_encoder import ImageEncoder
from video_alchemist.pretrained.roles import Roles
from video_alchemist.pretrained.single_frames import collapsed_time
from video_alchemist.pretrained.text_encoder import TextEncoding

MAX_PIXELS = 1024 * 576  # of a frame, of all clips that go through the autoencoder together: they decide its memory


@torch.no_grad()
def encode_batch(
    clips: ClipBatch,
    roles: Roles,
    word_length: int,
    device: torch.device | str,
    null_text: bool | Tensor = False,
) -> Batch:
    """A batch to train on. null_text: whether dropped text becomes the encoding of "" (as Wan was trained) instead of
    zeros; or that encoding itself, (1, S, D_text)."""
    if clips.z0 is None:
        assert clips.video is not None
        z0 = encode_video(roles.autoencoder, clips.video, device)
    else:
        z0 = clips.z0.to(device)
    text = roles.text_encoder(clips.captions) if clips.text is None else clips.text
    if isinstance(null_text, bool):
        null = roles.text_encoder([""]).tokens if null_text else None
    else:
        null = null_text
    image_tokens = word_index = image_mask = None
    if clips.spans:
        image_tokens, word_index, image_mask = encode_pictures(clips, text, roles.image_encoder, word_length, device)
    return Batch(
        z0=z0,
        text_tokens=text.tokens.to(device),
        text_mask=text.mask.to(device),
        image_tokens=image_tokens,
        word_index=word_index,
        image_mask=image_mask,
        null_text=None if null is None else null.to(device),
        bucket=clips.bucket,
        ids=clips.ids,
    )


def encode_video(autoencoder: Autoencoder, video: Tensor, device: torch.device | str) -> Tensor:
    """(B, F, H, W, 3) uint8 => (B, C, f, h, w) float."""
    together = max(1, MAX_PIXELS // (video.shape[2] * video.shape[3]))
    parts = (rearrange(part.to(device), "B F H W c -> B c F H W") for part in video.split(together))
    with collapsed_time(video.shape[1]):
        return torch.cat([autoencoder.encode(part.float() / 127.5 - 1) for part in parts])


def encode_pictures(
    clips: ClipBatch, text: TextEncoding, encoder: ImageEncoder, word_length: int, device: torch.device | str
) -> tuple[Tensor, Tensor, Tensor]:
    """Image tokens (B, N, L, d), places of their words (B, N, W) and their mask (B, N), all on the device.

    N is at least 1, so that every rank runs the same layers. A word that the text encoder cut off binds no picture.
    """
    size, width = len(clips.spans), max(1, *map(len, clips.spans))
    given = clips.pictures if len(clips.pictures) else clips.pictures.new_ones(1, 3, encoder.size, encoder.size)
    tokens = encoder(given.to(device))  # (M, L, d)
    word_index = torch.full((size, width, word_length), -1)
    has_picture = torch.zeros(size, width, dtype=torch.bool)
    for b, spans in enumerate(clips.spans):
        for n, span in enumerate(spans):
            word_index[b, n] = torch.tensor(token_index(text.offsets[b], span, word_length))
            has_picture[b, n] = True
    has_picture, word_index = has_picture.to(tokens.device), word_index.to(tokens.device)
    image_tokens = tokens.new_zeros(size, width, *tokens.shape[1:])
    # In the order of `pictures`, clip by clip: exactly the order of True in the mask.
    image_tokens[has_picture] = tokens[: len(clips.pictures)]
    return image_tokens, word_index, has_picture & (word_index[..., 0] >= 0)
