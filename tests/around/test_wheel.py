"""The wheel has what the checkout has: configs, pages' templates and word lists; it runs outside a checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from qr_jax import config

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_wheel_runs_the_quickstart_s_config_in_an_empty_folder(tmp_path):
    tree, out, place = tmp_path / "tree", tmp_path / "out", tmp_path / "somewhere"
    for name in ("qr_jax", "configs"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(tree)]
    subprocess.run(build, check=True)
    (wheel,) = out.glob("qr_jax-*.whl")
    with zipfile.ZipFile(wheel) as file:
        inside = set(file.namelist())
        file.extractall(tmp_path / "installed")
    wanted = {f"qr_jax/{p.relative_to(ROOT)}" for p in (ROOT / "configs").rglob("*.py")}
    kinds = (".py", ".html", ".js", ".json")
    wanted |= {str(p.relative_to(ROOT)) for p in (ROOT / "qr_jax").rglob("*") if p.suffix in kinds}
    assert wanted - inside == set() and "qr_jax/lab/paper_fits.json" in inside
    place.mkdir()
    code = (
        "import sys; from qr_jax.cli import cli; print(cli.__file__, file=sys.stderr); sys.exit(cli.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "quickstart", "train.steps=7", "--dry-run"],
        cwd=place, env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert str(tmp_path / "installed") in done.stderr and '"steps": 7' in done.stdout


def test_a_config_of_the_package_is_found_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.load("configs/quickstart.py") == config.load(ROOT / "configs/quickstart.py")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/quickstart.py").write_text("from qr_jax.config import Config\nconfig = Config(seed=5)\n")
    assert config.load("configs/quickstart.py").seed == 5  # the one that stands here comes first
    with pytest.raises(ValueError, match="there is no config config.py"):
        config.load("config.py")  # a file of the package, and no config
