"""Build the EmojiWorld asset pack from seven open emoji sets: choose concepts, rasterise, and pack.

EmojiWorld stands in for the paper's videos: one concept word ("fox") drawn by several artists gives the many
identities of one entity word that open-set personalisation needs (section 3.1). The pack is committed; this module
is what built it, and the same npm packages give the same bytes.

    python -m video_alchemist.emojiworld.make_assets --npm node_modules
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from video_alchemist.emojiworld.assets import ASSET_DIR, ATLAS_COLUMNS, SPRITE_SIZE, Identity
from video_alchemist.emojiworld.concepts import (
    ARTISTS,
    BROADER,
    DROPPED,
    FACES,
    FULL_BODY,
    FXEMOJI_NAMES,
    HAIR,
    LICENCE_URLS,
    MERGED,
    MIT_TEXT,
    PEOPLE,
    SCENERY,
    SUBGROUPS,
)

TONES = ("light", "medium", "dark")
NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
VIEW_BOX = {"left": 0, "top": 0, "width": 16, "height": 16}  # what icons.json leaves out when it is the default
MIN_COVERAGE = 0.04  # of the tile; anything fainter cannot be recognised at 64 pixels
MIN_SKIN = 0.05  # of the tile; a full-body superhero shows less
CLOCKS = ("-oclock", "-thirty")
HELD_OUT_ARTIST = "fxemoji"

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Wanted:
    """One picture to look for in every artist's set: the concept it shows and the names it may go by."""

    concept: str
    variant: str
    kind: str
    broader: str
    names: tuple[str, ...]
    has_face: bool = False
    look: str = ""  # variant without skin tone


def slug(label: str) -> str:
    """Turn an emoji label into an icon name: "Mrs. Claus" -> "mrs-claus"."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower().replace("’", "").replace("ñ", "n")).strip("-")


def wanted_things(emoji: list[dict[str, Any]], subgroup_of: dict[int, str]) -> Iterator[Wanted]:
    """Yield every animal, plant, dish, vehicle, tool and piece of scenery worth drawing."""
    for entry in emoji:
        subgroup = subgroup_of.get(entry.get("subgroup", -1), "")
        label = slug(entry["label"])
        if subgroup not in SUBGROUPS or label in DROPPED or label.endswith(CLOCKS):
            continue
        kind, broader = SUBGROUPS[subgroup]
        concept = MERGED.get(label, label.replace("-", " "))
        variant = label if label in MERGED and slug(concept) != label else ""
        if concept in SCENERY:
            kind = "scenery"
        yield Wanted(concept, variant, kind, BROADER.get(concept, broader), (label, label + "-face"))


def person_names(base: str, hair: str, tone: str) -> tuple[str, ...]:
    """List how artists name one person: Google puts the tone before the hair, Microsoft shortens it."""
    names = []
    for stem in (base, "person-" + base):
        parts = [f"{stem}-{hair}"] if hair else [stem]
        if not tone:
            names += parts
            continue
        for suffix in (f"-{tone}-skin-tone", f"-{tone}"):
            names += [parts[0] + suffix, *([f"{stem}{suffix}-{hair}"] if hair else [])]
    return tuple(names)


def wanted_people() -> Iterator[Wanted]:
    """Yield single persons; gender, hair and skin tone are identities of one concept, never words of it."""
    for concept, (broader, bases) in PEOPLE.items():
        for base in bases:
            hairs = ("", *HAIR) if base in ("man", "woman", "person") else ("",)
            for hair in hairs:
                look = "-".join(part for part in (base if len(bases) > 1 else "", hair) if part)
                for tone in ("", *TONES):
                    variant = "-".join(part for part in (look, tone) if part)
                    names = person_names(base, hair, tone)
                    has_face = concept not in FULL_BODY
                    yield Wanted(concept, variant, "subject", broader, names, has_face, f"{concept}/{look}")


def read_icons(npm: Path, artist: str) -> dict[str, str]:
    """Read one artist's icons as name -> SVG text, with aliases resolved."""
    data = json.loads((npm / "@iconify-json" / artist / "icons.json").read_text())
    svgs = {}
    for name, icon in data["icons"].items():
        box = [icon.get(side, data.get(side, default)) for side, default in VIEW_BOX.items()]
        svgs[name] = f'<svg {NAMESPACES} viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'
    for name, alias in data.get("aliases", {}).items():
        if set(alias) == {"parent"} and alias["parent"] in svgs:
            svgs[name] = svgs[alias["parent"]]
    if artist == "fxemoji":
        svgs |= {name: svgs[theirs] for name, theirs in FXEMOJI_NAMES.items()}
    return svgs


def render(svg: str) -> np.ndarray:
    """Rasterise an SVG to a (64,64,4) uint8 tile with straight alpha."""
    import resvg_py  # only rebuilding the pack needs it: the extra "assets"

    png = resvg_py.svg_to_bytes(svg_string=svg, width=SPRITE_SIZE, height=SPRITE_SIZE, skip_system_fonts=True)
    tile = np.array(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))
    if tile.shape != (SPRITE_SIZE, SPRITE_SIZE, 4):  # not square: centre it
        square = np.zeros((SPRITE_SIZE, SPRITE_SIZE, 4), np.uint8)
        top, left = (SPRITE_SIZE - tile.shape[0]) // 2, (SPRITE_SIZE - tile.shape[1]) // 2
        square[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        tile = square
    tile[tile[..., 3] == 0] = 0  # colour under full transparency is noise that lossless packing would keep
    return tile


def draw_artist(npm: Path, artist: str, wanted: list[Wanted]) -> Iterator[tuple[Wanted, np.ndarray]]:
    """Yield what this artist drew of what is wanted, without blanks and repeats."""
    svgs = read_icons(npm, artist)
    if artist == "fxemoji":  # writes "fireengine"
        svgs = {name.replace("-", ""): svg for name, svg in svgs.items()} | svgs
        wanted = [replace(w, names=w.names + tuple(n.replace("-", "") for n in w.names)) for w in wanted]
    drawn = {(w.concept, w.variant) for w in wanted if any(name in svgs for name in w.names)}
    seen: set[bytes] = set()
    for want in wanted:
        # A person drawn in skin tones is not drawn once more in cartoon yellow.
        yellow = want.concept in PEOPLE and (want.concept, f"{want.variant}-medium".strip("-")) in drawn
        name = next((name for name in want.names if name in svgs), None)
        if yellow or name is None:
            continue
        tile = render(svgs[name])
        key = tile.tobytes()
        if (tile[..., 3] > 127).mean() >= MIN_COVERAGE and key not in seen:
            seen.add(key)
            yield want, tile


def skin_masks(drawn: list[tuple[Wanted, np.ndarray]]) -> dict[str, np.ndarray]:
    """Find bare skin (64,64) of every person drawn in two tones: it is what differs between the tones."""
    looks: dict[str, list[np.ndarray]] = {}
    for want, tile in drawn:
        looks.setdefault(want.look, []).append(tile.astype(int))
    masks = {}
    for look, tiles in looks.items():
        if len(tiles) > 1:
            changed = np.abs(tiles[0] - tiles[-1]).sum(-1) > 60
            masks[look] = changed & (tiles[0][..., 3] > 127)
    return masks


def face_box(tile: np.ndarray, skin: np.ndarray | None) -> Box | None:
    """Bound the face of a head-and-shoulders sprite as fractions of the tile; None when too little skin shows."""
    if skin is None or skin.mean() < MIN_SKIN:
        return None
    top, bottom = longest_run(skin.sum(1))
    left, right = longest_run(skin[top:bottom].sum(0))
    x0, y0, x1, y1 = (round(float(edge) / SPRITE_SIZE, 3) for edge in (left, top, right, bottom))
    return x0, y0, x1, y1


def longest_run(counts: np.ndarray) -> tuple[int, int]:
    """Return [start, stop) of the longest stretch with at least 40% of the largest count: hands and necks drop out."""
    solid = np.concatenate([[0], counts >= 0.4 * counts.max(), [0]])
    starts, stops = np.flatnonzero(np.diff(solid) == 1), np.flatnonzero(np.diff(solid) == -1)
    longest = int((stops - starts).argmax())
    return int(starts[longest]), int(stops[longest])


def assign_splits(identities: list[Identity]) -> list[Identity]:
    """Hold out one artist whole and every tenth concept in all styles; scenery is background and never held out."""
    concepts = sorted({i.concept for i in identities if i.kind != "scenery"})
    held_out = set(concepts[9::10])
    splits = (
        "test_artist" if i.artist == HELD_OUT_ARTIST else "test_concept" if i.concept in held_out else "train"
        for i in identities
    )
    return [replace(i, split=split) for i, split in zip(identities, splits, strict=True)]


def write_atlas(path: Path, tiles: list[np.ndarray]) -> None:
    """Write tiles row by row into one lossless WebP."""
    rows = -(-len(tiles) // ATLAS_COLUMNS)
    atlas = np.zeros((rows * SPRITE_SIZE, ATLAS_COLUMNS * SPRITE_SIZE, 4), np.uint8)
    for index, tile in enumerate(tiles):
        y, x = (SPRITE_SIZE * v for v in divmod(index, ATLAS_COLUMNS))
        atlas[y : y + SPRITE_SIZE, x : x + SPRITE_SIZE] = tile
    Image.fromarray(atlas, "RGBA").save(path, lossless=True, quality=100, method=4, exact=True)


def write_attribution(path: Path) -> None:
    """Name author, licence and address of every source, and what was changed, as the licences ask."""
    lines = ["# Attribution", "", "The sprites in this folder come from these emoji sets:", ""]
    lines += ["| artist | author | licence | source |", "|---|---|---|---|"]
    lines += [f"| {a} | {s.author} | {s.licence} | {s.url} (npm `@iconify-json/{a}`) |" for a, s in ARTISTS.items()]
    lines += ["", "Licence texts:", ""]
    lines += [f"- {licence}: <{url}>" for licence, url in LICENCE_URLS.items()]
    lines += ["", "Changes made: a part of each set was chosen, rasterised at 64x64 pixels, packed into one picture;"]
    lines += ["EmojiWorld recolours, tints, bends, mirrors and composites the sprites when it renders clips.", ""]
    lines += ["Concept names follow the Unicode emoji names as listed by emojibase-data (MIT, Miles Johnson).", ""]
    lines += ["## MIT licence of the fluent-emoji sets", "", "Copyright (c) Microsoft Corporation.", "", MIT_TEXT]
    path.write_text("\n".join(lines))


def build(npm: Path, out: Path) -> None:
    """Build the whole pack: seven atlases, identities.json and ATTRIBUTION.md."""
    emoji = json.loads((npm / "emojibase-data/en/data.json").read_text())
    meta = json.loads((npm / "emojibase-data/meta/groups.json").read_text())
    subgroup_of = {int(number): name for number, name in meta["subgroups"].items()}
    wanted = [*wanted_things(emoji, subgroup_of), *wanted_people()]
    out.mkdir(parents=True, exist_ok=True)
    identities: list[Identity] = []
    for artist in ARTISTS:
        drawn = list(draw_artist(npm, artist, wanted))
        skins = skin_masks([(want, tile) for want, tile in drawn if want.has_face])
        for want, tile in drawn:
            known = (want.concept, artist, want.variant, want.kind, want.broader)
            box = None
            if want.has_face:
                box = FACES.get((artist, want.concept)) or face_box(tile, skins.get(want.look))
            identities.append(Identity(len(identities), *known, has_face=box is not None, face_box=box, split=""))
        write_atlas(out / f"{artist}.webp", [tile for _, tile in drawn])
    rows = [list(asdict(i).values())[1:] for i in assign_splits(identities)]  # the index is the row number
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    (out / "identities.json").write_text(f"[\n{lines}\n]\n")
    write_attribution(out / "ATTRIBUTION.md")


def main() -> None:
    """Parse the command line and build the pack."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--npm", type=Path, required=True, help="node_modules with @iconify-json/* and emojibase-data")
    parser.add_argument("--out", type=Path, default=ASSET_DIR, help="where the pack goes")
    arguments = parser.parse_args()
    build(arguments.npm, arguments.out)


if __name__ == "__main__":
    main()
