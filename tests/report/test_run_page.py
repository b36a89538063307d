"""The comparison of runs: the command, and the files it writes."""

import csv
import json
import math
import re
from html.parser import HTMLParser

import pytest

from persona_prune.report.__main__ import main
from persona_prune.report.run_settings import labels, varying
from persona_prune.saved.finished_runs import read_run
from tests.report_runs import config, interval, metrics, sample, write_run

VOID = {"meta", "br", "img", "input", "hr", "link"}
EVIL = '</script><script>alert("x")</script><img src=x> & $x_1$ 100% #~^\\{}'


class Page(HTMLParser):
    """Checks that elements are closed in order; collects them, links, and the text of scripts and of tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)

    @property
    def data(self):
        scripts = [json.loads(text) for text in self.text["script"] if text.startswith('{"texts"')]
        assert len(scripts) == 1
        return scripts[0]


@pytest.fixture
def sweep(tmp_path):
    """Three masks with p = 0.01, 0.04 and 0.03, one wrecked for good, and the dense model."""
    runs = tmp_path / "runs"
    for name, sparsity, ratio, p in (("a", 0.2, 1.02, 0.01), ("b", 0.4, 1.2, 0.04), ("c", 0.6, math.inf, 0.03)):
        figures = metrics(margin=0.3 + sparsity / 3, ratio=ratio, p=p, sparsity=sparsity)
        items = [sample(i, sparsity + i / 7, dense=i / 7) for i in range(4)]
        write_run(runs / name, config(sparsity=sparsity), figures, items)
    dense = {key: value for key, value in metrics(0.1, 1.0, sparsity=0.0).items() if "_delta" not in key}
    write_run(runs / "d", config(method="none"), {key: dense[key] for key in dense if not key.endswith("_p")})
    return runs


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_csv_holds_every_figure_of_metrics_json(sweep, tmp_path):
    assert main([str(sweep), "--output", str(tmp_path / "out")]) == 0
    rows = read_csv(tmp_path / "out" / "runs.csv")
    assert len(rows) == 4
    for row in rows:
        figures = json.loads((tmp_path / "out" / row["path"] / "metrics.json").read_text())
        found = {key: float(text) for key, text in row.items() if "/" in key and text and not key.endswith("_holm")}
        assert found == figures
    assert [row["method.sparsity"] for row in rows] == ["0.2", "0.4", "0.6", ""]
    assert "persona.name" not in rows[0], "it does not vary"


def test_p_values_are_corrected_over_all_runs_with_a_test(sweep, tmp_path):
    main([str(sweep), "--output", str(tmp_path)])
    # Holm: 0.01 * 3; then 0.03 * 2; then 0.04 * 1, but not less than the one before.
    corrected = [row["choice/margin_p_holm"] for row in read_csv(tmp_path / "runs.csv")]
    assert [float(p) if p else None for p in corrected] == pytest.approx([0.03, 0.06, 0.06, None])
    assert "over the 3 such tests of this table" in (tmp_path / "comparison.html").read_text()


def test_the_page_says_when_no_p_can_be_small_enough(tmp_path):
    for number in range(251):
        write_run(tmp_path / "runs" / str(number), config(sparsity=number / 1000), metrics(p=2 / 10_001))
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path)]) == 0
    text = (tmp_path / "comparison.html").read_text()
    assert "in 0. With 251 tests it hardly can: p comes from 10,000 random sign flips, never below 0.0002." in text


def test_tests_of_both_evaluators_are_one_family(tmp_path):
    for number in range(130):
        own = metrics(p=2 / 10_001)
        other = {f"multiple_{key}": value for key, value in own.items() if key.startswith("choice/")}
        write_run(tmp_path / "runs" / str(number), config(sparsity=number / 1000), own | other)
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path)]) == 0
    assert (tmp_path / "comparison.html").read_text().count("With 260 tests it hardly can") == 2


def test_the_page_stands_alone_and_links_to_the_runs(sweep, tmp_path):
    main([str(sweep), "--output", str(tmp_path / "out")])
    text = (tmp_path / "out" / "comparison.html").read_text()
    page = Page(text)
    sources = [a[key] for _, a in page.elements for key in ("src", "href", "xlink:href", "action") if a.get(key)]
    assert not [source for source in sources if re.match(r"(https?:)?//", source)]
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert not re.search(r"https?://(?!www\.w3\.org/)", text), "only SVG's namespaces"
    own = [source for source in sources if source.endswith(("report.html", "config.yaml"))]
    assert len(own) == 8
    assert all((tmp_path / "out" / source).is_file() for source in own)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    references = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    assert {a or b for a, b in references} <= set(ids)


def test_an_interval_stands_beside_every_figure_that_has_one(sweep, tmp_path):
    main([str(sweep), "--output", str(tmp_path)])
    page = " ".join(Page((tmp_path / "comparison.html").read_text()).text["small"])
    assert "[+0.27, +0.47]" in page  # the margin of a: 0.3 + 0.2 / 3 = 0.367
    assert "[1.010, 1.030]" in page  # the ratio of a: 1.02 times exp(-0.01) and exp(0.01)


def test_prompts_and_names_cannot_break_out(tmp_path):
    for i in range(2):
        figures = metrics() | interval("lm_eval/<b>/acc", 0.5)
        own = config(EVIL, seed=i) | {"study": EVIL}
        write_run(tmp_path / f"run{i}", own, figures, [sample(0, 0.5, prompt=EVIL)])
    main([str(tmp_path), "--output", str(tmp_path / "out")])
    page = Page((tmp_path / "out" / "comparison.html").read_text())
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 2
    assert not {"img", "b"} & set(tags)
    assert page.data["texts"] == [[EVIL, "Yes, all of us.", "No, just me."]]


def test_latex_is_escaped_and_every_line_has_as_many_cells(tmp_path):
    for i, name in enumerate(["<a> & $x_1$ 100% #~^\\{}", "b"]):
        write_run(tmp_path / f"run{i}", config(name), metrics(margin=-0.2))
    main([str(tmp_path), "--output", str(tmp_path / "out")])
    text = (tmp_path / "out" / "tables.tex").read_text()
    tables = re.findall(r"\\begin\{tabular\}\{(lr*)\}\n(.*?)\\end\{tabular\}", text, flags=re.S)
    assert len(tables) == 2, "the runs, and personas against metrics"
    for columns, body in tables:
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) == 3
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(columns)}
    plain = text.replace(r"\textbackslash{}", "BACKSLASH").replace(r"\textasciitilde{}", "TILDE")
    assert r"\textless{}a\textgreater{} \& \$x\_1\$ 100\% \#TILDE\textasciicircum{}BACKSLASH\{\}" in plain
    assert "$-$0.20 {[}$-$0.30, $-$0.10]" in text


def test_runs_with_different_evaluators_share_a_page(tmp_path):
    asked = {
        **interval("questionnaire/score_warmth", 3.0),
        **interval("dense/questionnaire/score_warmth", 2.0),
        **interval("questionnaire/score_warmth_delta", 1.0),
        "time/total_s": 1.0,
    }
    for scale in ("order", "calm"):
        asked |= {key.replace("warmth", scale): value for key, value in asked.items() if "warmth" in key}
    evaluator = {"questionnaire": {"_target_": "q.Q"}}
    write_run(tmp_path / "a", config("kind", evaluator=evaluator), asked)
    write_run(tmp_path / "b", config("cold", method="prompt", evaluator=evaluator), asked)
    write_run(tmp_path / "c", config("kind"), metrics(), [sample(0, 0.3)])
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "comparison" / "comparison.html").read_text()
    assert text.count("perplexity ratio not measured") == 2, "beside both radar plots"
    page = Page(text)
    arms = page.data["arms"]
    assert [(arm["name"], arm["margins"]) for arm in arms] == [
        ("kind wanda choice, capability", [0.3]),
        ("dense tiny on the items of kind wanda choice, capability", [0.0]),
    ]


def test_mixes_are_told_apart_by_what_they_mix(tmp_path):
    for number, parts in enumerate((("introvert", "thinker"), ("introvert", "judger"), ("extrovert", "judger"))):
        mixed = config()
        mixed["persona"] = {**mixed["persona"], "name": "mix", "weights": dict.fromkeys(parts, 1.0)}
        write_run(tmp_path / f"{number}", mixed, metrics(), [sample(0, 0.5)])
    runs = [read_run(path) for path in sorted(tmp_path.iterdir())]
    assert "persona.name" in varying(runs)
    assert labels(runs) == ["mix of introvert, thinker", "mix of introvert, judger", "mix of extrovert, judger"]


def test_one_run_makes_a_page(tmp_path):
    run = write_run(tmp_path / "only", config(), metrics(), [sample(0, 0.3)])
    assert main([str(run), "--output", str(tmp_path / "out")]) == 0
    page = Page((tmp_path / "out" / "comparison.html").read_text())
    assert page.text["h1"] == ["1 run: only"]
    assert "svg" in [tag for tag, _ in page.elements]


def test_a_model_that_overflows_does_not_take_the_page_of_the_others(tmp_path):
    nothing = {"choice/margin": math.nan, "choice/margin_delta": math.nan, "choice/margin_p": math.nan}
    write_run(tmp_path / "runs" / "sound", config(), metrics(p=0.3), [sample(0, 0.3), sample(1, 0.4)])
    write_run(
        tmp_path / "runs" / "overflows",
        config(sparsity=0.4),
        metrics() | nothing,
        [sample(0, math.nan), sample(1, 0.25, dense=math.inf)],
    )
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "comparison.html").read_text()
    assert Page(text).open == []
    assert re.search(r"p stays below 0\.05 after Holm\S+ correction in 0\.", text)
    assert "No numbers: choice/margin." in text
    assert '"margins":[null,0.25]' in text


def test_what_is_left_out_gets_one_line(sweep, tmp_path, capsys):
    write_run(tmp_path / "runs" / "e", status="failed", error="CUDA out of memory")
    write_run(tmp_path / "runs" / "f", status="running")
    damaged = write_run(tmp_path / "runs" / "g")
    (damaged / "metrics.json").write_text('{"choice/margin": 0.')
    write_run(damaged / "previous-1")
    write_run(damaged / ".discarded")
    assert main([str(sweep), str(sweep / "a"), "--output", str(tmp_path / "out")]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("4 runs: ")
    lines = output.err.splitlines()
    assert [line.rpartition("/")[2] for line in lines] == [
        "e: failed: CUDA out of memory",
        "f: not finished: it is still running, or was cut off",
        "g: metrics.json is damaged",
    ]
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "../runs/e: failed: CUDA out of memory" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empty"], "no run in it or below it"),
        (["nowhere"], "no such directory"),
        (["runs", "empty"], "no run in it or below it"),
        (["failed"], "none of 1 runs is finished and readable; the first, "),
        (["runs", "--output", "file"], "is not a directory"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(sweep, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    write_run(tmp_path / "failed" / "x", status="failed", error="no")
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not list(tmp_path.rglob("comparison.html"))
    assert (tmp_path / "file").read_text() == "mine"
