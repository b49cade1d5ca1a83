"""14.4
a --- in the text is a line like any other
"""


def answer(card, fields):
    _, head, body, *_ = card.split("---\n")
    lines = head.splitlines()
    filled = set()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        name, _, value = line.partition(":")
        if value.strip() not in ("", "[]") or (not value.strip() and following.startswith("- ")):
            filled.add(name)
    missing, heading = [field for field in fields if field not in filled], None
    for line in body.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("#").strip()
        elif "[More Information Needed]" in line and heading and heading not in missing:
            missing.append(heading)
    return missing
