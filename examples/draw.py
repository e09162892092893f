"""Draw a digit and watch what the network makes of it: python examples/draw.py --model digits.safetensors.

FILE is a model that ``examples/mnist.py --save`` wrote, or ``--save`` here; without one a small network is trained on
MNIST first. The page is at http://127.0.0.1:7860, for this computer alone. Needs ``pip install gradio pillow``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import http
import importlib.util
import io
import json
import os
import re
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import portnn
from portnn.files import check_target

SIDE, BOX = 28, 20  # of MNIST's images, and of the square that every digit fits into
CENTER = 14  # where the center of mass of every digit is, to half a pixel
CONTRAST = 0.1  # a picture whose darkest ink is nearer to the paper than this share of the whole range is empty
EDGE = 0.25  # what is fainter than this share of the darkest ink is no edge of the digit: dust, or a trace of JPEG
MOST_PIXELS = 2**24
HOST, PORT = "127.0.0.1", 7860

MOST_BODY = 2**20  # bytes of a request; the page sends no picture of more than 400 x 400 pixels
MOST_BYTES = (MOST_BODY - 2**12) * 3 // 4  # of a picture, which comes in base64, and something stands around it
UNREADABLE = "the picture cannot be read, it is cut off or of another kind; PNG is read"
# Pillow does not say what a damaged file may lead to: all of these have been seen, or are those of what it calls.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, struct.error, zlib.error)
PATIENCE = 10.0  # seconds that a request may take to arrive

HTML = """
<div class="side">
  <canvas id="paper" width="400" height="400" aria-label="draw a digit here"></canvas>
  <div class="tools">
    <button id="undo">Undo</button><button id="clear">Clear</button>
    <label>Picture &hellip;<input id="file" type="file" accept="image/*"></label>
  </div>
</div>
<div class="side">
  <div class="top">
    <canvas id="seen" width="28" height="28" aria-label="what the network sees"></canvas>
    <div id="digit" aria-live="polite"></div>
    <p id="note"></p>
  </div>
  <div id="bars"></div>
</div>
"""
CSS = """
display: flex; flex-wrap: wrap; gap: 44px; padding: 10px 0;
.side {flex: 1 1 400px; max-width: 440px}
#paper {width: 100%; aspect-ratio: 1; border-radius: 10px; background: white; cursor: crosshair; touch-action: none;
  box-shadow: 0 0 0 1px rgb(0 0 0 / 14%), 0 4px 18px rgb(0 0 0 / 10%)}
.tools {display: flex; gap: 8px; align-items: flex-start; margin-top: 14px}
.tools button, .tools label {font: inherit; font-size: 15px; line-height: 20px; padding: 6px 16px; border-radius: 7px;
  box-sizing: border-box; height: 32px; margin: 0;
  border: 0; color: inherit; cursor: pointer;
  background: color-mix(in srgb, currentColor 9%, transparent)}
.tools button:hover, .tools label:hover {background: color-mix(in srgb, currentColor 17%, transparent)}
.tools label {margin-left: auto}
#file {display: none}
.top {display: flex; gap: 22px; align-items: center; height: 150px; margin-bottom: 18px}
#seen {width: 150px; height: 150px; flex: none; image-rendering: pixelated; background: black; border-radius: 8px}
#digit {font-size: 100px; line-height: 1; font-weight: 700; width: 0.62em; text-align: center; flex: none}
#note {opacity: 0.75; font-size: 14px; line-height: 1.45; margin: 0}
.bar {display: grid; grid-template-columns: 1em 1fr 4.6em; gap: 12px; align-items: center; height: 27px}
.bar span {font-size: 15px; font-variant-numeric: tabular-nums}
.bar span:last-child {text-align: right; white-space: nowrap; opacity: 0.75}
.track {height: 15px; border-radius: 4px; background: color-mix(in srgb, currentColor 9%, transparent)}
.fill {height: 100%; width: 0; border-radius: 4px; background: #8aa4c8; transition: width 0.15s}
.best .fill {background: #e07b39}
.best span {opacity: 1 !important; font-weight: 700}
"""
# One question is under way at a time; what has been drawn meanwhile is asked when the answer has come.
JAVASCRIPT = """
const find = (id) => element.querySelector("#" + id);
const paper = find("paper"), pen = paper.getContext("2d"), seen = find("seen").getContext("2d");
let strokes = [], picture = null, asking = false, next = null, latest = 0;

find("bars").innerHTML = Array.from({length: 10}, (_, digit) => '<div class="bar"><span>' + digit +
  '</span><div class="track"><div class="fill"></div></div><span></span></div>').join("");

function paint() {
  pen.fillStyle = "white";
  pen.fillRect(0, 0, paper.width, paper.height);
  if (picture) {
    const k = Math.min(paper.width / picture.width, paper.height / picture.height);
    const [w, h] = [picture.width * k, picture.height * k];
    pen.drawImage(picture, (paper.width - w) / 2, (paper.height - h) / 2, w, h);
  }
  Object.assign(pen, {lineWidth: 30, lineCap: "round", lineJoin: "round", strokeStyle: "#111"});
  for (const points of strokes) {
    pen.beginPath();
    pen.moveTo(...points[0]);
    for (const point of points) pen.lineTo(...point);
    pen.stroke();
  }
}
function show(answer) {
  const image = seen.createImageData(28, 28), p = answer.probabilities || [];
  for (let i = 0; i < 784; i++) {
    const gray = answer.pixels ? answer.pixels[i] : 0;
    image.data.set([gray, gray, gray, 255], 4 * i);
  }
  seen.putImageData(image, 0, 0);
  const best = p.indexOf(Math.max(...p));
  find("digit").textContent = p.length ? best : "";
  find("note").textContent = answer.note;
  [...find("bars").children].forEach((bar, digit) => {
    bar.classList.toggle("best", digit === best);
    bar.querySelector(".fill").style.width = 100 * (p[digit] || 0) + "%";
    bar.lastChild.textContent = p.length ? (100 * p[digit]).toFixed(1) + " %" : "";
  });
}
async function ask(question) {
  next = question;
  if (asking) return;
  asking = true;
  element.dataset.state = "asking";
  while (next) {
    question = next;
    next = null;
    try {
      const asked = question();  // a picture, or what there is to say without asking
      show(typeof asked === "string" ? await server.read(asked) : asked);
    } catch (error) {
      show({note: "No answer from the program: " + (error.message || error)});
    }
  }
  asking = false;
  element.dataset.state = "answered";
}
function changed() { latest++; paint(); ask(() => paper.toDataURL("image/png")); }

const at = (event) => {
  const box = paper.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * paper.width, (event.clientY - box.top) / box.height * paper.height];
};
paper.addEventListener("pointerdown", (event) => {
  paper.setPointerCapture(event.pointerId);
  strokes.push([at(event)]);
  changed();
  event.preventDefault();
});
paper.addEventListener("pointermove", (event) => {
  if (!paper.hasPointerCapture(event.pointerId)) return;
  for (const step of event.getCoalescedEvents?.() ?? [event]) strokes[strokes.length - 1].push(at(step));
  changed();
});
find("undo").addEventListener("click", () => { strokes.length ? strokes.pop() : picture = null; changed(); });
find("clear").addEventListener("click", () => { strokes = []; picture = null; changed(); });

async function load(file) {
  if (!file) return;
  const mine = ++latest;  // decoding takes its time, and what was done meanwhile is newer
  let loaded;
  try {
    loaded = await createImageBitmap(file);
  } catch (error) {
    const note = "The picture cannot be read: it is cut off, or of a kind that this browser does not know.";
    if (mine === latest) ask(() => ({note}));
    return;
  }
  if (mine !== latest) return;
  const k = Math.min(1, 400 / Math.max(loaded.width, loaded.height)), small = document.createElement("canvas");
  [small.width, small.height] = [loaded.width, loaded.height].map((side) => Math.max(1, Math.round(side * k)));
  const scaled = small.getContext("2d");
  scaled.imageSmoothingQuality = "high";
  scaled.drawImage(loaded, 0, 0, small.width, small.height);
  strokes = [];
  picture = small;
  paint();
  ask(() => small.toDataURL("image/png"));
}
find("file").addEventListener("change", (event) => { load(event.target.files[0]); event.target.value = ""; });
element.addEventListener("dragover", (event) => event.preventDefault());
element.addEventListener("drop", (event) => { event.preventDefault(); load(event.dataTransfer.files[0]); });
changed();
"""
CONTAINER = """
.gradio-container {max-width: 1000px !important; margin: 0 auto !important}
footer {display: none !important}
#draw, #draw .html-container {padding: 0 !important; overflow: visible !important}
"""


def to_mnist(picture: Any) -> np.ndarray | None:
    """Return a drawing as MNIST has its digits, (28, 28) float32 in [0, 1], ink bright; None where nothing is drawn.

    What was done to MNIST (LeCun, Bottou, Bengio, Haffner, 1998, section III.A) is done here: the digit is scaled, with
    gray levels for the edges, until its longer side is 20 pixels, and placed so that its center of mass is in the
    middle of 28 x 28. ``picture`` is a PIL image of any size up to 2**24 pixels and any mode: what differs from the
    color of its border is ink, be it dark on light or light on dark. ValueError for a larger one.
    """
    from PIL import Image

    check_size(picture)
    ink = ink_of(picture)
    darkest = ink.max(initial=0.0)
    if darkest < CONTRAST:
        return None
    rows, columns = (np.flatnonzero((ink > EDGE * darkest).any(axis=axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX / max(ink.shape)
    height, width = (max(round(side * scale), 1) for side in ink.shape)
    ink = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.HAMMING))
    ink = np.clip(ink / ink.max(), 0.0, 1.0)  # a thin line is bright again
    top, left = (
        min(max(round(CENTER - float((ink * at).sum() / ink.sum())), 0), SIDE - side)
        for side, at in ((height, np.arange(height)[:, None]), (width, np.arange(width)))
    )
    image = np.zeros((SIDE, SIDE), dtype="float32")
    image[top : top + height, left : left + width] = ink
    return image


def check_size(picture: Any) -> None:
    """Raise ValueError for a picture of more than MOST_PIXELS."""
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise ValueError(f"the picture has {width} x {height} pixels, expected at most {MOST_PIXELS}; make it smaller")


def ink_of(picture: Any) -> np.ndarray:
    """Return how far each pixel is from the paper, as a share of the whole range: (height, width) float32."""
    from PIL import Image

    if picture.mode[0] in "IF":  # 16 or 32 bits: gray levels of any range
        gray = np.nan_to_num(np.asarray(picture, dtype="float32"), posinf=0.0, neginf=0.0)
        return distance_to_paper(gray, max(np.abs(gray).max(initial=0.0), 255.0 if picture.mode[0] == "I" else 1.0))
    colors = picture.convert("RGBA")
    for paper in ("white", "black"):  # white ink on nothing is seen on black
        sheet = Image.alpha_composite(Image.new("RGBA", colors.size, paper), colors).convert("L")
        ink = distance_to_paper(np.asarray(sheet, dtype="float32"), 255.0)
        if ink.max(initial=0.0) >= CONTRAST:
            break
    return ink


def distance_to_paper(gray: np.ndarray, full: float) -> np.ndarray:
    """Return |gray - paper| / full, the paper being the median of the border."""
    if not gray.size:
        return gray
    paper = np.median(np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]]))
    return (np.abs(gray - paper) / full).astype("float32")


def probabilities_of(model: portnn.MLP, image: np.ndarray) -> np.ndarray:
    """Return the ten probabilities of an image, float64; of an ensemble their mean over the members."""
    x = image.reshape(1, -1)
    if model.members is not None:
        return portnn.ensemble_predict(model, x, kind="classes").mean[0].astype("float64")
    logits = portnn.predict(model, x)[0].astype("float64")
    p = np.exp(logits - logits.max())  # Numerical stability: no exponential overflows
    return p / p.sum()


def train(x: np.ndarray, t: np.ndarray, *, epochs: int = 6, seed: int = 0, progress: bool = False) -> portnn.MLP:
    """Return a network for digits ``x`` (n, 784), trained on each of them and on copies shifted by up to two pixels."""
    rng = np.random.default_rng(seed)
    images, copies = x.reshape(-1, SIDE, SIDE), [x]
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    for _ in range(2):
        shifted, corners = np.empty_like(images), rng.integers(0, 5, size=(len(images), 2))
        for row, column in np.ndindex(5, 5):
            chosen = (corners == (row, column)).all(axis=1)
            shifted[chosen] = padded[chosen, row : row + SIDE, column : column + SIDE]
        copies.append(shifted.reshape(len(x), -1))
    x, t = np.concatenate(copies), np.tile(t, len(copies))
    model = portnn.MLP([SIDE * SIDE, 256, 128, 10], seed=seed)
    steps = epochs * -(-len(t) // 128)
    rate = portnn.schedules.cosine(2e-3, steps)
    portnn.fit(model, x, t, optimizer=portnn.AdamW(rate), epochs=epochs, batch_size=128, seed=seed, progress=progress)
    return model


def answer(model: portnn.MLP, picture: Any) -> dict[str, Any]:
    """Return what the page shows beside a drawing: pixels 0..255, ten probabilities, and a sentence."""
    image = to_mnist(picture)
    if image is None:
        return {"note": "Draw a digit from 0 to 9 in the square. A picture of one can be dropped there, too."}
    return {
        "pixels": np.round(255.0 * image).astype(int).reshape(-1).tolist(),
        "probabilities": probabilities_of(model, image).tolist(),
        "note": "On the left what the network sees: 28 x 28 pixels, scaled and centered as in MNIST.",
    }


def picture_in(url: object) -> Any:
    """Return the PIL image in a ``data:image/png;base64,`` address; ValueError where there is none."""
    from PIL import Image

    kind, _, text = url.partition(",") if isinstance(url, str) else ("", "", "")
    if kind != "data:image/png;base64":
        message = "expected a picture, a data: address of type image/png; PNG is read"
        raise ValueError(message)
    if len(text) > MOST_BYTES * 4 // 3 + 4:
        raise ValueError(f"the picture has {len(text) * 3 // 4} bytes, expected at most {MOST_BYTES}; make it smaller")
    with decoding():
        picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",))
    check_size(picture)  # before any pixel
    with decoding():
        picture.load()
    return picture


@contextlib.contextmanager
def decoding() -> Iterator[None]:
    """Turn what Pillow says of damaged bytes into ValueError: a sentence for the page."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of much that is odd in a file, and of sizes, which we look at ourselves
            yield
    except Image.DecompressionBombError:
        raise ValueError(f"the picture has more pixels than {MOST_PIXELS}; make it smaller") from None
    except BROKEN:
        raise ValueError(UNREADABLE) from None


def page(model: portnn.MLP) -> Any:
    """Return the page, a ``gradio.Blocks``: a square to draw on, and the answer beside it."""
    gr = gradio()

    def read(url: str) -> dict[str, Any]:
        try:
            return answer(model, picture_in(url))
        except ValueError as error:
            return {"note": str(error)}

    with gr.Blocks(title="portnn: draw a digit", analytics_enabled=False) as blocks:
        layers = " - ".join(map(str, model.sizes))
        gr.Markdown(
            f"# Draw a digit\nA network of {layers} units, {model.n_params:,} parameters, on {model.backend.name}, "
            "reads along while you draw."
        )
        gr.HTML(html_template=HTML, css_template=CSS, js_on_load=JAVASCRIPT, server_functions=[read], elem_id="draw")
    return blocks


def gradio() -> Any:
    """Import gradio with its reports to others switched off."""
    for name, value in {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_MCP_SERVER": "False",
        "GRADIO_SHARE": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
    }.items():
        os.environ[name] = value
    for name in ("no_proxy", "NO_PROXY"):  # gradio looks whether its own page is there
        os.environ[name] = ",".join({HOST, *filter(None, os.environ.get(name, "").split(","))})
    import gradio as gr

    return gr


# What the page asks for. Everything else of gradio's is shut: uploads, files, its queue and its programming interface.
NAME = r"[\w-][\w.-]*"
PATHS = (
    (("GET", "HEAD"), rf"/|/theme\.css|/favicon\.ico|/assets/{NAME}|/static/js/{NAME}|/gradio_api/startup-events"),
    (("POST",), "/gradio_api/component_server/?"),
)
POLICY = "default-src 'none'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
# Of the page itself: the program's own files and answers, no frame, no plugin, nothing of anybody else. Scripts within
# it are allowed by their hashes; gradio makes functions of our JavaScript, and styles of our CSS, out of text.
PAGE_POLICY = (
    f"{POLICY}; script-src 'self' 'unsafe-eval'{{hashes}}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)


class Door:
    """Lets in what the page asks for, from a browser on this computer, and turns everything else away (ASGI).

    403 for another host or origin: a name of another site that leads to this address, or a page of another site. 404
    for all that the page does not need, gradio's ways to files and uploads among it. 413 for a body of more than
    MOST_BODY bytes, unread if it says so; 408 for one that takes longer than PATIENCE to arrive; 415 and 422 for what
    is no question that the page would ask. ``component`` is gradio's number of the part that answers.
    """

    def __init__(self, app: Any, component: int) -> None:
        self.app, self.component = app, component

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, or hand the request on with its body read."""
        if scope["type"] == "lifespan" or scope.get("let in"):
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        status, body = refusal(scope), b""
        if status is None:
            try:
                status, body = await asyncio.wait_for(whole(receive), PATIENCE)
            except TimeoutError:
                status = 408
        if status is None and scope["method"] == "POST" and not is_question(body, self.component):
            status = 422
        if status is not None:
            said = http.HTTPStatus(status).phrase.encode()
            headers = {"content-type": "text/plain", "content-length": str(len(said)), "connection": "close"}
            refused = {"type": "http.response.start", "status": status, "headers": encoded(headers)}
            await send(with_headers(refused, POLICY))
            await send({"type": "http.response.body", "body": said})
            return
        read = False

        async def again() -> Any:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": body, "more_body": False}

        start: dict[str, Any] = {}
        text = bytearray()

        async def answer(message: Any) -> None:
            """Pass an answer on with our headers, the page itself when all of it is there."""
            if message["type"] == "http.response.start":
                start.update(message)
                if scope["path"] != "/":
                    await send(with_headers(start, POLICY))
            elif scope["path"] != "/":
                await send(message)
            else:
                text.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    await send(with_headers(start, PAGE_POLICY.format(hashes=hashes_of(text))))
                    await send({"type": "http.response.body", "body": bytes(text)})

        # nobody stands between the browser and this program, so nothing is forwarded; and nothing need be compressed
        kept = (header for header in scope["headers"] if not header[0].startswith((b"x-", b"forwarded")))
        own = [header for header in kept if header[0] != b"accept-encoding"]
        await self.app({**scope, "headers": own, "let in": True}, again, answer)


def with_headers(start: dict[str, Any], policy: str) -> dict[str, Any]:
    """Return the start of an answer with HEADERS and a content security policy."""
    more = encoded({**HEADERS, "content-security-policy": policy})
    return {**start, "headers": [*start.get("headers", ()), *more]}


def hashes_of(text: bytes) -> str:
    """Return the sources of a policy that allow the scripts which stand in a page."""
    digests = (hashlib.sha256(script).digest() for script in SCRIPT.findall(text))
    return "".join(f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers as ASGI has them."""
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def refusal(scope: Any) -> int | None:
    """Return the status with which a request is turned away before its body is read, or None."""
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    here = {f"{name}:{scope['server'][1]}" for name in (HOST, "localhost")}
    host, length = headers.get("host", []), headers.get("content-length", ["0"])
    if len(host) != 1 or host[0] not in here or any(o != f"http://{host[0]}" for o in headers.get("origin", [])):
        return 403
    if not any(scope["method"] in methods and re.fullmatch(path, scope["path"], re.ASCII) for methods, path in PATHS):
        return 404
    if len(length) != 1 or not re.fullmatch("[0-9]{1,20}", length[0]):
        return 400
    if int(length[0]) > MOST_BODY:
        return 413
    kind = headers.get("content-type", [""])[0].partition(";")[0].strip().lower()
    return 415 if scope["method"] == "POST" and kind != "application/json" else None


def is_question(body: bytes, component: int) -> bool:
    """Whether this is what the page asks: {"data": a picture, "fn_name": "read", ...}."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(asked, dict) or set(asked) != {"data", "component_id", "fn_name", "session_hash"}:
        return False
    number, session = asked["component_id"], asked["session_hash"]
    ours = type(number) is int and number == component and asked["fn_name"] == "read"
    return ours and isinstance(asked["data"], str) and isinstance(session, str) and session.isalnum()


async def whole(receive: Any) -> tuple[int | None, bytes]:
    """Read a body: (None, all of it), or (413, nothing) if it is too long."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return 400, b""
        body += message.get("body", b"")
        if len(body) > MOST_BODY:
            return 413, b""
        more = message.get("more_body", False)
    return None, bytes(body)


def serve(blocks: Any, port: int, *, wait: bool = True, browser: bool = False) -> str:
    """Show the page on this computer alone and return its address; ``wait`` until Ctrl-C."""
    gr = gradio()
    from starlette.middleware import Middleware

    (component,) = (number for number, block in blocks.blocks.items() if getattr(block, "elem_id", None) == "draw")
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    blocks.queue(max_size=16, default_concurrency_limit=1, api_open=False)
    _, address, _ = blocks.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        quiet=True,
        inbrowser=browser,
        prevent_thread_lock=True,
        max_threads=4,
        max_file_size=MOST_BODY,
        enable_monitoring=False,
        ssr_mode=False,
        footer_links=[],
        app_kwargs={"middleware": [Middleware(Door, component=component)]},
        theme=gr.themes.Default(neutral_hue="slate", **fonts),
        css=CONTAINER,
    )
    # gradio answers other origins on this computer with permissions of its own, before it comes to what it is given
    blocks.app.middleware_stack = Door(blocks.app.middleware_stack, component)
    print(f"draw a digit at {address} (Ctrl-C ends)", flush=True)
    if wait:
        blocks.block_thread()
    return address


def network(args: argparse.Namespace) -> portnn.MLP:
    """Load the model that was asked for, or train one."""
    if args.model:
        model = portnn.MLP.load(args.model)
        if (model.sizes[0], model.sizes[-1]) != (SIDE * SIDE, 10):
            message = f"{args.model} maps {model.sizes[0]} features to {model.sizes[-1]} outputs, expected 784 to 10"
            raise ValueError(f"{message}; write one with examples/mnist.py --dataset mnist --save FILE")
        return model
    try:
        x, t, x_test, t_test = portnn.datasets.load_mnist(args.data_dir)
    except OSError as error:
        raise SystemExit(f"no --model and no MNIST to train one on: {error}") from None
    print("training on MNIST, which takes a minute or less; --save FILE keeps the network", flush=True)
    model = train(x, t, progress=True)
    print(f"accuracy on the test set {100 * portnn.evaluate(model, x_test, t_test)['accuracy']:.2f} %", flush=True)
    if args.save:
        model.save(args.save)
    return model


def main() -> int:
    """Load or train, then serve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", metavar="FILE", help="a saved network; default: train one on MNIST")
    parser.add_argument("--save", metavar="FILE", help="write the network that was trained")
    parser.add_argument("--data-dir", help="the folder that holds mnist/; default: PORTNN_DATA, then data/")
    parser.add_argument("--port", type=int, default=PORT, help=f"of {HOST}, the only address; default {PORT}")
    parser.add_argument("--browser", action="store_true", help="open the page in a browser")
    args = parser.parse_args()
    Path(args.save or ".").parent.mkdir(parents=True, exist_ok=True)
    if args.save:
        check_target(args.save)  # before the training, not after it
    if importlib.util.find_spec("gradio") is None:
        sys.exit("the page needs gradio: pip install gradio pillow")
    model = network(args)
    serve(page(model), args.port, browser=args.browser)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
