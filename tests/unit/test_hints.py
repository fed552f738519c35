"""Hints carry the run's name, so that they can be pasted."""

from __future__ import annotations

import pytest

from orchestrator.hints import hint_for


@pytest.mark.parametrize(
    ("hint", "named"),
    [
        ("`cloudbooth resume RUN` continues", "`cloudbooth resume my-dog` continues"),
        ("`cloudbooth logs RUN --trainer` shows more", "`cloudbooth logs my-dog --trainer` shows more"),
        (
            "`cloudbooth logs RUN`, then `cloudbooth resume RUN`",
            "`cloudbooth logs my-dog`, then `cloudbooth resume my-dog`",
        ),
    ],
)
def test_a_command_without_a_name_gets_the_name_of_the_run(hint: str, named: str) -> None:
    assert hint_for("my-dog", hint) == named


@pytest.mark.parametrize("hint", ["mv /photos/RUN /photos/RUN-before", "see /RUN/train.log", "`rm -r '/a RUN '`", ""])
def test_a_path_that_holds_the_word_is_left_alone(hint: str) -> None:
    assert hint_for("my-dog", hint) == hint
