from __future__ import annotations

import pytest

from lamina.cli.others import OthersWatch, tell_disturbance


def test_a_disturbed_measurement_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert OthersWatch().cores() >= 0
    tell_disturbance(0.05)
    assert capsys.readouterr().err == ""
    tell_disturbance(1.26)
    assert "other programs kept 1.3 of" in capsys.readouterr().err
