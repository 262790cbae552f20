"""Checkpoints: whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from itk_pdd.errors import RegistrationError
from itk_pdd.io.outputs import OutputError
from itk_pdd.training import checkpoint
from itk_pdd.training.checkpoint import CHECKPOINT, read_checkpoint, write_checkpoint

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}


def test_what_is_written_is_read(tmp_path):
    assert read_checkpoint(tmp_path) is None
    write_checkpoint(tmp_path, TENSORS, {"iteration": 7, "rows": [{"loss": 0.1 + 0.2}]})
    tensors, state = read_checkpoint(tmp_path)
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())
    assert state == {"iteration": 7, "rows": [{"loss": 0.1 + 0.2}]}


def test_on_a_full_disk_the_last_one_is_kept(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, TENSORS, {"iteration": 1})

    def full(path, content):
        path.write_bytes(content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "write_bytes", full)
    with pytest.raises(OutputError, match=r"checkpoint: .* could not be written \(no space left on device\)"):
        write_checkpoint(tmp_path, TENSORS, {"iteration": 2})
    assert read_checkpoint(tmp_path)[1]["iteration"] == 1
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_damaged_checkpoint_is_named(tmp_path):
    write_checkpoint(tmp_path, TENSORS, {"iteration": 1})
    path = tmp_path / CHECKPOINT
    content = path.read_bytes()
    for damaged in (content[:-5], content[:20], b"", os.urandom(500)):
        path.write_bytes(damaged)
        with pytest.raises(RegistrationError, match=r"checkpoint: .*checkpoint\.safetensors is damaged.*remove it"):
            read_checkpoint(tmp_path)


def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, TENSORS, {"iteration": 1})

    def refused(self):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "exists", refused)
    with pytest.raises(RegistrationError, match=r"checkpoint\.safetensors cannot be read .*remove it to start anew"):
        read_checkpoint(tmp_path)


def test_tensors_without_a_state_are_no_checkpoint(tmp_path):
    from safetensors.torch import save_file

    save_file(TENSORS, tmp_path / CHECKPOINT)
    with pytest.raises(RegistrationError, match="holds no state of a training"):
        read_checkpoint(tmp_path)
