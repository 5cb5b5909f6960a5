//! Inputs that are nearly good: for tests of everything that reads what others have written. Only builds with debug
//! assertions have it.
//!
//! `BERTH_SEED` is the seed (1 if it is not set), `BERTH_EFFORT` multiplies the number of inputs.

/// How many inputs are made of each purpose, times the effort.
const RUNS: u64 = 2000;
/// Bytes that parsers like least.
const ODD: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'\\', b'"', b'$', b'{', b'/', b'%'];

/// A generator of numbers (SplitMix64).
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.number() % u64::try_from(limit.max(1)).unwrap_or(1)).unwrap_or(0)
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Gives `read` inputs made of `good` ones: changed, cut, repeated, mixed. That it returns is what is tested; the seed of
/// one on which it panics is printed before.
#[allow(clippy::print_stderr, reason = "that is how a failing input is found again")]
pub fn mutants(purpose: &str, good: &[&[u8]], mut read: impl FnMut(&[u8])) {
    let first = purpose
        .bytes()
        .fold(variable("BERTH_SEED").unwrap_or(1), |seed, byte| {
            Random(seed ^ u64::from(byte)).number()
        });
    for run in 0..RUNS.saturating_mul(variable("BERTH_EFFORT").unwrap_or(1)) {
        let mut random = Random(first.wrapping_add(run));
        let input = mutant(&mut random, good);
        let told = Told {
            purpose,
            run,
            input: &input,
        };
        read(&input);
        std::mem::forget(told);
    }
}

/// Says which input it was if it is dropped, which it only is by a panic.
struct Told<'a> {
    purpose: &'a str,
    run: u64,
    input: &'a [u8],
}

impl Drop for Told<'_> {
    #[allow(clippy::print_stderr, reason = "that is how a failing input is found again")]
    fn drop(&mut self) {
        eprintln!(
            "{}: input {} is {:?}",
            self.purpose,
            self.run,
            self.input.escape_ascii().to_string()
        );
    }
}

fn mutant(random: &mut Random, good: &[&[u8]]) -> Vec<u8> {
    let pick = |random: &mut Random| good.get(random.below(good.len())).copied().unwrap_or_default();
    let mut input = pick(random).to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        let end = (at + random.below(16)).min(input.len());
        match random.below(9) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..end)),
            2 => {
                let piece = input.get(at..end).unwrap_or_default().to_vec();
                let times = 1 << random.below(8);
                let pieces = piece.repeat(times);
                input.splice(at..at, pieces);
            }
            3 => {
                let other = pick(random);
                let from = random.below(other.len() + 1);
                input.splice(at..end, other.get(from..).unwrap_or_default().iter().copied());
            }
            4 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            5 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = byte.wrapping_add(if random.below(2) == 0 { 1 } else { 255 });
                }
            }
            6 => input.insert(at, ODD.get(random.below(ODD.len())).copied().unwrap_or(0)),
            7 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = u8::try_from(random.below(256)).unwrap_or(0);
                }
            }
            _ => {
                let number = match random.below(4) {
                    0 => "-1",
                    1 => "18446744073709551616",
                    2 => "0",
                    _ => "9223372036854775807",
                };
                input.splice(at..end, number.bytes());
            }
        }
        input.truncate(1 << 16);
    }
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_differ_and_come_again() {
        let all = |purpose: &str| {
            let mut all = Vec::new();
            mutants(purpose, &[b"one good text", b"{\"another\": 1}"], |input| {
                all.push(input.to_vec());
            });
            all
        };
        let (first, again) = (all("a"), all("a"));
        assert_eq!(first, again);
        assert_ne!(first, all("b"));
        let changed = first.iter().filter(|input| !input.starts_with(b"one good text"));
        assert!(changed.count() > first.len() / 2);
    }
}
