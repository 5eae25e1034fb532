"""What the course's tests share: blank stubs, and two answers."""

from pathlib import Path

from rlhf_lib.course import render as rendering
from rlhf_lib.course.assemble import Implementation, answers, with_edits
from rlhf_lib.course.manifest import load_course

ROOT = Path(__file__).parents[2]
RIGHT = """def spread_over_tokens(advantages, gen_len):
    return advantages[:, None].expand(-1, gen_len).clone()"""
DIVIDED = """def spread_over_tokens(advantages, gen_len):
    return advantages[:, None].expand(-1, gen_len) / gen_len"""


def stubs(topic):
    return Implementation(rendering.render_stubs(topic, load_course(ROOT)[topic]), f"exercises/{topic}.py")


def fill(checkout, topic, name, code):
    file = checkout / "exercises" / f"{topic}.py"
    file.write_text(with_edits(answers(checkout, topic), name, code).text)
