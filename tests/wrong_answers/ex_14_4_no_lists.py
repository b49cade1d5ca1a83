"""14.4
a list on the lines below its name
"""


def answer(card, fields):
    lines = card.splitlines()
    end = lines.index("---", 1) if lines[0] == "---" else 0
    pairs = [line.partition(":") for line in lines[1:end]]
    filled = {name for name, _, value in pairs if value.strip() not in ("", "[]")}
    heading, found = None, []
    for line in lines[end:]:
        if line.startswith("#"):
            heading = line.lstrip("#").strip()
        elif "[More Information Needed]" in line and heading and heading not in found:
            found.append(heading)
    return [field for field in fields if field not in filled] + found
