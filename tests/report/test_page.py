"""The page as a file: its structure, what it says of what is missing, and that it neither reaches out nor runs data."""

import copy
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from counterpoise.errors import InputError
from counterpoise.report import write_report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}"
PNG = "data:image/png;base64,"
VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


class Page(HTMLParser):
    """Tags and attributes in order, text by element id, and whether everything that opens closes."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text, self.scripts = [], [], "", []
        self.feed(html)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def words(self):
        return " ".join(self.text.split())


@pytest.fixture(scope="module")
def full(full_report):
    return Page(full_report.read_text("utf-8"))


TRIALS = [
    {"arguments": {"lr": 0.002, "flip": False}, "settings": {}, "figure": 0.5, "seconds": 30.0, "error": None},
    {"arguments": {"lr": 0.01, "flip": True}, "settings": {}, "figure": 0.614, "seconds": 40.0, "error": None},
    {"arguments": {"lr": 0.1, "flip": True}, "settings": {}, "figure": None, "seconds": None, "error": "Diverged"},
]
TUNED = {"space": "lr: 0.001 to 0.1", "arguments": {"lr": 0.01, "flip": True}, "settings": {}, "seconds": 70.0}


@pytest.mark.slow
def test_the_page_says_how_arguments_were_chosen_and_what_it_cost(fake, tmp_path):
    results = fake.results()
    tuned = {"simclr": {**TUNED, "trials": TRIALS}, HOSTILE: {**TUNED, "trials": TRIALS}}
    results["tuning"] = {"trials": 3, "seed": 100, "by": "knn", "methods": tuned}
    html = write_report(results, tmp_path, tmp_path / "tuned.html").read_text("utf-8")
    page = Page(html)
    assert "Every method that is trained had 3 trials with seed 100" in page.words
    assert "the test data was not looked at. All trials together took 2 min 20 s." in page.words
    cells = ["simclr", "lr: 0.001 to 0.1", "lr = 0.01", "flip = on", "61.4", "50.0", "1", "1 min 10 s"]
    assert "".join(cells).replace(" ", "") in page.words.replace(" ", "")
    assert {"id": "tuning", "aria-labelledby": "tuning-title"} in page.all("section")
    assert {"href": "#tuning"} in page.all("a")
    assert "<img src=x" not in html
    failed = {**TUNED, "arguments": {}, "trials": TRIALS[2:]}
    results["tuning"]["methods"] = {"simclr": failed}
    page = Page(write_report(results, tmp_path, tmp_path / "tuned.html").read_text("utf-8"))
    assert "nothing, since all trials failed" in page.words
    results["tuning"]["by"], results["tuning"]["methods"] = "alignment", {"simclr": {**TUNED, "trials": TRIALS}}
    page = Page(write_report(results, tmp_path, tmp_path / "tuned.html").read_text("utf-8"))
    assert "flip=on0.6140.51" in page.words.replace(" ", "")


def test_a_page_without_tuning_has_no_word_of_it(full):
    assert "chosen" not in full.words.lower().replace("chosen class by class", "")
    assert {"href": "#tuning"} not in full.all("a")


@pytest.fixture
def written(fake, tmp_path):
    def write(results, images=0, **options):
        if images:
            fake.galleries(results, tmp_path, images=images, **options)
        return Page(write_report(results, tmp_path, tmp_path / "report.html").read_text("utf-8"))

    return write


def test_sections_headings_and_captions(full):
    sections = [section["id"] for section in full.all("section")]
    assert sections == [
        *("answer", "measures", "front", "classes", "curves", "pictures", "embeddings", "neighbours"),
        *("reading", "data", "settings"),
    ]
    links = [link["href"] for link in full.all("a")]
    assert {f"#{name}" for name in sections} <= set(links)
    assert len(full.all("h1")) == 1
    assert len(full.all("h2")) == len(sections)
    figures = full.all("figure")
    assert len(figures) == len(full.all("figcaption")) == 1 + 3 + 1 + 3 + 4 + 3 + 4 + 10


def test_every_id_is_unique_and_every_reference_is_met(full):
    ids = [attributes["id"] for _, attributes in full.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in full.tags:
        if tag in ("a", "use"):
            assert attributes["href"].removeprefix("#") in ids
        assert attributes.get("aria-labelledby", ids[0]) in ids


def test_scrolling_boxes_can_be_reached_by_keyboard_and_pictures_have_words(full):
    for tag, attributes in full.tags:
        if "scroll" in (attributes.get("class") or "").split():
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]
        if tag == "svg" or attributes.get("role") == "img":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"


def test_numbers_of_the_table(full, fake):
    method = fake.results()["methods"][1]
    mean, difference = method["summary"]["knn"], method["difference"]["knn"]
    assert f"{100 * mean['mean']:.1f} ± {50 * (mean['high'] - mean['low']):.1f}" in full.words
    assert f"▲ +{100 * difference['mean']:.1f}" in full.words
    assert f"{100 * difference['low']:.1f} to {100 * difference['high']:.1f}" in full.words


def test_a_metric_that_no_run_has_a_figure_for_has_no_column(fake, written):
    results = fake.results()
    title, meaning = "Accuracy of the worst group", "of the group with the lowest accuracy"
    worst = {"title": title, "better": "higher", "percent": True, "meaning": meaning}
    results["metrics"] = {**results["metrics"], "worst_group": worst}
    page = written(results)
    assert title not in page.words
    assert meaning not in page.words
    results["methods"][1]["summary"]["worst_group"] = {"mean": 0.25, "low": None, "high": None, "n": 1}
    page = written(results)
    assert title in page.words
    assert meaning in page.words


def test_diagnostics_have_a_table_of_their_means_over_seeds_that_opens_on_demand(full, fake, written):
    assert {"class": "diagnostics"} in full.all("table")
    assert [attributes for attributes in full.all("details") if "open" in attributes] == []
    values = [run["diagnostics"]["wrong_learnt"] for run in fake.results()["methods"][0]["runs"]]
    mean, low, high = (f"{value:.3f}" for value in (np.mean(values), min(values), max(values)))
    assert f"Wrong learnt simclr {mean} {low} to {high} dcl:temperature=0.5 " in full.words
    assert "Tau positive dcl:temperature=0.5 0.0730 0.0710 to 0.0750 Tau negative" in full.words
    one = fake.results(methods=("simclr",), seeds=1)
    one["methods"][0]["runs"][0]["diagnostics"] = {"factor colour": 0.5, "nmi": float("nan")}
    words = written(one).words
    assert "Factor colour simclr 0.500 " in words
    assert "Nmi" not in words


@pytest.mark.parametrize("found", [{}, None, {"nmi": float("nan")}])
def test_without_diagnostics_there_is_no_table_of_them(fake, written, found):
    results = fake.results(seeds=1)
    for method in results["methods"]:
        method["runs"][0]["diagnostics"] = found
    assert {"class": "diagnostics"} not in written(results).all("table")


def test_failures_and_collapse_are_called_out(full):
    assert "Failed, seed 2: InputError: loss: is not finite after epoch 4" in full.words
    assert "Warning, seed 2: dimensional collapse: effective rank 3.1 of 128" in full.words
    assert "2 of 3 seeds" in full.words


def test_imperfections_command_and_date(full):
    assert "long tail, ratio 100: 1,000 to 10 images per class" in full.words
    assert "counterpoise compare --task pretrain --data fashion-mnist --imperfect long-tail=100" in full.words
    assert "2026-05-04 09:31 UTC" in full.words


def test_nothing_is_loaded_from_outside(full_report, full):
    for _, attributes in full.tags:
        assert attributes.get("src", PNG).startswith(PNG)
        for name in ("srcset", "poster", "data", "action", "formaction", "background", "xlink:href"):
            assert name not in attributes
        assert (attributes.get("href") or "#").startswith(("#", "data:"))
    html = full_report.read_text("utf-8")
    assert "http:" not in html
    assert "https:" not in html
    assert "@import" not in html
    assert all(target.startswith("data:image/png;base64,") for target in re.findall(r"url\(([^)]*)\)", html))


def test_no_number_is_missing_in_disguise(full):
    assert not re.search(r"\b(nan|inf|None|undefined|null)\b", full.words, re.IGNORECASE)
    for _, attributes in full.tags:
        for name in ("d", "points", "transform", "x", "y", "cx", "cy", "width", "height", "style"):
            assert "nan" not in (attributes.get(name) or "").lower()


@pytest.mark.slow
def test_weight(fake, tmp_path):
    """Half of a full gallery, all noise in colour, takes less than half of 3 MB, three more maps counted in."""
    results = fake.results(shape=(3, 32, 32))
    pixels = np.random.default_rng(0).integers(0, 256, (300, 3, 32, 32), dtype=np.uint8)
    fake.galleries(results, tmp_path, pixels, np.arange(300) % 10)
    for method in results["methods"][1:]:
        method["runs"][0]["folder"] = "elsewhere"
    path = write_report(results, tmp_path, tmp_path / "report.html")
    three_more_maps = 3 * 300 * 70
    assert path.stat().st_size + three_more_maps < 1_500_000


def test_hostile_names_are_shown_and_do_nothing(fake, written, tmp_path):
    results = fake.results(methods=("simclr", HOSTILE), seeds=2, classes=(HOSTILE, "b"))
    results["data"]["name"] = HOSTILE
    results["data"]["notes"] = [HOSTILE]
    results["command"] = HOSTILE
    results["settings"] = {HOSTILE: [HOSTILE]}
    results["metrics"] = copy.deepcopy(results["metrics"])
    results["metrics"]["knn"]["title"] = HOSTILE
    method = results["methods"][1]
    method |= {"title": HOSTILE, "arguments": {HOSTILE: HOSTILE}}
    for i, run in enumerate(method["runs"]):
        run |= {"folder": f"hostile-{i}", "warnings": [HOSTILE]}
    results = fake.fail(results, "simclr", (1,), HOSTILE)
    results |= {"front": ["knn", "linear"], "groups": {"heading": HOSTILE, "titles": {"head": HOSTILE}}}
    fake.strips(results, tmp_path, rows=[HOSTILE, HOSTILE], columns=[HOSTILE] * 3, caption=HOSTILE)
    page = written(results, images=12)
    assert page.all("img")
    assert all(image["src"].startswith(PNG) for image in page.all("img"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert len(page.all("script")) == 2
    names = json.loads(page.scripts[0])["names"]
    assert names[:2] == [HOSTILE, "b"]
    assert page.text.count(HOSTILE) >= 20
    assert HOSTILE in [attributes.get("aria-label") for _, attributes in page.tags]


def test_one_seed(fake, written):
    page = written(fake.results(seeds=1))
    assert "One seed: no interval, differences may be chance (" in page.words
    assert "One seed, so there are no intervals" in page.words
    assert "Band" not in page.words
    assert page.words.count("▲") == 1, "the caption's explanation alone"
    assert "±" not in page.words


def test_a_method_that_reads_the_labels_is_marked(fake, written):
    page = written(fake.results(methods=("simclr", "supcon")), images=20)
    assert page.words.count("reads the labels") == 1


def test_only_one_method(fake, written):
    page = written(fake.results(methods=("simclr",)), images=20)
    assert "1 method, 3 seeds each" in page.words
    assert "Only simclr was run" in page.words
    assert "paired difference from" not in page.words


def test_a_method_that_failed_in_every_seed(fake, written):
    results = fake.fail(fake.results(seeds=2), "cacr", (0, 1), "RuntimeError: no room")
    page = written(results)
    assert "cacr failed in every seed" in page.words
    assert "0 of 2 seeds" in page.words
    assert "No picture for cacr: no seed finished." in page.words
    assert "Failed, seed 1: RuntimeError: no room" in page.words


def test_everything_failed(fake, written):
    results = fake.results(methods=("simclr", "dcl"), seeds=1)
    results = fake.fail(fake.fail(results, "simclr", (0,), "OSError: a"), "dcl", (0,), "OSError: b")
    page = written(results)
    assert "The baseline simclr did not finish" in page.words
    assert [section["id"] for section in page.all("section")] == [
        *("answer", "measures", "embeddings", "reading", "data", "settings")
    ]


def test_missing_and_broken_galleries_are_named(fake, written, tmp_path):
    results = fake.results(seeds=1)
    fake.galleries(results, tmp_path, images=20)
    folders = [tmp_path / method["runs"][0]["folder"] for method in results["methods"]]
    (folders[1] / "gallery.npz").unlink()
    (folders[2] / "gallery.npz").write_bytes(b"no archive")
    with np.load(folders[3] / "gallery.npz") as arrays:
        changed = dict(arrays)
    np.savez(folders[3] / "gallery.npz", **{**changed, "pixels": 255 - changed["pixels"]})
    page = written(results)
    assert "No picture for dcl:temperature=0.5, seed 0: there is no gallery.npz." in page.words
    assert "No picture for cacr, seed 0: gallery.npz cannot be read" in page.words
    assert "No picture for moco, seed 0: its gallery holds other images than the first method's." in page.words
    assert len([svg for svg in page.all("svg") if svg.get("class") == "map"]) == 1


def test_no_gallery_at_all(fake, written):
    page = written(fake.results(seeds=1))
    assert "No picture for simclr, seed 0: there is no gallery.npz." in page.words
    assert "neighbours" not in [section["id"] for section in page.all("section")]


def test_data_with_numbers_has_no_pictures(fake, written):
    results = fake.results(seeds=1)
    results["data"] |= {"classes": [], "counts": {}, "shape": [10]}
    page = written(results)
    assert "10 numbers a row" in page.words
    assert "No picture" not in page.words
    assert "embeddings" not in [section["id"] for section in page.all("section")]
    assert all(link["href"] != "#embeddings" for link in page.all("a"))


def test_a_collapsed_embedding_has_neighbours_but_no_map(fake, written, tmp_path):
    results = fake.results(methods=("simclr", "moco"), seeds=1)
    fake.galleries(results, tmp_path, images=20)
    path = tmp_path / results["methods"][1]["runs"][0]["folder"] / "gallery.npz"
    with np.load(path) as arrays:
        changed = dict(arrays)
    np.savez(path, **{**changed, "features": np.ones((20, 4), np.float16)})
    page = written(results)
    assert "No picture for moco, seed 0: all images have the same embedding (complete collapse)" in page.words
    assert len([svg for svg in page.all("svg") if svg.get("class") == "map"]) == 1


def test_numbers_that_are_not_finite_become_dashes(fake, written):
    results = fake.results(methods=("simclr", "dcl"), seeds=1)
    method = results["methods"][1]
    nothing = {"mean": float("nan"), "low": None, "high": None, "n": 1}
    method["summary"] |= {"alignment": nothing}
    method["difference"] |= {"alignment": {**nothing, "mean": None}}
    method["runs"][0]["curve"] = [{"epoch": 1, "loss": float("inf"), "knn": None}]
    method["runs"][0]["per_class"] = None
    method["runs"][0]["groups"] = {"head": float("nan"), "medium": None, "tail": 0.5}
    page = written(results)
    assert not re.search(r"\b(nan|inf|None)\b", page.words, re.IGNORECASE)
    assert "–" in page.words


def test_names_that_are_not_utf8_are_written(fake, written):
    page = written(fake.results(methods=("simclr",), seeds=1, classes=("caf\udce9", "Straße 日本")))
    assert r"caf\udce9" in page.words
    assert "Straße 日本" in page.words


def test_control_characters_in_names_are_shown_escaped(fake, written):
    """Line breaks, a terminal's commands and marks that turn the direction of reading around."""
    name, said = "a\nb\x1b[31m\u202ered", r"a\nb\x1b[31m\u202ered"
    results = fake.results(methods=("simclr", "dcl"), seeds=1, classes=(name, "b", "c"))
    results["data"] |= {"name": name, "notes": [name]}
    results["settings"] = {name: name}
    results["metrics"] = copy.deepcopy(results["metrics"])
    results["metrics"]["knn"]["title"] = name
    results["methods"][1] |= {"label": f"dcl:{name}", "title": name, "arguments": {name: name}}
    results["methods"][1]["runs"][0] |= {"folder": "hostile", "warnings": [name]}
    page = written(results, images=12)
    for text in (page.text, *page.scripts, *(value or "" for _, found in page.tags for value in found.values())):
        assert not set("\x1b\u202e") & set(text)
        assert "a\nb" not in text
    assert page.text.count(said) >= 10
    assert json.loads(page.scripts[0])["names"][0] == said


@pytest.mark.slow
def test_many_classes_have_the_colours_of_their_groups(fake, written):
    names = tuple(f"c{i}" for i in range(100))
    results = fake.results(methods=("simclr",), seeds=1, classes=names)
    page = written(results, images=200)
    assert "There are 100 classes, more than there are distinguishable colours" in page.words
    assert len([button for button in page.all("button") if button.get("class") == "class"]) == 3
    assert "head: 34 classes, 215 to 1,000 training images each" in page.words
    assert {point["data-k"] for point in page.all("use")} == {"0", "1", "2"}
    results["data"]["counts"]["train"] = [10] * 100
    page = written(results, images=200)
    assert len([button for button in page.all("button") if button.get("class") == "class"]) == 8
    assert "c0 to c12 (13 classes)" in page.words


def test_a_measure_at_several_k_has_a_curve_and_terms_are_explained(fake, written):
    results = fake.results(methods=("simclr", "dcl"), seeds=2)
    for k in (1, 2, 8):
        name = f"recall_{k}"
        results["metrics"] = results["metrics"] | {
            name: {"title": f"Recall@{k}", "better": "higher", "percent": True, "meaning": "one among the k nearest"}
        }
        for method in results["methods"]:
            for run in method["runs"]:
                run["metrics"][name] = 0.5 + 0.05 * k
    page = written(fake.summarise(results))
    [says] = [svg["aria-label"] for svg in page.all("svg") if (svg.get("aria-label") or "").startswith("Recall@k")]
    assert says == "Recall@k by k: simclr from 55.0 % to 90.0 %, dcl from 55.0 % to 90.0 %"
    assert "Recall@1, Recall@2 and Recall@8 one among the k nearest" in page.words
    assert "kNN accuracy whether the nearest labelled images" in page.words


def test_one_warning_of_several_seeds_is_one_line(fake, written):
    results = fake.results(methods=("simclr",), seeds=3)
    for run in results["methods"][0]["runs"][:2]:
        run["warnings"] = [f"few steps: 3{run['seed']} in 10 epochs", "flat probe: kNN 50.0 %"]
    page = written(results)
    assert "Warning, seeds 0 and 1: few steps: 30 in 10 epochs" in page.words
    assert page.words.count("few steps") == page.words.count("flat probe") == 1


def test_the_same_results_give_the_same_page(fake, tmp_path):
    results = fake.results(methods=("simclr",), seeds=1)
    fake.galleries(results, tmp_path, images=20)
    first = write_report(results, tmp_path, tmp_path / "a.html").read_bytes()
    assert first == write_report(results, tmp_path, tmp_path / "b.html").read_bytes()


def test_incomplete_results_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"lacks counterpoise, created, .*, methods"):
        write_report({}, tmp_path, tmp_path / "report.html")


def test_an_unwritable_path_leaves_nothing_behind(fake, tmp_path):
    results = fake.results(methods=("simclr",), seeds=1)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"file: is a file, expected a folder"):
        write_report(results, tmp_path, tmp_path / "file" / "report.html")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(InputError, match=r"report\.html: is a folder, expected a file"):
        write_report(results, tmp_path, tmp_path / "report.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "report.html"]


def test_a_report_replaces_its_own_and_no_page_of_another(fake, tmp_path):
    results, path = fake.results(methods=("simclr",), seeds=1), tmp_path / "report.html"
    (tmp_path / "report.html.part").write_text("a user's own")
    for _ in range(2):
        write_report(results, tmp_path, path)
    path.write_text("a user's own")
    with pytest.raises(InputError, match=r"report\.html: is there, and was not written by counterpoise or was changed"):
        write_report(results, tmp_path, path)
    assert path.read_text() == (tmp_path / "report.html.part").read_text() == "a user's own"


def test_the_page_says_what_intervals_cover_and_what_undecided_differences_could_have_shown(fake, written):
    results = fake.results()
    assert "The intervals cover" not in written(results).words  # as of an earlier version
    for method in results["methods"]:
        for name, found in method["summary"].items():
            found["items"] = None if name in ("uniformity", "effective_rank") else 861
        for found in (method["difference"] or {}).values():
            found |= {"p": 0.02, "adjusted": 0.06, "detectable": 0.023, "unit": 0.01, "needed": 9}
    page = written(results)
    covered = "The intervals cover the seeds and the sampling of the 861 test images; those of Uniformity and Effective"
    assert covered in page.words
    assert "▲ and ▼ are therefore decided by Holm’s adjustment of the p-values over the 3 methods" in page.words
    assert page.words.count("80 % power for a difference of 2.3 points, 1 point needs 9 seeds") >= 3
    assert "is better than" not in page.words
