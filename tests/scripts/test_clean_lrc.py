SCRIPT = "lora_data_prepare/clean_lrc.py"
LRC = "\ufeff[ar:Someone]\r\n[Verse]\r\n[00:01.00]one\r\n[00:02.00]two\r\n\r\n\r\n"


def _folder(tmp_path):
    (tmp_path / "sub").mkdir()
    files = {
        "a.lyrics.txt": LRC,
        "sub/b.lrc": LRC,
        "plain.txt": "[Verse]\nno times\n",
        "blank.txt": "words\n\n\n",
        "c.caption.txt": "[00:01.00]a caption\n",
        "d.json": "{}",
    }
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode())
    return files


def test_a_folder_is_cleaned_and_the_old_files_are_kept(run_script, tmp_path):
    files = _folder(tmp_path)
    process = run_script(SCRIPT, tmp_path)
    assert "3 of 4 files cleaned, 0 failed" in process.stdout
    assert (tmp_path / "a.lyrics.txt").read_bytes() == b"[Verse]\none\ntwo\n"
    assert (tmp_path / "sub/b.lrc").read_bytes() == b"[Verse]\none\ntwo\n"
    assert (tmp_path / "blank.txt").read_bytes() == b"words\n"
    assert (tmp_path / "a.lyrics.txt.bak").read_bytes() == files["a.lyrics.txt"].encode()
    for name in ("plain.txt", "c.caption.txt", "d.json"):
        assert (tmp_path / name).read_bytes() == files[name].encode()
        assert not (tmp_path / f"{name}.bak").exists()
    assert "0 of 4 files cleaned" in run_script(SCRIPT, tmp_path).stdout


def test_a_dry_run_changes_nothing(run_script, tmp_path):
    files = _folder(tmp_path)
    process = run_script(SCRIPT, tmp_path, "--dry_run")
    assert "would clean" in process.stdout
    assert "3 time stamps and id tags and 2 trailing blank lines" in process.stdout
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(files)
    assert all((tmp_path / name).read_bytes() == text.encode() for name, text in files.items())


def test_one_file_and_no_backup_and_an_older_backup_that_stays(run_script, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("[00:01.00]one\n")
    run_script(SCRIPT, file, "--no_backup")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    for text in ("[00:01.00]one\n", "[00:01.00]two\n"):
        file.write_text(text)
        run_script(SCRIPT, file)
    assert (tmp_path / "a.txt.bak").read_text() == "[00:01.00]one\n"
    assert (tmp_path / "a.txt.bak2").read_text() == "[00:01.00]two\n"


def test_files_that_cannot_be_cleaned_are_reported_and_left(run_script, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"[00:01.00]\xfcber\n")
    (tmp_path / "empty.lrc").write_bytes(b"[ar:x]\n[00:01.00]\n")
    process = run_script(SCRIPT, tmp_path, check=False)
    assert process.returncode == 1
    assert "0 of 2 files cleaned, 2 failed" in process.stdout
    assert "Save it as UTF-8." in process.stdout
    assert (tmp_path / "empty.lrc").read_bytes() == b"[ar:x]\n[00:01.00]\n"
    missing = run_script(SCRIPT, tmp_path / "none", check=False)
    assert missing.returncode == 2
    assert "no such file or folder" in missing.stderr
