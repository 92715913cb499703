"""Transcripts as subtitles: SubRip and WebVTT."""

from typing import Any


def segments(transcript: dict[str, Any]) -> list[dict[str, Any]]:
    """The transcript's segments: `start` and `end` in seconds, `text`; one where it tells none."""
    found = transcript.get("segments")
    if isinstance(found, list):
        return [segment for segment in found if isinstance(segment, dict)]
    end = float(transcript.get("duration") or 0.0)
    return [{"start": 0.0, "end": end, "text": transcript["text"]}] if transcript["text"] else []


def srt(segments: list[dict[str, Any]]) -> str:
    """SubRip: numbered, with a comma before the milliseconds."""
    return "".join(
        f"{number}\n{_span(segment, ',')}\n{segment['text']}\n\n"
        for number, segment in enumerate(segments, 1)
    )


def vtt(segments: list[dict[str, Any]]) -> str:
    """WebVTT."""
    cues = (f"{_span(segment, '.')}\n{_escaped(segment['text'])}\n\n" for segment in segments)
    return "WEBVTT\n\n" + "".join(cues)


def _span(segment: dict[str, Any], point: str) -> str:
    return f"{_time(segment['start'], point)} --> {_time(segment['end'], point)}"


def _time(seconds: float, point: str) -> str:
    millis = round(1000 * float(seconds))
    minutes, millis = divmod(millis, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{millis // 1000:02d}{point}{millis % 1000:03d}"


def _escaped(text: str) -> str:
    """An arrow would end a cue's text, and < begin a tag."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
