"""What a page holds, read without a browser."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser

import pytest

from mmdit_cli.commands.json_schemas import BESIDE, RESULTS, _class
from mmdit_cli.output.document import make_document
from mmdit_cli.output.page.galleries import PNG
from mmdit_cli.output.page.page import page
from mmdit_cli.output.page.sections import runs_section
from mmdit_cli.output.renderings import render
from mmdit_cli.output.run_files import RunFiles
from tests.cli.output.test_names_are_no_markup import NAMES, made
from tests.cli.report.conftest import EVIL, quick, run
from tests.support.marks import slow_but

LARGEST = 5_000_000  # bytes
MORE = {
    "<script>x()</script>": "<script>x()</script>",
    "</style>&amp;\"'": "</style>&amp;\"'",
    "{{ 7*7 }}": "{{ 7*7 }}",
}


class Page(HTMLParser):
    """The elements, texts, tables and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.texts: list[str] = []
        self.given: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.given += [(key, value or "") for key, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.texts.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data.strip()

    @property
    def plots(self) -> list[dict]:
        return [json.loads(text) for text in self.texts if text.startswith("{") and '"kind"' in text]

    def row(self, name: str) -> list[str]:
        return next(row for row in self.rows if row[0] == name)


def document(command: str, name: str) -> dict:
    results = [made(_class(kind), name) for kind in RESULTS[command]]
    beside = {key: made(_class(kind), name) for key, (kind, _) in BESIDE.get(command, {}).items() if key != "precision"}
    beside = {key: [value] if BESIDE[command][key][1] else value for key, value in beside.items()}
    configs = [{"name": name, "model": {name: 1}}, {"name": name, "model": {name: 2}}]
    typed = {"command_line": ["mmdit", name], "configs": configs}
    whole = make_document(command, results, device="cpu", dtype="fp32", seed=0, **typed, **beside)
    return json.loads(json.dumps(whole))


@pytest.mark.parametrize("command", slow_but(RESULTS, "flops"))
def test_a_name_is_text_wherever_it_stands(command):
    for name, wanted in (NAMES | MORE).items():
        shown = Page(render(document(command, name), ".html"))
        assert shown.elements.count("script") == 1 + shown.given.count(("type", "application/json"))
        assert "x" not in shown.elements and shown.elements.count("style") == 1
        assert any(wanted in text for text in shown.texts)
        assert all(sign.isprintable() or sign == "\n" for text in shown.texts for sign in text)
        assert len({len(row) for row in shown.rows if row[0] == ""}) > 0


def test_what_a_plot_names_turns_no_text_around():
    plots = Page(render(document("profile", "a\u202eb\x07"), ".html")).plots
    assert plots and all(sign.isprintable() for sign in json.dumps(plots, ensure_ascii=False))


def test_weights_of_no_known_config_are_called_by_their_file():
    unknown = document("shape-check", "w.safetensors")
    unknown["results"] = [each | {"config": None} for each in unknown["results"] if "file" in each]
    text = render(unknown, ".html")
    assert "<title>mmdit shape-check: w.safetensors</title>" in text and "None" not in Page(text).texts


def test_the_script_and_style_are_those_that_the_policy_lets_run():
    text = render(document("flops", "a"), ".html")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    for tag in ("script", "style"):
        (own,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = b64encode(sha256(own.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy.replace("&#39;", "'").replace("&#x27;", "'")
    assert "default-src &#39;none&#39;" in policy


def test_a_page_asks_for_nothing_beside_itself(report):
    text = report.read_text()
    addresses = [value for key, value in Page(text).given if key in ("src", "href", "action", "poster", "srcset")]
    assert addresses and all(value.startswith(("#", "data:")) for value in addresses)
    assert len(text) < LARGEST


def test_the_figures_are_those_of_the_documents(results, report):
    shown = Page(report.read_text())
    (evil, tiny) = json.loads((results / "flops.json").read_text())["results"]
    row = next(row for row in shown.rows if row[0] == "forward FLOPs")
    assert evil["config"] == EVIL and evil["forward_flops"] == tiny["forward_flops"] and row[1] == row[2]
    assert f"{tiny['parameters']:,}" in shown.row("parameters")
    forward = {value for key, value in shown.given if key == "data-v"}
    assert str(float(tiny["forward_flops"])) in forward


def test_what_differs_in_the_configs_is_shown_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for depth in (1, 2):
        run(f"mmdit flops -c adaptive --set model.depth={depth} --set run.tokens.image=64 --report {depth}.json")
    run("mmdit report 1.json 2.json --out x.html")
    shown = Page((tmp_path / "x.html").read_text())
    start = next(i for i, row in enumerate(shown.rows) if row[0] == "model.depth")
    assert shown.rows[start] == ["model.depth", "1", "2"] and len(shown.rows[start - 1]) == 3
    assert "run.tokens.image" not in [row[0] for row in shown.rows]
    assert shown.rows[1][1:] == ["adaptive (1)", "adaptive (2)"] or any("adaptive (1)" in row for row in shown.rows)


def test_a_command_writes_the_page_of_its_own_result_with_the_runs_curves_and_pictures(results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick(monkeypatch, tmp_path)
    typed = f"mmdit train-toy -c {results}/a.yaml --report own.html"
    run(typed)
    shown = Page((tmp_path / "own.html").read_text())
    assert [plot["title"] for plot in shown.plots] == ["loss", "accuracy, image"]
    pictures = [value for key, value in shown.given if key == "src"]
    assert len(pictures) == 17 and all(value.startswith("data:image/png;base64,") for value in pictures)
    (folder,) = (tmp_path / "runs").iterdir()
    (caption, *_) = (each["caption"] for each in json.loads((folder / "samples.json").read_text())["samples"])
    assert caption in shown.texts
    assert typed in shown.texts


def test_curves_are_the_mean_of_the_seeds_within_a_band_of_all(results, report):
    shown = Page(report.read_text())
    accuracy = next(plot for plot in shown.plots if plot["title"] == "accuracy, image")
    runs = [
        [json.loads(line) for line in (results / "compared" / f"a-seed{seed}" / "metrics.jsonl").open()]
        for seed in (0, 1)
    ]
    wanted = [[100 * record["accuracy"]["image"] for record in records if "accuracy" in record] for records in runs]
    mean = next(each for each in accuracy["series"] if each["name"] == "a" and not each["quiet"])
    assert [y for _, y in mean["points"]] == pytest.approx(
        [(x + y) / 2 for x, y in zip(*wanted, strict=True)], rel=1e-3
    )
    assert [low for _, low, _ in mean["band"]] == pytest.approx(
        [min(pair) for pair in zip(*wanted, strict=True)], rel=1e-3
    )


@pytest.mark.slow
def test_a_page_of_nine_long_runs_is_small_and_says_which_pictures_had_no_room(tmp_path):
    (tmp_path / "x.png").write_bytes(PNG + bytes(150_000))
    records = [{"step": step, "loss": 1 + 1 / step, "seconds": step / 10} for step in range(1, 20_001)]
    records += [{"step": step, "accuracy": {"image": step / 20_000}} for step in range(1000, 20_001, 1000)]
    pictures = {step: tmp_path / "x.png" for step in range(1000, 20_001, 1000)}
    runs = [
        RunFiles(tmp_path, {"name": f"design {number % 3}"}, {"seed": number // 3}, records, pictures, {})
        for number in range(9)
    ]
    text = page("nine runs", [runs_section(runs)])
    assert len(text.encode()) < LARGEST
    last = [each for each in re.findall(r'alt="(design \d, seed \d, step [\d,]+):', text) if each.endswith("20,000")]
    assert len(last) == 9 and "166 pictures of samples have no room" in text
