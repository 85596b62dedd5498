"""Plug-ins are found by their file's name and bound with checked settings."""

import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qr_jax import assemble, config, plugins
from qr_jax.config import Use, use
from qr_jax.interfaces import CONTRACTS
from qr_jax.records import Episode, Grades, Outcome, Query, Turn, grades
from qr_jax.step.services import preflight


def foreign(tmp_path, monkeypatch, text):
    """A package my_lab with one file, ideas.py, on the import path."""
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "__init__.py").write_text("")
    (tmp_path / "my_lab" / "ideas.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("my_lab", "my_lab.ideas"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_an_unknown_name_lists_the_nearest_and_all():
    with pytest.raises(ValueError, match=r"there is no loss 'clop'; did you mean clip\? \(there are: cispo, clip"):
        plugins.find("loss", "clop")
    with pytest.raises(ValueError, match="unknown kind of plug-in 'los'"):
        plugins.find("los", "clip")
    with pytest.raises(ValueError, match="is no name"):
        plugins.find("loss", "../records")


def test_settings_are_bound_and_an_unknown_one_lists_those_there_are():
    bound = plugins.bind("loss", use("clip", high=1))
    assert bound.keywords == {"high": 1.0}
    with pytest.raises(ValueError, match="loss 'clip' has no setting 'hihg'; its settings are: low, high, dual"):
        plugins.bind("loss", use("clip", hihg=0.3))
    with pytest.raises(ValueError, match="loss 'clip': high is 'x' .*wanted a number"):
        plugins.bind("loss", use("clip", high="x"))
    with pytest.raises(ValueError, match="has no setting 'queries'"):
        plugins.bind("rounds", use("once", queries=3))  # the run gives it


def test_a_function_s_import_path_is_a_name(tmp_path, monkeypatch):
    foreign(
        tmp_path, monkeypatch, "def mine(logp_NL, *, low: float = 0.5, size: 'int | None' = None):\n"
        "    return logp_NL * low, {}\n"
    )  # fmt: skip
    loss_NL, _ = plugins.bind("loss", use("my_lab.ideas.mine", low=2, size=None))(logp_NL=np.ones((1, 2), np.float32))
    assert loss_NL.tolist() == [[2.0, 2.0]]
    with pytest.raises(ValueError, match="no function 'yours'"):
        plugins.find("loss", "my_lab.ideas.yours")
    with pytest.raises(ValueError, match="no module 'my_laboratory"):
        plugins.find("loss", "my_laboratory.ideas.mine")


def test_a_file_of_one_s_own_is_led_to(tmp_path, monkeypatch):
    """Its functions have two names, and Python looks beside the user only where it is told to."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "priced.py").write_text("def reward(query, episodes): ...\n")
    with pytest.raises(ValueError, match="^there is no reward 'priced'; a function of your own priced.py is priced.F"):
        plugins.check("reward", use("priced"))
    with pytest.raises(ValueError, match="no module 'priced'; priced stands in this folder: write PYTHONPATH=. before"):
        plugins.check("reward", use("priced.reward"))


def test_constants_are_those_of_the_file_that_a_name_leads_to(tmp_path, monkeypatch):
    foreign(tmp_path, monkeypatch, 'DRAWS = "largest"\ndef mine(pool, outcome):\n    return pool.weight_P, None\n')
    (tmp_path / "my_lab" / "__init__.py").write_text("from my_lab.ideas import mine\n")
    for name in ("my_lab.ideas.mine", "my_lab.mine"):
        assert plugins.constants("rule", name) == {"DRAWS": "largest"}


def test_a_file_that_is_no_python_is_named_with_its_line(tmp_path, monkeypatch):
    foreign(tmp_path, monkeypatch, "x = 1\ndef mine(pool, outcome:\n")
    with pytest.raises(ValueError, match=r"ideas.py, line 2: "):
        plugins.signature("rule", "my_lab.ideas.mine")


def test_a_loss_may_take_only_what_the_learner_gives(tmp_path, monkeypatch):
    foreign(tmp_path, monkeypatch, "def mine(logp_NL, text, *, low=0.5):\n    return low\n")
    with pytest.raises(ValueError, match="takes 'text' before its .*; it is given only: logp_NL"):
        plugins.check("loss", use("my_lab.ideas.mine"))
    with pytest.raises(ValueError, match=r"takes \(logp_NL, text\) before its \*; retriever is given \(nothing; "):
        plugins.check("retriever", use("my_lab.ideas.mine"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "def mine(so_far, pool, *, queries): ...",
            r"takes \(so_far, pool\) before its \*; rounds is given \(pool, so_far",
        ),
        ("async def mine(pool, so_far): ...", "is async, .*; write it with def"),
        ("def mine(pool, so_far, **more): ...", r"takes \*args or \*\*kwargs; name each parameter"),
        ("def mine(*given): ...", r"takes \*args or \*\*kwargs"),
        ("import functools\nmine = functools.partial(max)", "is a functools.partial, which hides its file's constants"),
        (
            "MAX_GROUP_SIZES = 3\ndef mine(pool, so_far): ...",
            "MAX_GROUP_SIZES is no constant of rounds; did you mean MAX_GROUP_SIZE?",
        ),
        ("def mine(query, episodes): ...", r"takes \(query, episodes\) before its \*; rounds is given \(pool, so_far"),
        ("def _make(f):\n    return lambda *given: f(*given)\nmine = _make(max)", r"takes \*args or \*\*kwargs"),
    ],
)
def test_a_function_that_could_not_be_called_as_the_run_calls_it_is_refused(tmp_path, monkeypatch, text, words):
    foreign(tmp_path, monkeypatch, f"{text}\n")
    with pytest.raises(ValueError, match=rf"^rounds 'my_lab.ideas.mine':? {words}"):
        plugins.check("rounds", use("my_lab.ideas.mine"))


def test_a_setting_may_not_be_called_name_which_chooses_the_plug_in(tmp_path, monkeypatch):
    foreign(tmp_path, monkeypatch, "def mine(pool, outcome, *, name: str = 'x'): ...\n")
    with pytest.raises(ValueError, match="has a setting called name, which no config can set; call it otherwise"):
        plugins.check("rule", use("my_lab.ideas.mine"))


def test_a_setting_may_not_be_named_as_data_is(tmp_path, monkeypatch):
    """The learner would put the entropies in the setting's place."""
    foreign(tmp_path, monkeypatch, "def mine(grades, *, entropy_NL: float = 0.5): ...\n")
    with pytest.raises(ValueError, match=r"advantage 'my_lab.ideas.mine' has entropy_NL after its \*, which is data"):
        plugins.check("advantage", use("my_lab.ideas.mine"))


def test_an_expert_s_turn_and_constants_are_found_where_they_are_taken_over(tmp_path, monkeypatch):
    foreign(tmp_path, monkeypatch, "from qr_jax.envs import search_r1 as base\nexpert_turn = base.expert_turn\n"
            "from qr_jax.methods.rules.mopps import mopps\ndef mine(query, turns): ...\n")  # fmt: skip
    assert plugins.beside("env", "my_lab.ideas.mine", "expert_turn")
    assert plugins.constants("rule", "my_lab.ideas.mopps") == {"DRAWS": "largest"}


def test_an_expert_s_turn_of_other_arguments_is_named(tmp_path, monkeypatch):
    foreign(tmp_path, monkeypatch, "def expert_turn(thought, queries=()): ...\ndef mine(query, turns): ...\n")
    with pytest.raises(ValueError, match=r"expert_turn of env 'my_lab.ideas.mine' has other arguments .*; wanted exp"):
        assemble.expert_turn(config.Config(env=use("my_lab.ideas.mine")))("", (), "Ada")


def test_a_file_that_a_plug_in_misses_is_said_with_its_name(tmp_path, monkeypatch):
    foreign(tmp_path, monkeypatch, "def mine(query, episodes):\n    open('/nope/words.txt')\n")
    with pytest.raises(FileNotFoundError) as said:
        plugins.bind("reward", use("my_lab.ideas.mine"))(None, ())
    assert said.value.__notes__ == ["raised by reward 'my_lab.ideas.mine'"]


def test_a_user_s_mistake_in_a_plug_in_is_shown_by_the_user_s_lines_alone(tmp_path, monkeypatch):
    foreign(tmp_path, monkeypatch, "def mine(query, episodes):\n    return helper(query)\n\n"
            "def helper(query):\n    return query.answr\n\ndef ends(query, episodes):\n    exit(3)\n\n"
            "def cancelled(query, episodes):\n    raise GeneratorExit('task')\n")  # fmt: skip
    with pytest.raises(AttributeError) as said:
        plugins.bind("reward", use("my_lab.ideas.mine"))(None, ())
    told = plugins.failed_outside(said.value)
    assert told.startswith("AttributeError: 'NoneType' object has no attribute 'answr'; raised by reward 'my_lab.ideas")
    assert told.count("File ") == 2 and told.count(f"{tmp_path}/my_lab/ideas.py") == 2 and "plugins.py" not in told
    with pytest.raises(ValueError, match=r"reward 'my_lab.ideas.ends' called sys.exit\(3\); wanted a result"):
        plugins.bind("reward", use("my_lab.ideas.ends"))(None, ())
    with pytest.raises(ValueError, match=r"cancelled' raised GeneratorExit \(task\), which is no Exception; wanted"):
        plugins.bind("reward", use("my_lab.ideas.cancelled"))(None, ())
    with pytest.raises(AttributeError) as said:  # what qr_jax's own plug-in is given wrong is a bug of ours
        plugins.bind("reward", use("f1"))(None, [None])
    assert plugins.failed_outside(said.value) is None


def test_a_search_function_s_mistakes_are_told_as_its_retriever_s(tmp_path, monkeypatch):
    """They ended in our own traceback, or in a word of zip()."""
    foreign(tmp_path, monkeypatch, "def fails(queries, k):\n    raise RuntimeError('db down')\n\n"
            "def mine(*, how: str):\n    return {'fails': fails, 'one': lambda queries: [],\n"
            "            'exits': lambda queries, k: exit(3), 'text': lambda queries, k: [['text'] * k],\n"
            "            'none': lambda queries, k: None, 'fewer': lambda queries, k: []}[how]\n")  # fmt: skip

    def told(how):
        with pytest.raises((RuntimeError, TypeError, ValueError)) as said:
            plugins.bind("retriever", use("my_lab.ideas.mine", how=how))()(["who"], 3)
        return plugins.failed_outside(said.value) or str(said.value)

    raised, name = told("fails"), "retriever 'my_lab.ideas.mine'"
    assert raised.startswith(f"RuntimeError: db down; raised by {name}\n  File") and raised.count("File ") == 1
    takes = "TypeError: mine.<locals>.<lambda>() takes 1 positional argument but 2 were given"
    assert told("one") == f"{takes}; raised by {name}"
    assert told("exits") == f"{name} called sys.exit(3); wanted a result, or an error"
    wanted = "wanted a list of passages for each query, best first"
    assert told("text") == f"{name} returned a str that is no Passage with a text, title and id; {wanted}"
    assert told("none") == f"{name} returned a NoneType for 1 queries; {wanted}"
    assert told("fewer") == f"{name} returned a list of 0 for 1 queries; {wanted}"


def test_a_search_function_is_tried_before_anything_is_paid_for():
    """A policy that never searches would end its run without a word on a retriever that cannot work."""
    search = plugins.checked("retriever", "mine", lambda queries, k: ["text"], CONTRACTS["retriever"].made)
    parts = SimpleNamespace(settings=config.Config(), world=SimpleNamespace(search=search))
    parts.data = SimpleNamespace(queries=[Query("1", "who", ("me",))])
    with pytest.raises(ValueError, match="^retriever 'mine' returned a str for a query; wanted a list of passages"):
        preflight(parts, None)
    parts.settings = replace(parts.settings, rollout=config.Rollout(search_deadline_s=0.01, search_retries=0))
    parts.world.search = lambda queries, k: time.sleep(1)
    with pytest.raises(TimeoutError, match=r"^a search gave no result after 0\.0(1|099)"):
        preflight(parts, None)


def test_a_library_s_note_on_its_own_frames_is_left_out(tmp_path, monkeypatch):
    foreign(tmp_path, monkeypatch, "def mine(query, episodes):\n    raise ValueError('boom')\n")
    with pytest.raises(ValueError) as said:
        plugins.bind("reward", use("my_lab.ideas.mine"))(None, ())
    said.value.add_note("-" * 20 + "\nFor simplicity, JAX has removed its internal frames")
    told = plugins.failed_outside(said.value)
    assert told.startswith("ValueError: boom; raised by reward 'my_lab.ideas.mine'\n  File")


def test_a_package_that_fails_on_import_is_said_with_its_line_and_a_missing_one_as_before(tmp_path, monkeypatch):
    foreign(tmp_path, monkeypatch, "def mine(query, episodes): ...\n")
    (tmp_path / "my_lab" / "__init__.py").write_text("import no_such_torch\n")
    with pytest.raises(
        ValueError, match="cannot be imported: ModuleNotFoundError: No module named 'no_such_torch'"
    ) as e:
        plugins.check("reward", use("my_lab.ideas.mine"))
    assert str(e.value).splitlines()[1:] == [f"  {tmp_path}/my_lab/__init__.py, line 1: import no_such_torch"]
    (tmp_path / "my_lab" / "__init__.py").write_text("1 / 0\n")
    with pytest.raises(ValueError, match="cannot be imported: ZeroDivisionError: division by zero"):
        plugins.check("reward", use("my_lab.ideas.mine"))
    with pytest.raises(ValueError, match="is not there: no module 'my_laboratory"):
        plugins.check("reward", use("my_laboratory.ideas.mine"))


def test_a_misspelt_module_of_a_package_that_is_found_and_a_misspelt_parameter_are_said(tmp_path, monkeypatch):
    foreign(tmp_path, monkeypatch, "def found(*, corpsu, a=1.0): ...\n")
    with pytest.raises(ValueError, match=r"no module 'my_lab\.idaes'; did you mean ideas\? \(there are: ideas\)"):
        plugins.check("reward", use("my_lab.idaes.mine"))
    with pytest.raises(ValueError, match=r"has no function 'fuond'; did you mean found\? \(there are: found\)"):
        plugins.check("reward", use("my_lab.ideas.fuond"))
    with pytest.raises(ValueError, match=r"it is a module: wanted its function too, as in my_lab\.ideas\.ideas"):
        plugins.check("reward", use("my_lab.ideas"))
    told = r"needs corpsu; set retriever\.corpsu=\.\.\., or call it corpus, which the run provides"
    with pytest.raises(ValueError, match=told):
        plugins.check("retriever", use("my_lab.ideas.found"))


def test_what_a_plug_in_is_given_it_cannot_change(tmp_path, monkeypatch):
    """A reward that writes into a mask would change what is trained on, and a rule what the pool remembers."""
    foreign(tmp_path, monkeypatch, "def mine(query, episodes):\n    episodes[0].mask_L[:] = True\n"
            "def rule(pool, outcome):\n    outcome.grades.reward_QG[:] = 0\n")  # fmt: skip
    arrays = [np.zeros(2) for _ in range(4)]
    episode = Episode(None, 0, 0, *arrays, (), None, "answered", True)
    with pytest.raises(ValueError, match="read-only") as said:
        plugins.bind("reward", use("my_lab.ideas.mine"))(None, [episode])
    assert said.value.__notes__[0].startswith("raised by reward 'my_lab.ideas.mine', which may not change what it is")
    outcome = Outcome(*arrays, Grades(np.ones((2, 2)), np.ones((2, 2), bool)), 0, 0)
    with pytest.raises(ValueError, match="read-only"):
        plugins.bind("rule", use("my_lab.ideas.rule"))(None, outcome)


@dataclass
class Knot:
    """A rule's own record: it names itself, and a type that is nowhere."""

    held: "np.ndarray | Nowhere"  # noqa: F821
    words: str = ""
    under: "Knot | None" = None


def test_arrays_of_a_record_whose_types_cannot_be_read_are_read_only_too():
    for held in (Knot(np.zeros(2)), Knot(np.zeros(2), under=Knot(np.zeros(2)))):
        plugins.freeze((held, "text"))
        assert not held.held.flags.writeable and not (held.under and held.under.held.flags.writeable)
    turn, grade = Turn("model", "text"), grades(np.ones((1, 2)), np.ones((1, 2), bool))
    plugins.freeze([turn, grade])
    assert not grade.reward_QG.flags.writeable and plugins._with_arrays(Turn) == ()


def test_a_setting_without_default_must_be_given(tmp_path, monkeypatch):
    foreign(tmp_path, monkeypatch, "def mine(*, corpus, url: str, k: int = 1):\n    return lambda queries, k: []\n")
    with pytest.raises(ValueError, match=r"needs url; set retriever\.url="):
        plugins.check("retriever", use("my_lab.ideas.mine"))
    assert plugins.check("retriever", use("my_lab.ideas.mine", url="http://127.0.0.1:1")) == {
        "url": "http://127.0.0.1:1"
    }


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("n: Count = 0", r"n \(its file's default\) is 0; wanted at least 1"),
        ('x: float = float("nan")', r"x \(its file's default\) is nan \(float\); wanted a number"),
        ('y: int = "text"', r"y \(its file's default\) is 'text' \(str\); wanted a whole number"),
    ],
)
def test_a_default_is_held_to_its_type_and_bound(tmp_path, monkeypatch, setting, said):
    """A default beyond them was used, and a NaN among the defaults left a run that could not go on."""
    mine = f"def mine(query, episodes, *, {setting}): ...\n"
    other = "def other(query, episodes, *, n: int = None, most: float = float('inf'), f=len): ...\n"
    foreign(tmp_path, monkeypatch, f"from qr_jax.settings.settings import Count\n{mine}{other}")
    with pytest.raises(ValueError, match=said):
        plugins.check("reward", use("my_lab.ideas.mine"))
    assert plugins.check("reward", use("my_lab.ideas.other")) == {}


def test_types_are_those_of_the_annotations(tmp_path, monkeypatch):
    text = (
        "from typing import Annotated, Literal, TYPE_CHECKING\n"
        "from qr_jax.settings.settings import at_least\n"
        "def mine(q, e, *, a: int, b: float | None = None, c: Literal['x', 'y'] = 'x', d: tuple[int, ...] = (),\n"
        "         e2: list = [], f=3, g: 'Path' = 'x', h: 'Annotated[int, at_least(2)]' = 2):\n    pass\n"
    )
    foreign(tmp_path, monkeypatch, text)
    found = plugins.signature("reward", "my_lab.ideas.mine")
    types = {name: setting.type for name, setting in found.settings.items()}
    assert types["a"] is int
    assert types["b"] == float | None
    assert types["d"] == tuple[int, ...]
    assert types["e2"] is types["f"] is types["g"] is Any
    with pytest.raises(ValueError, match=r"^reward 'my_lab.ideas.mine': h is 1; wanted at least 2"):
        plugins.check("reward", use("my_lab.ideas.mine", a=1, h=1))
    assert [name for name, setting in found.settings.items() if setting.required] == ["a"]


def test_a_plug_in_that_is_made_and_not_written_is_imported_to_be_checked(tmp_path, monkeypatch):
    text = "def _make():\n    def mine(q, e, *, a: int = 1):\n        return a\n    return mine\nmine = _make()\n"
    foreign(tmp_path, monkeypatch, text)
    assert plugins.check("reward", Use("my_lab.ideas.mine", {"a": 3})) == {"a": 3}


def test_a_retriever_that_wraps_another_wants_passages_where_that_one_does():
    assert plugins.wants_corpus(use("bm25")) and plugins.wants_corpus(use("hybrid"))
    assert plugins.wants_corpus(use("cached", of=use("bm25"), cache="x"))
    assert not plugins.wants_corpus(use("none"))
    assert not plugins.wants_corpus(use("cached", of=use("none"), cache="x"))
    assert not plugins.wants_corpus(use("http", url="http://127.0.0.1:1"))
    assert not plugins.wants_corpus(use("cached", of=use("http", url="http://127.0.0.1:1"), cache="x"))


@pytest.mark.house
def test_the_docs_table_names_every_kind_with_its_folders():
    page = (Path(__file__).parents[1] / "docs/extending/index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| [\w ]+ \| `[\w.]+` \| (.+?) \| `", page, re.MULTILINE)
    folders = [tuple(name.strip("`/") for name in cell.split(", ")) for cell in listed if cell.endswith("/`")]
    assert sorted(folders) == sorted(contract.folders for contract in CONTRACTS.values())
