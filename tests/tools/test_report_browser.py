"""What the page of a profile does in a real browser: `nox -s report`. Skipped without Playwright and Chromium."""

import shutil

import numpy as np
import pytest
from onnx import TensorProto, helper

import ortlite
from ortlite.compare import compare

pytest.importorskip("bokeh", reason="needs ortlite[report]")
pytest.importorskip("itables", reason="needs ortlite[report]")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: nox -s report")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt install chromium")


def branches(count):
    """A model of `count` nodes, a chain with shortcuts, in modules of ten."""
    nodes, before, far = [], "x", "x"
    for index in range(count):
        op = ("Relu", "Tanh", "Add", "Neg")[index % 4]
        reads = [before, far] if op == "Add" else [before]
        nodes.append(helper.make_node(op, reads, [f"v{index}"], name=f"/block.{index // 10}/{op}_{index}"))
        before = f"v{index}"
        far = before if op == "Add" else far
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 8]) for name in ("x", before)]
    graph = helper.make_graph(nodes, "branches", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def profiled(count, **kwargs):
    options = ortlite.SessionOptions()
    options.graph_optimization_level = ortlite.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ortlite.InferenceSession(branches(count), options, providers=["CPUExecutionProvider"])
    return ortlite.profile(session, runs=1, **kwargs)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    feed = {"x": np.ones((2, 8), np.float32)}
    comparison = compare(branches(60), feed, ["CPUExecutionProvider", "StrictExecutionProvider"])
    path = tmp_path_factory.mktemp("report") / "report.html"
    profiled(60).write(path, comparison)
    return path


@pytest.fixture(params=["light", "dark"])
def page(browser, report, request):
    """The page, opened; at the end nothing was wrong in the console and nothing was asked of a network."""
    found = browser.new_page(color_scheme=request.param, viewport={"width": 1400, "height": 900})
    wrong, asked = [], []
    found.on("console", lambda message: wrong.append(message.text) if message.type in {"error", "warning"} else None)
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on("request", lambda request: asked.append(request.url))
    opened(found, report)
    yield found
    found.close()
    assert wrong == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "blob", "data"}


def opened(page, path):
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", state="attached")


def nodes(page):
    return page.locator("#nodes tbody button.node").all_inner_texts()


def test_all_charts_are_drawn(page):
    for name in ("graph", "flame", "memory", "roofline", "differences"):
        page.locator(f"#{name}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#{name} canvas")
        assert page.locator(f"#{name} canvas").first.bounding_box()["height"] > 40


def test_the_search_filters_table_and_count(page):
    assert page.locator("#count").inner_text() == "60 nodes"
    page.fill("#search", "tanh block.3")
    page.wait_for_function("document.querySelector('#count').textContent.includes(' of ')")
    found = nodes(page)
    assert found
    assert all(name.startswith("/block.3/Tanh") for name in found)
    assert page.locator("#count").inner_text() == f"{len(found)} of 60 nodes"
    page.fill("#search", "nothing like it")
    page.wait_for_function("document.querySelector('#count').textContent.startsWith('0 of')")
    page.fill("#search", "")
    page.wait_for_function("document.querySelector('#count').textContent === '60 nodes'")


def test_columns_sort_by_mouse_and_by_keyboard(page):
    times = [float(text) for text in page.locator("#nodes tbody td:nth-child(6)").all_inner_texts()]
    assert times == sorted(times, reverse=True)
    page.locator("#nodes thead th", has_text="Node").click()
    page.wait_for_selector("#nodes th[aria-sort=ascending]")
    assert nodes(page) == sorted(nodes(page))
    page.locator("#nodes thead th", has_text="Operator").locator("[tabindex='0']").press("Enter")
    page.wait_for_function("document.querySelector('#nodes tbody td:nth-child(2)').textContent === 'Add'")


def test_a_node_is_chosen_in_the_table_and_its_neighbours_from_there(page):
    page.fill("#search", "Add_30")
    page.wait_for_function("document.querySelector('#count').textContent.startsWith('1 of')")
    page.locator("#nodes").get_by_role("button", name="/block.3/Add_30").click()
    assert page.locator("#details h3.name").inner_text() == "/block.3/Add_30"
    assert page.locator("#nodes tr.picked").count() == 1
    page.click("#details .links button:has-text('Tanh_29')")
    assert page.locator("#details h3.name").inner_text() == "/block.2/Tanh_29"


def test_the_graph_is_walked_by_keyboard(page):
    page.focus("#graph")
    page.keyboard.press("ArrowRight")
    assert page.locator("#details h3.name").inner_text() == "/block.0/Relu_0"
    page.keyboard.press("ArrowRight")
    assert page.locator("#details h3.name").inner_text() == "/block.0/Tanh_1"
    page.keyboard.press("ArrowLeft")
    assert page.locator("#details h3.name").inner_text() == "/block.0/Relu_0"
    page.keyboard.press("Escape")
    assert page.locator("#details h3.name").count() == 0


def test_a_node_is_chosen_by_a_click_in_the_graph(page):
    page.wait_for_selector("#graph canvas")
    spot = page.evaluate("""() => {
        const view = Bokeh.index.find_one_by_id ? [...Bokeh.index][0] : Object.values(Bokeh.index)[0];
        const marks = view.model.document.get_model_by_name("graph").data;
        const box = document.querySelector("#graph").getBoundingClientRect();
        const frame = view.frame;
        return [box.x + frame.x_scale.compute(marks.x[0]), box.y + frame.y_scale.compute(marks.y[0])];
    }""")
    page.mouse.click(*spot)
    page.wait_for_selector("#details h3.name")
    assert page.locator("#details h3.name").inner_text() == nodes(page)[0]  # both begin with what takes longest


def test_colours_and_their_legend(page):
    for metric, text in (("provider", "CPU: 60 nodes"), ("memory", "64 B"), ("error", "equal"), ("roof", "100 %")):
        page.select_option("#metric", metric)
        assert text in page.locator("#legend").inner_text()


def test_light_and_dark(browser, report):
    found = set()
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        opened(page, report)
        found.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.close()
    assert len(found) == 2


def test_nothing_that_axe_finds_wrong(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    page.wait_for_selector("#graph canvas")
    result = axe.Axe().run(page)
    assert [(v["id"], [n["html"][:200] for n in v["nodes"]][:3]) for v in result.response["violations"]] == []


def test_five_thousand_nodes(browser, tmp_path):
    profiled(5000, measure_roofs=False).write(tmp_path / "large.html")
    page = browser.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    opened(page, tmp_path / "large.html")
    assert page.locator("#count").inner_text() == "5000 nodes"
    page.fill("#search", "block.499")
    page.wait_for_function("document.querySelector('#count').textContent === '10 of 5000 nodes'")
    took = page.evaluate("document.documentElement.dataset.ready")
    print(f"\n5,000 nodes: open after {took} ms")
    page.close()
    assert wrong == []
