"""Commands with a file system of their own."""

from __future__ import annotations

import subprocess

import pytest


def in_mount_namespace(command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in a namespace where it may mount things that nobody else sees; it must succeed."""
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("a private namespace of mounts needs root, or user namespaces")
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done
