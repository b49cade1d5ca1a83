"""14.4
with nothing after the colon, or with [], is not filled
"""


def answer(card, fields):
    lines = card.splitlines()
    end = lines.index("---", 1) if lines[0] == "---" else 0
    names = {line.partition(":")[0] for line in lines[1:end]}
    heading, found = None, []
    for line in lines[end:]:
        if line.startswith("#"):
            heading = line.lstrip("#").strip()
        elif "[More Information Needed]" in line and heading and heading not in found:
            found.append(heading)
    return [field for field in fields if field not in names] + found
