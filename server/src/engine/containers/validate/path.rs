//! Paths inside containers, as text: they are never resolved here.

/// The cleaned form of an absolute path: no empty component, no `.`, `..` taken back as far as `/`.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    let mut clean = String::with_capacity(path.len() + 1);
    for part in parts {
        clean.push('/');
        clean.push_str(part);
    }
    if clean.is_empty() {
        clean.push('/');
    }
    clean
}

/// Whether `path` is `base` or below it; both cleaned.
pub fn is_below(path: &str, base: &str) -> bool {
    match path.strip_prefix(base) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || base.ends_with('/'),
        None => false,
    }
}

/// How many components a cleaned path has; mounts are made in this order.
pub fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning() {
        for (path, cleaned) in [
            ("/", "/"),
            ("", "/"),
            ("/a/b/", "/a/b"),
            ("//a///b", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/../../x", "/x"),
            ("/a/..", "/"),
            ("/...", "/..."),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }

    #[test]
    fn relations() {
        assert!(is_below("/proc", "/proc"));
        assert!(is_below("/proc/self", "/proc"));
        assert!(!is_below("/process", "/proc"));
        assert!(is_below("/x", "/"));
        assert_eq!([depth("/"), depth("/a"), depth("/a/b")], [0, 1, 2]);
    }
}
