from __future__ import annotations

from pointsman.agent.report_pacing import ReportPacing


def test_what_is_urgent_is_written_at_once_and_then_once_a_second() -> None:
    pacing = ReportPacing(5.0)
    assert pacing.due(100.0, urgent=True) <= 100.0
    pacing.wrote(100.0)
    assert pacing.due(100.2, urgent=True) == 101.0


def test_counts_are_written_each_half_minute_at_the_most() -> None:
    pacing = ReportPacing()
    assert pacing.due(100.0, urgent=False) <= 100.0
    pacing.wrote(100.0)
    assert pacing.due(101.0, urgent=False) == 130.0
    assert pacing.due(102.0, urgent=True) == 101.0, "what is urgent does not wait for them"


def test_counts_are_spread_over_the_nodes() -> None:
    pacing = ReportPacing(3.0)
    assert pacing.due(100.0, urgent=False) == 103.0
    assert pacing.due(101.0, urgent=False) == 103.0, "from the first change on"
    pacing.idle()
    assert pacing.due(200.0, urgent=False) == 203.0


def test_what_is_refused_is_tried_again_with_growing_pauses() -> None:
    pacing = ReportPacing()
    assert [pacing.failed(100.0, 1.0) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert pacing.due(100.0, urgent=True) == 160.0
    assert pacing.failed(200.0, 0.0) == 30.0, "by chance half of it"
    assert pacing.failed(250.0, 0.0, at_least=77.0) == 77.0, "the API server may ask for more"
    pacing.wrote(300.0)
    assert pacing.failed(301.0, 1.0) == 1.0
