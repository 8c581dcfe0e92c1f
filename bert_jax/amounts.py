"""Amounts as short texts, for people: counts, durations, operations and sizes."""


def count_text(value: float) -> str:
    """Returns a count with at most three digits.

    >>> count_text(12_345), count_text(640)
    ('12.3k', '640')
    """
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def time_text(seconds: float) -> str:
    """Returns a duration in its two largest units.

    >>> time_text(3725), time_text(42)
    ('1 h 02 min', '42 s')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def flop_text(value: float) -> str:
    """Returns a number of floating-point operations.

    >>> flop_text(2.5e12)
    '2.5 TFLOP'
    """
    for size, letter in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G")):
        if value >= size:
            return f"{value / size:.3g} {letter}FLOP"
    return f"{value:.3g} FLOP"


def bytes_text(value: float) -> str:
    """Returns a size in memory.

    >>> bytes_text(3 * 2**29)
    '1.5 GiB'
    """
    return f"{value / 2**30:.3g} GiB" if value >= 2**30 else f"{value / 2**20:.3g} MiB"
