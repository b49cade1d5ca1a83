"""Set the course up on this machine, from this folder alone, without a network:

    python3 install.py [TARGET]        by default the folder lora_course in your home
TARGET gets the notebooks and an environment of its own; models and data go to your cache, or to LORA_COURSE_CACHE.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import venv

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    with open(os.path.join(HERE, "room.json"), encoding="utf-8") as file:
        wanted = json.load(file)
    here = machine()
    different = [f"{key} is {here[key]} here, {wanted[key]} there" for key in here if here[key] != wanted[key]]
    if different:
        sys.exit(f"This folder is for another kind of machine ({'; '.join(different)}): its packages would not work.")
    target = os.path.abspath(os.path.expanduser(sys.argv[1] if len(sys.argv) > 1 else "~/lora_course"))
    if os.path.exists(target):
        sys.exit(f"{target} is there already and stays as it is. Name another folder: install.py TARGET")
    try:
        set_up(target)
    except (OSError, subprocess.CalledProcessError) as error:
        shutil.rmtree(target, ignore_errors=True)
        sys.exit(f"Not installed, and {target} is removed again: {error}")
    command = os.path.join(".venv", "Scripts" if os.name == "nt" else "bin", "lora-course")
    print(f"Done. Start with:\n  cd {target}\n  {command} lab")


def machine():
    """What must be the same for the packages to work."""
    return {
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "system": platform.system(),
        "processor": platform.machine(),
    }


def set_up(target):
    shutil.copytree(os.path.join(HERE, "course"), target, copy_function=shutil.copyfile)
    print("Making an environment (minutes) ...", flush=True)
    environment = os.path.join(target, ".venv")
    venv.create(environment, with_pip=True)
    python = os.path.join(environment, "Scripts" if os.name == "nt" else "bin", "python")
    pip = [python, "-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--no-index", "--quiet"]
    pip += ["--find-links", os.path.join(HERE, "wheels"), "-c", os.path.join(HERE, "course", "constraints.txt")]
    own = dict(os.environ, PIP_CONFIG_FILE=os.devnull)
    subprocess.run([*pip, "lora_course"], check=True, env=own)
    fetch = [python, "-P", "-m", "lora_course", "fetch", "--from", os.path.join(HERE, "assets")]  # -P: not ours, if any
    subprocess.run(fetch, check=True, cwd=target)


if __name__ == "__main__":
    main()
