"""The tables, from results made up for the test."""

import copy

import pytest
from benchmarks.table import main, render, replace_tables

from benchmarks import results_file, table

PAGE = """# Title

<!-- benchmark:begin cpu/one -->
<!-- benchmark:end cpu/one -->

Between.

<!-- benchmark:begin cpu/problems -->
old
<!-- benchmark:end cpu/problems -->
"""


def timed(seconds, speedup):
    return {"problem": None, "median_seconds": seconds, "speedup": speedup, "seconds": [seconds]}


def columns(seconds, speedup):
    return {column: timed(seconds, speedup) for column in ("lone", "one", "many")}


RESULTS = {
    "environment": {
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "0123456789abcdef",
        "uncommitted_changes": False,
        "processor": "A processor",
        "cores": 2,
        "memory_gib": 23.4,
        "system": "Linux x86_64",
        "python": "3.11.7",
        "torch_threads": 2,
        "dtype": "float32",
        "packages": {"torch": "2.13.0", "jax": None},
    },
    "baseline": "base",
    "workloads": [
        {
            "name": "mlp",
            "title": "MLP",
            "counted_ratio": 1.5,
            "machine": {"flops": 4e8, "flops_per_second": 1e11, "bytes": 1e7, "bytes_per_second": 1e10},
            "contestants": {
                "base": {
                    "problem": None,
                    "columns": columns(0.01, 1.0),
                    "memory": {"problem": None, "gradient_mib": 100.0, "one_mib": 12.4, "many_mib": 99.6},
                },
                "hesse": {"problem": None, "columns": columns(0.005, 2.0)},
                "fast peer": {"problem": None, "columns": columns(0.001, 12.0)},
                "hessian-like": {"problem": "It takes a <network> | a loss.", "columns": {}},
            },
        }
    ],
}


@pytest.fixture
def folder(tmp_path):
    results_file.write(tmp_path / "results" / "cpu.json", RESULTS)
    return tmp_path / "results"


def test_speeds_name_the_baseline_in_time_and_the_others_in_ratios():
    assert render(RESULTS, "one").splitlines()[-1] == "| MLP | 10 ms | 2.00x | **12x** | – |"


def test_the_summary_sets_hesse_beside_the_fastest_peer():
    assert render(RESULTS, "summary").splitlines()[-1] == ("| MLP | 2.00x | 2.00x | 2.00x | 12x (fast peer) | 1.50x |")


def test_memory_gives_both_peaks_and_marks_what_is_missing():
    assert render(RESULTS, "memory").splitlines()[-1] == "| MLP | 12 / 100 | – | – | – |"


def test_memory_of_a_wrong_answer_is_not_shown():
    results = copy.deepcopy(RESULTS)
    base = results["workloads"][0]["contestants"]["base"]
    base["columns"]["many"] = {"problem": "Its answer is wrong.", "relative_error": 0.1}
    assert render(results, "memory").splitlines()[-1] == "| MLP | 12 / – | – | – | – |"


def test_problems_are_listed_with_their_markup_escaped():
    assert render(RESULTS, "problems") == "- hessian-like, mlp: It takes a \\<network\\> \\| a loss."


def test_a_problem_in_one_column_names_the_column():
    results = copy.deepcopy(RESULTS)
    contestants = results["workloads"][0]["contestants"]
    contestants["hesse"]["columns"]["many"] = {"problem": "Too large.", "relative_error": None}
    assert "- hesse, mlp (many): Too large." in render(results, "problems").splitlines()
    assert render(results, "many").splitlines()[-1] == "| MLP | 10 ms | – | **12x** | – |"


def test_the_environment_leaves_out_what_is_not_installed():
    assert "Python 3.11.7, torch 2.13.0\n" in render(RESULTS, "environment")


def test_replacing_tables_is_idempotent_and_keeps_the_rest(folder):
    once = replace_tables(PAGE, folder)
    assert replace_tables(once, folder) == once
    assert "Between." in once
    assert "old" not in once
    assert render(RESULTS, "one") in once


def test_check_reports_stale_pages_and_changes_nothing(folder, tmp_path, capsys):
    page = tmp_path / "README.md"
    page.write_text(PAGE)
    assert main(["--check"], [page], folder) == 1
    assert page.read_text() == PAGE
    assert main([], [page], folder) == 0
    assert main(["--check"], [page], folder) == 0
    assert "README.md" in capsys.readouterr().out


def test_a_page_that_is_absent_is_passed_over(folder, tmp_path):
    assert main(["--check"], [tmp_path / "absent.md"], folder) == 0


def test_a_marker_without_its_partner_is_an_error(folder):
    with pytest.raises(ValueError, match="partner"):
        replace_tables("<!-- benchmark:begin cpu/one -->\n", folder)


def test_the_view_all_has_every_table():
    text = render(RESULTS, "all")
    assert all(f"### {heading}\n" in text for heading in table.views.HEADINGS.values())


def test_the_distance_to_the_machine_is_the_longer_of_two_times():
    results = copy.deepcopy(RESULTS)
    assert "| MLP | 4 ms | arithmetic | 80 % |" in render(results, "machine")
    results["workloads"][0]["machine"]["bytes"] = 4.5e7
    assert "| MLP | 4.5 ms | memory | 90 % |" in render(results, "machine")


def test_a_vocabularys_table_has_each_as_a_part_of_the_first():
    results = {"contestants": {"torch": {"seconds": 2.0, "peak": 3000.0}, "hesse": {"seconds": 1.5, "peak": 600.0}}}
    assert render(results, "vocabulary").splitlines()[2:] == [
        "| torch | 2 s (1.00) | 3000 MiB (1.00) |",
        "| hesse | 1.5 s (0.75) | 600 MiB (0.20) |",
    ]
