"""The private names of jax that the package needs: each is in this jax, and one that is not is told with a way out."""

import re
import tomllib
from pathlib import Path

import jax
import pytest

from qr_jax.parallel import compile_cache, jax_private

ROOT = Path(__file__).resolve().parents[1]


def test_one_file_alone_reaches_for_private_names_and_each_is_in_this_jax():
    sources = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "qr_jax").rglob("*.py")}
    assert [name for name, text in sources.items() if re.search(r"\bjax(lib)?\._(?!_)", text)] == ["jax_private.py"]
    called = re.compile(r'jax_private\.\w+\("(\w+)", "([\w.]+)"')
    names = {found for text in sources.values() for found in called.findall(text)}
    assert ("distributed", "global_state.client") in names and len(names) == 4
    for module, name in names:
        jax_private.get(module, name)


def test_a_name_that_this_jax_has_not_is_told_with_the_versions_to_install():
    told = f"jax {jax.__version__} has no jax._src.distributed.world.client: this qr_jax needs another jax; "
    with pytest.raises(ValueError, match=re.escape(f"{told}pip install '{jax_private.WANTED}'")):
        jax_private.get("distributed", "world.client")
    with pytest.raises(ValueError, match="has no jax._src.nowhere.name"):
        jax_private.get("nowhere", "name")
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert jax_private.WANTED in dependencies


def test_a_function_is_replaced_by_one_of_the_same_parameters_alone(monkeypatch):
    monkeypatch.setattr("jax._src.compiler._cache_write", before := jax_private.get("compiler", "_cache_write"))
    told = r"calls jax\._src\.compiler\._cache_write with \(cache_key, .*\), not with "
    with pytest.raises(ValueError, match=told + r"\(key\)"):
        jax_private.replace("compiler", "_cache_write", lambda key: None)

    def of_one_more(cache_key, compile_time_secs, module_name, backend, executable, more, host_callbacks=()): ...

    with pytest.raises(ValueError, match=told + r"\(.*, more, host_callbacks\)"):
        jax_private.replace("compiler", "_cache_write", of_one_more)
    assert jax_private.get("compiler", "_cache_write") is before
    jax_private.replace("compiler", "_cache_write", compile_cache._write)
    assert jax_private.get("compiler", "_cache_write") is compile_cache._write
