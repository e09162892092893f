"""The page to draw a digit on: its preprocessing against MNIST, and the page in a real browser."""

from __future__ import annotations

import asyncio
import base64
import collections
import concurrent.futures
import contextlib
import hashlib
import html.parser
import http.client
import importlib.util
import io
import json
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import urllib.parse
import zlib
from pathlib import Path

import numpy as np
import pytest
import tolerances
from tolerances import assert_same, assert_within

import portnn

Image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def draw():
    """examples/draw.py as a module."""
    spec = importlib.util.spec_from_file_location("example_draw", ROOT / "examples" / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def mnist():
    """MNIST, where it is on this machine."""
    try:
        return portnn.datasets.load_mnist(download=False)
    except OSError:
        pytest.skip("MNIST is not on this machine; PORTNN_DATA names the folder that holds mnist/")


@pytest.fixture(scope="module")
def model(draw, mnist):
    """The network that draw.py trains."""
    x, t, _, _ = mnist
    return draw.train(x[:30000], t[:30000], epochs=4)


def picture(gray):
    """Return numbers in [0, 1] as a picture of 8 bits."""
    return Image.fromarray(np.round(255.0 * gray).astype("uint8"))


def rectangle(paper="white", ink="black", mode="RGB"):
    """A bar of 50 x 100 pixels, far from the middle of 400 x 300."""
    sheet = Image.new(mode, (400, 300), paper)
    sheet.paste(ink, (310, 17, 360, 117))
    return sheet


def bar():
    """Return what the rectangle must become: 10 x 20 pixels, their center within half a pixel of (14, 14)."""
    image = np.zeros((28, 28), dtype="float32")
    image[4:24, 10:20] = 1.0
    return image


def address(image, kind="PNG"):
    data = io.BytesIO()
    image.save(data, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


# -- the image that the network sees ----------------------------------------------------------------------------------


def test_a_bar_by_hand(draw):
    seen = draw.to_mnist(rectangle())
    assert seen.dtype == np.float32
    assert_same(seen, bar())


def test_digits_of_mnist_come_back_to_the_bit(draw, mnist, monkeypatch):
    """Each is 20 pixels long and centered already, if its faintest edge counts as ink."""
    monkeypatch.setattr(draw, "EDGE", 0.0)
    _, _, x, _ = mnist
    images = [image for image in x[:2000].reshape(-1, 28, 28) if image.max() == 1.0]
    assert len(images) > 1500
    for image in images:
        for drawn in (image, 1.0 - image, np.pad(image, ((30, 50), (70, 20)))):
            assert_same(draw.to_mnist(picture(drawn)), image)


def test_digits_drawn_large_anywhere_are_recognized(draw, mnist, model):
    """Real digits, enlarged to 100 to 350 pixels with soft edges, in any place of 400 x 400, dark on light."""
    _, _, x, t = mnist
    rng, right, flat = np.random.default_rng(0), 0, 0
    for image, label in zip(x[:500].reshape(-1, 28, 28), t[:500], strict=True):
        side = int(rng.integers(100, 351))
        sheet = Image.new("L", (400, 400), "black")
        corner = tuple(map(int, rng.integers(0, 401 - side, 2)))
        sheet.paste(picture(image).resize((side, side), Image.Resampling.BICUBIC), corner)
        drawn = Image.fromarray(255 - np.asarray(sheet))
        right += draw.probabilities_of(model, draw.to_mnist(drawn)).argmax() == label
        # without the preprocessing the same picture is not recognized
        small = 1.0 - np.asarray(drawn.resize((28, 28), Image.Resampling.BOX), dtype="float32") / 255.0
        flat += draw.probabilities_of(model, small).argmax() == label
    assert right >= 485
    assert flat < 350


@pytest.mark.parametrize(
    "image",
    [
        *(rectangle("black", "white"), rectangle("#ffee00", "#203080"), rectangle("white", "black", "1")),
        *(rectangle("#eeeeee", "#bbbbbb", "L"), rectangle(0, 40000, "I;16"), rectangle(0.25, 0.75, "F")),
        *(rectangle((0, 0, 0, 0), (0, 0, 0, 255), "RGBA"), rectangle((0, 0, 0, 0), (255, 255, 255, 255), "RGBA")),
        *(rectangle().convert("P"), rectangle().convert("CMYK"), rectangle((0, 0), (255, 255), "LA")),
    ],
    ids=lambda image: f"{image.mode}-{image.getpixel((0, 0))}",
)
def test_paper_and_ink_of_any_color(draw, image):
    """Inverted, colored, faint, of 1, 16 and 32 bits, on nothing, with a palette."""
    assert_within(draw.to_mnist(image), bar(), tolerances.first_gradient(1.0, "float32"))


@pytest.mark.parametrize(
    "image",
    [
        *(Image.new("L", (400, 400), gray) for gray in ("white", "black", "gray")),
        *(Image.new("RGBA", (400, 400), (9, 9, 9, 0)), Image.new("L", (1, 1)), Image.new("L", (0, 0))),
        *(Image.new("I;16", (5, 7), 1000), Image.new("F", (5, 7), float("nan")), rectangle("#808080", "#858585")),
    ],
    ids=lambda image: f"{image.mode}-{image.size}",
)
def test_nothing_drawn_is_an_empty_answer(draw, image):
    assert draw.to_mnist(image) is None
    assert set(draw.answer(portnn.MLP([784, 10]), image)) == {"note"}


@pytest.mark.parametrize("box", [(200, 5, 203, 395), (3, 50, 397, 51), (100, 100, 101, 101), (0, 0, 399, 20)])
def test_any_stroke_stays_in_the_frame(draw, box):
    sheet = Image.new("L", (400, 400), "white")
    sheet.paste("black", box)
    seen = draw.to_mnist(sheet)
    rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    assert (seen.shape, seen.max(), max(np.ptp(rows), np.ptp(columns)) + 1) == ((28, 28), 1.0, 20)
    for total, axis in ((seen.sum(axis=1), rows), (seen.sum(axis=0), columns)):
        assert abs((total * np.arange(28)).sum() / total.sum() - 14.0) <= 0.5, axis


def test_a_huge_picture_is_one_sentence(draw):
    with pytest.raises(ValueError, match=r"the picture has 5000 x 4000 pixels, expected at most 16777216; make it"):
        draw.to_mnist(Image.new("1", (5000, 4000)))
    for size, sentence in (((10000, 15000), "10000 x 15000 pixels, expected at most"), ((20000, 15000), "more pixels")):
        with pytest.raises(ValueError, match=f"^the picture has {sentence}.* 16777216; make it smaller$"):
            draw.picture_in(address(Image.new("1", size)))  # some 40 kB
    with pytest.raises(ValueError, match=r"the picture has 7833\d\d bytes, expected at most 783360"):
        draw.picture_in("data:image/png;base64," + "A" * (4 * draw.MOST_BYTES // 3 + 8))


@pytest.mark.parametrize(
    "url",
    [
        *(None, 7, "", "hello", "data:text/html;base64,PGI+", "data:image/png;base64,", "data:image/png;base64,%%%"),
        *("data:image/png;base64,iVBORw0KGgo=", address(rectangle())[:-900] + "AAAA", "https://example.org/7.png"),
        *(address(rectangle(), kind) for kind in ("JPEG", "WEBP", "GIF")),
        *(address(rectangle(), kind).replace(kind.lower(), "png", 1) for kind in ("JPEG", "BMP")),
        "data:image/svg+xml;base64," + base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode(),
    ],
    ids=lambda url: str(url)[:30],
)
def test_what_is_no_picture_is_one_sentence(draw, url):
    with pytest.raises(ValueError, match=r"^[^\n]{20,250}; PNG is read$"):
        draw.picture_in(url)


def test_a_picture_arrives(draw):
    seen = draw.to_mnist(draw.picture_in(address(rectangle())))
    assert ((seen > 0.5) == (bar() > 0.5)).all()


def chunks_of(data):
    """Return the chunks of a PNG: (name, content)."""
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def test_damaged_pictures_are_sentences(draw):
    """Chunks that are cut, changed, doubled, renamed or missing, with checksums that are right."""
    rng, read, said = random.Random(0), 0, collections.Counter()
    seeds = [address(rectangle().convert(mode)) for mode in ("L", "RGB", "RGBA", "P", "1")]
    names = [b"tRNS", b"PLTE", b"gAMA", b"pHYs", b"iCCP", b"cHRM", b"acTL", b"fcTL", b"fdAT", b"eXIf", b"zTXt", b"iTXt"]
    for _ in range(3000):
        chunks = chunks_of(base64.b64decode(rng.choice(seeds).partition(",")[2]))
        for _ in range(rng.randint(1, 3)):
            k = rng.randrange(len(chunks))
            name, content = chunks[k]
            place = rng.randrange(len(content) + 1)
            changes = [(name, content[:place]), (name, content[:place] + rng.randbytes(1) + content[place + 1 :])]
            chunks[k : k + 1] = rng.choice(
                [*([change] for change in changes), [chunks[k]] * 2, [(rng.choice(names), content)]]
            )
        data = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
            for name, content in chunks
        )
        try:
            draw.picture_in("data:image/png;base64," + base64.b64encode(data).decode())
            read += 1
        except ValueError as error:
            said[str(error)] += 1
    assert read > 100
    assert said[draw.UNREADABLE] > 1000


def test_what_the_page_sends_at_most_is_let_in(draw):
    """Noise in four channels, which no PNG makes smaller, of the largest picture that the page sends."""
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 4), dtype="uint8")
    asked = {"data": address(Image.fromarray(noise)), "component_id": 2, "fn_name": "read", "session_hash": "a" * 20}
    assert len(json.dumps(asked)) < draw.MOST_BODY == 2**20
    assert draw.picture_in(asked["data"]).size == (400, 400)


# -- the answer -------------------------------------------------------------------------------------------------------


def test_answer_is_the_softmax_of_the_network(draw):
    net = portnn.MLP([784, 10], init="normal")
    said = draw.answer(net, rectangle())
    assert (np.asarray(said["pixels"]).reshape(28, 28) == 255 * bar()).all()
    logits = net(bar().reshape(1, -1))[0].astype("float64")
    bound = tolerances.first_gradient(1.0, "float64")
    assert_within(said["probabilities"], np.exp(logits) / np.exp(logits).sum(), bound)
    assert_within(sum(said["probabilities"]), 1.0, bound)


def test_of_an_ensemble_it_is_the_mean(draw):
    team = portnn.MLP([784, 10], members=3)
    said = draw.answer(team, rectangle())["probabilities"]
    alone = [draw.answer(member, rectangle())["probabilities"] for member in team]
    assert_within(said, np.mean(alone, axis=0), tolerances.first_gradient(1.0, "float32"))


# -- the command line and the page ------------------------------------------------------------------------------------


def environment(**variables):
    """Return the environment of a machine that reaches nothing but itself."""
    kept = {k: v for k, v in os.environ.items() if k.lower() not in ("no_proxy", "portnn_data")}
    nowhere = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https", "all")}
    return kept | nowhere | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"} | variables


def needs_gradio():
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("gradio is not installed; nox -s browser installs it")


@pytest.mark.parametrize("case", ["shape", "no file", "no file to train from", "port"])
def test_refuses_in_one_sentence(tmp_path, case):
    needs_gradio()
    portnn.MLP([64, 10]).save(tmp_path / "small.safetensors")
    portnn.MLP([784, 10]).save(tmp_path / "right.safetensors")
    options, sentence = {
        "shape": (["--model", "small.safetensors"], r"ValueError: small\.safetensors maps 64 features to 10 outputs, "),
        "no file": (["--model", "none.safetensors"], r"FileNotFoundError: .*none\.safetensors"),
        "no file to train from": (["--data-dir", "."], r"no --model and no MNIST to train one on: .*"),
        "port": (["--model", "right.safetensors", "--port", "PORT"], r"OSError: .*port.*"),
    }[case]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = [str(taken.getsockname()[1]) if option == "PORT" else option for option in options]
        command = [sys.executable, ROOT / "examples" / "draw.py", *options]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(sentence + r"[^\n]*\n", done.stderr), done.stderr


def arc(x, y, rx, ry, start, end):
    """Return points of an arc of an ellipse, angles in degrees, 0 to the right, 90 down."""
    return [(x + rx * np.cos(a), y + ry * np.sin(a)) for a in np.radians(np.linspace(start, end, 24))]


STROKES = {  # each digit as a hand draws it: strokes of points in the unit square
    0: [arc(0.5, 0.5, 0.22, 0.34, -90, 270)],
    1: [[(0.40, 0.30), (0.52, 0.15), (0.50, 0.85)]],
    2: [[*arc(0.48, 0.33, 0.20, 0.18, -170, 40), (0.28, 0.82), (0.74, 0.82)]],
    3: [[*arc(0.46, 0.32, 0.19, 0.17, -160, 90), *arc(0.46, 0.66, 0.22, 0.18, -90, 160)]],
    4: [[(0.36, 0.15), (0.28, 0.52), (0.72, 0.52)], [(0.62, 0.18), (0.58, 0.86)]],
    5: [[(0.36, 0.17), (0.34, 0.45), *arc(0.46, 0.64, 0.21, 0.20, -110, 150)], [(0.36, 0.17), (0.68, 0.16)]],
    6: [[(0.62, 0.14), (0.42, 0.38), *arc(0.48, 0.66, 0.17, 0.19, -160, 200)]],
    7: [[(0.28, 0.18), (0.72, 0.18), (0.46, 0.86)]],
    8: [[*arc(0.5, 0.33, 0.16, 0.16, 90, 450), *arc(0.5, 0.67, 0.19, 0.18, -90, 270)]],
    9: [[*arc(0.48, 0.34, 0.17, 0.18, 0, 360), (0.65, 0.34), (0.58, 0.86)]],
}


class Served:
    """The page in a process of its own, and a browser that has it open."""

    def __init__(self, process, port, tab, asked):
        self.process, self.port, self.tab, self.asked = process, port, tab, asked

    def drawn(self, strokes):
        """Draw with the mouse and return the digit that is read, and its probability."""
        self.tab.click("#clear")
        box = self.tab.locator("#paper").bounding_box()
        for points in strokes:
            for i, (x, y) in enumerate(points):
                self.tab.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
                if i == 0:
                    self.tab.mouse.down()
            self.tab.mouse.up()
        return self.read()

    def read(self):
        """Wait for the answer and return the digit, or an empty text, and its bar."""
        self.tab.wait_for_selector("[data-state=answered]")
        return self.tab.inner_text("#digit"), self.tab.locator(".best span:last-child").all_inner_texts()


@contextlib.contextmanager
def serving(net, folder):
    """The page of a network in a process of its own: (process, port). It must have said nothing at its end."""
    needs_gradio()
    net.save(folder / "digits.safetensors")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, ROOT / "examples" / "draw.py", "--model", "digits.safetensors", "--port", str(port)]
    with open(folder / "errors", "w+") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            line = process.stdout.readline()
            assert line == f"draw a digit at http://127.0.0.1:{port}/ (Ctrl-C ends)\n", (folder / "errors").read_text()
            yield process, port
            assert process.poll() is None, (folder / "errors").read_text()
        finally:
            process.terminate()
            process.wait(timeout=30)
            process.stdout.close()
        errors.seek(0)
        assert {*errors.read().splitlines()} <= {"WARNING:  Invalid HTTP request received."}  # of what is no HTTP


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    needs_gradio()
    if importlib.util.find_spec("playwright") is None or not CHROMIUM:
        pytest.skip("needs playwright (pip) and chromium (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with serving(model, tmp_path_factory.mktemp("draw")) as (process, port), sync_playwright() as playwright:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=root)
        tab = browser.new_page(viewport={"width": 1040, "height": 640}, device_scale_factor=1.5)
        asked, wrong = [], []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        tab.goto(f"http://127.0.0.1:{port}")
        yield Served(process, port, tab, asked)
        assert wrong == []
        browser.close()


def test_drawn_digits_are_recognized(served, tmp_path):
    """Drawn with the mouse, stroke by stroke, in a browser."""
    assert served.read() == ("", [])
    answers = {digit: served.drawn(strokes) for digit, strokes in STROKES.items()}
    right = [digit for digit, (said, _) in answers.items() if said == str(digit)]
    assert len(right) >= 9, answers
    served.drawn(STROKES[3])
    shares = [float(text.removesuffix(" %")) for text in served.tab.locator(".bar span:last-child").all_inner_texts()]
    assert len(shares) == 10
    assert abs(sum(shares) - 100.0) < 10 * 0.051  # each is rounded to 0.1
    shot = Path(os.environ.get("PORTNN_SCREENSHOT", tmp_path / "draw.png"))
    served.tab.mouse.move(2, 2)
    served.tab.wait_for_timeout(400)  # the bars glide to their places
    served.tab.screenshot(path=shot)
    assert len(np.unique(np.asarray(Image.open(shot).convert("L")))) > 30


def test_the_network_reads_along(served):
    """The answer changes while the button is held down; undo and clear take it back."""
    served.drawn(STROKES[4][:1])
    half = served.read()
    served.drawn(STROKES[4])
    assert served.read()[0] == "4"
    served.tab.click("#undo")
    assert served.read() == half
    served.tab.click("#clear")
    assert served.read() == ("", [])


def test_a_picture_from_a_file(served, mnist, tmp_path):
    """A real seven, light on dark; then a text that calls itself a picture."""
    _, _, x, t = mnist
    picture(x[0].reshape(28, 28)).resize((300, 300)).save(tmp_path / "digit.png")
    served.tab.set_input_files("#file", tmp_path / "digit.png")
    served.tab.wait_for_function(f"document.querySelector('#digit').textContent === '{t[0]}'")
    photo = Image.effect_noise((3000, 2000), 100).convert("RGB")  # some 15 MB as PNG
    photo.paste("white", (200, 0, 2200, 2000))
    photo.paste(picture(1.0 - x[0].reshape(28, 28)).resize((1400, 1400)), (500, 300))
    photo.save(tmp_path / "photo.jpg", quality=95)
    assert (tmp_path / "photo.jpg").stat().st_size > 2**20
    served.tab.set_input_files("#file", tmp_path / "photo.jpg")
    served.tab.wait_for_function("document.querySelector('#note').textContent.includes('28 x 28')")
    (tmp_path / "text.png").write_text("seven")
    served.tab.set_input_files("#file", tmp_path / "text.png")
    served.tab.wait_for_function("document.querySelector('#note').textContent.includes('cannot be read')")
    assert served.read()[0] == ""
    served.tab.click("#clear")
    served.read()
    assert "Draw a digit" in served.tab.inner_text("#note")


ADD = "const add = (html) => { document.body.insertAdjacentHTML('beforeend', html); return document.body.lastChild }; "
BREACHES = {
    "script-src-elem": "const s = document.createElement('script'); s.textContent = '1'; document.body.append(s)",
    "script-src-attr": ADD + "add('<i onclick=1>').click()",
    "img-src": "new Image().src = 'http://127.0.0.1:9/a.png'",
    "connect-src": "fetch('http://127.0.0.1:9/').catch(() => 0)",
    "frame-src": ADD + "add('<iframe src=http://127.0.0.1:9/>')",
    "form-action": ADD + "add('<form action=/a>').submit()",
    "worker-src": "try { new Worker('data:text/javascript,1') } catch (e) {}",
    "object-src": ADD + "add('<object data=/a>')",
}


@pytest.mark.parametrize("directive", BREACHES)
def test_the_policy_is_kept(served, directive):
    """What a script on the page must not do, whoever brought it there, the browser does not do."""
    tab = served.tab.context.browser.new_page()
    tab.goto(f"http://127.0.0.1:{served.port}")
    told = "document.addEventListener('securitypolicyviolation', (event) => tell(event.effectiveDirective))"
    script = f"new Promise((tell) => {{ {told}; {BREACHES[directive]}; setTimeout(() => tell('nothing'), 3000) }})"
    assert tab.evaluate(script) == directive
    tab.close()


def test_page_is_for_this_computer_alone(served):
    """It listens on 127.0.0.1, and asks nobody else for anything."""
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening += [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    ends = {fields[1] for fields in listening if fields[3] == "0A" and fields[1].endswith(f":{served.port:04X}")}
    assert ends == {f"0100007F:{served.port:04X}"}
    assert [url for url in served.asked if not url.startswith((f"http://127.0.0.1:{served.port}/", "data:"))] == []


# -- the door ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    """The port of a page whose network knows nothing."""
    with serving(portnn.MLP([784, 10], init="zeros"), tmp_path_factory.mktemp("door")) as (process, port):
        yield port
        assert process.poll() is None


def question(**changes):
    """Return what the page asks, or nearly that."""
    asked = {"data": address(rectangle()), "component_id": 2, "fn_name": "read", "session_hash": "abc123", **changes}
    return json.dumps({name: value for name, value in asked.items() if value is not None}).encode()


ASK = "/gradio_api/component_server/"
JSON = {"Content-Type": "application/json"}


def said(port, method="GET", path="/", headers=None, body=None):
    """Return status, headers and body of the answer to one request, exactly as it is given here."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


USUAL = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def scripts(text):
    """Return the scripts that stand in a page, by an HTML parser."""
    found = []

    class Scripts(html.parser.HTMLParser):
        within = False

        def handle_starttag(self, tag, attributes):
            self.within = tag == "script" and "src" not in dict(attributes)
            if self.within:
                found.append("")

        def handle_data(self, data):
            if self.within:
                found[-1] += data

        def handle_endtag(self, tag):
            self.within = False

    Scripts().feed(text.decode())
    return [script.encode() for script in found]


def test_what_the_page_asks_is_answered(door):
    status, headers, text = said(door)
    assert status == 200
    assert b"Draw a digit" in text
    hashes = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts(text)]
    assert len(hashes) >= 3
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "base-uri": "'self'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "script-src": " ".join(["'self' 'unsafe-eval'", *(f"'sha256-{digest}'" for digest in hashes)]),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
    }
    for path in ("/", "/theme.css", "/config", ASK):
        _, headers, _ = said(door, path=path)
        assert {name: headers.get(name) for name in USUAL} == USUAL, path
        strict = "default-src 'none'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
        assert headers["content-security-policy"].startswith(strict)
    for origin in ({}, {"Origin": f"http://127.0.0.1:{door}"}):
        status, headers, text = said(door, "POST", ASK, JSON | origin, question())
        assert status == 200
        assert np.ptp(json.loads(text)["probabilities"]) == 0.0
    assert said(door, headers={"Host": f"localhost:{door}"})[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        *({"Host": host} for host in ("elsewhere.example", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.example:PORT", "")),
        *({"Host": host} for host in ("evil.example@127.0.0.1:PORT", "0.0.0.0:PORT", "[::1]:PORT", "LOCALHOST.:PORT")),
        *({"Origin": origin} for origin in ("https://elsewhere.example", "null", "http://127.0.0.1", "")),
        *({"Origin": origin} for origin in ("https://127.0.0.1:PORT", "http://localhost:PORT", "http://127.0.0.1:1")),
        {"Host": "127.0.0.1:PORT", "host": "elsewhere.example"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", ASK), ("GET", "/gradio_api/file=/etc/passwd")])
def test_other_hosts_and_origins_are_turned_away(door, headers, method, path):
    headers = {name: value.replace("PORT", str(door)) for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    lines += [] if any(name.lower() == "host" for name in headers) else [f"Host: 127.0.0.1:{door}"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(question())}"] if method == "POST" else []
    with socket.create_connection(("127.0.0.1", door), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        with connection.makefile("rb") as answer:
            status, head = answer.readline(), answer.read().lower()
    # two hosts in one request are no HTTP, which the server says itself
    assert status.split()[1] == (b"400" if len(headers) == 2 else b"403")
    assert b"access-control-allow-origin" not in head
    assert b"root:" not in head


def test_an_origin_that_asks_first_gets_no_permission(door):
    foreign = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    status, headers, _ = said(door, "OPTIONS", ASK, foreign)
    assert status == 403
    assert not any(name.startswith("access-control") for name in headers)


@pytest.mark.parametrize(
    "path",
    [
        *(f"{start}{of}" for start in ("/gradio_api", "") for of in ("/file=/etc/passwd", "/file/etc/passwd")),
        *("/gradio_api/file=digits.safetensors", "/gradio_api/file=%2Fetc%2Fpasswd", "/gradio_api/file%3D/etc/passwd"),
        *("/assets/../../../../../../etc/passwd", "/assets/..%2f..%2f..%2fetc%2fpasswd", "/assets/%2e%2e/index.html"),
        *("/static/../../etc/passwd", "/static/js/..%2f..%2fetc%2fpasswd", "/static/js//etc/passwd", "//etc/passwd"),
        *("/gradio_api/upload", "/gradio_api/proxy=http://127.0.0.1:9/", "/gradio_api/stream/a/b/c/playlist.m3u8"),
        *("/gradio_api/info", "/gradio_api/queue/data?session_hash=a", "/gradio_api/queue/join", "/config"),
        *("/gradio_api/call/read", "/gradio_api/run/read", "/docs", "/openapi.json", "/monitoring", "/login"),
        *("/gradio_api/mcp/", "/gradio_api/custom_component/a/b/c/d", "/svelte/a", "/gradio_api/reset", "/robots.txt"),
        *("/assets/\u00e9.js".encode().decode("latin-1"), "/assets/.hidden", "/theme.css/", "/theme\ncss", "/%00"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_gradio_has_no_other_door(door, path, method):
    path = urllib.parse.quote(path, safe="/=%?:&")
    status, _, text = said(door, method, path, JSON, question() if method == "POST" else None)
    assert status == 404
    assert text == b"Not Found"


def test_a_long_body_is_not_read(door, draw):
    """It is turned away by what it says of itself; without that, when it has become too long."""
    head = f"POST {ASK} HTTP/1.1\r\nHost: 127.0.0.1:{door}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", door), timeout=30) as connection:
        connection.sendall(f"{head}Content-Length: {draw.MOST_BODY + 1}\r\n\r\n".encode())  # and nothing of it
        assert connection.recv(12) == b"HTTP/1.1 413"
    with socket.create_connection(("127.0.0.1", door), timeout=30) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent <= draw.MOST_BODY + 2**20:
                connection.sendall(b"10000\r\n" + bytes(2**16) + b"\r\n")
                sent += 2**16
        with contextlib.suppress(ConnectionError):
            assert connection.recv(12) == b"HTTP/1.1 413"
    assert said(door)[0] == 200
    largest = question(data="data:image/png;base64," + "A" * (draw.MOST_BODY - 2**12))
    assert said(door, "POST", ASK, JSON, largest)[0] == 200


def test_a_body_that_does_not_come_is_not_waited_for(draw, monkeypatch):
    """Nor one that comes too slowly: the door itself, without a server around it."""
    monkeypatch.setattr(draw, "PATIENCE", 0.05)
    said = []

    async def never():
        await asyncio.sleep(3600)

    async def note(message):
        said.append(message)

    headers = [(b"host", b"localhost:80"), (b"content-type", b"application/json"), (b"content-length", b"5")]
    scope = {"type": "http", "method": "POST", "path": ASK, "headers": headers, "server": ("127.0.0.1", 80)}

    def knock(scope):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:  # the browser's loop runs in this thread
            pool.submit(lambda: asyncio.run(draw.Door(None, 2)(scope, never, note))).result()

    knock(scope)
    assert said[0]["status"] == 408
    knock({"type": "websocket"})
    assert said[-1] == {"type": "websocket.close", "code": 1008}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"component_id": 1}, 422),
        ({"component_id": 99}, 422),
        ({"component_id": "2"}, 422),
        ({"component_id": True}, 422),
        ({"fn_name": "__init__"}, 422),
        ({"fn_name": ["read"]}, 422),
        ({"session_hash": None}, 422),
        ({"session_hash": "../a"}, 422),
        ({"data": 7}, 422),
        ({"data": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}}, 422),
        ({"more": 1}, 422),
        ({"data": "data:image/png;base64,\ud800"}, 200),
        ({"data": "file:///etc/passwd"}, 200),
    ],
    ids=str,
)
def test_other_questions_are_turned_away(door, changes, status):
    found, _, text = said(door, "POST", ASK, JSON, question(**changes))
    assert found == status
    assert status == 422 or set(json.loads(text)) == {"note"}


def test_a_thousand_requests_of_noise(door):
    """Requests that were bent at random: no answer of 5xx, and the page is there afterwards."""
    draw, statuses = random.Random(0), collections.Counter()
    paths = [
        "/",
        ASK,
        "/theme.css",
        "/assets/index.js",
        "/static/js/a.js",
        "/gradio_api/startup-events",
        "/favicon.ico",
    ]
    kinds = ["PNG", "PNG", "PNG", "JPEG", "GIF", "BMP", "WEBP"]
    for _ in range(1000):
        method = draw.choice(["GET", "HEAD", "POST", "POST", "POST", "POST", "PUT", "PATCH", "OPTIONS", "TRACE"])
        path = draw.choice([ASK, ASK, ASK, draw.choice(paths)])
        headers = draw.choice([JSON, JSON, JSON, {"Content-Type": "multipart/form-data; boundary=x"}, {}])
        noise = bytes(draw.choices(range(256), k=draw.randrange(40)))
        if draw.random() < 0.3:
            name = draw.choice(["X-Forwarded-Host", "Cookie", "Range", "Accept-Encoding", "Referer", "X-Gradio-User"])
            headers = headers | {name: "".join(chr(b) for b in noise if 32 <= b < 127).strip()}
        if draw.random() < 0.3:
            path += "".join(f"%{b:02x}" if draw.random() < 0.7 else f"?{b}" for b in noise[:12])
        picture = bytearray(base64.b64decode(address(rectangle().convert("RGB"), draw.choice(kinds)).split(",")[1]))
        for _ in range(draw.randrange(8)):
            picture[draw.randrange(len(picture))] = draw.randrange(256)
        data = "data:image/png;base64," + base64.b64encode(picture).decode()
        body = draw.choice(
            [
                *[question(data=data)] * 4,
                question(data=noise.decode("latin-1")),
                question(component_id=draw.choice([0, 1, 3, -1, 2.0, 10**30, None, []])),
                noise,
                b"[" * 100_000,
                question()[: draw.randrange(200)],
                question().replace(b"read", noise),
            ]
        )
        status, _, _ = said(door, method, path, headers, body if method not in ("GET", "HEAD", "TRACE") else None)
        statuses[status] += 1
    assert [status for status in statuses if status >= 500] == [], statuses
    assert {200, 404, 415, 422} <= set(statuses), statuses
    assert said(door, "POST", ASK, JSON, question())[0] == 200
