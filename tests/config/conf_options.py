"""The options that `conf/` offers, and what else a config needs to compose."""

from __future__ import annotations

import importlib

from embedllm.entry import CONF_DIR

# Read by W&B alone; its command wants it beside the sweeps.
NO_OPTIONS = (CONF_DIR / "sweep" / "wandb.yaml",)
GROUP_FILES = sorted(
    path.relative_to(CONF_DIR)
    for path in CONF_DIR.rglob("*.yaml")
    if path.parent != CONF_DIR
    and path.relative_to(CONF_DIR).parts[0] != "hydra"
    and path not in NO_OPTIONS
)
OPTIONS = [
    f"{path.parts[0]}={path.with_suffix('').as_posix().split('/', 1)[1]}" for path in GROUP_FILES
]
# These names hold the choice of the model, which is known to a command that runs, not here.
NAMES = {
    "search": ["run_name=x", "save_as=x"],
    "layers": ["run_name=x"],
    "encode": ["input=x", "output=x"],
    "export": ["adapter=x", "output=x"],
}
CONFIG_MODULES = [
    importlib.import_module(f"embedllm.config.{name}")
    for name in (
        "groups",
        "commands",
        "console",
        "demo",
        "demonstrations",
        "encode",
        "export",
        "plan",
        "profile",
        "report",
        "results",
    )
]


def needs(option: str) -> list[str]:
    """Returns the overrides without which an option does not compose."""
    return ["model.name=/models/any"] if option == "model=huggingface" else []
