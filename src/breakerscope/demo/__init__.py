"""`breakerscope demo`: real traffic over real sockets, and a proof that nothing was miscounted.

    options    what can be asked for, and what is refused
    script     how healthy each service is at each moment of the run
    upstreams  the other process: three HTTP services that live by the script
    traffic    the application: users whose requests go through breakers
    telemetry  where logs, metrics and spans go
    sources    what the events, the metrics and the spans say about the run
    report     the table, and the comparison
    board      the recent past of each breaker, as numbers
    live       the board as a picture
    run        all of it together

Needs the extra `breakerscope[demo]`; nothing of it is imported before `start`.
"""

from breakerscope.demo.options import DemoError, Options, check, require_extra

__all__ = ["DemoError", "Options", "start"]


def start(options: Options) -> int:
    """Run the demo. Returns the exit code: 0 if every call was counted everywhere, else 1.

    Raises DemoError, whose message is one line for people, if it cannot run as asked.
    """
    check(options)
    require_extra()
    from breakerscope.demo.run import run

    return run(options)
