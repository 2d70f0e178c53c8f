"""Files are written whole or not at all, whatever the file system says."""

import errno
import os
import tempfile
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
from disasters import SMALL
from sessions import full_disk
from test_modelfile import model_of

from definetti_np import train
from definetti_np.files import whole
from definetti_np.files.checkpoint import read_checkpoint, write_checkpoint
from definetti_np.files.paths import check_distinct_paths, check_parent, check_text_file
from definetti_np.files.whole import file_at, remove_temporaries, write_whole
from definetti_np.progress import Summary

STATE = Path(__file__).parent / "golden" / "version_2_state.npz"


def write_model(path):
    model_of().save(path)


def write_state(path):
    write_checkpoint(path, read_checkpoint(STATE), previous=path.with_name("previous.npz"))


def write_summary(path):
    """A summary never fails, but says that it could not be written."""
    summary = Summary(path, 1, ["0 0.5 0.25", "1 0.5 0.75"])
    unwritten = summary._pending
    summary.close()
    if unwritten:
        raise OSError("it was not written")


WRITERS = {"model": write_model, "checkpoint": write_state, "summary": write_summary}


@pytest.fixture(params=WRITERS)
def writer(request):
    return WRITERS[request.param]


@pytest.fixture
def expected(writer, tmp_path):
    """What a writer writes where nothing is wrong."""
    folder = tmp_path / "twin"
    folder.mkdir()
    writer(folder / "w.npz")
    return (folder / "w.npz").read_bytes()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def failing(number, when=lambda *arguments: True, function=None):
    def fail(*arguments, **keywords):
        if when(*arguments):
            raise OSError(number, os.strerror(number))
        return function(*arguments, **keywords)

    return fail


def is_folder(descriptor):
    return os.path.isdir(f"/proc/self/fd/{descriptor}")


def a_folder_without_read_permission(patch):
    patch.setattr(os, "open", failing(errno.EACCES, lambda path, *flags: os.path.isdir(path), os.open))


# What is wrong with the file system, and the file is whole nevertheless.
HARMLESS = {
    **{
        f"fsync says {name}": lambda patch, name=name: patch.setattr(os, "fsync", failing(getattr(errno, name)))
        for name in ("EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS")
    },
    **{
        f"fsync of a folder says {name}": lambda patch, name=name: patch.setattr(
            os, "fsync", failing(getattr(errno, name), is_folder, os.fsync)
        )
        for name in ("EIO", "EINVAL", "EBADF", "EACCES")
    },
    "chmod says EPERM": lambda patch: [
        patch.setattr(os, name, failing(errno.EPERM)) for name in ("chmod", "fchmod", "chown")
    ],
    "a folder that may not be read": a_folder_without_read_permission,
}


@pytest.mark.parametrize("surroundings", HARMLESS)
def test_write__harmless_surroundings_change_nothing(writer, expected, folder, monkeypatch, surroundings):
    for _ in range(2):  # a new file, and one in the place of another
        with monkeypatch.context() as patch:
            HARMLESS[surroundings](patch)
            writer(folder / "w.npz")
        assert (folder / "w.npz").read_bytes() == expected
        assert not list(folder.glob(".*"))


# What is wrong with the file system, and the file cannot be written.
HARMFUL = {
    **{
        f"fsync says {name}": lambda patch, name=name: patch.setattr(os, "fsync", failing(getattr(errno, name)))
        for name in ("EIO", "ENOSPC", "EDQUOT")
    },
    **{
        f"rename says {name}": lambda patch, name=name: patch.setattr(os, "replace", failing(getattr(errno, name)))
        for name in ("EBUSY", "EROFS", "ENOSPC", "EIO")
    },
    "no new file can be made": lambda patch: patch.setattr(whole, "open", failing(errno.ENOSPC), raising=False),
}


@pytest.mark.parametrize("surroundings", HARMFUL)
@pytest.mark.parametrize("old", [None, b"old"])
def test_write__harmful_surroundings_leave_what_was_there(writer, folder, monkeypatch, surroundings, old):
    if old is not None:
        (folder / "w.npz").write_bytes(old)
    before = os.listdir(folder)
    with monkeypatch.context() as patch:
        HARMFUL[surroundings](patch)
        with pytest.raises(OSError):  # noqa: PT011 - each writer has words of its own
            writer(folder / "w.npz")
    assert os.listdir(folder) == before
    assert old is None or (folder / "w.npz").read_bytes() == old


def test_write__a_disk_that_is_full_after_any_number_of_bytes(writer, expected, folder):
    for size in range(0, len(expected) + 1, max(1, len(expected) // 40)):
        (folder / "w.npz").write_bytes(b"old")
        with pytest.raises(OSError) if size < len(expected) else nullcontext(), full_disk(size):  # noqa: PT011
            writer(folder / "w.npz")
        assert (folder / "w.npz").read_bytes() == (b"old" if size < len(expected) else expected)
        assert set(os.listdir(folder)) <= {"w.npz", "previous.npz"}


# Symbolic links


def links(folder, elsewhere):
    """Links to a file in another folder, by what they are; the file need not be there."""
    target = elsewhere / "target.npz"
    for name, to in {
        "absolute": target, "relative": os.path.relpath(target, folder), "to another": folder / "absolute.npz",
    }.items():  # fmt: skip
        (folder / f"{name}.npz").symlink_to(to)
        yield folder / f"{name}.npz", target


@pytest.mark.parametrize("is_there", [True, False])
def test_write__a_link_stays_and_what_it_leads_to_is_replaced(writer, expected, folder, tmp_path, is_there):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path, target in links(folder, elsewhere):
        check_parent(path, "save_path")
        target.unlink(missing_ok=True)
        if is_there:
            target.write_bytes(b"old")
        to = os.readlink(path)
        (elsewhere / f"{whole._temporary_prefix(target)}0.tmp").touch()
        remove_temporaries(path)
        writer(path)
        assert os.readlink(path) == to
        assert target.read_bytes() == expected
        assert os.listdir(elsewhere) == ["target.npz"]
        assert not list(folder.glob(".*"))


def test_write__a_link_in_a_folder_that_is_one(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link" / "w", lambda file: file.write(b"new"))
    assert (tmp_path / "real" / "w").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()


NO_FILES = {
    "a device": (lambda path: path.symlink_to("/dev/null"), "it is no regular file"),
    "a folder": (lambda path: path.mkdir(), "it is no regular file"),
    "a link to a folder": (lambda path: path.symlink_to(path.parent), "it is no regular file"),
    "a pipe": (os.mkfifo, "it is no regular file"),
    "a link to itself": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    "a link to nowhere": (lambda path: path.symlink_to(path.parent / "no" / "w"), "No such file"),
}


@pytest.mark.parametrize("what", NO_FILES)
def test_write__what_is_no_file_is_not_replaced(tmp_path, what):
    make, message = NO_FILES[what]
    make(tmp_path / "w.npz")
    before = os.lstat(tmp_path / "w.npz")
    with pytest.raises(OSError, match=message):
        write_whole(tmp_path / "w.npz", lambda file: file.write(b"new"))
    assert os.lstat(tmp_path / "w.npz") == before
    assert os.listdir(tmp_path) == ["w.npz"]


def test_write__the_one_before_on_another_file_system_is_a_copy(folder, monkeypatch):
    """Where the newest checkpoint is a link, a rename may lead from one file system to another."""
    (folder / "w").write_bytes(b"old")
    rename = failing(errno.EXDEV, lambda old, new: old == folder / "w", os.replace)
    monkeypatch.setattr(os, "replace", rename)
    write_whole(folder / "w", lambda file: file.write(b"new"), previous=folder / "before")
    assert (folder / "w").read_bytes() == b"new"
    assert (folder / "before").read_bytes() == b"old"
    assert sorted(os.listdir(folder)) == ["before", "w"]


def test_write__that_fails_between_two_renames_takes_the_first_back(folder, monkeypatch):
    (folder / "w").write_bytes(b"old")
    rename = failing(errno.EIO, lambda old, new: str(old).endswith(".tmp"), os.replace)
    monkeypatch.setattr(os, "replace", rename)
    with pytest.raises(OSError, match="Input/output error"):
        write_whole(folder / "w", lambda file: file.write(b"new"), previous=folder / "before")
    assert (folder / "w").read_bytes() == b"old"
    assert os.listdir(folder) == ["w"]


# Rights


@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_write__a_file_has_the_rights_that_the_umask_gives(writer, folder, umask, rights):
    before = os.umask(umask)
    try:
        writer(folder / "w.npz")
    finally:
        os.umask(before)
    assert (folder / "w.npz").stat().st_mode & 0o777 == rights


def test_write__in_several_threads_leaves_the_umask(folder):
    """To look at the umask is to change it, for all threads: who writes a file does not look."""
    before = os.umask(0o027)
    try:
        threads = [threading.Thread(target=write_model, args=(folder / f"{i}.npz",)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}
        assert len(list(folder.iterdir())) == 8
    finally:
        assert os.umask(before) == 0o027


# Paths


def test_check_parent__looks_where_a_link_leads(tmp_path):
    (tmp_path / "file.npz").symlink_to(tmp_path / "no" / "w.npz")
    with pytest.raises(ValueError, match="save_path: the folder '.*no' does not exist; create it first"):
        check_parent(tmp_path / "file.npz", "save_path")
    (tmp_path / "loop.npz").symlink_to(tmp_path / "loop.npz")
    with pytest.raises(ValueError, match="save_path: '.*loop.npz' is a symbolic link that leads in a circle"):
        check_parent(tmp_path / "loop.npz", "save_path")
    (tmp_path / "folder.npz").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="save_path: '.*folder.npz' is a folder"):
        check_parent(tmp_path / "folder.npz", "save_path")


def test_check_parent__sees_that_another_user_keeps_a_file(tmp_path, monkeypatch):
    (tmp_path / "w.npz").touch()
    tmp_path.chmod(0o1777)
    for user, is_refused in ((0, False), (os.getuid(), False), (12345, True)):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        check_parent(tmp_path / "new.npz", "save_path")
        if is_refused:
            with pytest.raises(ValueError, match="'.*w.npz' belongs to another user, and its folder lets nobody else"):
                check_parent(tmp_path / "w.npz", "save_path")
        else:
            check_parent(tmp_path / "w.npz", "save_path")
    tmp_path.chmod(0o777)
    check_parent(tmp_path / "w.npz", "save_path")


def test_check_parent__refuses_what_a_file_cannot_replace(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "link.npz").symlink_to("/dev/full")
    for name in ("pipe.npz", "link.npz"):
        with pytest.raises(ValueError, match=f"save_path: '.*{name}' is a device or a pipe, which no file can replace"):
            check_parent(tmp_path / name, "save_path")


@pytest.mark.parametrize(("number", "is_refused"), [(errno.EROFS, True), (errno.EIO, True), (errno.ENOSPC, False)])
def test_check_parent__tries_to_make_a_file(tmp_path, monkeypatch, number, is_refused):
    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    if is_refused:
        with pytest.raises(ValueError, match=f"the folder .* cannot be written to: {os.strerror(number)}"):
            check_parent(tmp_path / "w.npz", "save_path")
    else:
        check_parent(tmp_path / "w.npz", "save_path")


@pytest.mark.parametrize("argument", ["save_path", "training_summary", "logfile", "simulations"])
def test_train__a_file_that_cannot_be_written_is_refused_before_anything_is_simulated(tmp_path, argument):
    def simulate(rng):
        raise AssertionError

    (tmp_path / "file").touch()
    options = {**SMALL, "sim_threads": 0, argument: tmp_path / "file" / "name"}
    with pytest.raises(ValueError, match=f"{argument}: the folder '.*file' does not exist; create it first"):
        train(simulator=simulate, **options)


def test_check_text_file__takes_devices_and_refuses_what_cannot_be_written(tmp_path, monkeypatch):
    for path in (Path("/dev/null"), tmp_path / "new"):
        check_text_file(path, "logfile")
    with pytest.raises(ValueError, match="logfile: '.*' is a folder"):
        check_text_file(tmp_path, "logfile")
    with pytest.raises(ValueError, match="logfile: the folder '.*no' does not exist"):
        check_text_file(tmp_path / "no" / "log", "logfile")
    (tmp_path / "old").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: path == tmp_path)
    check_text_file(tmp_path / "old", "training_summary", is_replaced=True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for name in ("old", "new"):
        with pytest.raises(ValueError, match="training_summary: the folder '.*' cannot be written to"):
            check_text_file(tmp_path / name, "training_summary", is_replaced=True)
    with pytest.raises(ValueError, match="logfile: '.*old' cannot be written to"):
        check_text_file(tmp_path / "old", "logfile")
    with pytest.raises(ValueError, match="logfile: the folder '.*' cannot be written to"):
        check_text_file(tmp_path / "new", "logfile")


def test_check_distinct_paths__sees_the_same_file_by_name_and_by_links(tmp_path):
    (tmp_path / "there").touch()
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "to nothing").symlink_to("no")
    os.link(tmp_path / "there", tmp_path / "hard")
    (tmp_path / "folder").symlink_to(tmp_path)
    for other in ("there", "link", "hard", "folder/there", "../" + tmp_path.name + "/there"):
        with pytest.raises(ValueError, match="logfile: '.*' is the file of the model; choose another path"):
            check_distinct_paths({"the model": tmp_path / "there", "x": tmp_path / "x", "logfile": tmp_path / other})
    with pytest.raises(ValueError, match="logfile: '.*no' is the file of the model"):
        check_distinct_paths({"the model": tmp_path / "to nothing", "logfile": tmp_path / "no"})
    check_distinct_paths({"training_summary": Path("/dev/null"), "logfile": Path("/dev/null"), "x": tmp_path / "x"})


def test_file_at__is_the_path_itself_where_it_is_no_link(tmp_path):
    (tmp_path / "folder").symlink_to(tmp_path)
    assert file_at(tmp_path / "folder" / "w") == tmp_path / "folder" / "w"


def test_write__what_raises_leaves_nothing(folder):
    with pytest.raises(KeyboardInterrupt):
        write_whole(folder / "w", lambda file: (file.write(b"half"), exec("raise KeyboardInterrupt")))
    assert os.listdir(folder) == []
