"""How fast is it, and how many bytes does it take? Opponents measured in turn in one process, as ratios."""

from . import bandwidth, curvature, curvature_growth, growth, hessian, memory, peers, step, usual_loop
from .report import Question, Report, Settings
from .run import answer, write, write_text
from .timing import BusyMachineError, Timings, time_in_turn

QUESTIONS: dict[str, Question] = {
    question.name: question
    for question in (
        module.QUESTION
        for module in (usual_loop, step, peers, memory, growth, bandwidth, curvature, hessian, curvature_growth)
    )
}

__all__ = [
    "QUESTIONS",
    "BusyMachineError",
    "Question",
    "Report",
    "Settings",
    "Timings",
    "answer",
    "time_in_turn",
    "write",
    "write_text",
]
