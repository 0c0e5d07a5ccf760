"""Charts tell the counts they were given; the cloud's words stand apart; text stays text."""

import itertools

import numpy as np
import pytest

from video_alchemist.curation.report_svg import CLOUD, bins, cloud, histogram, number, round_step, tag, text_width


def test_text_is_escaped_and_markup_is_not():
    """Guards against captions that run as script, and against markup escaped twice."""
    inner = tag("b", "<script>\"x\" & 'y'</script>", title='"><script>')
    assert inner == (
        '<b title="&quot;&gt;&lt;script&gt;">&lt;script&gt;&quot;x&quot; &amp; &#x27;y&#x27;&lt;/script&gt;</b>'
    )
    assert tag("p", inner, None, 3, class_="a", data_word=None) == f'<p class="a">{inner}3</p>'
    assert tag("input", id="q") == '<input id="q">'


@pytest.mark.parametrize(("least", "step"), [(0.9, 1), (1, 1), (1.1, 2), (2.3, 5), (7, 10), (0.03, 0.05), (1e-9, 1e-9)])
def test_steps_are_round(least, step):
    """Guards against an axis in steps of 0.0357."""
    assert round_step(least) == pytest.approx(step)


def test_bins_count_every_value_once():
    """Guards against values on an edge, or the largest one, that fall between bins."""
    found = bins([0.0, 0.5, 1.0, 1.0, 2.0], limits=(0, 2), most=4)
    assert found.edges == (0, 0.5, 1, 1.5, 2)
    assert found.counts == (1, 1, 2, 1) and not found.open
    rng = np.random.default_rng(0)
    for values in ([3.0], [2.5] * 7, rng.normal(size=999), rng.exponential(size=99) * 1e-4, [-1.0, 1e6]):
        found = bins(values)
        assert sum(found.counts) == len(values)
        assert all(low < high for low, high in itertools.pairwise(found.edges))
        assert len(found.counts) <= 26


def test_long_tail_falls_into_one_open_bin():
    """Guards against one clip of ten hours that squeezes all others into a single bar."""
    found = bins([*np.linspace(1, 10, 999), 36000.0])
    assert found.open and found.edges[-1] < 12 and sum(found.counts) == 1000
    assert "and more: " in histogram(found, "s")


@pytest.mark.parametrize(
    ("value", "text"), [(0.4352, "0.435"), (2, "2"), (86.84, "86.8"), (999.7, "1000"), (86.8e6, "86,800,000")]
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_words_of_the_cloud_stand_apart_and_inside():
    """Guards against words written over one another, or cut off at the edge."""
    rng = np.random.default_rng(0)
    vocabulary = ["fox", "police officer", "green-capped bottle", "w", "狐狸", "🦊", "<b>", "mmmmmmmmmm"]
    counts = {
        (f"{vocabulary[i % 8]}{i // 8 or ''}", ("subject", "object")[i % 2]): int(n)
        for i, n in enumerate(rng.zipf(1.6, 100).clip(max=4000))
    }
    placed = cloud(counts)
    assert len(placed) > 60
    assert placed[0].count == max(counts.values())
    for word in placed:
        assert word.width / 2 - 1e-6 <= word.x <= CLOUD[0] - word.width / 2 + 1e-6
        assert word.height / 2 - 1e-6 <= word.y <= CLOUD[1] - word.height / 2 + 1e-6
        assert word.width >= text_width(word.word) * word.size
    for one, other in itertools.combinations(placed, 2):
        across = abs(one.x - other.x) >= (one.width + other.width) / 2 - 1e-6
        down = abs(one.y - other.y) >= (one.height + other.height) / 2 - 1e-6
        assert across or down, (one.word, other.word)


def test_cloud_is_the_same_for_the_same_counts():
    """Guards against pages that differ from run to run, which nobody can compare."""
    counts = {("fox", "subject"): 5, ("cup", "object"): 5, ("dog", "subject"): 2}
    assert cloud(counts) == cloud(dict(reversed(counts.items())))
    assert [word.word for word in cloud(counts)] == ["cup", "fox", "dog"]
    assert cloud({}) == []
