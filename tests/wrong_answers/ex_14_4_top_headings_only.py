"""14.4
belongs to that one
"""


def answer(card, fields):
    lines = card.splitlines()
    end = lines.index("---", 1) if lines[0] == "---" else 0
    filled = set()
    for i in range(1, end):
        name, _, value = lines[i].partition(":")
        if value.strip() not in ("", "[]") or (not value.strip() and lines[i + 1].startswith("- ")):
            filled.add(name)
    missing = [field for field in fields if field not in filled]
    heading = None
    for line in lines[end:]:
        if line.startswith("#") and not line.startswith("###"):
            heading = line.lstrip("#").strip()
        elif "[More Information Needed]" in line and heading and heading not in missing:
            missing.append(heading)
    return missing
