"""Binding (§3.2): from a word in a prompt to its tokens, and from tokens to personalization embeddings."""

from __future__ import annotations

import pytest
import torch

from video_alchemist.model.binding import Binding, find_word, gather_word_tokens, token_index


@pytest.mark.parametrize(
    ("text", "word", "found"),
    [
        ("A dog runs", "dog", "dog"),
        ("A Dog runs", "dog", "Dog"),
        ("A dog, a cat.", "cat", "cat"),
        ("(dog)", "dog", "dog"),
        ("the dog's ball", "dog", "dog"),
        ("concatenate the cat", "cat", "cat"),
        ("a red fire engine stops", "fire engine", "fire engine"),
        ("a red fire  engine stops", "fire engine", "fire  engine"),
        ("a red fire-engine stops", "fire engine", "fire-engine"),
        ("a T-shirt", "t-shirt", "T-shirt"),
        ("St. Bernard’s hut", "bernard's", "Bernard’s"),
        ("ein Bär und ein Bärtiger", "bär", "Bär"),
        ("a cafe\u0301 in Paris", "caf\u00e9", "cafe\u0301"),
        ("a 🐶 beside a robot", "🐶", "🐶"),
        ("a ❤\ufe0f on a wall", "❤", "❤\ufe0f"),
        ("a ❤ on a wall", "❤\ufe0f", "❤"),
        ("a T shirt", "t-shirt", "T shirt"),
        ("狗在跑", "狗", "狗"),
    ],
)
def test_find_word(text: str, word: str, found: str) -> None:
    """Guards against words missed for their case, punctuation, hyphens, spaces, accents or script."""
    start, end = find_word(text, word)
    assert text[start:end] == found


@pytest.mark.parametrize(
    ("text", "word", "found"),
    [
        ("two dogs run", "dog", "dogs"),
        ("a dog runs", "dogs", "dog"),
        ("two ponies", "pony", "ponies"),
        ("a pony", "ponies", "pony"),
        ("three boxes", "box", "boxes"),
        ("a box", "boxes", "box"),
        ("a bus", "buses", "bus"),
        ("two wolves", "wolf", "wolves"),
        ("a knife", "knives", "knife"),
        ("a woman", "women", "woman"),
        ("two children", "child", "children"),
        ("two fire engines", "fire engine", "fire engines"),
        ("a boy", "boys", "boy"),
    ],
)
def test_plurals_and_singulars_are_a_second_choice(text: str, word: str, found: str) -> None:
    """Guards against a reference refused for the number of its word only."""
    start, end = find_word(text, word)
    assert text[start:end] == found


def test_exact_word_wins_over_its_plural() -> None:
    """Guards against the first look-alike being taken where the word itself comes later."""
    assert find_word("dogs chase a dog", "dog") == (13, 16)


def test_repeats_are_told_by_occurrence() -> None:
    """Guards against every repeat binding to the first place, and against occurrences that do not exist."""
    text = "a dog meets a dog"
    assert find_word(text, "dog", 0) == (2, 5)
    assert find_word(text, "dog", 1) == (14, 17)
    with pytest.raises(ValueError, match="occurrence 2 of 'dog'.*expected 0 to 1"):
        find_word(text, "dog", 2)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("concatenate", "cat"),
        ("a category", "cat"),
        ("a bobcat", "cat"),
        ("a cafe\u0301", "cafe"),
        ("an astronaut 👩\u200d🚀", "👩"),
    ],
)
def test_parts_of_words_do_not_match(text: str, word: str) -> None:
    """Guards against binding a picture to letters inside another word, or to a part of a joined emoji."""
    with pytest.raises(ValueError, match="is not in the prompt"):
        find_word(text, word)


def test_error_names_the_nearest_words() -> None:
    """Guards against an error that leaves the user guessing."""
    with pytest.raises(ValueError, match="'dgo' is not in the prompt 'A brown dog jumps'; nearest words in it: 'dog'"):
        find_word("A brown dog jumps", "dgo")
    with pytest.raises(ValueError, match="'fire engine'"):
        find_word("a fire engine stops", "fire engin")
    with pytest.raises(ValueError, match="nearest words in it: none"):
        find_word("", "dog")
    with pytest.raises(ValueError, match="is empty"):
        find_word("a dog", " ")


def test_token_index_pads_and_truncates() -> None:
    """Guards against specials (0, 0) and neighbours bound to a word, and against ragged lengths."""
    offsets = [(0, 1), (2, 6), (6, 8), (8, 14), (0, 0), (0, 0)]  # "a fire-engine" cut in pieces, end, padding
    assert token_index(offsets, (2, 14), 4) == [1, 2, 3, -1]
    assert token_index(offsets, (2, 14), 2) == [1, 2]
    assert token_index(offsets, (3, 5), 2) == [1, -1]
    assert token_index(offsets, (0, 1), 2) == [0, -1]


def test_gather_word_tokens() -> None:
    """Guards against tokens of another sample, a wrong order in the flattened word, and padding that is not zero."""
    text_tokens = torch.arange(2 * 3 * 2, dtype=torch.float32).view(2, 3, 2) + 1
    words = gather_word_tokens(text_tokens, torch.tensor([[[0, 2], [1, -1]], [[2, -1], [-1, -1]]]))
    assert words.tolist() == [[[1, 2, 5, 6], [3, 4, 0, 0]], [[11, 12, 0, 0], [0, 0, 0, 0]]]


def test_binding_is_the_papers_formula() -> None:
    """Guards against a lost residual or index, and against index embeddings that differ within an image."""
    binding = Binding(image_dim=6, text_dim=3, word_length=2, max_images=4)
    images, words = torch.randn(2, 3, 5, 6), torch.randn(2, 3, 6)
    f = binding(images, words)
    index = binding.image_index_embedding.weight
    expected = images[1, 2, 4] + binding.projection(torch.cat([images[1, 2, 4], words[1, 2]])) + index[2]
    torch.testing.assert_close(f[1, 2, 4], expected)
    same = binding(images[:, :1].expand(-1, 3, -1, -1), words[:, :1].expand(-1, 3, -1))
    difference = same[:, 1] - same[:, 0]
    torch.testing.assert_close(difference, (index[1] - index[0]).expand_as(difference), atol=1e-6, rtol=1e-5)


def test_image_tokens_know_their_place() -> None:
    """Guards against places that differ by picture, or rows taken for columns: all that is added is the place's."""
    binding = Binding(image_dim=8, text_dim=3, word_length=2, max_images=4, image_grid=(3, 3))
    images, words = torch.randn(2, 3, 9, 8), torch.randn(2, 3, 6)
    placed = binding(images, words)
    assert binding.place_embedding is not None
    places = binding.place_embedding.weight
    binding.place_embedding = None
    torch.testing.assert_close(placed - binding(images, words), places.flatten(0, 1).expand(2, 3, 9, 8))


def test_without_word_binding_words_are_ignored() -> None:
    """Guards against Table 3's "no word token" still seeing words."""
    binding = Binding(image_dim=6, text_dim=3, word_length=2, max_images=4, word_binding=False)
    images = torch.randn(2, 3, 5, 6)
    assert torch.equal(binding(images, torch.randn(2, 3, 6)), binding(images))


def test_user_errors() -> None:
    """Guards against an index error deep inside for too many images, or words of another length."""
    binding = Binding(image_dim=6, text_dim=3, word_length=2, max_images=4)
    with pytest.raises(ValueError, match="5 reference images; expected at most 4"):
        binding(torch.randn(1, 5, 2, 6), torch.randn(1, 5, 6))
    with pytest.raises(ValueError, match="9 channels wide; expected word_length . text_dim = 6"):
        binding(torch.randn(1, 2, 2, 6), torch.randn(1, 2, 9))
    with pytest.raises(ValueError, match="missing"):
        binding(torch.randn(1, 2, 2, 6))
