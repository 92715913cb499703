import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.service import form, row
from deploy.service.failure import Failure

PNG = b"\x89PNG\r\n\x1a\n-x--x is inside\r\n"
FILE = 'Content-Disposition: form-data; name="data"; filename="a.png"'


def multipart(*parts: tuple[str, bytes], end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--x\r\n" + h.encode() + b"\r\n\r\n" + c + b"\r\n" for h, c in parts) + end


def read(body: bytes) -> list[form.Part]:
    return list(form.multipart(body, b"x"))


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("multipart/form-data; boundary=x", b"x"),
        ('multipart/form-data; charset=utf-8; boundary="a b"', b"a b"),
        ("multipart/form-data;boundary=x", b"x"),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ("multipart/mixed; boundary=x", None),
        ("Multipart/Form-Data; boundary=x", None),
        ("application/json", None),
        ("", None),
    ],
)
def test_a_form_needs_the_exact_type_and_a_boundary(content_type, expected):
    assert form.boundary(content_type) == expected


def test_files_and_fields():
    body = multipart(
        (FILE + "\r\nContent-Type: image/png; a=b", PNG),
        ('content-disposition: form-data; name="top_k"', b"2"),
        (FILE.replace('"data"', '"image"'), b""),
        ("Content-Disposition: form-data; name=text; filename=t", b"abc"),
    )
    assert read(body) == [
        ("data", "image/png", PNG),
        ("top_k", "", b"2"),
        ("image", form.OCTETS, b""),
        ("text", form.OCTETS, b"abc"),
    ]


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_part_cut_short_is_left_out(cut):
    body = multipart((FILE, b"first"), (FILE, b"second"))
    parts = read(body[:-cut])
    assert [content for _, _, content in parts] in ([b"first", b"second"], [b"first"])


def test_what_precedes_the_first_boundary_hides_the_form():
    assert read(b"\r\n" + multipart((FILE, b"a"))) == [("data", form.OCTETS, b"a")]
    assert read(b"hello\r\n" + multipart((FILE, b"a"))) == []


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Type: image/png",
        'Content-Disposition: attachment; name="data"',
        "Content-Disposition: form-data",
        'Content-Disposition: form-data; name=""; filename="a"',
        FILE + "\r\nContent-Transfer-Encoding: base64",
        FILE + "\r\nContent-Type: text/plain; charset=klingon",
    ],
)
def test_a_part_that_torchserve_breaks_on_is_the_clients_error(headers):
    with pytest.raises(Failure) as caught:
        read(multipart((headers, b"abc")))
    assert (caught.value.status, caught.value.type) == (400, "ErrorDataDecoderException")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", []),
        (b"data=abc", [("data", b"abc")]),
        (b"data=a+b%20c&top_k=2\r\n", [("data", b"a b c"), ("top_k", b"2")]),
        (b"data=a=b", [("data", b"a=b")]),
        (b"first&data=x", [("first", b""), ("data", b"x")]),
        (b"data=x&last", [("data", b"x")]),
        (b"data=%ff", [("data", b"\xff")]),
    ],
)
def test_web_forms(body, expected):
    assert [(name, value) for name, _, value in form.urlencoded(body)] == expected


@pytest.mark.parametrize("body", [b"=x", b"&&", b"data=%zz", b"data=%4"])
def test_web_forms_that_torchserve_breaks_on(body):
    with pytest.raises(Failure):
        list(form.urlencoded(body))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([b"--x", b"--", b"\r\n", b"\n", b"\r", b":", FILE.encode(), b"ab"]))
)
def test_any_bytes_are_parts_or_a_failure(pieces):
    try:
        for name, kind, content in read(b"--x" + b"".join(pieces)):
            assert isinstance(name, str) and isinstance(kind, str) and isinstance(content, bytes)
    except Failure as failure:
        assert failure.status == 400


def test_the_row_of_a_raw_body():
    fields, headers = row.read(b"{}", [("Content-Type", "application/json; a=b"), ("X-Top-K", "2")])
    assert fields == {"body": b"{}"}
    assert headers == {
        "body": {"content-type": "application/json"},
        "content-type": "application/json; a=b",
        "x-top-k": "2",
    }


def test_the_row_of_a_form_keeps_the_last_of_a_name_and_what_each_declared():
    body = multipart((FILE, b"one"), (FILE + "\r\nContent-Type: image/png", b"two"))
    fields, headers = row.read(body, [("Content-Type", "multipart/form-data; boundary=x")])
    assert fields == {"data": b"two"}
    assert headers["data"] == {"content-type": "image/png"}


FIELD = 'Content-Disposition: form-data; name="a"'


@pytest.mark.parametrize(
    ("body", "read_form"),
    [
        (b"&".join([b"a=1"] * (form.MAX_PARTS + 1)), form.urlencoded),
        (
            multipart(*[(FIELD, b"")] * (form.MAX_PARTS + 1)),
            lambda body: form.multipart(body, b"x"),
        ),
    ],
    ids=["web form", "multipart"],
)
def test_forms_of_very_many_parts_are_refused(body, read_form):
    with pytest.raises(Failure) as caught:
        list(read_form(body))
    assert caught.value.status == 413


def test_as_many_parts_as_a_handler_could_take_are_read():
    assert len(list(form.urlencoded(b"&".join([b"a=1"] * form.MAX_PARTS)))) == form.MAX_PARTS
    assert len(read(multipart(*[(FIELD, b"")] * form.MAX_PARTS))) == form.MAX_PARTS


@given(st.binary(max_size=40))
def test_escapes_are_undone(value):
    escaped = "".join(f"%{byte:02{'xX'[byte % 2]}}" for byte in value).encode()
    assert list(form.urlencoded(b"a=" + escaped + b"+%25")) == [("a", "", value + b" %")]
