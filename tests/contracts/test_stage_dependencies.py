"""dvc.yaml names, for each stage, exactly the modules that its script really imports.

So editing the loss reruns training and not captioning, and no edit that matters goes unseen.
"""

import ast
from pathlib import Path

import grimp
import pytest
import yaml

TOP = Path(__file__).parents[2]
# The observer: it logs what a stage does and cannot change its outputs.
OBSERVERS = ("lotlip.tracking",)


def stages() -> dict[str, dict[str, object]]:
    graph = yaml.safe_load((TOP / "dvc.yaml").read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in graph.items()}


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("lotlip", "stages", exclude_type_checking_imports=True)


def module_file(module: str) -> Path:
    path = Path(*module.split("."))
    package = path / "__init__.py"
    return package if (TOP / package).is_file() else path.with_suffix(".py")


def imported_files(imports: grimp.ImportGraph, name: str, data: set[str]) -> set[str]:
    """Files with code that `python -m stages.<name>` can reach; packages that hold no code are left out.

    A module that is also declared as data of the stage (`${item.path}`) counts as declared there.
    """
    seen: set[str] = set()
    left = [f"stages.{name}"]
    while left:
        module = left.pop()
        if module in seen or module.startswith(OBSERVERS):
            continue
        seen.add(module)
        left += imports.find_modules_directly_imported_by(module)
        left += [module.rpartition(".")[0]] if "." in module else []
    files = {module_file(module) for module in seen}
    return {str(file) for file in files if has_code(TOP / file)} - data


def has_code(file: Path) -> bool:
    statements = ast.parse(file.read_text()).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in statements)


def declared_files(stage: dict[str, object]) -> set[str]:
    files: set[str] = set()
    for dependency in stage["deps"]:  # type: ignore[union-attr]
        path = TOP / dependency
        if path.is_dir() and dependency.startswith(("lotlip/", "stages")) and "weights" not in dependency:
            files |= {str(file.relative_to(TOP)) for file in path.rglob("*.py") if has_code(file)}
        elif dependency.endswith(".py"):
            files.add(dependency)
    return files


@pytest.mark.parametrize("name", sorted(stages()))
def test_a_stage_declares_what_it_imports(name: str, imports: grimp.ImportGraph) -> None:
    stage = stages()[name]
    through_path = {"lotlip/sample/scenes.py"} if "${item.path}" in stage["deps"] else set()  # type: ignore[operator]
    needed = imported_files(imports, name, through_path)
    declared = declared_files(stage)
    assert declared == needed, (
        f"dvc.yaml, stage {name}: add {sorted(needed - declared)}, remove {sorted(declared - needed)}"
    )


def test_editing_the_loss_does_not_caption_again(imports: grimp.ImportGraph) -> None:
    users = {name for name in stages() if "lotlip/losses/multi_caption.py" in imported_files(imports, name, set())}
    assert users == {"train"}


def test_every_stage_has_its_script() -> None:
    for name, stage in stages().items():
        command = str(stage["cmd"]).split()
        assert command[:3] == ["python", "-m", f"stages.{name}"]
        assert (TOP / "stages" / f"{name}.py").is_file()
