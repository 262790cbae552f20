"""Names, command templates and settings of the methods."""

from __future__ import annotations

import json

import pytest

from itk_pdd import RegistrationError
from itk_pdd.evaluation.baselines import METHODS, Task, load_settings, run_method
from itk_pdd.evaluation.methods import available, candidates
from itk_pdd.evaluation.run import fill_template


def test_methods_in_the_order_given():
    found = candidates(["greedy", "pdd"], ["other=python {fixed} {moving} {field}"])
    assert [c.name for c in found] == ["initial", "greedy", "pdd", "other"]
    assert [c.kind for c in found] == ["initial", "baseline", "command", "command"]
    assert set(available()) == {"pdd", *METHODS}


def test_a_method_by_the_name_that_users_know():
    found = candidates(["PDD", "elastix", "ANTs_SyN_CC", "convexAdam", "picsl-greedy"])
    assert [c.name for c in found] == ["initial", "pdd", "elastix-bspline", "syn-cc", "convexadam", "greedy"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [("elastx", " Did you mean elastix-bspline?"), ("syn-c", " Did you mean syn-cc or syn?"), ("deeds", "")],
)
def test_an_unknown_method_is_answered_with_the_names_that_are_near(given, meant):
    with pytest.raises(RegistrationError) as error:
        candidates([given])
    assert str(error.value) == f"method must be one of pdd, {', '.join(METHODS)}, found {given!r}.{meant}"


@pytest.mark.parametrize(
    ("methods", "commands", "words"),
    [
        (["pdd", "demon"], [], "'demon'"),
        (["pdd", "pdd"], [], "pdd is given twice"),
        (["elastix", "elastix-bspline"], [], "elastix-bspline is given twice"),
        ([], ["python {fixed} {moving}"], "lacks {field}"),
        ([], ["python {fixed} {moving} {field} {speed}"], "has {speed}"),
        ([], ["python '{fixed} {moving} {field}"], "cannot be split"),
        ([], [""], "lacks {fixed}"),
    ],
)
def test_methods_that_do_not_exist(methods, commands, words):
    with pytest.raises(RegistrationError) as error:
        candidates(methods, commands)
    assert words in str(error.value)


def test_a_program_or_package_that_is_not_there_is_a_problem_not_an_error(monkeypatch):
    [_, found] = candidates([], ["no-such-program {fixed} {moving} {field}"])
    assert found.problem == "program no-such-program is not found"
    monkeypatch.setattr("importlib.metadata.version", lambda name: (_ for _ in ()).throw(_missing()))
    [_, found] = candidates(["greedy"])
    assert found.problem == "picsl-greedy is not installed: pip install picsl-greedy"
    assert "is not installed" in available()["greedy"]
    with pytest.raises(RegistrationError, match="pip install picsl-greedy"):
        run_method("greedy", Task(None, None, None, None))


def _missing() -> Exception:
    from importlib.metadata import PackageNotFoundError

    return PackageNotFoundError("nothing")


def test_words_of_a_template_stay_words():
    words = fill_template(["tool", "--in={fixed}", "{field}"], {"fixed": "a b; rm -rf", "field": "{moving}"})
    assert words == ["tool", "--in=a b; rm -rf", "{moving}"]
    with pytest.raises(RegistrationError, match="fixed_mask"):
        fill_template(["{fixed_mask}"], {"fixed_mask": None})


def test_settings_of_ones_own_override_single_values(tmp_path):
    own = load_settings("demons")
    (tmp_path / "demons.json").write_text(json.dumps({"settings": {"displacement_sigma": 9}}))
    assert load_settings("demons", tmp_path) == {**own, "displacement_sigma": 9}
    assert load_settings("greedy", tmp_path) == load_settings("greedy")
    (tmp_path / "elastix-bspline.txt").write_text('(Transform "BSplineTransform")')
    assert load_settings("elastix-bspline", tmp_path) == {"parameters": '(Transform "BSplineTransform")'}
    (tmp_path / "greedy.json").write_text("{}")
    with pytest.raises(RegistrationError, match=r"greedy\.json"):
        load_settings("greedy", tmp_path)
    with pytest.raises(RegistrationError, match="presets abdomen, guided-labels, guided-points, hippocampus"):
        load_settings("greedy", "liver")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_has_settings_with_their_source(name):
    from itk_pdd.evaluation.baselines import find_settings

    [path] = find_settings(name)
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        assert content["about"] and content["source"] and content["settings"]
    else:
        assert path.read_text().startswith("//")
