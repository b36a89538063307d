"""Plans of runs, without running them."""

from hydra import compose, initialize_config_dir

from persona_prune.common.conf_files import config_directory
from persona_prune.runs.plan import Plan, build


def plan(*overrides: str, sweep: bool = False) -> Plan:
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        return build(compose("config", overrides=list(overrides)), sweep=sweep)
