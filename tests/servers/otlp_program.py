"""A program that exports by OTLP, to be run by a test.

Its argument are the options of the set-up, as JSON. Each line of its input is a number of calls to
make, each in a span of its own; the answer is how many of their events were dropped so far. At the
end of the input it closes its telemetry.
"""

from __future__ import annotations

import json
import sys

from opentelemetry import trace

import breakerscope as bs
from breakerscope.event_bus import default_bus


def main() -> None:
    with bs.setup_telemetry(otlp=True, metrics=False, **json.loads(sys.argv[1])):
        payments = bs.instrumented_breaker("payment_api", buckets=(10, 20))
        tracer = trace.get_tracer("program")
        for line in sys.stdin:
            for _ in range(int(line)):
                with tracer.start_as_current_span("request"):
                    payments.call(int)
            print(default_bus.dropped().get("otlp", 0), flush=True)


if __name__ == "__main__":
    main()
