"""Traces: what is written, and that a real TensorBoard shows it to a real browser."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch

import torch_manual_bp as tmb
from torch_manual_bp.memory import measure, trace

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1300,1400",
)  # fmt: skip
SECONDS = 60

# The plugin asks Google for its charts; a stand-in that takes everything, so that tables come without a network.
NO_CHARTS = """
const anything = new Proxy(function () {}, {
  get: (_, name) => name === Symbol.toPrimitive ? () => '' : name === 'then' ? undefined : anything,
  apply: () => anything, construct: () => anything });
window.google = { charts: { load() {}, setOnLoadCallback: done => setTimeout(done, 0) }, visualization: anything };
"""


@pytest.fixture
def step():
    objective = tmb.Objective(tmb.MLP(784, 256, 10))
    x, y = torch.randn(1024, 784), torch.randint(10, (1024,))
    return lambda: objective(x, y).backward()


def trace_in(folder):
    (file,) = folder.glob("*.pt.trace.json")
    return json.loads(file.read_text())


def test_a_trace_has_the_steps_and_the_allocators_events(step, tmp_path):
    folder = trace(step, tmp_path / "new" / "run", steps=2)
    events = trace_in(folder)["traceEvents"]
    assert sum(event["name"].startswith("ProfilerStep#") for event in events) == 2
    blocks = [event["args"]["Bytes"] for event in events if event["name"] == "[memory]"]
    assert blocks.count(4 * 1024 * 256) == 4  # h and dz, in each step


def test_a_second_trace_stands_beside_the_first(step, tmp_path):
    for _ in range(2):
        trace(step, tmp_path, steps=1)
    assert len(list(tmp_path.glob("*.pt.trace.json"))) == 2


def test_an_error_of_the_call_is_its_own_and_leaves_no_profiler(tmp_path):
    calls = []

    def fails_the_second_time():
        calls.append(1)
        if len(calls) > 1:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        trace(fails_the_second_time, tmp_path)
    assert measure(lambda: torch.ones(5)).peak_bytes == 20


def test_what_is_refused(step, tmp_path):
    with pytest.raises(TypeError, match="fn must be callable, got Tensor"):
        trace(torch.ones(1), tmp_path)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        trace(step, tmp_path, steps=0)
    with pytest.raises(RuntimeError, match="a profiler is running already"):
        measure(lambda: trace(step, tmp_path))
    assert not list(tmp_path.iterdir())


@contextmanager
def tensorboard(folder, log):
    """The address of a server that shows this folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as file, subprocess.Popen(list(map(str, command)), stdout=file, stderr=file) as server:
        try:
            deadline = time.monotonic() + SECONDS
            while "Run " not in (said := log.read_text()) or " loaded" not in said:  # the plugin has read the trace
                assert server.poll() is None and time.monotonic() < deadline, said
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


@contextmanager
def browser(profile):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on PATH")
def test_tensorboards_memory_view_in_a_browser(step, tmp_path):
    for module in ("selenium", "tensorboard", "torch_tb_profiler"):
        pytest.importorskip(module)
    from selenium.webdriver.support.ui import WebDriverWait

    folder = trace(step, tmp_path / "run")
    with tensorboard(tmp_path, tmp_path / "log") as address, browser(tmp_path / "profile") as driver:
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": NO_CHARTS})
        driver.get(f"{address}/data/plugin/pytorch_profiler/index.html")

        def all_that_fit(selector, text):
            return [e for e in driver.find_elements("css selector", selector) if e.text == text]

        wait = WebDriverWait(driver, SECONDS)
        wait.until(lambda _: all_that_fit("[role=button][aria-haspopup=listbox]", "Overview"))[0].click()
        wait.until(lambda _: all_that_fit("[role=option]", "Memory"))[0].click()
        wait.until(lambda _: "Operator Name" in driver.find_element("tag name", "body").text)
        shown = driver.find_element("tag name", "body").text
    assert "Memory View" in shown
    assert re.search(r"^aten::mm 1024 ", shown, re.MULTILINE), "h or dz: 1024 × 256 numbers are 1024 KB"
    assert "ObjectiveForward 3" in shown
    if tmb.kernels.backend().startswith("cpu"):
        assert "torch_manual_bp::cross_entropy_ 3" in shown
    assert trace_in(folder)
