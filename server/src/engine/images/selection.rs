//! Which images a list or a prune is about.

use std::collections::BTreeMap;

use berth_api::Filters;
use berth_runtime::{Error, Result, image::Reference};
use globset::{GlobBuilder, GlobMatcher};
use jiff::Timestamp;

use crate::engine::time;

/// What filters look at.
pub(super) struct Facts<'a> {
    pub(super) created: Timestamp,
    pub(super) labels: &'a BTreeMap<String, String>,
    pub(super) tags: &'a [Reference],
}

/// The filters of an image list or prune, read once (API operations `ImageList` and `ImagePrune`).
pub(super) struct Selection<'a> {
    filters: &'a Filters,
    /// Only images made before this moment.
    before: Option<Timestamp>,
    /// Only images made after this moment.
    since: Option<Timestamp>,
    /// Only images made before this moment, by the clock.
    until: Option<Timestamp>,
    dangling: Option<bool>,
    patterns: Vec<GlobMatcher>,
}

impl<'a> Selection<'a> {
    /// Reads `filters`; `created` answers when the image that a `before` or `since` names was made.
    ///
    /// # Errors
    /// Invalid for a value that does not parse, and what `created` gives.
    pub(super) fn new(filters: &'a Filters, created: impl Fn(&str) -> Result<Timestamp>) -> Result<Self> {
        let moment = |name: &str| -> Result<Option<Timestamp>> {
            let moments: Result<Vec<_>> = filters.values(name).map(&created).collect();
            let moments = moments?;
            Ok(match name {
                "before" => moments.into_iter().min(),
                _ => moments.into_iter().max(),
            })
        };
        Ok(Self {
            before: moment("before")?,
            since: moment("since")?,
            until: until(filters)?,
            dangling: boolean(filters, "dangling")?,
            patterns: filters.values("reference").map(pattern).collect::<Result<_>>()?,
            filters,
        })
    }

    /// Whether dangling images are asked for, left out, or neither.
    pub(super) fn dangling(&self) -> Option<bool> {
        self.dangling
    }

    /// Whether an image fits all filters.
    pub(super) fn takes(&self, image: &Facts<'_>) -> bool {
        self.dangling.is_none_or(|wanted| image.tags.is_empty() == wanted)
            && self.takes_whether_dangling_or_not(image)
    }

    /// Whether an image fits all filters but `dangling`.
    pub(super) fn takes_whether_dangling_or_not(&self, image: &Facts<'_>) -> bool {
        let before = self.before.is_none_or(|limit| image.created < limit);
        let since = self.since.is_none_or(|limit| image.created > limit);
        let until = self.until.is_none_or(|limit| image.created < limit);
        let named = self.patterns.is_empty() || image.tags.iter().any(|tag| self.shows(tag));
        before && since && until && named && self.filters.label_map(image.labels)
    }

    /// Whether a tag fits the `reference` filter; a list shows only the tags that do.
    pub(super) fn shows(&self, tag: &Reference) -> bool {
        let (full, name) = (tag.familiar(), tag.familiar_name());
        self.patterns.is_empty()
            || self
                .patterns
                .iter()
                .any(|p| p.is_match(&full) || p.is_match(&name))
    }
}

fn until(filters: &Filters) -> Result<Option<Timestamp>> {
    let mut values = filters.values("until");
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(text), None) => time::parse_moment_now(text).map(Some),
        (Some(_), Some(_)) => Err(Error::invalid(
            "more than one until filter specified: give one moment",
        )),
    }
}

fn boolean(filters: &Filters, name: &str) -> Result<Option<bool>> {
    filters
        .boolean(name)
        .map_err(|reply| Error::invalid(reply.message))
}

/// A glob of which `*` does not cross `/`.
fn pattern(text: &str) -> Result<GlobMatcher> {
    GlobBuilder::new(text)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|e| {
            Error::invalid(format!("invalid pattern {text:?} in the filter 'reference'")).caused_by(e)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(filters: &Filters, created: i64, labels: &[(&str, &str)], tags: &[&str]) -> bool {
        let moment = |name: &str| match name {
            "ten" => Ok(Timestamp::from_second(10).unwrap()),
            other => Err(Error::not_found(format!("No such image: {other}"))),
        };
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let tags: Vec<_> = tags
            .iter()
            .map(|t| Reference::parse(t).unwrap().normalized())
            .collect();
        Selection::new(filters, moment).unwrap().takes(&Facts {
            created: Timestamp::from_second(created).unwrap(),
            labels: &labels,
            tags: &tags,
        })
    }

    #[test]
    fn moments() {
        let before = Filters::default().with("before", "ten");
        assert!(takes(&before, 9, &[], &[]));
        assert!(!takes(&before, 10, &[], &[]));
        let since = Filters::default().with("since", "ten");
        assert!(takes(&since, 11, &[], &[]));
        assert!(!takes(&since, 10, &[], &[]));
        let until = Filters::default().with("until", "20");
        assert!(takes(&until, 19, &[], &[]));
        assert!(!takes(&until, 21, &[], &[]));
        let unknown = Filters::default().with("before", "x");
        assert!(Selection::new(&unknown, |_| Err(Error::not_found("x"))).is_err());
    }

    #[test]
    fn references_are_globs_on_both_forms() {
        for (pattern, fits) in [
            ("busybox", true),
            ("busy*", true),
            ("busybox:la*", true),
            ("*:latest", true),
            ("*/busybox", false),
            ("b?sybox", true),
            ("other", false),
        ] {
            let filters = Filters::default().with("reference", pattern);
            assert_eq!(takes(&filters, 0, &[], &["busybox"]), fits, "{pattern}");
        }
        let slash = Filters::default().with("reference", "*/*");
        assert!(takes(&slash, 0, &[], &["a/b"]));
        assert!(!takes(&slash, 0, &[], &["a/b/c"]));
    }

    #[test]
    fn labels_and_dangling() {
        let labels = Filters::default().with("label", "a=1").with("label", "b");
        assert!(takes(&labels, 0, &[("a", "1"), ("b", "x")], &[]));
        assert!(!takes(&labels, 0, &[("a", "1")], &[]));
        let dangling = Filters::default().with("dangling", "true");
        assert!(takes(&dangling, 0, &[], &[]));
        assert!(!takes(&dangling, 0, &[], &["a"]));
        assert!(
            Selection::new(&Filters::default().with("dangling", "x"), |_| Err(
                Error::internal("")
            ))
            .is_err()
        );
    }
}
