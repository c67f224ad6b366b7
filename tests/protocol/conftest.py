"""The search reads the same generations over and over: each is decoded once."""

import logging

import pytest

from shared.state.store import protocol, readable_view, seen_history
from tests.protocol import nas


@pytest.fixture(autouse=True)
def _decode_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(
        logging.CRITICAL, "shared"
    )  # the same process is run from its beginning for each of its steps
    monkeypatch.setattr(protocol, "decode", nas.read)
    monkeypatch.setattr(seen_history, "decode", nas.read)
    monkeypatch.setattr(readable_view, "decode", nas.read)
