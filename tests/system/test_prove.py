"""`make prove` runs its parts as it should."""

import time
from pathlib import Path

import pytest

from deploy.prove.__main__ import Part, Proof


def test_lanes_run_side_by_side_and_a_part_that_fails_or_has_no_time_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad, endless = (tmp_path / f"test_{name}.py" for name in ("good", "bad", "endless"))
    good.write_text("def test_good(): pass\n")
    bad.write_text("def test_bad(): assert 1 == 2\n")
    endless.write_text("import time\ndef test_endless(): time.sleep(60)\n")

    def prove(seconds: float, *lanes: list[Path]) -> tuple[bool, str]:
        proof = Proof(time.monotonic() + seconds, tmp_path)
        proof.run(
            [
                [
                    Part(
                        path.stem,
                        (str(path),),
                        1.0,
                        options=("-c", "/dev/null"),
                        length_is_given=True,
                    )
                    for path in lane
                ]
                for lane in lanes
            ]
        )
        return proof.held, capsys.readouterr().out

    held, said = prove(60, [good], [good])
    assert held
    held, said = prove(60, [good], [bad, good])
    assert not held
    assert "assert 1 == 2" in said
    assert said.splitlines()[-1].split()[:3] == ["all", "3", "1"]
    held, said = prove(4, [endless], [good])
    assert not held
    assert "its time was over" in said
