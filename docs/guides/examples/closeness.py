"""A reward that grows with how close an answer comes."""

from difflib import SequenceMatcher


def closeness(completion: str, answer: str) -> float:
    """Share of letters that both texts have in common and in order, whatever their case: 1 if they are the same."""
    return SequenceMatcher(None, completion.strip().casefold(), answer.strip().casefold()).ratio()
