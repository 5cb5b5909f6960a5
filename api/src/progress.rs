//! Text of progress records, as clients show it.

/// A size in decimal units with four significant digits, as progress bars print it: `1.234MB`.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    // Four significant digits, without the zeros at the end.
    let digits = match size {
        s if s >= 1000.0 => 0,
        s if s >= 100.0 => 1,
        s if s >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{size:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{}", UNITS[unit])
}

/// The bar of `current` bytes done of `total`, or of what is done when the total is not known (0).
pub fn bar(current: u64, total: u64) -> String {
    const WIDTH: u64 = 50;
    let done = human_size(current);
    if total == 0 {
        return done;
    }
    let filled = (u128::from(current.min(total)) * u128::from(WIDTH) / u128::from(total)) as usize;
    let rest = WIDTH as usize - filled;
    format!(
        "[{}>{}] {done:>8}/{}",
        "=".repeat(filled),
        " ".repeat(rest),
        human_size(total)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_four_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_234_567, "1.235MB"),
            (71_000_000, "71MB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }

    #[test]
    fn a_bar_is_never_longer_than_its_frame() {
        assert_eq!(bar(5, 0), "5B");
        assert!(bar(1, 2).starts_with(&format!("[{}>{}]", "=".repeat(25), " ".repeat(25))));
        assert!(bar(9, 2).starts_with(&format!("[{}>]", "=".repeat(50))));
    }
}
