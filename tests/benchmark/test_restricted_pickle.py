"""The reader of pickles: what numpy of any version writes comes back, and nothing else does."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from video_alchemist.benchmark.restricted_pickle import load_plain


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("generation", [1, 2])
def test_arrays_of_both_numpys_come_back(protocol, generation):
    """The annotation is of numpy 1 (`numpy.core`), ours is 2 (`numpy._core`): both must be read by either."""
    mask = np.arange(12, dtype=">i4").reshape(3, 4) % 2
    value = {"man": [{"box": [np.int64(3), 4], "mask": mask, "up": np.asfortranarray(mask), "face": np.bool_(True)}]}
    contents = pickle.dumps(value, protocol)
    if generation == 1:
        contents = renamed(contents)
    (entry,) = load_plain(contents)["man"]
    assert entry["box"] == [3, 4] and entry["face"] is True
    assert np.array_equal(entry["mask"], mask) and np.array_equal(entry["up"], mask)


def renamed(contents: bytes) -> bytes:
    """The pickle as numpy 1 writes it: other module names, and so other lengths of strings."""
    if contents[1] < 4 or contents[0] != 0x80:
        return contents.replace(b"numpy._core", b"numpy.core")  # names end at a newline
    places = [(opcode.name, argument, place) for opcode, argument, place in pickletools.genops(contents)]
    ends = [place for _, _, place in places[1:]] + [len(contents)]
    parts = []
    for (name, argument, place), end in zip(places, ends, strict=True):
        if name == "SHORT_BINUNICODE" and "numpy._core" in argument:
            text = argument.replace("numpy._core", "numpy.core").encode()
            parts.append(b"\x8c" + bytes([len(text)]) + text)
        elif name != "FRAME":
            parts.append(contents[place:end])
    return b"".join(parts)


class Evil:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Evil(os.system, "touch owned"), "posix.system"),
        ({"man": [Evil(eval, "1")]}, "builtins.eval"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        (np.array([{}], dtype=object), "numpy.dtype O8"),
        (Path("x"), "pathlib"),
        ({"a": b"bytes"}, "builtins.bytes"),
        ([(1, 2)], "builtins.tuple"),
        ({(1, 2): 3}, "builtins.tuple"),
        (np.zeros(2, "i4,f4"), "numpy.dtype V8"),
    ],
)
def test_everything_else_is_refused_by_name(value, named, tmp_path, monkeypatch):
    """A pickle can run any program of the machine that opens it; one that tries must do nothing."""
    monkeypatch.chdir(tmp_path)
    for protocol in (0, 2, 4, 5):
        old_names = protocol < 4  # of Python 2
        with pytest.raises(ValueError, match="expected only dict" if old_names else named.replace(" ", ".")):
            load_plain(pickle.dumps(value, protocol))
    assert list(tmp_path.iterdir()) == []


BOMBS = {
    "memo": b"\x80\x02]r\xff\xff\xff\x7f.",  # LONG_BINPUT 2**31 - 1: 34 GB of cells, in the C reader
    "reconstruct": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n(J\xff\xff\xff\x7ft\x8c\x01O\x87R.",
    "bytes": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "class": b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ft\x85R.",
    "state": b"\x80\x02cnumpy\ndtype\n}\x8c\x01aK\x01sb.",  # BUILD on a class
    "function": b"\x80\x02c_codecs\nencode\nN}\x8c\x01aK\x01s\x86b.",
    "persistent": b"\x80\x02\x8c\x01aQ.",
    "extension": b"\x80\x02\x82\x01.",
    "cut off": pickle.dumps({"a": np.zeros(9)})[:-9],
    "empty": b"",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_do_not_go_off(name):
    """A few bytes that ask for gigabytes, or that reach into our own classes: at most an error comes out."""
    try:
        assert load_plain(BOMBS[name]) == []
    except ValueError as error:
        assert "pickle" in str(error)
    assert load_plain(pickle.dumps({"a": np.ones(2, np.uint8)}))["a"].tolist() == [1, 1]  # and all is as before


def test_lists_within_themselves_end():
    """Guards against endless walks: a ring, and forty levels of two references each, a trillion leaves."""
    ring: list = [1]
    ring.append(ring)
    assert load_plain(pickle.dumps(ring))[1][1][0] == 1
    level: list = [1]
    for _ in range(40):
        level = [level, level]
    stream = io.BytesIO()
    pickle.dump(level, stream)
    assert len(load_plain(stream.getvalue())) == 2
