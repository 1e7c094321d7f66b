"""What belongs into a backup, and what the scan makes of odd sources."""

import os
import random
import subprocess
import threading

import pytest

from tests.support.site import Site


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    site.source.mkdir()
    return site


def fill(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def listed(site):
    prefix = f"{site.source}/"
    lines = site.run("ls", *site.where, "latest", site.source, "-R").stdout.splitlines()
    return {line.removeprefix(prefix) for line in lines}


def test_excludes_follow_gitignore_with_re_include(site):
    fill(
        site.source, "a.tmp", "keep.tmp", "dir/b.tmp", "dir/c", "cache/x", "deep/cache/y", "build/out", "logs/today.log"
    )
    site.configure(exclude=["*.tmp", "!keep.tmp", f"{site.source}/cache/", "build/", "logs/*", "!logs/today.log"])
    site.backup()
    assert listed(site) == {"keep.tmp", "dir", "dir/c", "deep", "deep/cache", "deep/cache/y", "logs", "logs/today.log"}


def test_what_is_excluded_later_is_gone_from_the_next_snapshot(site):
    fill(site.source, "a", "b/c")
    site.backup()
    site.configure(exclude=["b/"])
    site.backup()
    assert listed(site) == {"a"}
    site.configure(exclude=[])
    site.backup()
    assert listed(site) == {"a", "b", "b/c"}


def test_a_bad_pattern_is_named(site):
    site.configure(exclude=["a", "!"])
    done = site.run("backup", site.config, code=2)
    assert "exclude" in done.stderr


def test_caches_and_marked_directories_keep_only_their_tag(site):
    fill(site.source, "cache/data", "plain/CACHEDIR.TAG", "plain/data", "marked/.nobackup", "marked/data")
    (site.source / "cache/CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    site.configure(exclude_caches=True, exclude_if_present=[".nobackup"])
    site.backup()
    expected = {
        "cache",
        "cache/CACHEDIR.TAG",
        "plain",
        "plain/CACHEDIR.TAG",
        "plain/data",
        "marked",
        "marked/.nobackup",
    }
    assert listed(site) == expected


def test_what_has_the_nodump_flag_stays_out_where_that_is_heeded(site):
    fill(site.source, "plain", "flagged", "dir/inside", "later")
    source = flag("+d", site.source / "flagged", site.source / "dir", site.source)
    site.backup()
    assert {"flagged", "dir", "dir/inside"} <= listed(site), "unless it is asked for"
    # What the index knows of them is from then.
    site.configure(exclude_nodump=True)
    assert site.backup()["excluded"] == 2
    assert listed(site) == {"plain", "later"}, "a source itself was named"
    flag("-d", source / "dir")
    flag("+d", source / "later", source / "dir/inside")
    os.link(source / "plain", source / "other name")
    site.backup()
    assert listed(site) == {"plain", "other name", "dir"}
    flag("+d", source / "plain")
    assert site.backup()["removed"] == 2, "the flag is the file's, whatever its names"
    flag("-d", source / "flagged")
    site.backup()
    assert listed(site) == {"dir", "flagged"}


def flag(change, *paths):
    """Change the flags of files, where the file system has them. Returns the last one's directory, itself if it is one."""
    if subprocess.run(["chattr", change, *paths], check=False, capture_output=True).returncode:
        pytest.skip("NO FLAGS: this file system has none")
    return paths[-1] if paths[-1].is_dir() else paths[-1].parent


def test_its_own_index_spool_and_store_stay_out(tmp_path):
    site = Site(tmp_path)
    site.source = tmp_path
    site.configure(source_dirs=[str(tmp_path)])
    (tmp_path / "mine").write_text("mine")
    site.backup()
    site.backup()
    names = listed(site)
    assert "mine" in names
    assert not {name for name in names if name.startswith(("store/", "state/index.sqlite", "state/spool/"))}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_one_file_system_keeps_the_mount_point_only(site):
    fill(site.source, "here/a", "mounted/hidden")
    subprocess.run(["mount", "-t", "tmpfs", "none", site.source / "mounted"], check=True)
    try:
        fill(site.source, "mounted/b")
        site.configure(one_file_system=True)
        site.backup()
        assert listed(site) == {"here", "here/a", "mounted"}
        site.configure(one_file_system=False)
        site.backup()
        assert listed(site) == {"here", "here/a", "mounted", "mounted/b"}
    finally:
        subprocess.run(["umount", site.source / "mounted"], check=True)


def test_several_sources_and_the_metadata_of_their_parents(site, tmp_path):
    one, two = tmp_path / "outer/one", tmp_path / "outer/two"
    fill(tmp_path, "outer/one/a", "outer/two/b", "outer/not")
    (tmp_path / "outer").chmod(0o711)
    site.configure(source_dirs=[str(one), str(two)])
    site.backup()
    site.restore(tmp_path / "out")
    restored = tmp_path / "out" / str(tmp_path).lstrip("/") / "outer"
    assert sorted(p.name for p in restored.rglob("*")) == ["a", "b", "one", "two"]
    assert restored.stat().st_mode & 0o777 == 0o711
    site.configure(source_dirs=[str(two)])
    site.backup()
    assert "one" not in site.run("ls", *site.where, "latest", tmp_path / "outer").stdout.replace(str(tmp_path), "")


def test_a_file_becomes_a_directory_and_back(site, tmp_path):
    (site.source / "x").write_text("file")
    site.backup()
    (site.source / "x").unlink()
    fill(site.source, "x/inside")
    site.backup()
    assert listed(site) == {"x", "x/inside"}
    (site.source / "x/inside").unlink()
    (site.source / "x").rmdir()
    (site.source / "x").write_text("file again")
    site.backup()
    site.restore(tmp_path / "out")
    assert (site.restored(tmp_path / "out") / "x").read_text() == "file again"


def test_hard_links_follow_their_leaders_changes(site, tmp_path):
    (site.source / "a").write_text("one")
    os.link(site.source / "a", site.source / "b")
    os.link(site.source / "a", site.source / "c")
    site.backup()
    (site.source / "a").unlink()  # the leader goes, the others stay
    with (site.source / "c").open("a") as file:
        file.write(" two")
    site.backup()
    site.restore(tmp_path / "out")
    restored = site.restored(tmp_path / "out")
    assert (restored / "b").read_text() == (restored / "c").read_text() == "one two"
    assert (restored / "b").stat().st_ino == (restored / "c").stat().st_ino
    assert site.backup()["files_read"] <= 1


def test_a_file_that_changes_while_it_is_read_is_kept_as_read_and_marked(site, tmp_path):
    """A writer appends all through the backup: what comes back is a beginning of what there was."""
    path = site.source / "growing"
    path.write_bytes(random.Random(1).randbytes(30_000_000))
    stop = threading.Event()

    def write():
        while not stop.is_set():
            with path.open("ab") as file:
                file.write(b"more" * 100)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        summary = site.backup()
    finally:
        stop.set()
        writer.join()
    assert summary["exit_code"] == 0
    assert summary["changed_while_read"] == 1
    assert "changed while it was read" in site.run("ls", *site.where, "latest", path, "-l").stdout
    site.restore(tmp_path / "out")
    data = (site.restored(tmp_path / "out") / "growing").read_bytes()
    assert len(data) >= 30_000_000
    assert path.read_bytes().startswith(data)
    assert site.backup()["files_read"] == 1


def test_names_are_escaped_on_a_terminal_and_exact_in_json(site):
    fill(site.source, "evil\x1b[31m")
    site.backup()
    assert "\x1b" not in site.run("ls", *site.where, "latest", site.source).stdout
    assert '"evil' not in site.run("ls", *site.where, "latest", site.source).stdout
    assert "evil\\u001b[31m" in site.run("ls", *site.where, "latest", site.source, "--json").stdout


def test_cron_is_silent_and_json_is_json(site):
    fill(site.source, "a")
    done = site.run("backup", site.config, "--cron")
    assert done.stdout == done.stderr == ""
    for command in (["snapshots", *site.where], ["ls", *site.where, "latest"], ["check", site.config]):
        assert site.run(*command, "--json").stdout.strip()[0] in "[{"
