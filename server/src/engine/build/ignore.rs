//! `.dockerignore`: which files of a context are left out (Docker's rules: the last pattern that fits decides).

use super::glob;

/// The patterns of a file, or of `--exclude`.
#[derive(Clone, Debug, Default)]
pub struct Patterns(Vec<Pattern>);

#[derive(Clone, Debug)]
struct Pattern {
    /// It takes back what earlier ones left out.
    keeps: bool,
    components: Vec<String>,
}

impl Patterns {
    /// The patterns in a `.dockerignore`: one a line, `#` begins a comment.
    pub fn read(text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self::new(text.lines().filter(|line| !line.starts_with('#')))
    }

    /// These patterns, in order.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Self {
        let pattern = |text: &str| {
            let text = text.trim();
            let (keeps, text) = match text.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, text),
            };
            let mut components: Vec<String> = Vec::new();
            for part in text.split('/') {
                match part {
                    "" | "." => {}
                    ".." => drop(components.pop()),
                    part => components.push(part.to_owned()),
                }
            }
            (!components.is_empty()).then_some(Pattern { keeps, components })
        };
        Self(patterns.into_iter().filter_map(pattern).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether some pattern takes back what others leave out, so that directories left out have to be looked into.
    pub fn has_exceptions(&self) -> bool {
        self.0.iter().any(|pattern| pattern.keeps)
    }

    /// Whether `path`, components joined by slashes, is left out. What lies below a directory that is left out is, too.
    pub fn leave_out(&self, path: &str) -> bool {
        let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let mut out = false;
        for pattern in &self.0 {
            if out == pattern.keeps && pattern.fits_or_holds(&path) {
                out = !pattern.keeps;
            }
        }
        out
    }
}

impl Pattern {
    /// Whether it fits the path or a directory above it.
    fn fits_or_holds(&self, path: &[&str]) -> bool {
        let components: Vec<&str> = self.components.iter().map(String::as_str).collect();
        (1..=path.len()).any(|end| glob::path(&components, path.get(..end).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_that_fits_decides() {
        let patterns = Patterns::read(
            "# comment\n*.md\n!README*.md\nREADME-secret.md\nnode_modules\n**/*.log\n!keep/**/x.log\n/build/\n\n./tmp/*\nin/**\n",
        );
        for (path, out) in [
            ("a.md", true),
            ("README.md", false),
            ("README-secret.md", true),
            ("docs/a.md", false),
            ("node_modules", true),
            ("node_modules/a/b.js", true),
            ("src/node_modules", false),
            ("a.log", true),
            ("a/b/c.log", true),
            ("keep/a/b/x.log", false),
            ("build/out", true),
            ("tmp/a", true),
            ("tmp", false),
            ("in", false),
            ("in/a/b", true),
        ] {
            assert_eq!(patterns.leave_out(path), out, "{path}");
        }
        assert!(patterns.has_exceptions());
    }

    #[test]
    fn everything_but() {
        let patterns = Patterns::read("*\n!src\n!go.mod\nsrc/secret");
        for (path, out) in [
            ("a", true),
            ("src", false),
            ("src/a", false),
            ("src/secret/x", true),
            ("go.mod", false),
        ] {
            assert_eq!(patterns.leave_out(path), out, "{path}");
        }
        assert!(!Patterns::new(["..", "", "#"]).leave_out("x"));
    }

    #[test]
    fn nearly_good_patterns_are_read_without_harm() {
        let good: [&[u8]; 3] = [
            b"*.md\n!README.md\n**/a/**/*.[ch]\n",
            b"#x\n a/../b \n/c/\n\\!d\n",
            b"[a-\\]z]?*/**\n",
        ];
        berth_runtime::mutate::mutants("ignored files", &good, |bytes| {
            let ignored = Patterns::read(&String::from_utf8_lossy(bytes));
            for path in ["a", "a/b/c.c", "README.md", "\u{e9}/\u{1F600}"] {
                let _ = ignored.leave_out(path);
            }
        });
    }
}
