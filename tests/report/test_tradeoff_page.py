"""The trade-off page: read by the standard library's parser, and opened in Chromium where there is one.

Chromium is found by name on PATH; `apt-get install chromium` brings it on Debian.
"""

import base64
import json
import re
import shutil
import socketserver
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest

from s3prl_pruned.report import tradeoff_report
from s3prl_pruned.superb.results.result import read_json

RECORDED = Path(__file__).resolve().parents[2] / "downstream_runs" / "tradeoff.json"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NASTY = "<script>alert(1)</script>' onload='x"
VOID = {"meta", "img", "wbr"}


def document():
    """The recorded trade-off with what it has none of: a spread of several runs, a command, a nasty name."""
    data = read_json(RECORDED)
    del data["entries"][4]["qualities"]["pr per"]
    data["entries"][3]["qualities"]["pr per"] |= {"runs": 3, "spread": 1.25}
    timing_of(data, data["entries"][2])["name"] = NASTY
    data["entries"][2] |= {"name": NASTY, "command": "python run_pretrain.py -n 'a & b'"}
    data["entries"][1]["command"] = None
    return data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of the report, and its document."""
    folder, data = tmp_path_factory.mktemp("page"), document()
    tradeoff_report.write(data, folder / "report")
    return folder / "report", data


class Element:
    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent, self.children = tag, attributes, parent, []
        if parent is not None:
            parent.children.append(self)

    def all(self, tag=None, kind=None):
        found = []
        for child in self.children:
            if isinstance(child, Element):
                kinds = (child.attributes.get("class") or "").split()
                if (tag is None or child.tag == tag) and (kind is None or kind in kinds):
                    found.append(child)
                found += child.all(tag, kind)
        return found

    @property
    def text(self):
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Tree(HTMLParser):
    """Refuses what is not nested as it should be."""

    def __init__(self, text):
        super().__init__()
        self.root = self.open = Element("root", {}, None)
        self.feed(text)
        self.close()
        assert self.open is self.root, f"<{self.open.tag}> is not closed"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        element = Element(tag, dict(attrs), self.open)
        if tag not in VOID:
            self.open = element

    def handle_startendtag(self, tag, attrs):
        Element(tag, dict(attrs), self.open)

    def handle_endtag(self, tag):
        assert self.open.tag == tag, f"</{tag}> closes <{self.open.tag}>"
        self.open = self.open.parent

    def handle_data(self, data):
        self.open.children.append(data)


@pytest.fixture(scope="module")
def page(written):
    return Tree((written[0] / "tradeoff.html").read_text(encoding="utf-8")).root


def test_the_page_asks_for_nothing_and_runs_its_own_script_alone(page):
    every = page.all()
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert not {"link", "img", "iframe", "object", "base"} & {element.tag for element in every}
    assert not [name for element in every for name in element.attributes if name.startswith("on") or name == "src"]
    links = [element.attributes["href"] for element in every if "href" in element.attributes]
    assert len(links) == 1 and links[0].startswith("data:text/csv;")
    assert "http" not in page.text and "url(" not in page.all("style")[0].text
    (policy,) = [meta.attributes["content"] for meta in page.all("meta") if "http-equiv" in meta.attributes]
    assert policy.startswith("default-src 'none';") and "http" not in policy
    assert NASTY in [head.text for head in page.all("th")]


def test_the_download_is_the_csv(page, written):
    (link,) = page.all("a")
    kind, data = link.attributes["href"].split(",")
    assert kind == "data:text/csv;charset=utf-8;base64" and link.attributes["download"] == "tradeoff.csv"
    assert base64.b64decode(data) == (written[0] / "tradeoff.csv").read_bytes()


def test_the_picture_comes_first_then_the_table_and_last_what_is_left_out_in_one_line(page):
    (body,) = page.all("body")
    tags = [child.tag for child in body.children if isinstance(child, Element)]
    assert tags[:4] == ["h1", "p", "figure", "div"] and tags[-4:] == ["p", "footer", "div", "script"]
    missing = [element for element in body.all() if "has no result" in element.text and element.tag != "script"]
    assert [element.attributes.get("id") for element in missing] == ["left-out"]
    assert missing[0].text == "Left out: of the mini-score ASR, KS, QbE, SID, SV, SD (fbank or teacher has no result)."


def cells(page):
    return {
        row.children[0].text: [cell for cell in row.children if isinstance(cell, Element)]
        for row in page.all("tbody")[0].all("tr")
    }


def test_the_table_has_qualities_beside_the_name_with_units_spreads_and_numbers_to_sort_by(page, written):
    heads = [head.text for head in page.all("thead")[0].all("th")]
    assert heads[:4] == ["model", "mini-score↑ better", "PR PER% ↓ better", "method"]
    assert heads[4:] == ["rate%", "parametersM", "parameters not zeroM", "MACsG", "timems", "speed\xa0"]
    rows = cells(page)
    assert len(rows) == len(written[1]["entries"]) == 25
    for entry in written[1]["entries"]:
        row, timed = rows[entry["name"]], timing_of(written[1], entry)
        assert len(row) == len(heads)
        numbers = [cell.attributes.get("data-value") for cell in row]
        per = entry["qualities"].get("pr per", {}).get("value")
        assert numbers[2] == (None if per is None else repr(per)), entry["name"]
        assert float(numbers[5]) == pytest.approx(entry["parameters"] / 1e6, rel=1e-12)
        assert float(numbers[8]) == pytest.approx(1e3 * entry["seconds"], rel=1e-12)
        assert row[8].text == f"{1e3 * entry['seconds']:.2f} ± {1e3 * timed['seconds_spread'] / 2:.2f}"
    several, without = written[1]["entries"][3], written[1]["entries"][4]
    assert rows[several["name"]][2].text == f"{several['qualities']['pr per']['value']:.2f} ± 1.25"
    assert rows[several["name"]][2].attributes["title"] == "mean and standard deviation of 3 runs"
    assert rows[without["name"]][2].text == "–"


def timing_of(data, entry):
    return next(row for row in data["timing"]["results"] if row["name"] == entry["name"])


def axis(panel, *, upright):
    """Ticks of an axis as (place, number), read off its labels."""
    anchor, place = ("end", "y") if upright else ("middle", "x")
    labels = [label for label in panel.all("text") if "class" not in label.attributes]
    return [
        (float(label.attributes[place]), float(label.text.replace(",", "")))
        for label in labels
        if label.attributes["text-anchor"] == anchor
    ]


def read_off(ticks, place):
    """The number at a place, and by how much one place more changes it."""
    (x0, v0), (x1, v1) = ticks[0], ticks[-1]
    return v0 + (v1 - v0) * (place - x0) / (x1 - x0), abs((v1 - v0) / (x1 - x0))


def test_every_point_stands_where_its_axes_say(page, written):
    """Against the numbers of the document, read off the tick labels; places are rounded to 0.1, twice."""
    names = [row.children[0].text for row in page.all("tbody")[0].all("tr")]
    entries = {entry["name"]: entry for entry in written[1]["entries"]}
    costs = (("parameters", 1e-6), ("nonzero_parameters", 1e-6), ("macs", 1e-9), ("seconds", 1e3))
    drawn = 0
    sections = page.all("section")
    assert len(sections) == 2
    for section, quality in zip(sections, ("mini-score", "pr per")):
        for panel, (cost, scale) in zip(section.all("svg"), costs):
            across, up = axis(panel, upright=False), axis(panel, upright=True)
            assert len(across) >= 3 and len(up) >= 3
            for point in panel.all("g", "point"):
                entry = entries[names[int(point.attributes["data-model"])]]
                (dot,) = point.all("path", "dot")
                x, y = map(float, re.findall(r"[\d.]+", dot.attributes["transform"]))
                for ticks, place, expected in (
                    (across, x, scale * entry[cost]),
                    (up, y, entry["qualities"][quality]["value"]),
                ):
                    found, step = read_off(ticks, place)
                    assert found == pytest.approx(expected, abs=0.25 * step), (entry["name"], cost)
                drawn += 1
    assert drawn == 4 * 25 + 4 * 24


def test_pointing_at_a_model_names_it_and_its_command(page, written):
    titles = [point.all("title")[0].text.splitlines() for point in page.all("g", "point")]
    by_name = {lines[0]: lines for lines in titles}
    assert len(by_name) == 25
    assert by_name[NASTY][-1] == "python run_pretrain.py -n 'a & b'"
    unrecorded = written[1]["entries"][1]
    assert by_name[unrecorded["name"]][-1] == f"{unrecorded['path']} (no command is recorded)"
    assert by_name["embedded-0.8"][-1].startswith("python run_pretrain.py -u wavlm_pruned_distill --recipe embedded")
    assert by_name["embedded-0.8"][1] == "hard concrete (mha, qk, vo, ffn, int), 79.1 % of the weights gone or zero"


def test_rings_are_around_the_pareto_front(page, written):
    panel = page.all("section")[0].all("svg")[0]
    dots = {}
    for point in panel.all("g", "point"):
        place = re.findall(r"[\d.]+", point.all("path", "dot")[0].attributes["transform"])
        dots.setdefault(tuple(map(float, place)), []).append(point.all("title")[0].text.splitlines()[0])
    rings = [tuple(float(ring.attributes[key]) for key in ("cx", "cy")) for ring in panel.all("circle", "front")]
    front = {e["name"] for e in written[1]["entries"] if "mini-score/parameters" in e["pareto"]}
    assert len(rings) == len(front) > 3
    assert front <= {name for ring in rings for name in dots[ring]}


# --- in a browser ---

DRIVE = """<script>addEventListener("load", () => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const order = () => all("tbody th").map((head) => head.textContent);
  const heading = (title) => all("thead button").find((button) => button.textContent.startsWith(title));
  const shown = () => all(".panels").map((each) => !each.hidden);
  const seen = { width: innerWidth, whole: document.documentElement.scrollWidth, orders: [order()], shown: [shown()] };
  for (const title of ["PR PER", "PR PER", "mini-score", "parametersM", "method"]) {
    heading(title).click();
    seen.orders.push(order());
  }
  seen.sorted = all("[aria-sort]").map((head) => [head.textContent, head.ariaSort]);
  const select = document.querySelector("select");
  select.value = "1";
  select.dispatchEvent(new Event("change"));
  seen.shown.push(shown());
  const point = document.querySelector(".panels:not([hidden]) .point");
  point.dispatchEvent(new PointerEvent("pointerenter"));
  seen.tip = [...document.querySelector("#tip").children].map((line) => line.textContent);
  seen.box = document.querySelector("#tip").getBoundingClientRect().toJSON();
  seen.here = all("tr.here th").map((head) => head.textContent);
  point.dispatchEvent(new PointerEvent("pointerleave"));
  seen.hidden = document.querySelector("#tip").hidden && all(".here").length === 0;
  document.querySelector("#legend button:nth-child(2)").click();
  seen.off = new Set(all(".series.off").map((each) => each.dataset.method)).size;
  const [back, text] = ["backgroundColor", "color"].map((key) => getComputedStyle(document.body)[key]);
  Object.assign(seen, { back, text, panels: all(".panel").map((each) => each.getBoundingClientRect().width) });
  parent.postMessage(JSON.stringify(seen), "*");
});</script>"""
FRAMES = """<!doctype html><pre></pre><script>
addEventListener("message", (event) => { document.querySelector("pre").textContent += event.data + "\\n"; });
</script>"""
QUIET = """--headless=new --no-sandbox --disable-gpu --disable-background-networking --disable-component-update
 --disable-sync --disable-extensions --disable-default-apps --disable-domain-reliability --no-first-run --no-pings
 --virtual-time-budget=4000 --window-size=1700,1000""".split()


HOSTS = ("example.invalid", "fonts.googleapis.com")
"""That a control page asks."""


class Proxy(socketserver.ThreadingTCPServer):
    """Notes what a browser asks for, and answers nothing."""

    def __init__(self):
        self.asked = []
        super().__init__(("127.0.0.1", 0), _Noted)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Noted(socketserver.StreamRequestHandler):
    def handle(self):
        self.server.asked.append(self.rfile.readline().decode(errors="replace").strip())


def opened(folder, text, *, dark):
    """What a page does in frames of 400 and 1600 px: what `DRIVE` saw in each, and what was asked of the network."""
    (folder / "page.html").write_text(text.replace("</body>", f"{DRIVE}</body>"), encoding="utf-8")
    frames = [f"<iframe src=page.html width={width} height=900></iframe>" for width in (400, 1600)]
    (folder / "frames.html").write_text(FRAMES + "".join(frames), encoding="utf-8")
    with Proxy() as proxy:
        settings = [
            f"--user-data-dir={folder / 'profile'}",
            f"--proxy-server=127.0.0.1:{proxy.server_address[1]}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        ]
        command = [CHROMIUM, *QUIET, *settings, "--dump-dom", (folder / "frames.html").as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        proxy.shutdown()
    assert done.returncode == 0, done.stderr
    (result,) = Tree(done.stdout).root.all("pre")
    seen = sorted((json.loads(line) for line in result.text.splitlines()), key=lambda seen: seen["width"])
    return seen, [line for line in proxy.asked if not is_browsers_own(line, text)]


def is_browsers_own(asked, text):
    """Chromium asks its maker for the time and for updates. A page that asks there names the host."""
    host = re.search(r"[\w.-]+", asked.split(maxsplit=1)[1].removeprefix("http://"))[0]
    return re.search(r"(^|\.)(google|googleapis|gvt1)\.com$", host) is not None and host not in text


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (Debian: apt-get install chromium)")
def test_in_chromium_it_sorts_answers_the_pointer_fits_its_window_and_asks_for_nothing(written, tmp_path):
    folder, data = written
    text = (folder / "tradeoff.html").read_text(encoding="utf-8")
    seen, asked = opened(tmp_path, text, dark=True)
    assert asked == [] and [each["width"] for each in seen] == [400, 1600]
    values = {e["name"]: e["qualities"].get("pr per", {}).get("value") for e in data["entries"]}
    scores = {e["name"]: e["qualities"]["mini-score"]["value"] for e in data["entries"]}
    sizes = {e["name"]: e["parameters"] for e in data["entries"]}
    methods = {e["name"]: e["method"] for e in data["entries"]}
    without = data["entries"][4]["name"]
    for each in seen:
        start, best_first, worst_first, by_score, by_size, by_method = each["orders"]
        assert sorted(start) == sorted(best_first) == sorted(by_method) == sorted(values) and start != best_first
        assert best_first[-1] == worst_first[-1] == without, "a model without a number comes last either way"
        assert [values[name] for name in best_first[:-1]] == sorted(filter(None, values.values()))
        assert [values[name] for name in worst_first[:-1]] == sorted(filter(None, values.values()), reverse=True)
        assert [scores[name] for name in by_score] == sorted(scores.values(), reverse=True)  # with 1000, 959 and -90
        assert [sizes[name] for name in by_size] == sorted(sizes.values())
        assert [methods[name] for name in by_method] == sorted(methods.values())
        assert each["sorted"] == [["method", "ascending"]]
        assert each["shown"] == [[True, False], [False, True]]
        assert len(each["tip"]) == 5 and each["here"] == [each["tip"][0]] and each["hidden"] and each["off"] == 1
        assert each["box"]["left"] >= 0 and each["box"]["right"] <= each["width"]
        assert each["whole"] <= each["width"], "only the table scrolls to the side, not the page"
        assert brightness(each["back"]) < 150 < 600 < brightness(each["text"])
    assert max(seen[0]["panels"]) <= 400 and len([width for width in seen[1]["panels"] if width > 300]) == 4


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (Debian: apt-get install chromium)")
def test_a_page_that_asked_for_something_would_be_seen(written, tmp_path):
    """The control of the test above: its proxy notes an image, and the page's own policy forbids even that."""
    text = (written[0] / "tradeoff.html").read_text(encoding="utf-8")
    images = "".join(f"<img src=http://{host}/seen.png>" for host in HOSTS)
    asking = text.replace("<h1>", f"{images}<h1>")
    _, asked = opened(tmp_path, asking, dark=False)
    assert asked == []
    without_policy = re.sub("<meta http-equiv[^>]*>", "", asking)
    assert without_policy != asking
    seen, asked = opened(tmp_path, without_policy, dark=False)
    assert {line for line in asked if "seen.png" in line} == {f"GET http://{host}/seen.png HTTP/1.1" for host in HOSTS}
    assert all(brightness(each["text"]) < 150 < 600 < brightness(each["back"]) for each in seen)
