from pathlib import Path

import pytest
from cmdc_gateway.tools.skills import MAX_DESCRIPTION, MAX_SKILLS, front_matter, skills_prompt
from cmdc_gateway.tools.workspace import OutsideWorkspace, Workspace, WorkspaceError


def add_skill(root: Path, name: str, text: str) -> None:
    (root / "skills" / name).mkdir(parents=True)
    (root / "skills" / name / "SKILL.md").write_text(text)


def test_skills_are_listed_with_the_path_for_read_file(root: Path, workspace: Workspace) -> None:
    add_skill(root, "pdf", "---\nname: read-pdf\ndescription: 'Reads PDF: all of it'\nlicense: x\n---\n# Body")
    add_skill(root, "bare", "# No front matter")
    (root / "skills" / "empty").mkdir()

    assert skills_prompt(workspace, ["skills"]).splitlines()[1:] == [
        "- bare:  (skills/bare/SKILL.md)",
        "- read-pdf: Reads PDF: all of it (skills/pdf/SKILL.md)",
    ]
    [line] = skills_prompt(workspace.enter("docs"), ["skills"]).splitlines()[2:]
    assert line.endswith("(../skills/pdf/SKILL.md)")
    with workspace.enter("docs").open("../skills/pdf/SKILL.md"):
        pass


def test_without_skills_there_is_no_text(workspace: Workspace) -> None:
    assert skills_prompt(workspace, []) == ""
    assert skills_prompt(workspace, ["docs"]) == ""


@pytest.mark.parametrize("text", ["", "name: x", "---\nname: x", "---\n- a\n---"])
def test_text_without_front_matter_has_no_fields(text: str) -> None:
    assert front_matter(text) == {}


def test_only_simple_fields_are_parsed() -> None:
    text = '---\nname: "a"\nnested:\n  name: b\nurl: http://x\n---\nname: c\n'

    assert front_matter(text) == {"name": "a", "nested": "", "url": "http://x"}


def test_the_length_of_the_text_is_bounded(root: Path, workspace: Workspace) -> None:
    for n in range(MAX_SKILLS + 5):
        add_skill(root, f"s{n}", f"---\nname: {'n' * 5000}\ndescription: {'d' * 2000}\n---\n")

    text = skills_prompt(workspace, ["skills"])

    assert text.endswith("- and 5 more, which are not listed")
    assert len(text) < MAX_SKILLS * (MAX_DESCRIPTION + 200)


def test_a_missing_folder_and_one_outside_the_workspace_are_errors(root: Path, workspace: Workspace) -> None:
    (root / "out").symlink_to("../outside")

    with pytest.raises(WorkspaceError):
        skills_prompt(workspace, ["missing"])
    for folder in ("../outside", "/etc", "out"):
        with pytest.raises(OutsideWorkspace):
            skills_prompt(workspace, [folder])
