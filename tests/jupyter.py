"""A real JupyterLab in a real browser, for tests: server, page, and what can go wrong on it."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.waiting import PATIENCE

ROOT = Path(__file__).parent.parent
LAB_SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false"},
    "notebook-extension/tracker": {"windowingMode": "none"},  # every output is on the page, seen or not
}


@contextlib.contextmanager
def jupyter_lab(folder):
    """A JupyterLab server of `folder` with settings of its own; the address of its page, token included."""
    own = folder / ".jupyter"
    for name, value in LAB_SETTINGS.items():
        path = own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    places = {"CONFIG_DIR": "config", "RUNTIME_DIR": "runtime"}
    environment = os.environ | {f"JUPYTER_{name}": str(own / place) for name, place in places.items()}
    environment |= {
        "JUPYTERLAB_SETTINGS_DIR": str(own / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
    }
    environment |= {"IPYTHONDIR": str(own / "ipython"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    options += [
        "--IdentityProvider.token=test",
        "--LabApp.expose_app_in_browser=True",
        f"--ServerApp.root_dir={folder}",
    ]
    with open(folder / "lab.log", "wb") as log:
        command = [sys.executable, "-m", "jupyter", "lab", *options]
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        until = time.monotonic() + PATIENCE
        while not _answers(f"http://127.0.0.1:{port}/api/status?token=test"):
            assert server.poll() is None and time.monotonic() < until, (folder / "lab.log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/lab/tree/{{path}}?token=test"
    finally:
        server.terminate()
        server.wait(30)


def _answers(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError:
        return False


def open_notebook(page, url):
    """Open a notebook and wait for its kernel."""
    page.goto(url)
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'")


def choose_menu(page, menu, item):
    """Choose an item of a menu of JupyterLab."""
    page.get_by_role("menuitem", name=menu, exact=True).click()
    page.get_by_role("menuitem", name=item, exact=True).click()


def complaints(page):
    """What went wrong on the page: widgets that could not be shown, errors of cells, what they wrote to stderr."""
    selector = '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]'
    found = page.locator(selector).all_inner_texts()
    text = page.locator(".jp-Notebook").inner_text()
    return found + [phrase for phrase in ("Error displaying widget", "Traceback", "model not found") if phrase in text]
