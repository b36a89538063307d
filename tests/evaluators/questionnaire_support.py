"""What the tests of questionnaires share: the evaluator as configured, and a model that is sure of its answers."""

import numpy as np
import yaml

from persona_prune.common.conf_files import config_directory
from persona_prune.evaluators.questionnaire import Questionnaire

AGREE = ("Strongly disagree", "Disagree", "Neither agree nor disagree", "Agree", "Strongly agree")


def evaluator(**changed):
    settings = yaml.safe_load((config_directory() / "evaluator" / "questionnaire.yaml").read_text())
    del settings["_target_"]
    return Questionnaire(**(settings | changed))


def certain(inventory, answers, templates=3):
    """Probabilities of a model that is sure of ``answers`` (1 to levels) whatever the template and the order."""
    rows = np.eye(inventory.levels)[np.array(answers) - 1]
    return np.broadcast_to(rows, (templates, 2, *rows.shape)).copy()
