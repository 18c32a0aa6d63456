from __future__ import annotations

import pytest

from export.addresses import without_secrets
from export.errors import OodscreenError

SHOWN = [
    ("ftp://user:pw@host/x", "ftp://host/x"),
    ("ftp://user:p@w@host:21/x: failed", "ftp://host:21/x: failed"),
    ("ftp://user:p/w@host/x", "ftp://host/x"),
    ("sftp://user:p#w@host/x", "sftp://host/x"),
    ("smb://domain;user:1234@host/share", "smb://host/share"),
    ("https://token@host/x.parquet", "https://host/x.parquet"),
    ("'https://host/x.parquet?X-Amz-Signature=ab%2F': 403", "'https://host/x.parquet': 403"),
    ("s3://key:pw@bucket/x", "s3://bucket/x"),
    ("s3://bucket/x?AWSAccessKeyId=a&Signature=b", "s3://bucket/x"),
    ("abfs://container:pw@account/x", "abfs://container@account/x"),
    ("zip://a.parquet::ftp://user:pw@host/x.zip", "zip://a.parquet::ftp://host/x.zip"),
]
UNCHANGED = [
    "user:pw@host",
    "C:/a@b?c=d",
    "abfs://container@account/x",
    "github://organisation:repository@main/x",
    "hf://datasets/user/name@main/x",
    "http://host:8080/a@b",
    "http://[::1]:80/a@b",
    "s3://bucket/year=20??/x=1.parquet",
    "s3://bucket/year=?/x=1.parquet",
    "https://host:80/y:z@k",
]


@pytest.mark.parametrize(("text", "shown"), [*SHOWN, *((text, text) for text in UNCHANGED)])
def test_a_text_keeps_all_but_the_secrets_of_its_addresses(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown
    assert without_secrets(f"a {text}\nb {text}") == f"a {shown}\nb {shown}"


def test_a_password_is_removed_without_its_protocol_too() -> None:
    assert without_secrets("ftp://user:pw@host/x: user:pw@host/x is gone") == "ftp://host/x: host/x is gone"
    assert without_secrets("/user:pw@host/x", "ftp://user:pw@host") == "/host/x"


def test_no_part_of_an_error_has_a_secret() -> None:
    address = "ftp://user:hunter2@host/x"
    error = OodscreenError(f"{address} is a.", wanted=f"not {address}", next_step=f"leave out {address}")
    assert "hunter2" not in f"{error} {error.found} {error.wanted} {error.next_step} {error.args}"
