import pytest
import torch

from lora_course.teaching.profiles import PROFILES, by_profile, current_profile


@pytest.mark.parametrize("name", PROFILES)
def test_the_variable_decides(monkeypatch, name):
    monkeypatch.setenv("LORA_COURSE_PROFILE", name)
    assert current_profile() == name
    assert by_profile(smoke="smoke", cpu="cpu", full="full") == name


@pytest.mark.parametrize("value", [None, "", "  "])
@pytest.mark.parametrize(("cuda", "expected"), [(True, "full"), (False, "cpu")])
def test_unset_means_what_the_machine_can_do(monkeypatch, value, cuda, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    if value is None:
        monkeypatch.delenv("LORA_COURSE_PROFILE", raising=False)
    else:
        monkeypatch.setenv("LORA_COURSE_PROFILE", value)
    assert current_profile() == expected


def test_another_word_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("LORA_COURSE_PROFILE", "fast")
    with pytest.raises(ValueError, match="LORA_COURSE_PROFILE is 'fast'; it must be one of smoke, cpu, full"):
        by_profile(smoke=1, cpu=2, full=3)
