import pytest

from visprobe.io.redact import redact

CANARY = "canary0123456789ABCDEF"


@pytest.mark.parametrize(
    "text",
    [
        f"hf_{CANARY}",
        f"--token {CANARY}",
        f"--token=hf_{CANARY}",
        f"https://host/file?token={CANARY}&x=1",
        f"https://user:{CANARY}@host/repo",
        f"WANDB_API_KEY={CANARY}",
        f"sk-{CANARY}",
    ],
)
def test_no_canary_survives(text: str) -> None:
    assert CANARY not in redact(f"before {text} after") and redact(f"x {text}").startswith("x ")


def test_the_value_of_a_secret_variable_is_removed_wherever_it_stands(monkeypatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    assert redact("logged in with 0123456789abcdef.") == "logged in with [redacted]."


@pytest.mark.parametrize(
    "text", ["visprobe compare base sft --seed 0", "org/name@" + "0f" * 20, "a/tokens=3 b", "shelf_" + "a" * 20]
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text
