"""What a run keeps of its plug-ins: that a default or a user's code changed is seen when the run goes on."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from qr_jax import config
from qr_jax.cli.commands import asked
from qr_jax.config import use
from qr_jax.evaluation import manifest
from qr_jax.records import Query
from qr_jax.run import plugin_record, runs

RULE = """
import numpy as np
def rest(pool, outcome, *, steps: int = 2):
    return np.ones(pool.size) * {weight}, {{}}
"""
SEARCH = """
from qr_jax.records import Passage
def find(*, least: int = {least}):
    return lambda queries, k: [[Passage("1", "a", "b")] for _ in queries]
"""


@pytest.fixture(autouse=True)
def read_anew(monkeypatch):
    """Files that are written twice in a second are not read from their bytecode."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """Starts a run with a rule of its own file, and again after the file is written anew."""
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()

    def start(text, **settings):
        (tmp_path / "mine" / "resting.py").write_text(text)
        monkeypatch.delitem(sys.modules, "resting", raising=False)
        base = config.load("configs/two_layer.py", [])
        wanted = replace(base, pool=replace(base.pool, rule=use("resting.rest", **settings)))
        said: list[str] = []
        runs.Run(tmp_path / "run", wanted, stage="train", say=said.append).close()
        (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1}\n')
        return said, json.loads((tmp_path / "run" / plugin_record.FILE).read_text())

    return start


def test_all_settings_of_each_plug_in_are_kept_and_a_default_that_is_typed_is_no_other_setting(begun):
    _, kept = begun(RULE.format(weight=1))
    assert kept["rule"]["name"] == "resting.rest" and kept["rule"]["settings"] == {"steps": 2}
    assert kept["loss"]["name"] == "clip" and kept["loss"]["settings"]["dual"] == 3 and "sha256" not in kept["loss"]
    said, again = begun(RULE.format(weight=1), steps=2)
    assert said == [] and again == kept


def test_a_changed_default_is_refused_and_the_value_it_had_goes_on(begun):
    begun(RULE.format(weight=1))
    other = RULE.format(weight=1).replace("steps: int = 2", "steps: int = 5")
    with pytest.raises(ValueError, match=r"other settings \(pool.rule.settings.steps: 2 there, 5 here\)"):
        begun(other)
    said, _ = begun(other, steps=2)
    assert said == ["the code of rule 'resting.rest' changed since this run began; what follows is by the new code"]


def test_a_setting_that_a_plug_in_got_since_had_its_default_there(begun):
    begun(RULE.format(weight=1))
    other = RULE.format(weight=1).replace("steps: int = 2", "steps: int = 2, more: int = 3")
    assert other != RULE.format(weight=1)
    said, kept = begun(other)
    assert "the code of rule 'resting.rest' changed" in said[0] and kept["rule"]["settings"] == {"steps": 2, "more": 3}
    more = other.replace("more: int = 3", "more: int = 3, most: int = 4")
    with pytest.raises(ValueError, match=r"pool.rule.settings.most: 4 there, 5 here"):
        begun(more, most=5)


def test_changed_code_is_said_and_every_hash_is_kept(begun):
    _, first = begun(RULE.format(weight=1))
    said, second = begun(RULE.format(weight=2))
    assert "the code of rule 'resting.rest' changed" in said[0]
    assert (
        second["rule"]["earlier"] == [first["rule"]["sha256"]] and second["rule"]["sha256"] != first["rule"]["sha256"]
    )
    said, third = begun(RULE.format(weight=2))
    assert said == [] and third == second


def test_a_run_without_a_record_goes_on_with_the_defaults_of_today(begun, tmp_path):
    begun(RULE.format(weight=1))
    (tmp_path / "run" / plugin_record.FILE).unlink()
    assert begun(RULE.format(weight=1), steps=2)[0] == []
    (tmp_path / "run" / plugin_record.FILE).unlink()
    with pytest.raises(ValueError, match="pool.rule.settings.steps: 2 there, 3 here"):
        begun(RULE.format(weight=1), steps=3)


def test_scores_by_another_code_or_default_of_a_retriever_have_another_manifest(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    base = config.load("configs/two_layer.py", [])
    made = []
    for least in (1, 9):
        (tmp_path / "finding.py").write_text(SEARCH.format(least=least))
        monkeypatch.delitem(sys.modules, "finding", raising=False)
        settings = replace(base, retriever=use("finding.find"))
        made.append(
            manifest.manifest(
                settings, questions={"eval": [Query("q", "?", ("a",))]}, corpora={"eval": None}, split="all", samples=0,
                env=lambda query, turns: None, model={},
            )
        )  # fmt: skip
    differ = [line.partition(":")[0] for line in manifest.differences(*made)]
    assert differ == ["retriever.settings.least", "retriever.code_sha256"]
    assert "code_sha256" not in made[0]["env"]


def test_code_that_a_plug_in_imports_from_beside_it_counts_and_what_it_does_not_import_does_not(begun, tmp_path):
    """The plug-in imports a module and, relatively, a package's part, which imports one more; `other` is nobody's."""
    mine = tmp_path / "mine"
    (mine / "parts").mkdir(exist_ok=True)
    files = {
        "helper.py": "PRICE = 1",
        "parts/__init__.py": "",
        "parts/one.py": "from . import two",
        "other.py": "A = 1",
    }
    for name, text in (files | {"parts/two.py": "B = 1"}).items():
        (mine / name).write_text(text)
    (mine / "broken.py").write_text("print 'two'")
    text = "try:\n    import broken\nexcept SyntaxError:\n    pass\nimport json, numpy\nimport qr_jax.records\n"
    text += "import helper\nfrom parts.one import two" + RULE.format(weight=1)
    begun(text)
    told = ["the code of rule 'resting.rest' changed since this run began; what follows is by the new code"]
    (mine / "other.py").write_text("A = 2")
    (mine / "qr_jax").mkdir()  # a checkout of the package beside the user's files
    (mine / "qr_jax" / "records.py").write_text("A = 1")
    assert begun(text)[0] == []
    for name in ("helper.py", "parts/two.py"):
        (mine / name).write_text("PRICE = 2")
        assert begun(text)[0] == told, name


def test_a_command_that_asks_a_run_says_whose_code_changed(begun, tmp_path, capsys):
    begun(RULE.format(weight=1))
    settings = config.load(tmp_path / "run" / "config.json")
    asked._tell_changed_code(tmp_path / "run", settings)
    assert capsys.readouterr().out == ""
    (tmp_path / "mine" / "resting.py").write_text(RULE.format(weight=2))
    asked._tell_changed_code(tmp_path / "run", settings)
    assert "the code of rule 'resting.rest' changed since" in capsys.readouterr().out
    asked._tell_changed_code(tmp_path / "run", replace(settings, pool=replace(settings.pool, rule=use("grpo"))))
    for damaged in ('{"rule": 3}', "{no json", "[]"):
        (tmp_path / "run" / plugin_record.FILE).write_text(damaged)
        asked._tell_changed_code(tmp_path / "run", settings)
    assert capsys.readouterr().out == ""


def test_of_an_installed_plug_in_only_its_own_package_counts(tmp_path):
    place = tmp_path / "site-packages"
    (place / "mine").mkdir(parents=True)
    for name, text in {"mine/one.py": "import other\nfrom mine import two", "mine/two.py": "", "other.py": ""}.items():
        (place / name).write_text(text)
    found = plugin_record._imported(SimpleNamespace(__name__="mine.one"), place / "mine" / "one.py")
    assert found == {place / "mine" / "two.py"}
