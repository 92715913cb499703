"""Subtitles of transcripts, and what is told of those without segments."""

from deploy.service import subtitles

SAID = [
    {"start": 0.0, "end": 1.5, "text": "one"},
    {"start": 3661.25, "end": 3661.9996, "text": "a < b --> c & d"},
]


def test_subrip():
    assert subtitles.srt(SAID) == (
        "1\n00:00:00,000 --> 00:00:01,500\none\n\n"
        "2\n01:01:01,250 --> 01:01:02,000\na < b --> c & d\n\n"
    )


def test_webvtt():
    assert subtitles.vtt(SAID) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\none\n\n"
        "01:01:01.250 --> 01:01:02.000\na &lt; b --&gt; c &amp; d\n\n"
    )


def test_a_transcript_without_segments_is_one():
    assert subtitles.segments({"text": "a", "duration": 2}) == [
        {"start": 0.0, "end": 2.0, "text": "a"}
    ]
    assert subtitles.segments({"text": ""}) == []
    assert subtitles.segments({"text": "one", "segments": SAID}) == SAID
