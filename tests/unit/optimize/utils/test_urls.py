"""Passwords in URLs reach no report and no message; what is no secret stays as it is."""

import pytest

from optimize.utils.urls import cleaned


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("postgresql://me:pa55@host/db", "postgresql://host/db"),
        ("postgresql+psycopg://me:pa55@host:5432/db", "postgresql+psycopg://host:5432/db"),
        ("mysql://me:pa55/w@host/db", "mysql://host/db"),
        ("mysql://me:pa@55@host/db", "mysql://host/db"),
        ("mysql://me:p%40a55@host/db", "mysql://host/db"),
        ("https://pa55@host/x", "https://host/x"),
        ("redis://:pa55@host:6379/0", "redis://host:6379/0"),
        ("mysql://host/db?user=me&password=pa55&ssl=1", "mysql://host/db?user=me&password=...&ssl=1"),
        ("mssql+pyodbc:///?odbc_connect=SERVER%3Dx%3BPWD%3Dpa55", "mssql+pyodbc:///?odbc_connect=..."),
        ("https://host/f?X-Amz-Signature=pa55", "https://host/f?X-Amz-Signature=..."),
        ("--set 'search.storage=mysql://me:pa55@host/db' --set a=1",
         "--set 'search.storage=mysql://host/db' --set a=1"),
        ("from mysql://me:pa55@a/b and mysql://me:pa55@c/d", "from mysql://a/b and mysql://c/d"),
    ],
)  # fmt: skip
def test_secrets_are_left_out(written: str, kept: str) -> None:
    assert cleaned(written) == kept
    assert "55" not in cleaned(written) and "pa" not in cleaned(written).replace("password", "")


@pytest.mark.parametrize(
    "text",
    [
        "https://host/@name/page",
        "https://host:8080/a@b",
        "sqlite:////tmp/study.db",
        "write to me@host.org",
        "https://host/f?monkey=1&page=2",
        "C:\\files a:b@c",
    ],
)
def test_nothing_else_is_touched(text: str) -> None:
    assert cleaned(text) == text


def test_whole_reports_are_cleaned() -> None:
    value = {"a": ["x://u:pa55@h", 1, None], "b": {"c": "x://u:pa55@h"}, "d": ("x://u:pa55@h",)}
    assert cleaned(value) == {"a": ["x://h", 1, None], "b": {"c": "x://h"}, "d": ("x://h",)}
