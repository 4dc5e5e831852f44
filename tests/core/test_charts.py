"""Charts: what they show is what the logs and cards say, and they stand in any page."""

import builtins
import json
import math
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from zoo.card import Card
from zoo.charts import (
    INK,
    STYLES,
    heatmap,
    lengths,
    lengths_of,
    lines,
    read_curve,
    svg,
    training_curve,
)
from zoo.errors import InputError, MissingExtraError

ROWS: list[dict[str, Any]] = [
    {"step": 10, "loss": 6.5, "learning_rate": 0.01},
    {"step": 15, "skipped": 1},
    {"step": 20, "loss": 5.25},
    {"epoch": 1, "step": 20, "loss": 5.875},
    {"step": 20, "validation": {"accuracy": 0.25, "accuracy_stderr": 0.02, "other": 3.0}},
    {"step": 30, "loss": 5.0},
    {"step": 30, "validation": {"accuracy": 0.375, "accuracy_stderr": 0.01, "other": 2.0}},
]
SERIES = {
    "first-lm": [(256, 170.0, 2.0), (512, 165.0, 2.0), (1024, 161.0, math.nan)],
    "second-lm": [(256, 240.0, 3.0), (512, 900.0, 20.0)],
    "third-lm": [(256, 241.0, 3.0)],
}


def test_a_log_is_read_up_to_where_it_is_being_written(tmp_path: Path) -> None:
    assert read_curve(tmp_path) == []
    log = tmp_path / "training.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + '{"step": 40, "lo')
    assert read_curve(tmp_path) == ROWS
    log.write_text('{"step": 1, "loss": 2.0}\n[1, 2]\n{"step": 2, "loss": 1.0}\n')
    assert read_curve(tmp_path) == [{"step": 1, "loss": 2.0}]
    log.write_bytes(b"\xff\xfe\x00")
    assert read_curve(tmp_path) == []


def test_the_curve_of_a_run_shows_losses_and_the_headline_below() -> None:
    losses, scores = training_curve(ROWS).axes
    (line,) = losses.lines
    np.testing.assert_array_equal(line.get_xydata(), [[10, 6.5], [20, 5.25], [30, 5.0]])
    assert losses.get_ylabel() == "training loss (nats)"
    np.testing.assert_array_equal(scores.lines[0].get_xydata(), [[20, 0.25], [30, 0.375]])
    (bars,) = scores.collections
    np.testing.assert_allclose(
        [bar[:, 1] for bar in bars.get_segments()], [[0.23, 0.27], [0.365, 0.385]]
    )
    assert scores.get_ylabel() == "validation\naccuracy"
    (_, other) = training_curve(ROWS, "other").axes
    np.testing.assert_array_equal(other.lines[0].get_xydata(), [[20, 3.0], [30, 2.0]])
    assert training_curve(ROWS, "none").axes[1].get_ylabel() == "validation\naccuracy"
    assert len(training_curve(ROWS[:3]).axes) == 1
    for rows in ([], ROWS[3:5]):
        with pytest.raises(InputError, match="no loss to draw"):
            training_curve(rows)


def card(tmp_path: Path, name: str, scores: list[tuple[float, int | None]]) -> Card:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text('{"architecture": "decoder", "max_seq_len": 256}')
    metrics = []
    errors = {}
    for value, context in scores:
        words = "perplexity per word" + (f" at {context} tokens" if context else "")
        entry: dict[str, Any] = {"type": "perplexity", "name": words, "value": value}
        metrics.append(entry | ({"args": {"context": context}} if context else {}))
        errors[words] = value / 100
    metrics.append({"type": "accuracy", "name": "accuracy", "value": 0.5})
    data = {
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "text-generation"},
                        "dataset": {"name": "some", "type": "some", "split": "test"},
                        "metrics": metrics,
                    }
                ],
            }
        ],
        "txzoo": {"architecture": "decoder", "standard_error": {"test": errors}},
    }
    Card(data=data, text="", path=folder / "README.md").write(folder)
    return Card.read(folder)


def test_what_cards_say_about_other_lengths(tmp_path: Path) -> None:
    far = card(tmp_path, "far", [(170.0, None), (160.0, 1024), (165.0, 512), (190.0, 128)])
    near = card(tmp_path, "near", [(240.0, None)])
    nothing = card(tmp_path, "nothing", [])
    pointer = card(tmp_path, "pointer", [(99.0, None), (98.0, 512)])
    (pointer.folder / "config.json").unlink()
    assert lengths_of([far, near, nothing, pointer]) == {
        "far": [(128, 190.0, 1.9), (256, 170.0, 1.7), (512, 165.0, 1.65), (1024, 160.0, 1.6)],
        "near": [(256, 240.0, 2.4)],
        "pointer": [(512, 98.0, 0.98)],  # nobody knows what it was trained on
    }
    ((context, value, error),) = lengths_of([near], "accuracy")["near"]
    assert (context, value) == (256, 0.5)
    assert math.isnan(error)  # its card gives none


def test_a_line_for_each_model_over_the_lengths() -> None:
    figure = lengths(SERIES, trained=256)
    (panel,) = figure.axes
    drawn = {bars.get_label(): bars.lines[0] for bars in panel.containers}
    assert set(drawn) == set(SERIES)
    for name, line in drawn.items():
        expected = [point[:2] for point in SERIES[str(name)]]
        np.testing.assert_array_equal(line.get_xydata(), expected)
    looks = {(ln.get_color(), str(ln.get_linestyle()), ln.get_marker()) for ln in drawn.values()}
    assert [len(set(column)) for column in zip(*looks, strict=True)] == [3, 3, 3]
    assert [text.get_text() for text in panel.get_xticklabels()] == ["256", "512", "1,024"]
    assert panel.get_xscale() == panel.get_yscale() == "log"
    assert panel.get_ylabel() == "perplexity per word"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(SERIES)


def test_lines_are_told_apart_without_colour() -> None:
    for key in ("color", "linestyle", "marker"):
        assert len({str(style[key]) for style in STYLES}) == len(STYLES)


@pytest.mark.parametrize("point", [(256, 0.0, 1.0), (256, math.inf, 1.0), (0, 5.0, 1.0)])
def test_scores_that_have_no_place_on_the_axes(point: tuple[int, float, float]) -> None:
    with pytest.raises(InputError, match="both must be above 0"):
        lengths({"one": [point]})
    with pytest.raises(InputError, match="no score at any length"):
        lengths({})


def test_a_heatmap_shows_the_weights_and_the_tokens() -> None:
    weights = np.tril(np.random.default_rng(1).random((3, 3)))
    panel, bar = heatmap(weights, ["the", "$5", "<b>"], "layer 1").axes
    (image,) = panel.images
    np.testing.assert_array_equal(image.get_array(), weights)
    assert image.cmap(image.norm([0.0, 1.0]))[:, 3].tolist() == [0.0, 1.0]  # alpha
    for labels in (panel.get_xticklabels(), panel.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["the", "$5", "<b>"]
    assert panel.get_title() == "layer 1"
    assert bar.get_ylabel() == "attention weight"
    for tokens in (["the", "$5"], []):
        with pytest.raises(InputError, match=f"{len(tokens)} tokens need"):
            heatmap(weights, tokens)


def test_a_heatmap_between_two_texts_names_both() -> None:
    rows, columns = ["eins", "end"], ["one", "&", "end"]
    weights = np.random.default_rng(1).random((2, 3))
    figure = heatmap(weights, rows, columns=columns)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), weights)
    texts = [e.text for e in ElementTree.fromstring(svg(figure, "t")).iter() if "text" in e.tag]
    axes = ["the word of the source that is looked at", "the word that is written"]
    for label in (*rows, *columns, *axes):
        assert texts.count(label) == [*rows, *columns, *axes].count(label), label
    for wrong in (weights.T, weights[:, :2], weights[:1]):
        shape = re.escape(str(wrong.shape))
        with pytest.raises(InputError, match=rf"2 tokens.* 3 columns need 2 x 3 .*, got {shape}"):
            heatmap(wrong, rows, columns=columns)


def figures() -> list[Any]:
    weights = np.eye(3)
    labels = ['id="x"', "<b>", "$5 & $6"]
    return [training_curve(ROWS), lengths(SERIES, trained=256), heatmap(weights, labels, "a < b")]


def test_a_drawing_stands_in_any_page() -> None:
    for figure in figures():
        drawing = svg(figure, "What <it> shows")
        root = ElementTree.fromstring(drawing)
        plain = "{http://www.w3.org/2000/svg}"
        assert root.attrib["role"] == "img"
        (title,) = [e for e in root.iter(f"{plain}title")]
        assert title.text == "What <it> shows"
        assert root.attrib["aria-labelledby"] == title.attrib["id"]
        assert INK not in drawing
        assert "fill: currentColor" in drawing
        assert "DejaVu" not in drawing
        assert "<metadata" not in drawing
        assert drawing.count("http") == 1  # the name of SVG itself
        for element in root.iter(f"{plain}text"):
            assert "system-ui" in element.attrib["style"]
        assert not [e for e in root.iter() if "onload" in e.attrib or e.tag.endswith("script")]
        assert all(a.startswith(("#", "data:image/png;")) for a in targets(root))


def targets(root: ElementTree.Element) -> list[str]:
    return [e.attrib["href"] for e in root.iter() if "href" in e.attrib]


def test_texts_stay_texts() -> None:
    drawing = svg(figures()[2], "t")
    texts = ["".join(e.itertext()) for e in ElementTree.fromstring(drawing).iter()]
    for label in ('id="x"', "<b>", "$5 & $6", "a < b"):
        assert label in texts
    tags: set[str] = set()
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, _: tags.add(tag)  # type: ignore[method-assign]
    reader.feed(drawing)
    assert "b" not in tags


def test_several_stand_on_one_page() -> None:
    roots = [ElementTree.fromstring(svg(figure, "t")) for figure in [*figures(), *figures()]]
    ids = [[e.attrib["id"] for e in root.iter() if "id" in e.attrib] for root in roots]
    together = [name for own in ids for name in own]
    assert len(together) == len(set(together))
    for root, own in zip(roots, ids, strict=True):
        used = re.findall(r"url\(#([^)]*)\)", ElementTree.tostring(root, encoding="unicode"))
        used += [target[1:] for target in targets(root) if target.startswith("#")]
        assert used
        assert set(used) <= set(own)


def test_drawings_of_several_threads_do_not_meet() -> None:
    def draw(_: int) -> str:
        return re.sub(r"chart\d+-", "", svg(lengths(SERIES), "t"))

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(draw, range(12)))) == 1


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_matplotlib(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    for draw in (
        lambda: training_curve(ROWS),
        lambda: lengths(SERIES),
        lambda: heatmap(np.eye(1), ["a"]),
    ):
        with pytest.raises(MissingExtraError, match=r"pip install 'txzoo\[plot\]'"):
            draw()


def test_readers_need_neither_matplotlib_nor_torch() -> None:
    code = "import sys, zoo.charts; print({'torch', 'matplotlib', 'numpy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_lines_have_names_axes_and_points() -> None:
    figure = lines({"a": [(0, 1), (1, 3)], "b": [(0, 2)]}, x="step", y="loss")
    panel = figure.axes[0]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in panel.lines}
    assert drawn == {"a": [[0, 1], [1, 3]], "b": [[0, 2]]}
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("step", "loss")
    assert len({(line.get_color(), line.get_linestyle()) for line in panel.lines}) == 2
    with pytest.raises(InputError, match="no point"):
        lines({"a": []}, x="step", y="loss")


def test_more_lines_than_colours_are_told_apart() -> None:
    series = {f"way {number}": [(0.0, 1.0), (1.0, number)] for number in range(20)}
    drawn = lines(series, x="step", y="loss", points=False).axes[0].get_lines()
    looks = {(line.get_color(), str(line._dash_pattern)) for line in drawn}
    assert len(looks) == 20
