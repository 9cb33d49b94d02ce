"""What a search says about wrong schedules, names and candidates."""

from __future__ import annotations

from pathlib import Path

import pytest
from search_runs import search, unit_times

from embedllm.demonstrations import search_command
from embedllm.demonstrations.search_command import fit_schedule

pytestmark = pytest.mark.usefixtures("entry_process")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        pytest.param(
            ["search.rungs=[100,250,600,1500]", "search.keep=[90,30,10]"],
            ["must end with all pairs", "sample-test has 200", "search.rungs=[100,200]"],
            id="more-pairs-than-there-are",
        ),
        pytest.param(
            ["search.rungs=[100]", "search.keep=[]"],
            ["must end with all pairs", "search.rungs=[200] search.keep=[]"],
            id="not-all-pairs",
        ),
        pytest.param(["search.keep=[10]"], ["one number less"], id="keep-does-not-fit"),
        pytest.param(["save_as=../x"], ["save_as='../x'", "without .yaml"], id="save-outside"),
        pytest.param(
            ["save_as=plain"], ["save_as=plain", "no search has written"], id="save-over-shipped"
        ),
        pytest.param(
            ["save_as=prompteol"], ["prompt that the search starts from"], id="save-over-start"
        ),
        pytest.param(["candidates=no.csv"], ["candidates=no.csv"], id="no-file"),
        pytest.param(["candidates=paper"], ["EMBEDLLM_DATA_DIR"], id="no-paper-set"),
        pytest.param(["evaluation=sts"], ["must be one task"], id="many-tasks"),
    ],
)
def test_errors_come_before_any_weight(
    candidates: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    parts: list[str],
) -> None:
    monkeypatch.delattr(search_command, "load_encoder")
    with pytest.raises(SystemExit) as stop:
        search(candidates, tmp_path, *overrides)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.count("error: ") == 1
    for part in parts:
        assert part in message
    assert not (tmp_path / "run" / "ranking.csv").exists()


def test_a_file_without_candidates_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("sentence,word\n")
    with pytest.raises(SystemExit) as stop:
        search(path, tmp_path)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.count("error: ") == 1
    assert str(path) in message


def test_a_candidate_that_the_model_has_no_room_for_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "long.csv"
    path.write_text(f"sentence,word\nA dog.,Dog\n{'long ' * 300},Long\n")
    with pytest.raises(SystemExit) as stop:
        search(path, tmp_path)
    assert stop.value.code == 2
    assert "candidate 2 of" in capsys.readouterr().err
    assert not unit_times(tmp_path / "run")


def test_a_schedule_is_fitted_by_leaving_out_what_is_too_long() -> None:
    default = search_command.HalvingConfig()
    assert fit_schedule(default, 1500) == default
    fitted = fit_schedule(default, 300)
    assert (fitted.rungs, fitted.keep) == ([100, 250, 300], [90, 30])
    assert fit_schedule(default, 50).rungs == [50]
