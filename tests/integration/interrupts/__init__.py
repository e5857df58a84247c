"""Programs in which calls are interrupted at any moment; run by `test_interrupts`.

Each is a process of its own, since what it may show is a lock that is lost for ever.
"""
