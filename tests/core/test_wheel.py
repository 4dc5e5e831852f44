"""The wheel as a stranger gets it: what is in it, and that it works without clone or network."""

import json
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = sorted(
    path.parent.relative_to(ROOT).as_posix()
    for place in ("plugins", "gallery")
    for path in (ROOT / place).glob("*/__init__.py")
)
PLUGINS = [folder.split("/")[1] for folder in FOLDERS]

STRANGER = """
import json, socket, sys

def refuse(*args, **options):
    raise AssertionError(f"the network was used: {args}")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import zoo
model = zoo.load("alibi-lm")
text = model("The museum was built in", max_new_tokens=5)
plugins = {plugin.name: plugin.error for plugin in zoo.list_plugins()}
print(json.dumps({"home": zoo.__file__, "text": text, "plugins": plugins,
                  "models": zoo.list_models(bundled=True)}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (made,) = out.glob("*.whl")
    return made


def test_plugins_folders_packages_and_entry_points_agree() -> None:
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(packages) == [*FOLDERS, "zoo"]
    assert PROJECT["project"]["entry-points"]["txzoo"] == {name: name for name in PLUGINS}


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = archive.infolist()
    top = {file.filename.split("/")[0] for file in files}
    version = PROJECT["project"]["version"]
    assert top == {"zoo", *PLUGINS, f"txzoo-{version}.dist-info"}
    assert wheel.stat().st_size < 90e6
    assert max(file.file_size for file in files) < 14e6
    assert "zoo/py.typed" in {file.filename for file in files}


@pytest.mark.slow
def test_wheel_writes_text_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    paths = [sysconfig.get_path("purelib"), sysconfig.get_path("purelib", vars={"base": tmp_path})]
    home = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:  # a wheel is a zip file of what gets installed
        archive.extractall(home)
    (home / "dependencies.pth").write_text(paths[0] + "\n")  # torch and the rest, not the clone
    done = subprocess.run(
        [python, "-I", "-c", STRANGER], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found["home"]).is_relative_to(home)
    assert found["text"].startswith("The museum was built in ")
    assert found["plugins"] == {f"txzoo:{name}": None for name in PLUGINS}
    assert "alibi-lm" in found["models"]
