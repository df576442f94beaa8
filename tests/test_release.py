"""`.ci/release`, the two ends of `make release`: what it refuses, and what it says is to be published."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def git(*words, cwd):
    name = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *name, *words], cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clean git tree at version 1.2.3, with a dated heading for it."""
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "release", tmp_path / ".ci")
    (tmp_path / "s3prl_pruned").mkdir()
    (tmp_path / "s3prl_pruned" / "__init__.py").write_text('"""A package."""\n\n__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3 (2026-12-01)\n\n- New.\n\n## 1.2.2 (2026-11-01)\n")
    (tmp_path / ".gitignore").write_text("/dist/\n/site/\n")
    git("init", "-q", cwd=tmp_path)
    commit(tmp_path)
    return tmp_path


def commit(clone):
    git("add", "--all", cwd=clone)
    git("commit", "-q", "-m", "state", cwd=clone)


def release(clone, verb):
    return subprocess.run([clone / ".ci" / "release", verb], cwd=clone, capture_output=True, text=True)


def test_a_clean_tree_with_a_dated_heading_is_released(clone):
    done = release(clone, "check")
    assert done.returncode == 0 and done.stdout.startswith("release: 1.2.3 from "), done.stderr


@pytest.mark.parametrize(
    "heading", ["## 1.2.3 (unreleased)", "## 1.2.3", "## 1.2.30 (2026-12-01)", "## 1x2.3 (2026-12-01)"]
)
def test_a_version_without_a_dated_heading_is_refused(clone, heading):
    path = clone / "CHANGELOG.md"
    path.write_text(path.read_text().replace("## 1.2.3 (2026-12-01)", heading))
    commit(clone)
    done = release(clone, "check")
    assert done.returncode == 2 and '"## 1.2.3 (YYYY-MM-DD)"' in done.stderr and f'newest is "{heading}"' in done.stderr


@pytest.mark.parametrize("file", ["CHANGELOG.md", "new.py"])
def test_a_tree_with_changes_is_refused(clone, file):
    with (clone / file).open("a") as changed:
        changed.write("\n")
    for verb in ("check", "summary"):  # it may have changed while things were built
        done = release(clone, verb)
        assert done.returncode == 2 and "the git tree must be clean" in done.stderr and file in done.stderr


def test_a_version_that_has_its_tag_is_refused(clone):
    git("tag", "v1.2.3", cwd=clone)
    done = release(clone, "check")
    assert done.returncode == 2 and "the tag v1.2.3 exists already" in done.stderr


def test_the_summary_has_the_files_and_their_hashes_and_uploads_nothing(clone):
    for name in ("dist/a-1.2.3.tar.gz", "dist/a-1.2.3.whl", "site/index.html", "site/assets/a.css"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text(name)
    done = release(clone, "summary")
    assert done.returncode == 0, done.stderr
    for path in sorted((clone / "dist").iterdir()):
        assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  dist/{path.name}" in done.stdout
    assert "git tag -a v1.2.3 " in done.stdout and "2 files in site/" in done.stdout
    assert "nothing was uploaded" in done.stdout
    assert subprocess.run(["git", "tag"], cwd=clone, capture_output=True, text=True).stdout == ""
