"""Every story, with several seeds: the order of what happens at once may differ, the story not."""

from pathlib import Path

import pytest

from tests.stories.transcript import Player, read

STORIES = sorted(Path(__file__).parent.glob("*.story"))
SEEDS = range(1, 6)


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_story(path: Path) -> None:
    story = read(path)
    for seed in SEEDS:
        played = Player(story, seed).play()
        assert not played.problem, f"seed {seed}: {played.problem}\n{played.transcript[-6000:]}"


def test_a_story_that_is_not_true_fails() -> None:
    story = read(STORIES[0])
    story.lines = ["kill postgres of old", "  s1 rule it never says this"]
    assert "did not happen" in Player(story, 1).play().problem
