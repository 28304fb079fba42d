"""Run a command that opens Qt windows, on Linux also without a screen.

    python tools/with_display.py pytest tests

On Linux, missing system libraries of Qt and the virtual screen Xvfb are installed, which needs root and apt; while another
program uses apt, it waits for up to 15 minutes. Without root or apt, the command to run is printed and the exit code is 3.
If there is no screen, a virtual one is started. On other systems the command is run as it is.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time

PACKAGES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libdbus-1.so.3": "libdbus-1-3",
    "libfontconfig.so.1": "libfontconfig1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-xinerama.so.0": "libxcb-xinerama0",
    "libxcb-xkb.so.1": "libxcb-xkb1",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
}
LOCK_ATTEMPTS, LOCK_WAIT_S = 90, 10
SCREEN = "1600x1000x24"


def missing() -> list[str]:
    """Return the Debian packages that are missing."""
    wanted = []
    for library, package in PACKAGES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            wanted.append(package)
    if not os.environ.get("DISPLAY") and shutil.which("Xvfb") is None:
        wanted += ["xvfb", "fonts-dejavu-core"]
    return wanted


def install(packages: list[str]) -> None:
    """Install packages, or print the command that does and exit."""
    line = f"apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sudo = line.replace("apt-get", "sudo apt-get")
        print(f"the tests open real windows and need system libraries; run this once:\n    {sudo}", file=sys.stderr)
        sys.exit(3)
    print(f"installing system libraries for Qt: {' '.join(packages)}", file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        done = subprocess.run(
            ["sh", "-c", line], check=False, env=environment, stdout=sys.stderr, stderr=subprocess.PIPE, text=True
        )
        sys.stderr.write(done.stderr)
        if done.returncode == 0:
            return
        # A new machine installs updates by itself at first, and other programs may use apt too.
        if "lock" not in done.stderr or attempt == LOCK_ATTEMPTS:
            print(
                f"the system libraries that Qt needs could not be installed; run this, then the tests again:\n    {line}",
                file=sys.stderr,
            )
            sys.exit(3)
        print(f"another program is installing packages; trying again in {LOCK_WAIT_S} s", file=sys.stderr)
        time.sleep(LOCK_WAIT_S)


def main() -> int:
    """Run the command of the arguments."""
    if not sys.platform.startswith("linux"):
        return subprocess.run(sys.argv[1:], check=False).returncode
    packages = missing()
    if packages:
        install(packages)
    if os.environ.get("DISPLAY"):
        return subprocess.run(sys.argv[1:], check=False).returncode
    read, write = os.pipe()
    screen = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", SCREEN, "-nolisten", "tcp"],
        pass_fds=(write,),
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        number = os.fdopen(read).readline().strip()
        if not number:
            print("the virtual screen (Xvfb) did not start", file=sys.stderr)
            return 3
        return subprocess.run(sys.argv[1:], check=False, env={**os.environ, "DISPLAY": f":{number}"}).returncode
    finally:
        screen.terminate()
        screen.wait()


if __name__ == "__main__":
    sys.exit(main())
