import pytest

from torch_manual_bp.fit.folder import RunFolder

FIRST = {"seal": b"1", "a": b"one", "b": b"one"}
SECOND = {"seal": b"2", "a": b"two"}


def content(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_files_appear_and_nothing_else(tmp_path):
    with RunFolder(tmp_path / "deep" / "run", "seal") as folder:
        written = folder.write(FIRST)
    assert content(tmp_path / "deep" / "run") == FIRST
    assert [path.name for path in written][-1] == "seal"


def test_a_second_run_replaces_its_files_and_leaves_others_alone(tmp_path):
    (tmp_path / "mine").write_bytes(b"kept")
    for files in (FIRST, SECOND):
        with RunFolder(tmp_path, "seal") as folder:
            folder.write(files)
    assert content(tmp_path) == {**FIRST, **SECOND, "mine": b"kept"}


def test_an_error_before_writing_leaves_the_earlier_run(tmp_path):
    with RunFolder(tmp_path, "seal") as folder:
        folder.write(FIRST)
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path, "seal"):
        raise KeyboardInterrupt
    assert content(tmp_path) == FIRST


def test_an_error_leaves_no_folder_where_there_was_none(tmp_path):
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path / "run", "seal"):
        raise KeyboardInterrupt
    assert not (tmp_path / "run").exists()


def test_a_file_that_cannot_be_written_leaves_the_earlier_run(tmp_path):
    with RunFolder(tmp_path, "seal") as folder:
        folder.write(FIRST)
    with pytest.raises(OSError), RunFolder(tmp_path, "seal") as folder:
        folder.write({"a": b"two", "no/such/place": b"", "seal": b"2"})
    assert content(tmp_path) == FIRST


def test_half_a_set_of_files_carries_no_seal(tmp_path):
    """Where renaming stops in the middle, the seal of the earlier run is gone already."""
    with RunFolder(tmp_path, "seal") as folder:
        folder.write(FIRST)
    (tmp_path / "b").unlink()
    (tmp_path / "b").mkdir()  # no file can be renamed over a folder
    with pytest.raises(OSError), RunFolder(tmp_path, "seal") as folder:
        folder.write(FIRST | {"a": b"two"})
    assert (tmp_path / "a").read_bytes() == b"two"
    assert not (tmp_path / "seal").exists()


def test_a_place_that_is_a_file_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileExistsError), RunFolder(tmp_path / "file", "seal"):
        pass


def test_the_seal_must_be_there(tmp_path):
    with pytest.raises(ValueError, match="must have the seal 'seal', got a"), RunFolder(tmp_path, "seal") as folder:
        folder.write({"a": b""})


def test_a_file_that_is_kept_replaces_itself_and_nothing_else(tmp_path):
    with RunFolder(tmp_path, "seal") as folder:
        folder.write(FIRST)
        for text in (b"early", b"late"):
            assert folder.keep("kept", text) == tmp_path / "kept"
            assert content(tmp_path) == {**FIRST, "kept": text}


def test_where_keeping_fails_the_earlier_file_stays(tmp_path, monkeypatch):
    def fail(_):
        raise OSError("no space left")

    with RunFolder(tmp_path, "seal") as folder:
        folder.keep("kept", b"early")
        monkeypatch.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="no space left"):
            folder.keep("kept", b"late")
    assert content(tmp_path) == {"kept": b"early"}


def test_a_process_that_is_killed_between_writing_leaves_no_litter(tmp_path):
    """What has been left behind then is what is there while nothing is being written."""
    with RunFolder(tmp_path, "seal") as folder:
        folder.keep("kept", b"")
        assert list(content(tmp_path)) == ["kept"]


def test_an_interrupt_right_behind_the_mkdir_leaves_no_folder(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tempfile.mkdtemp", interrupted)
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path / "new", "seal"):
        pass
    assert not (tmp_path / "new").exists()
