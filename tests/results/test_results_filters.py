"""`python -m embedllm results`: which results are shown, in which order."""

from __future__ import annotations

from pathlib import Path

import pytest
from listed_results import NEWEST_FIRST, ListResults, run_names
from stored_results import make_record

from embedllm.config import ResultFilterConfig
from embedllm.errors import ConfigError
from embedllm.results import append_result


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], NEWEST_FIRST),
        (["filter.run_name=bas"], ["base"]),
        (["filter.label=our"], ["tuned"]),
        (["filter.model=SmolLM2"], ["tuned", "base"]),
        (["filter.model=opt-125m"], NEWEST_FIRST),
        (["filter.task=STSBenchmark"], ["tuned", "icl", "base"]),
        (["filter.task=stsbenchmark-dev"], ["base"]),
        (["filter.task=STS"], []),
        (["filter.adapter=none"], ["icl", "base"]),
        (["filter.adapter=any"], ["tuned", "probes"]),
        (["filter.adapter=LLaMA"], ["probes"]),
        (["filter.prompt=one word"], ["icl"]),
        (["filter.prompt=equestrian"], ["icl"]),
        (["filter.prompt=essence"], ["icl"]),
        (["filter.since=2026-01-02"], ["tuned", "icl", "probes"]),
        (["filter.since=2026-01-03"], ["tuned", "icl"]),
        (["filter.since=2026-01-03T00:30"], ["tuned", "icl"]),
        (["filter.since=2026-01-03T00:30:01"], ["tuned"]),
        (["filter.since=2026-01-03T00:30-01:00"], ["tuned"]),
        (["filter.min_average=75"], ["tuned", "icl", "probes"]),
        (["filter.min_average=76"], ["tuned", "probes"]),
        (["filter.min_average=76", "filter.adapter=any", "filter.task=STS12"], ["tuned"]),
        (["filter.model=smollm2", "filter.label=none"], []),
    ],
)
def test_filters(overrides: list[str], expected: list[str], list_results: ListResults) -> None:
    assert run_names(list_results("format=json", *overrides)) == expected


def test_every_filter_is_tried_above() -> None:
    marks = test_filters.pytestmark
    cases = [case for mark in marks for case in mark.args[1]]
    used = {o.partition("=")[0] for overrides, _ in cases for o in overrides}
    assert used == {f"filter.{name}" for name in ResultFilterConfig.__dataclass_fields__}


def test_prompts_of_any_shape_are_searched(results_folder: Path, list_results: ListResults) -> None:
    prompt = {"template": "x {sentence}", "more_templates": None, "demonstrations": [3, {"a": 1}]}
    append_result(results_folder, make_record(run_name="odd", prompt=prompt))
    assert run_names(list_results("format=json", "filter.prompt=one word")) == ["icl"]
    assert run_names(list_results("format=json", "filter.prompt='x {'")) == ["odd"]


# --- Order --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["sort_by=finished"], NEWEST_FIRST),
        (["sort_by=sts"], ["tuned", "icl", "base", "probes"]),
        (["sort_by=transfer"], ["probes", "icl", "tuned", "base"]),
        (["sort_by=STS12"], ["tuned", "base", "icl", "probes"]),
        (["sort_by=STSBenchmark"], ["tuned", "icl", "base", "probes"]),
        (["sort_by=MR"], ["probes", "tuned", "icl", "base"]),
        (["limit=2"], ["tuned", "icl"]),
        (["sort_by=transfer", "limit=1"], ["probes"]),
        (["limit=100"], NEWEST_FIRST),
    ],
)
def test_order_and_limit(
    overrides: list[str], expected: list[str], list_results: ListResults
) -> None:
    assert run_names(list_results("format=json", *overrides)) == expected


def test_scores_below_zero_come_before_missing_ones(
    results_folder: Path, list_results: ListResults
) -> None:
    append_result(results_folder, make_record({"STS12": -3.0}, run_name="worst", sts=-3.0))
    assert run_names(list_results("format=json", "sort_by=sts")) == [
        "tuned",
        "icl",
        "base",
        "worst",
        "probes",
    ]


def test_an_order_by_an_unknown_task_is_refused(list_results: ListResults) -> None:
    allowed = "finished, sts, transfer, STS12, STSBenchmark, .*MR"
    with pytest.raises(ConfigError, match=rf"sort_by='STS21' is not known; allowed: {allowed}"):
        list_results("sort_by=STS21")
