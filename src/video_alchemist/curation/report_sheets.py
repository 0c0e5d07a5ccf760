"""Contact sheets of the curation report (Fig. 2): kept clips with what was found drawn over them, and rejects.

Boxes and faces are drawn in the frame's own pixels, whatever size the picture is shown at; H,W pixels.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from video_alchemist.curation.report_svg import Markup, number, tag
from video_alchemist.dataset.masks import decode_mask

PICTURE = 320  # pixels: the longer side of an embedded picture
HUES = ("#ff6b3d", "#2aa8ff", "#ffc928", "#3ecf7a", "#b57bff", "#ff7ac2", "#00cfc0", "#c8a06a")  # of entities, by row


@dataclass(frozen=True)
class Kept:
    """A kept clip for the contact sheet: its <id>.json, its three frames and its background as JPEG."""

    record: Mapping[str, Any]
    frames: tuple[bytes, ...]
    background: bytes | None = None


def hue_rules() -> str:
    return "\n".join(f".e{i} {{ --hue: {hue}; }}" for i, hue in enumerate(HUES))


def search_text(*texts: str) -> str:
    """Words in lower case, each after a space, as the page's search expects them."""
    return " " + re.sub(r"[\W_]+", " ", " ".join(texts).lower())


def kept_card(clip: Kept) -> Markup:
    """Three frames and the background side by side, the caption, and what was found of every entity."""
    record = clip.record
    pictures = [frame_picture(record, i, jpeg) for i, jpeg in enumerate(clip.frames)]
    background = [e["word"] for e in record["entities"] if e["kind"] == "background"]
    named = f"background: {', '.join(background)}" if background else "background"
    empty = tag("span", "no background", class_="none")
    pictures.append(tag("img", src=small_jpeg(clip.background), alt=named, title=named) if clip.background else empty)
    width, height = record["size"]
    facts = f"{record['num_frames'] / record['fps']:.1f} s · {width}×{height} · {number(record['fps'])} fps"
    license = record["provenance"].get("license")
    return tag(
        "article",
        tag("button", *pictures, class_="strip", type="button", aria_label="Larger or smaller pictures"),
        tag("p", *coloured_caption(record["caption"], record["entities"])),
        tag("ul", *[tag("li", line) for line in entity_lines(record)]),
        tag("small", tag("code", record["id"]), f" · {facts}", f" · {license}" if license else None, class_="quiet"),
        class_="clip",
        data_text=search_text(record["id"], record["caption"]),
    )


def coloured_caption(caption: str, entities: Sequence[Mapping[str, Any]]) -> list[Markup | str]:
    """The caption in pieces, each entity word marked in the colour of its row; of words that overlap the first."""
    pieces: list[Markup | str] = []
    position = 0
    for row, entity in sorted(enumerate(entities), key=lambda item: item[1]["span"]):
        start, end = entity["span"]
        if start >= position:
            word = tag("mark", caption[start:end], class_=hue(row), title=entity["kind"])
            pieces += [caption[position:start], word]
            position = end
    return [*pieces, caption[position:]]


def entity_lines(record: Mapping[str, Any]) -> list[str]:
    """Of every subject and object: in how many of the frames it was seen, and its mean scores."""
    lines = []
    for row, entity in enumerate(record["entities"]):
        seen = [r for r in record["references"] if r["entity"] == row]
        if entity["kind"] == "background":
            continue
        parts = [f"{entity['word']} {len(seen)}/3"]
        if seen:
            parts += [f"box {_mean(seen, 'detection_score')}", f"mask {_mean(seen, 'mask_score')}"]
        faces = [r for r in seen if r.get("face")]
        lines.append(" · ".join(parts + ([f"face {_mean(faces, 'face_score')}"] if faces else [])))
    return lines


def _mean(references: Sequence[Mapping[str, Any]], name: str) -> str:
    return f"{np.mean([r[name] for r in references]):.2f}"


def hue(row: int) -> str:
    return f"e{row % len(HUES)}"


def frame_picture(record: Mapping[str, Any], frame: int, jpeg: bytes) -> Markup:
    """A frame with masks, boxes and faces over it, in the colours of their entities."""
    width, height = record["size"]
    layers = []
    for found in record["references"]:
        if found["frame"] != frame:
            continue
        style, word = hue(found["entity"]), record["entities"][found["entity"]]["word"]
        picture = mask_png(decode_mask(found["mask"]), HUES[found["entity"] % len(HUES)])
        scores = f"{word}: detection {found['detection_score']:.2f}, mask {found['mask_score']:.2f}"
        layers.append(tag("image", href=picture, width=width, height=height, class_="mask"))
        layers.append(tag("g", tag("title", scores), _rectangle(found["box"], f"box {style}")))
        if found.get("face"):
            layers.append(_rectangle(found["face"], f"face {style}"))
    frame_image = tag("image", href=small_jpeg(jpeg), width=width, height=height, preserveAspectRatio="none")
    label = f"frame at {(5, 50, 95)[frame]} %"
    return tag("svg", frame_image, *layers, viewBox=f"0 0 {width} {height}", role="img", aria_label=label)


def _rectangle(box: Sequence[float], style: str) -> Markup:
    x0, y0, x1, y1 = box
    return tag("rect", x=f"{x0:g}", y=f"{y0:g}", width=f"{x1 - x0:g}", height=f"{y1 - y0:g}", class_=style)


def reject_card(reject: Mapping[str, Any]) -> Markup:
    """What was rejected: its picture where one was kept, the detail, the caption, where it came from."""
    thumbnail, caption, detail = (reject.get(name) or "" for name in ("thumbnail", "caption", "detail"))
    picture = tag("img", src=f"data:image/jpeg;base64,{thumbnail}", alt="")
    return tag(
        "article",
        picture if thumbnail else tag("div", "no picture", class_="none"),
        tag("div", detail) if detail else None,
        tag("div", f"“{caption}”", class_="quiet") if caption else None,
        tag("small", tag("code", reject["id"]), title=reject.get("path")),
        class_="reject",
        data_text=search_text(reject["id"], caption, detail, reject["code"]),
    )


# ------------------------------------------------------------------------------------------------------------------
# Pictures


def small_jpeg(jpeg: bytes) -> str:
    """A picture as data URI, at most PICTURE pixels wide and high; a smaller one goes in as it is."""
    picture = Image.open(io.BytesIO(jpeg))
    if max(picture.size) > PICTURE:
        stream = io.BytesIO()
        ImageOps.contain(picture.convert("RGB"), (PICTURE, PICTURE)).save(stream, "JPEG", quality=82)
        jpeg = stream.getvalue()
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def mask_png(mask: np.ndarray, colour: str) -> str:
    """A mask (H, W) bool as data URI: thin in the colour, its outline full; PICTURE pixels on its longer side."""
    scale = PICTURE / max(mask.shape)
    size = (round(mask.shape[1] * scale), round(mask.shape[0] * scale))
    inside = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)) > 127
    core = np.pad(inside, 1)
    core = core[:-2, 1:-1] & core[2:, 1:-1] & core[1:-1, :-2] & core[1:-1, 2:]
    picture = Image.fromarray(inside.astype(np.uint8) + (inside & ~core))  # 0 outside, 1 inside, 2 outline
    picture = picture.convert("P")
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    picture.putpalette([0, 0, 0, *rgb, *rgb])
    stream = io.BytesIO()
    picture.save(stream, "PNG", transparency=bytes([0, 70, 255]), bits=2, optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
