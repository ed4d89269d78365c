"""Spans appear where OpenTelemetry is, and nothing is asked of it where it is not."""

from __future__ import annotations

from tests.support.process import python


def test_a_span_has_our_name_and_no_attributes() -> None:
    code = (
        "from contextlib import contextmanager\n"
        "from opentelemetry import trace\n"
        "class Tracer(trace.NoOpTracer):\n"
        "    @contextmanager\n"
        "    def start_as_current_span(self, name, **options):\n"
        "        print('begin', name, options)\n"
        "        yield\n"
        "        print('end', name)\n"
        "class Provider(trace.NoOpTracerProvider):\n"
        "    def get_tracer(self, *names, **options):\n"
        "        return Tracer()\n"
        "trace.set_tracer_provider(Provider())\n"
        "from lightmem_engine.serving.tracing import span\n"
        "with span('open_turn'):\n"
        "    print('work')\n"
    )
    done = python("-c", code)
    assert done.stdout.splitlines() == ["begin lightmem.open_turn {}", "work", "end lightmem.open_turn"], done.stderr


def test_without_opentelemetry_the_work_is_done_all_the_same() -> None:
    code = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if 'opentel' in name else find(name, *rest)\n"
        "from lightmem_engine.serving.tracing import span\n"
        "with span('open_turn'):\n"
        "    print('work')\n"
    )
    done = python("-c", code)
    assert done.stdout == "work\n", done.stderr
