"""The search reads the same generations over and over: each is decoded once."""

import logging
import os

import pytest

from shared.statedb import database, protocol
from tests.protocol import nas

#: `VMBACKUP_PROVE=1` searches the larger scenarios, too, which takes many minutes.
PROVE = os.environ.get("VMBACKUP_PROVE", "") not in ("", "0")
#: How long that may take in all.
PROVE_SECONDS = float(os.environ.get("VMBACKUP_PROVE_SECONDS", "600"))


@pytest.fixture(autouse=True)
def _decode_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "shared")  # the same process is run from its beginning for each of its steps
    monkeypatch.setattr(protocol, "decode", nas.read)
    monkeypatch.setattr(database, "decode", nas.read)
