//! Numbers from a seed, so that what has failed can be run again.
//!
//! | variable | meaning |
//! |---|---|
//! | `BERTH_SEED` | the seed; the time if it is not set |
//! | `BERTH_EFFORT` | how much is tried: 1 is the short form that every run of the tests has, more is longer |

use std::sync::LazyLock;

/// How much is tried, at least 1.
pub fn effort() -> u64 {
    static EFFORT: LazyLock<u64> = LazyLock::new(|| number("BERTH_EFFORT").unwrap_or(1).max(1));
    *EFFORT
}

/// The seed of this run.
pub fn seed() -> u64 {
    static SEED: LazyLock<u64> = LazyLock::new(|| {
        let time = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        number("BERTH_SEED").unwrap_or_else(|| u64::from(time.subsec_nanos()) ^ time.as_secs())
    });
    *SEED
}

/// Prints a figure in one line: what it should be, what it is, over how many runs, from which seed. `tests/prove.sh`
/// collects them.
#[allow(clippy::print_stdout, reason = "that is what it is for")]
pub fn figure(name: &str, target: &str, measured: &str, runs: u64) {
    println!("figure: {name} | {target} | {measured} | {runs} | {}", seed());
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    match text.parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("{variable}={text} is not a number"),
    }
}

/// A generator (SplitMix64, Steele et al. 2014): small, fast and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// One that gives the same numbers for the same seed and purpose.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mixed = purpose
            .bytes()
            .fold(seed, |mixed, byte| Self(mixed ^ u64::from(byte)).number());
        Self(mixed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.number() % u64::try_from(limit.max(1)).unwrap_or(1)).unwrap_or(0)
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of them.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// Puts them in another order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_again_and_another_gives_other() {
        let three = |seed, purpose| {
            let mut random = Random::new(seed, purpose);
            [random.number(), random.number(), random.number()]
        };
        assert_eq!(three(7, "a"), three(7, "a"));
        assert_ne!(three(7, "a"), three(8, "a"));
        assert_ne!(three(7, "a"), three(7, "b"));
        let mut random = Random::new(7, "a");
        assert!((0..1000).all(|_| random.below(3) < 3));
    }
}
